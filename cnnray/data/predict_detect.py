"""`cnnray predict detect`, `cnnray evaluate detect`: a detector over a whole source, by Ray Data, resumable.

RUN/predictions/*.parquet   id, path, height, width (px), boxes (xyxy px), labels, scores
RUN/detections.json         the same as a COCO file with scores
RUN/overlays/ID.png         with --draw: the image with its boxes
"""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from cnnray import cluster, files
from cnnray.config import DetectPredictConfig, SearchConfig
from cnnray.data.annotations import Annotations
from cnnray.data.boxes import check_boxes
from cnnray.data.detect_report import BoxJudge, as_found
from cnnray.data.feature_store import Outputs, read_quarantine
from cnnray.data.fetch import fetch_known
from cnnray.data.formats import read_annotations
from cnnray.data.picture_names import picture_name
from cnnray.data.predict import answer_unit, count_predictions, read_predictions, run_stage
from cnnray.data.predict_segment import OVERLAYS
from cnnray.data.runs import RunFolder, refuse_bad
from cnnray.data.units import load_index
from cnnray.errors import DataError, ImageError
from cnnray.infer.detect import TASK, Detections, Detector
from cnnray.nn.checkpoint import load_card
from cnnray.nn.torchvision_detectors import DETECTORS, coco_classes
from cnnray.nn.weights import absolute_weights
from cnnray.ops.decode import decode
from cnnray.ops.detections import Found
from cnnray.ops.draw import draw_boxes
from cnnray.ops.overlay import png
from cnnray.page import write_page

RESULTS = "detections.json"
_KIND = "detections"
MEASURED_TOGETHER = 16
ALL = 0.001  # least score for average precision: what is below comes too late to count
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": pa.list_(pa.list_(pa.float32(), 4)),
        "labels": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
    }
)


class DetectStage:
    """Searches and stores the images of a unit; the model is loaded once. No Ray in here."""

    def __init__(
        self,
        checkpoint: str,
        weights: str,
        search: SearchConfig,
        outputs: Outputs,
        *,
        threads: int,
        gpu: bool,
        draw: bool,
    ) -> None:
        torch.set_num_threads(1)
        device = "cuda" if gpu else "cpu"
        self._detector = Detector.load(checkpoint, weights=weights, device=device, threads=threads)
        self._search, self._outputs, self._draw = search, outputs, draw

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store one row per image of a unit that `read_unit` filled; returns counts."""
        return answer_unit(
            unit, self._outputs, SCHEMA, lambda images: self._detector.predict(images, self._search), self._stored
        )

    def _stored(self, row: dict[str, Any], answer: Detections) -> dict[str, Any]:
        names = self._detector.classes
        if self._draw:
            picture = draw_boxes(decode(row["bytes"]), answer.boxes_N4, answer.labels_N, names, answer.scores_N)
            self._outputs.write(files.join(OVERLAYS, picture_name(row["id"])), png(picture))
        return {
            "id": row["id"],
            "path": row["path"],
            "height": answer.height,
            "width": answer.width,
            "boxes": answer.boxes_N4.tolist(),
            "labels": [names[label] for label in answer.labels_N.tolist()],
            "scores": answer.scores_N.tolist(),
        }


def predict_detect(
    checkpoint: str, source: str, out: str, config: DetectPredictConfig, *, address: str | None = None
) -> dict[str, Any]:
    """Search every image of a source; the same call resumes after a kill.

    Args:
        checkpoint: folder of a detector, or one of torchvision's names.
        source: as for `build_features`; labels are not used.
        out: run folder, see above.
        config: how to read the source, what to ask, what to draw.
        address: of a Ray cluster; None is a local one.

    Returns:
        the manifest: images, predictions, boxes, quarantined, quarantine_codes, ...

    Raises:
        CheckpointError: the checkpoint is absent, damaged or not a detector's.
        UserError, StorageError: as `build_features`.
    """
    config = replace(config, weights=absolute_weights(config.weights))
    run, checkpoint, classes, numbers = _open(checkpoint, source, out, config)
    cluster.connect(address)
    index = load_index(run, files.absolute(source), config)
    table = _predict(run, checkpoint, index, config, search_of(config))
    counts = count_predictions(run.uri, index, table)
    files.write_bytes(run.path(RESULTS), json.dumps(coco_results(table, classes, numbers)).encode())
    manifest = run.finish(counts | {"boxes": sum(map(len, table["scores"].to_pylist()))})
    refuse_bad(run.uri, manifest, config)
    return manifest


def evaluate_detect(
    checkpoint: str, source: str, out: str, config: DetectPredictConfig, *, address: str | None = None
) -> dict[str, Any]:
    """Search images with known boxes, and compare by COCO's rules.

    Args:
        checkpoint, out, config, address: as `predict_detect`.
        source: images with boxes as for `train_detect`; the images of all splits count.

    Returns:
        the figures of `cnnray.ops.average_precision.Precision`, "classes" (a row for each), images, quarantined.

    Raises:
        DataError: categories that the detector does not know.
        QuarantineError: too many images or boxes are bad.
    """
    annotations = read_annotations(files.absolute(source), config.images)
    config = replace(config, weights=absolute_weights(config.weights))
    run, checkpoint, classes, _ = _open(checkpoint, source, out, config)
    unknown = sorted(set(annotations.categories) - set(classes))
    if unknown:
        raise DataError(
            f"expected categories among the {len(classes)} that {checkpoint} knows, but {source} has "
            f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}"
        )
    cluster.connect(address)
    check_boxes(run, annotations, config)
    nothing = pa.nulls(annotations.table.num_rows, pa.string())
    index = annotations.table.select(["id", "path"]).append_column("label", nothing)
    index = index.append_column("split", annotations.table["split"])
    table = _predict(run, checkpoint, index, config, replace(search_of(config), confidence=ALL))
    count_predictions(run.uri, index, table)
    judge = load_judge(out, annotations, config.confidence)
    metrics = judge.figures | {
        "classes": judge.table,
        "images": judge.truth.table.num_rows,
        "quarantined": read_quarantine(out).num_rows,
        "problems": annotations.codes,
    }
    files.write_json(run.path("results.json"), judge.results())
    files.write_json(run.path("metrics.json"), metrics)
    subtitle = f"{checkpoint} on {source}"
    write_page(run.path("report.html"), "Evaluation", judge.sections(config.draw_worst), subtitle)
    run.finish({"images": judge.truth.table.num_rows, "metrics": judge.figures})
    return metrics


def load_judge(out: str, annotations: Annotations, confidence: float) -> BoxJudge:
    """What an evaluation in the run folder `out` has predicted, against the truth about the images that it could read.

    Args:
        annotations: of the images, all of them.
        confidence: see `BoxJudge`.
    """
    table = read_predictions(out, SCHEMA)
    good = annotations.only(pc.is_in(annotations.table["id"], value_set=table["id"].combine_chunks()))
    return BoxJudge(good, _found(table, {name: at for at, name in enumerate(annotations.categories)}), confidence)


def measure(checkpoint: str, truth: Annotations, confidence: float, overlap: float) -> BoxJudge:
    """A detector's answers on a few images with boxes, computed in this process."""
    detector = Detector.load(checkpoint)
    rows, answers = truth.table.to_pylist(), {}
    search = SearchConfig(confidence=ALL, overlap=overlap)
    for at in range(0, len(rows), MEASURED_TOGETHER):
        together = rows[at : at + MEASURED_TOGETHER]
        for row, found in zip(
            together, detector.predict([fetch_known(r["path"]) for r in together], search), strict=True
        ):
            if isinstance(found, ImageError):
                raise DataError(f"expected {row['path']}, which was good when the run began: {found}") from found
            answers[row["id"]] = as_found(found.boxes_N4.tolist(), found.scores_N.tolist(), found.labels_N.tolist())
    return BoxJudge(truth, answers, confidence)


def coco_results(table: pa.Table, classes: Sequence[str], numbers: Sequence[int]) -> dict[str, Any]:
    """Predictions as the content of a COCO file: its annotations are answers with a score."""
    number = dict(zip(classes, numbers, strict=True))
    images: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for at, row in enumerate(table.to_pylist(), start=1):
        images.append({"id": at, "file_name": row["id"], "width": row["width"], "height": row["height"]})
        for (x1, y1, x2, y2), label, score in zip(row["boxes"], row["labels"], row["scores"], strict=True):
            box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            entry = {"id": len(found) + 1, "image_id": at, "category_id": number[label], "bbox": box}
            found.append(entry | {"area": round(box[2] * box[3], 3), "iscrowd": 0, "score": score})
    names = [{"id": number, "name": name, "supercategory": ""} for number, name in zip(numbers, classes, strict=True)]
    return {"images": images, "annotations": found, "categories": names}


def is_evaluated(checkpoint: str, source: str, out: str, config: DetectPredictConfig) -> bool:
    """Whether `out` holds the finished evaluation of this detector on these images, with these settings.

    Raises:
        RunFolderError: a finished run is there, but another one.
    """
    checkpoint, _, _, identity = _known(checkpoint, config)
    return RunFolder.is_finished(out, config, _KIND, source=f"{files.absolute(source)} by {identity}")


def _known(checkpoint: str, config: DetectPredictConfig) -> tuple[str, list[str], list[int], str]:
    """A detector's place, its classes and their numbers, and what tells its weights from others."""
    if checkpoint in DETECTORS:
        classes = coco_classes(checkpoint)
        return checkpoint, classes, list(range(1, len(classes) + 1)), f"{checkpoint} {config.weights}"
    checkpoint = files.absolute(checkpoint)
    card = load_card(checkpoint, TASK)
    numbers = card.input.get("category_ids") or list(range(1, len(card.classes) + 1))
    return checkpoint, card.classes, numbers, card.weights_sha256


def _open(
    checkpoint: str, source: str, out: str, config: DetectPredictConfig
) -> tuple[RunFolder, str, list[str], list[int]]:
    source, out = files.absolute(source), files.absolute(out)
    checkpoint, classes, numbers, identity = _known(checkpoint, config)
    # the weights are part of the run's identity: a resumed run must not mix two detectors
    return RunFolder.open(out, config, _KIND, source=f"{source} by {identity}"), checkpoint, classes, numbers


def search_of(config: DetectPredictConfig) -> SearchConfig:
    """What a command asks of its detector."""
    return SearchConfig(**{field.name: getattr(config, field.name) for field in fields(SearchConfig)})


def _predict(
    run: RunFolder, checkpoint: str, index: pa.Table, config: DetectPredictConfig, search: SearchConfig
) -> pa.Table:
    arguments = {"checkpoint": checkpoint, "weights": config.weights, "search": search}
    run_stage(run, index, DetectStage, arguments | {"gpu": config.gpu, "draw": config.draw}, config)
    return read_predictions(run.uri, SCHEMA)


def _found(table: pa.Table, place: dict[str, int]) -> dict[str, Found]:
    """Answers by id, numbered as the truth is; classes that it does not have are left out."""
    answers = {}
    for row in table.to_pylist():
        keep = [at for at, label in enumerate(row["labels"]) if label in place]
        boxes, scores, labels = ([row[name][at] for at in keep] for name in ("boxes", "scores", "labels"))
        answers[row["id"]] = as_found(boxes, scores, [place[label] for label in labels])
    return answers
