"""Trains a classification head on stored features: `cnnray train classify RUN --out RUN2`.

RUN2/state/last.state   training state, replaced after every epoch; the same command goes on from it
RUN2/checkpoint/        the classifier of the best epoch: frozen network and head, ready to serve
RUN2/metrics.json       figures, epochs, confusion matrix
RUN2/report.html        the same for people
RUN2/manifest.json      written last: the run is finished
"""

import functools
import hashlib
import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from cnnray import files
from cnnray.config import ClassifyConfig
from cnnray.data.feature_store import FeatureTable, iter_parts, load_features
from cnnray.data.runs import RunFolder
from cnnray.errors import DataError, ImageError, StorageError
from cnnray.nn.backbones import Backbone, build_backbone, build_extractor
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.heads import Head
from cnnray.ops import metrics
from cnnray.ops.decode import decode
from cnnray.page import Picture, Section, write_page
from cnnray.report import classification_sections, training_curves
from cnnray.train.feature_data import FeatureData, build_feature_data
from cnnray.train.head import build_parts, build_task, predict_rows
from cnnray.train.launch import launch
from cnnray.train.loop import best_epoch
from cnnray.train.state import State

MISTAKES_SHOWN = 12
THUMBNAIL = 220


def train_classify(features_run: str, out: str, config: ClassifyConfig) -> dict[str, Any]:
    """Train a head on the features of a finished run and write a run folder with checkpoint and report.

    Args:
        features_run: path or URI of the features.
        out: run folder, new or unfinished; on storage that all workers reach.

    Returns:
        The manifest: "metrics" of the best epoch on the validation images, "checkpoint" (URI), counts, hashes.

    Raises:
        RunFolderError: the features are not finished; `out` is finished, or was made with other settings.
        DataError: the features cannot train a classifier, see `build_feature_data`.
        OptionError: more workers than the cluster has.
        CheckpointError: the network's weights are no longer there.
    """
    features_run, out = files.absolute(features_run), files.absolute(out)
    table = load_features(features_run)
    data = build_feature_data(table, config)
    backbone = rebuild_backbone(table.manifest)
    folder = RunFolder.open(out, config, "classify", source=features_run)
    make = functools.partial(build_parts, features_run, config)
    state = launch(make, config, folder.path("state"), fingerprint(table, config))

    head = build_task(data).build()
    head.load_state_dict(state.best)
    probabilities, labels = predict_rows(head, data, data.val), data.labels[data.val].numpy()
    figures = metrics.summary(probabilities, labels)
    checkpoint = folder.path("checkpoint")
    card = save_checkpoint(checkpoint, *_classifier(table, data, backbone, head, figures))
    _write_metrics(folder, state, figures, probabilities, labels, data.classes)
    pictures = mistake_pictures(features_run, table, data, probabilities)
    _write_report(folder, state, data, probabilities, pictures)
    return folder.finish(
        {
            "features": {"run": features_run, "content_sha256": table.manifest["content_sha256"]},
            "counts": {"train": len(data.first), "val": len(data.val), "classes": len(data.classes)},
            "epochs": len(state.history),
            "best_epoch": best_epoch(state.history),
            "metrics": figures,
            "checkpoint": checkpoint,
            "weights_sha256": card.weights_sha256,
        }
    )


def fingerprint(table: FeatureTable, config: ClassifyConfig) -> str:
    """Hash of all that determines the trained weights; the number of workers does not."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("workers", "gpu")}
    return hashlib.sha256(json.dumps([table.manifest["content_sha256"], settings]).encode()).hexdigest()


def rebuild_backbone(manifest: dict[str, Any]) -> Backbone:
    """The frozen network that made the features.

    Raises:
        CheckpointError, UnknownNameError: it or its weights are not there.
        DataError: the weights are others than the features were made with, or were random.
    """
    network = manifest["backbone"]
    if network["weights"] == "none":
        raise DataError(
            f"expected features of a {network['name']} that can be built again, but its weights were random; "
            "build the features with --weights default or a file"
        )
    backbone = build_backbone(network["name"], network["weights"])
    if backbone.weights_sha256 != network["weights_sha256"]:
        raise DataError(
            f"expected the weights {network['weights_sha256'][:12]} of {network['name']}, with which the features were "
            f"made, but {network['weights']!r} now gives {backbone.weights_sha256[:12]}; build the features again"
        )
    return backbone


def mistake_pictures(
    features_run: str, table: FeatureTable, data: FeatureData, probabilities: npt.NDArray[np.float32]
) -> list[Picture]:
    """The surest wrong answers on validation images that can still be read, as small pictures with captions."""
    labels, answers = data.labels[data.val].numpy(), probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES_SHOWN]
    paths = _paths(features_run, {table.ids[data.val[index]] for index in order})
    pictures = []
    for index in order:
        caption = f"{data.classes[labels[index]]}\nanswer: {data.classes[answers[index]]} ({sure[index]:.0%})"
        thumbnail = _thumbnail(paths[table.ids[data.val[index]]])
        if thumbnail:
            pictures.append(Picture(thumbnail, caption))
    return pictures


def _paths(features_run: str, ids: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in iter_parts(features_run, ["id", "path"]):
        rows = zip(part.column("id").to_pylist(), part.column("path").to_pylist(), strict=True)
        found |= {name: path for name, path in rows if name in ids}
    return found


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


def _classifier(
    table: FeatureTable, data: FeatureData, backbone: Backbone, head: Head, figures: dict[str, float]
) -> tuple[dict[str, Tensor], Card]:
    """Tensors and card of a checkpoint that needs nothing beside it: the lower part of the network and the head."""
    network, config = table.manifest["backbone"], data.config
    extractor = build_extractor(backbone, network["tap"], network["pool"])
    parts = (("backbone", extractor), ("head", head))
    tensors = {f"{prefix}.{name}": t for prefix, module in parts for name, t in module.state_dict().items()}
    card = Card(
        task="classify",
        arch={
            "backbone": network["name"],
            "tap": network["tap"],
            "pool": network["pool"],
            "backbone_sha256": network["weights_sha256"],
            "head": config.head,
            "hidden": config.hidden,
            "num_features": data.features.shape[1],
        },
        classes=list(data.classes),
        input={**table.manifest["input"], "mean": list(backbone.spec.mean), "std": list(backbone.spec.std)},
        metrics=figures,
        data_hash=table.manifest["content_sha256"],
    )
    return tensors, card


def _write_metrics(
    folder: RunFolder,
    state: State,
    figures: dict[str, float],
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
) -> None:
    matrix = metrics.confusion_matrix(probabilities.argmax(axis=1), labels, len(classes))
    table = {name: values.tolist() for name, values in asdict(metrics.per_class(matrix)).items()}
    files.write_json(
        folder.path("metrics.json"),
        {
            "validation": figures,
            "best_epoch": best_epoch(state.history),
            "history": state.history,
            "classes": list(classes),
            "per_class": table,
            "confusion": matrix.tolist(),
        },
    )


def _write_report(
    folder: RunFolder, state: State, data: FeatureData, probabilities: npt.NDArray[np.float32], pictures: list[Picture]
) -> None:
    labels = data.labels[data.val].numpy()
    best, epochs = best_epoch(state.history), len(state.history)
    result, *others = classification_sections(probabilities, labels, data.classes, pictures)
    curves = Picture(
        training_curves(state.history, best), f"{epochs} epochs; the checkpoint is from epoch {best + 1}, the best one"
    )
    subtitle = (
        f"{data.config.head} head on {len(data.first):,} training images of {len(data.classes)} classes, "
        f"checked on {len(labels):,} validation images"
    )
    sections = [result, Section("Training", [curves]), *others]
    write_page(folder.path("report.html"), "Classifier", sections, subtitle)
