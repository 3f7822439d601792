"""Figures of detectors by COCO's rules; pycocotools does the arithmetic.

https://cocodataset.org/#detection-eval
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

RECALLS = np.linspace(0, 1, 101)
# In the order of COCOeval's own summary; None is an average over IoU 0.50 to 0.95.
_NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
_RECALL_NAMES = ("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")


@dataclass(frozen=True)
class Precision:
    """How good a detector is on a data set.

    Attributes:
        figures: map (mean average precision over IoU 0.50 to 0.95), map50, map75, map_small (below 32² px), map_medium
            (to 96² px), map_large; ar_1, ar_10, ar_100: average recall with so many answers for each picture, ar_small
            and so on. NaN where there is no object to measure on.
        table: a row for each class: name, objects, ap, ap50, recall (at IoU 0.5, of all answers); NaN without objects.
        curves_KR: precision at IoU 0.5 of each class at recall 0, 0.01 .. 1; NaN without objects.
    """

    figures: dict[str, float]
    table: list[dict[str, Any]]
    curves_KR: NDArray[np.float64]


class _Evaluation(COCOeval):  # type: ignore[misc]
    """COCO's arithmetic, which knows crowds, and Pascal VOC's difficult objects: neither hit nor miss."""

    def _prepare(self) -> None:
        super()._prepare()
        for entries in self._gts.values():
            for entry in entries:
                if entry.get("difficult"):
                    entry["ignore"] = 1


def average_precision(truth: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> Precision:
    """Compare answers with the truth.

    Args:
        truth: content of a COCO file; annotations with "iscrowd" or "difficult" count neither as hit nor as miss.
        answers: image_id, category_id, bbox (left, top, width, height in px) and score of every answer.
    """
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        known = COCO()
        known.dataset = {key: list(value) for key, value in truth.items()}
        known.createIndex()
        run = _Evaluation(known, _results(known, answers), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision, recall = run.eval["precision"], run.eval["recall"]  # [T, R, K, area, most] and [T, K, area, most]
    figures = {name: _value(value) for name, value in zip((*_NAMES, *_RECALL_NAMES), run.stats, strict=True)}
    counts = _objects(truth)
    table = []
    for at, number in enumerate(run.params.catIds):
        own = {"ap": precision[:, :, at, 0, 2], "ap50": precision[0, :, at, 0, 2], "recall": recall[0, at, 0, 2]}
        row = {name: _value(np.mean(values)) for name, values in own.items()}
        table.append({"name": names[number], "objects": counts.get(number, 0)} | row)
    curves = np.where(precision[0, :, :, 0, 2] < 0, np.nan, precision[0, :, :, 0, 2]).T
    return Precision(figures, table, curves)


def _results(known: COCO, answers: Sequence[Mapping[str, Any]]) -> COCO:
    if answers:
        return known.loadRes([dict(answer) for answer in answers])
    empty = COCO()
    empty.dataset = {"images": known.dataset["images"], "annotations": [], "categories": known.dataset["categories"]}
    empty.createIndex()
    return empty


def _objects(truth: Mapping[str, Any]) -> dict[int, int]:
    """Objects of each category that count."""
    counts: dict[int, int] = {}
    for entry in truth["annotations"]:
        if not entry.get("iscrowd") and not entry.get("difficult"):
            counts[entry["category_id"]] = counts.get(entry["category_id"], 0) + 1
    return counts


def _value(number: float) -> float:
    """pycocotools says -1 where there is nothing to measure."""
    return float("nan") if number < 0 else float(number)
