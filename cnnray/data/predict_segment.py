"""`cnnray predict segment`, `cnnray evaluate segment`: a segmenter over a whole source, by Ray Data, resumable.

RUN/predictions/*.parquet   id, path, height, width (px), confidence, shares (of the card's classes)
RUN/masks/ID.png            the class of every pixel, with the values of the masks that were trained on
RUN/overlays/ID.png         with --draw: the image with its classes in colour
"""

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from cnnray import cluster, files
from cnnray.config import SegmentPredictConfig
from cnnray.data.feature_store import Outputs, read_quarantine
from cnnray.data.pairs import Pairs, build_pairs, check_pairs
from cnnray.data.picture_names import check_names, picture_name
from cnnray.data.predict import answer_unit, count_predictions, read_predictions, run_stage
from cnnray.data.runs import RunFolder, refuse_bad
from cnnray.data.segment_report import Judge
from cnnray.data.units import load_index
from cnnray.errors import ImageError
from cnnray.infer.segment import TASK, Segmentation, Segmenter
from cnnray.nn.checkpoint import load_card
from cnnray.ops.decode import decode
from cnnray.ops.masks import LabelSpace, decode_mask
from cnnray.ops.overlay import overlay, png
from cnnray.page import write_page

MASKS, OVERLAYS = "masks", "overlays"
MEASURED_TOGETHER = 16
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "confidence": pa.float32(),
        "shares": pa.list_(pa.float32()),
    }
)


class SegmentStage:
    """Segments and stores the images of a unit; the model is loaded once. No Ray in here."""

    def __init__(self, checkpoint: str, outputs: Outputs, *, threads: int, gpu: bool, draw: bool) -> None:
        torch.set_num_threads(1)
        self._segmenter = Segmenter.load(checkpoint, device="cuda" if gpu else "cpu", threads=threads)
        self._outputs, self._draw = outputs, draw

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store masks and one row per image of a unit that `read_unit` filled; returns counts."""
        return answer_unit(unit, self._outputs, SCHEMA, self._segmenter.predict, self._stored)

    def _stored(self, row: dict[str, Any], answer: Segmentation) -> dict[str, Any]:
        name = picture_name(row["id"])
        self._outputs.write(files.join(MASKS, name), self._segmenter.mask_png(answer))
        if self._draw:
            picture = overlay(decode(row["bytes"]), answer.classes_HW, len(self._segmenter.classes))
            self._outputs.write(files.join(OVERLAYS, name), png(picture))
        height, width = answer.classes_HW.shape
        shares = [share for _, share in answer.shares]
        facts = {"height": height, "width": width, "confidence": answer.confidence, "shares": shares}
        return {"id": row["id"], "path": row["path"]} | facts


def predict_segment(
    checkpoint: str, source: str, out: str, config: SegmentPredictConfig, *, address: str | None = None
) -> dict[str, Any]:
    """Segment every image of a source; the same call resumes after a kill.

    Args:
        checkpoint: folder of a segmenter.
        source: as for `build_features`; labels are not used.
        out: run folder, see above.
        config: how to read the source, what to draw.
        address: of a Ray cluster; None is a local one.

    Returns:
        the manifest: images, predictions, quarantined, quarantine_codes, ...

    Raises:
        CheckpointError: the checkpoint is absent, damaged or not a segmenter's.
        DataError: two images would have the same mask file.
        UserError, StorageError: as `build_features`.
    """
    run, checkpoint = _open(checkpoint, source, out, config)
    cluster.connect(address)
    manifest = run.finish(_predict(run, checkpoint, load_index(run, files.absolute(source), config), config))
    refuse_bad(run.uri, manifest, config)
    return manifest


def evaluate_segment(
    checkpoint: str, source: str, out: str, config: SegmentPredictConfig, *, address: str | None = None
) -> dict[str, Any]:
    """Segment images that have masks, and compare.

    Args:
        checkpoint, out, config, address: as `predict_segment`.
        source: images and masks as for `train_segment`.

    Returns:
        the figures of `segmentation_summary`, "classes" (IoU, Dice, pixels of each), images, quarantined.

    Raises:
        DataError: masks that do not fit their images, or numbers in them that the segmenter does not know.
        QuarantineError: too many images or masks are bad.
    """
    run, checkpoint = _open(checkpoint, source, out, config)
    cluster.connect(address)
    card = load_card(checkpoint, TASK)
    space = LabelSpace(tuple(card.classes), tuple(card.input["values"]), card.input.get("ignore", -1))
    listed = build_pairs(files.absolute(source), config)
    pairs = check_pairs(run, listed, config, space)
    nothing = pa.nulls(listed.num_rows, pa.string())
    columns = {"id": listed["id"], "path": listed["path"], "label": nothing, "split": listed["split"]}
    counts = _predict(run, checkpoint, pa.table(columns), config)
    judge = Judge(card.classes, config.draw_worst)
    for row, image, truth in read_pairs(pairs):
        answer = space.indices(decode_mask(files.read_bytes(run.path(MASKS, picture_name(row["id"])))))
        judge.add(row["id"], image, truth, answer)
    metrics = judge.figures | {
        "classes": judge.table,
        "images": pairs.table.num_rows,
        "quarantined": read_quarantine(out).num_rows,
    }
    files.write_json(run.path("metrics.json"), metrics)
    write_page(run.path("report.html"), "Evaluation", judge.sections(), subtitle=f"{checkpoint} on {source}")
    run.finish(counts)
    return metrics


def measure(checkpoint: str, pairs: Pairs, draw: int) -> Judge:
    """A segmenter's answers on a few images with masks, computed in this process."""
    segmenter = Segmenter.load(checkpoint)
    judge = Judge(pairs.space.names, draw)
    entries = read_pairs(pairs)
    while together := list(itertools.islice(entries, MEASURED_TOGETHER)):
        answers = segmenter.predict([image for _, image, _ in together])
        for (row, image, truth), answer in zip(together, answers, strict=True):
            assert not isinstance(answer, ImageError), "an array cannot be a bad file"
            judge.add(row["id"], image, truth, answer.classes_HW)
    return judge


def read_pairs(pairs: Pairs) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Row, image uint8 [H, W, 3] and class numbers uint8 [H, W] of every pair."""
    for row in pairs.table.to_pylist():
        image, mask = decode(files.read_bytes(row["path"])), decode_mask(files.read_bytes(row["mask"]))
        yield row, image, pairs.space.indices(mask)


def _open(checkpoint: str, source: str, out: str, config: SegmentPredictConfig) -> tuple[RunFolder, str]:
    source, out, checkpoint = files.absolute(source), files.absolute(out), files.absolute(checkpoint)
    card = load_card(checkpoint, TASK)
    # the weights are part of the run's identity: a resumed run must not mix two segmenters
    return RunFolder.open(out, config, "masks", source=f"{source} by {card.weights_sha256}"), checkpoint


def _predict(run: RunFolder, checkpoint: str, index: pa.Table, config: SegmentPredictConfig) -> dict[str, Any]:
    check_names(index["id"].to_pylist())
    run_stage(run, index, SegmentStage, {"checkpoint": checkpoint, "gpu": config.gpu, "draw": config.draw}, config)
    return count_predictions(run.uri, index, read_predictions(run.uri, SCHEMA))
