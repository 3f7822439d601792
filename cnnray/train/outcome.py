"""What every classification training ends with: checkpoints, figures, a report.

RUN/checkpoint/     the classifier of the best epoch, ready to evaluate, to predict with and to serve
RUN/last/           the one of the last epoch
RUN/metrics.json    figures, epochs, confusion matrix
RUN/report.html     the same for people
RUN/tensorboard/    the figures of every epoch for TensorBoard
"""

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnnray import files
from cnnray.config import TrainConfig
from cnnray.data.runs import RunFolder
from cnnray.errors import ImageError, StorageError
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.ops import metrics
from cnnray.ops.decode import decode
from cnnray.page import Picture, Section, write_page
from cnnray.report import classification_sections, training_curves
from cnnray.train.launch import Make, launch
from cnnray.train.loop import DivergedError, best_epoch
from cnnray.train.state import State, Tensors, load_state, without_steps
from cnnray.train.track import Trackers

CHECKPOINT, LAST, STATE = "checkpoint", "last", "state"
MISTAKES_SHOWN = 12
THUMBNAIL = 220

Export = Callable[[Tensors], tuple[Tensors, Card]]


@dataclass(frozen=True)
class Answers:
    """A classifier's answers on the validation images.

    Attributes:
        paths: of the n images.
        labels: [n] class numbers.
        probabilities: [n, K].
        classes: names of the K classes.
    """

    paths: Sequence[str]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    classes: tuple[str, ...]

    @functools.cached_property
    def figures(self) -> dict[str, float]:
        """See `cnnray.ops.metrics.summary`."""
        return metrics.summary(self.probabilities, self.labels)


def train_and_export(
    make: Make, config: TrainConfig, folder: RunFolder, fingerprint: str, export: Export, *, cpus: float = 1.0
) -> State:
    """Train, see `launch`, and store the best and the last checkpoint with the figures of their epochs.

    Args:
        export: from a model's state dict to a checkpoint's tensors and card.
        cpus: that each worker reserves.

    Raises:
        DivergedError: the loss is no longer finite; the checkpoint of the best epoch before is stored.
        CnnrayError: as `launch`.
    """
    state_folder = folder.path(STATE)
    trackers = Trackers(folder.uri, config)
    try:
        state = launch(make, config, state_folder, fingerprint, cpus=cpus, watch=trackers.update)
    except DivergedError as error:
        kept = load_state(files.join(state_folder, "last.state"), fingerprint)
        if kept is None:
            raise
        save_states(folder, kept, config.monitor, export)
        raise DivergedError(f"{error}; the best checkpoint so far is in {folder.path(CHECKPOINT)}") from error
    trackers.update(state.history)
    trackers.close()
    save_states(folder, state, config.monitor, export)
    return state


def save_states(folder: RunFolder, state: State, monitor: str, export: Export) -> None:
    """Store the best and the last weights as checkpoints."""
    best = state.history[best_epoch(state.history, monitor)]
    for name, weights, row in (
        (CHECKPOINT, state.best, best),
        (LAST, state.average or state.model, state.history[-1]),
    ):
        tensors, card = export(weights)
        figures = {key: float(row[key]) for key in ("val_loss", "val_score")} | {"epoch": float(row["epoch"] + 1)}
        save_checkpoint(folder.path(name), tensors, replace(card, metrics=figures))


def finish(
    folder: RunFolder, state: State, config: TrainConfig, export: Export, answers: Answers, subtitle: str
) -> dict[str, Any]:
    """Give the best checkpoint its figures on the validation images, write metrics and report.

    Args:
        subtitle: of the report.

    Returns:
        what the run's manifest says of it: epochs, best_epoch, metrics, checkpoint (URI), weights_sha256.
    """
    tensors, card = export(state.best)
    checkpoint, best = folder.path(CHECKPOINT), best_epoch(state.history, config.monitor)
    card = save_checkpoint(checkpoint, tensors, replace(card, metrics=answers.figures))
    _write_metrics(folder, state, answers, best)
    _write_report(folder, state, answers, best, subtitle)
    return {
        "epochs": len(state.history),
        "best_epoch": best,
        "metrics": answers.figures,
        "checkpoint": checkpoint,
        "weights_sha256": card.weights_sha256,
    }


def _write_metrics(folder: RunFolder, state: State, answers: Answers, best: int) -> None:
    matrix = metrics.confusion_matrix(answers.probabilities.argmax(axis=1), answers.labels, len(answers.classes))
    table = {name: values.tolist() for name, values in asdict(metrics.per_class(matrix)).items()}
    history = without_steps(state.history)
    files.write_json(
        folder.path("metrics.json"),
        {
            "validation": answers.figures,
            "best_epoch": best,
            "history": history,
            "classes": list(answers.classes),
            "per_class": table,
            "confusion": matrix.tolist(),
        },
    )


def _write_report(folder: RunFolder, state: State, answers: Answers, best: int, subtitle: str) -> None:
    pictures = mistake_pictures(answers)
    result, *others = classification_sections(answers.probabilities, answers.labels, answers.classes, pictures)
    epochs = len(state.history)
    caption = f"{epochs} epochs; the checkpoint is from epoch {best + 1}, the best one"
    curves = Picture(training_curves(state.history, best), caption)
    sections = [result, Section("Training", [curves]), *others]
    write_page(folder.path("report.html"), "Classifier", sections, subtitle)


def mistake_pictures(answers: Answers) -> list[Picture]:
    """The surest wrong answers on validation images that can still be read, as small pictures with captions."""
    guesses, sure = answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1)
    wrong = np.flatnonzero(guesses != answers.labels)
    pictures = []
    for index in wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES_SHOWN]:
        truth, guess = answers.classes[answers.labels[index]], answers.classes[guesses[index]]
        thumbnail = _thumbnail(answers.paths[index])
        if thumbnail:
            pictures.append(Picture(thumbnail, f"{truth}\nanswer: {guess} ({sure[index]:.0%})"))
    return pictures


def _thumbnail(path: str) -> bytes | None:
    """A small JPEG of the image at `path`; None where it is gone since: the report is complete without it."""
    try:
        image = Image.fromarray(decode(files.read_bytes(path)))
    except (FileNotFoundError, StorageError, ImageError):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
