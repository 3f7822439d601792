"""`cnnray predict classify`, `cnnray evaluate classify`: a checkpoint over a whole source, by Ray Data, resumable."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cnnray import cluster, files
from cnnray.config import PredictConfig, SourceConfig
from cnnray.data.feature_store import (
    Outputs,
    iter_parts,
    quarantine_row,
    read_quarantine,
)
from cnnray.data.pipelines import work_off
from cnnray.data.runs import RunFolder, count_by_code, refuse_bad
from cnnray.data.units import load_index, plan_units, rounds
from cnnray.errors import DataError, FaceError, ImageError, RunFolderError
from cnnray.infer.classify import Classifier
from cnnray.nn.checkpoint import load_card
from cnnray.ops.metrics import summary
from cnnray.page import write_page
from cnnray.report import classification_sections

PREDICTIONS = "predictions"
TOP_K = 5
_NEEDS = ("id", "path", "label", "split", "bytes", "problem")
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "label": pa.string(),
        "predicted": pa.string(),
        "probability": pa.float32(),
        "top_labels": pa.list_(pa.string()),
        "top_probabilities": pa.list_(pa.float32()),
        "probabilities": pa.list_(pa.float32()),
    }
)


class PredictStage:
    """Classifies and stores the images of a unit; the model is loaded once. No Ray in here."""

    def __init__(self, checkpoint: str, outputs: Outputs, *, threads: int, gpu: bool) -> None:
        torch.set_num_threads(threads)
        self._classifier = Classifier.load(checkpoint, device="cuda" if gpu else "cpu")
        self._outputs = outputs

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store one row per image of a unit that `read_unit` filled; returns counts."""
        classes = self._classifier.classes
        return answer_unit(
            unit,
            self._outputs,
            SCHEMA,
            lambda images: self._classifier.predict(images, top_k=len(classes)),
            lambda row, answer: _row(row, answer.top, classes),
        )


def predict_classify(
    checkpoint: str, source: str, out: str, config: PredictConfig, *, address: str | None = None
) -> dict[str, Any]:
    """Classify every image of a source; the same call resumes after a kill.

    Args:
        checkpoint: folder of a classifier.
        source: as for `build_features`; labels are stored beside the predictions where there are any.
        out: run folder; predictions/*.parquet has `id, path, label, predicted, probability, top_labels,
            top_probabilities` (the best five) and `probabilities` (all, in the order of the card's classes).
        config: how to read the source.
        address: of a Ray cluster; None is a local one.

    Returns:
        the manifest: images, predictions, quarantined, quarantine_codes, ...

    Raises:
        CheckpointError: the checkpoint is absent, damaged or not a classifier's.
        UserError, StorageError: as `build_features`.
    """
    run, counts = _predict(checkpoint, source, out, config, address)
    manifest = run.finish(counts)
    refuse_bad(out, manifest, config)
    return manifest


def _predict(
    checkpoint: str, source: str, out: str, config: PredictConfig, address: str | None
) -> tuple[RunFolder, dict[str, Any]]:
    """The run with all predictions, and their counts; it is left to be finished."""
    source, out, checkpoint = files.absolute(source), files.absolute(out), files.absolute(checkpoint)
    card = load_card(checkpoint, task="classify")
    # the weights are part of the run's identity: a resumed run must not mix two classifiers
    run = RunFolder.open(out, config, "predictions", source=f"{source} by {card.weights_sha256}")
    cluster.connect(address)
    index = load_index(run, source, config)
    run_stage(run, index, PredictStage, {"checkpoint": checkpoint, "gpu": config.gpu}, config)
    return run, count_predictions(out, index, read_predictions(out))


def answer_unit(
    unit: pa.Table,
    outputs: Outputs,
    schema: pa.Schema,
    answer: Callable[[list[bytes]], Sequence[Any]],
    to_row: Callable[[dict[str, Any], Any], dict[str, Any]],
) -> pa.Table:
    """What a stage of `run_stage` does with a unit that `read_unit` filled: each image is stored, or in quarantine.

    Args:
        schema: of the rows.
        answer: what the model says of the files that could be read, an ImageError where one is bad.
        to_row: the row to store, of an image's own row (`id, path, label, split, bytes` as far as the unit has them)
            and its answer; an ImageError or FaceError that it raises sends the image to quarantine.

    Returns:
        one row of counts: images, quarantined.
    """
    rows = unit.select([name for name in _NEEDS if name in unit.column_names]).to_pylist()
    readable = [row for row in rows if row["bytes"] is not None]
    bad = [quarantine_row(row, *row["problem"].split(": ", 1)) for row in rows if row["bytes"] is None]
    good = []
    for row, found in zip(readable, answer([row["bytes"] for row in readable]), strict=True):
        try:
            if isinstance(found, ImageError):
                raise found
            good.append(to_row(row, found))
        except (ImageError, FaceError) as error:
            bad.append(quarantine_row(row, error.code, str(error)))
    outputs.quarantine(bad)
    outputs.store(PREDICTIONS, pa.Table.from_pylist(good, schema))
    return pa.table({"images": [len(rows)], "quarantined": [len(bad)]})


def run_stage(
    run: RunFolder,
    index: pa.Table,
    stage: type,
    arguments: dict[str, Any],
    config: SourceConfig,
    title: str = "predictions",
) -> None:
    """Send what is still to be done of `index` through a stage that stores rows in PREDICTIONS.

    Args:
        title: of the progress.
    """
    for todo in rounds(run.uri, index, PREDICTIONS):
        for _ in work_off(title, plan_units(todo, index), stage, run, arguments, config):
            pass  # the stage has stored them


def evaluate_classify(
    checkpoint: str,
    source: str,
    out: str,
    config: PredictConfig,
    *,
    address: str | None = None,
) -> dict[str, Any]:
    """Predict a labelled source and compare with its labels.

    Args:
        as `predict_classify`; every image needs a label that the checkpoint knows.

    Returns:
        the figures of `cnnray.ops.metrics.summary`, and images, quarantined.

    Raises:
        DataError: images without labels, or with labels that the classifier was not trained on, or no good image.
        QuarantineError: all is written, but more than `config.max_bad` of the images were bad.
    """
    card = load_card(checkpoint, task="classify")
    run, counts = _predict(checkpoint, source, out, config, address)
    table = read_predictions(out)
    if not table.num_rows:
        codes = count_by_code(counts["quarantine_codes"])
        raise DataError(f"expected images to measure on in {source}, but all {counts['images']:,} are bad: {codes}")
    labels = table["label"].to_pylist()
    unknown = sorted({str(label) for label in labels if label not in set(card.classes)})
    if unknown:
        raise DataError(
            f"expected labels among the {len(card.classes)} classes of {checkpoint}, but {source} has "
            f"{len(unknown)} others, such as {unknown[0]!r}; the predictions in {out} are complete"
        )
    number = {name: at for at, name in enumerate(card.classes)}
    truth = np.array([number[label] for label in labels])
    probabilities = np.array(table["probabilities"].to_pylist())
    metrics: dict[str, Any] = dict(summary(probabilities, truth))
    metrics |= {"images": counts["images"], "quarantined": counts["quarantined"]}
    files.write_json(files.join(out, "metrics.json"), metrics)
    sections = classification_sections(probabilities, truth, card.classes)
    write_page(files.join(out, "report.html"), "Evaluation", sections, subtitle=f"{checkpoint} on {source}")
    run.finish(counts)
    refuse_bad(out, counts, config)
    return metrics


def read_predictions(out: str, schema: pa.Schema = SCHEMA) -> pa.Table:
    """All predictions of a run, sorted by id."""
    return pa.concat_tables([schema.empty_table(), *iter_parts(out, folder=PREDICTIONS)]).sort_by("id")


def count_predictions(out: str, index: pa.Table, predictions: pa.Table) -> dict[str, Any]:
    """The counts of a finished run: images, predictions, quarantined, quarantine_codes.

    Raises:
        RunFolderError: an image is in neither, or in both.
    """
    ids = predictions["id"].to_pylist()
    bad = read_quarantine(out)
    if sorted(ids + bad["id"].to_pylist()) != index["id"].to_pylist():
        raise RunFolderError(f"{out} is not complete; run the same command again, or choose another --out")
    codes = dict(sorted(Counter(bad["code"].to_pylist()).items()))
    return {"images": index.num_rows, "predictions": len(ids), "quarantined": bad.num_rows, "quarantine_codes": codes}


def _row(row: dict[str, Any], ranked: Sequence[tuple[str, float]], classes: Sequence[str]) -> dict[str, Any]:
    by_name = dict(ranked)
    return {name: row[name] for name in ("id", "path", "label")} | {
        "predicted": ranked[0][0],
        "probability": ranked[0][1],
        "top_labels": [name for name, _ in ranked[:TOP_K]],
        "top_probabilities": [value for _, value in ranked[:TOP_K]],
        "probabilities": [by_name[name] for name in classes],
    }
