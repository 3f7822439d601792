"""Answers of a detector against the true boxes: COCO's figures, which class is taken for which, the worst images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnray.data.annotations import Annotations
from cnnray.data.coco import to_coco
from cnnray.data.fetch import fetch_known
from cnnray.ops.average_precision import Precision, average_precision
from cnnray.ops.decode import decode
from cnnray.ops.detections import Found, match, picture_precision
from cnnray.ops.draw import draw_boxes
from cnnray.ops.overlay import png
from cnnray.page import Gallery, Numbers, Picture, Section, Table, Text
from cnnray.report import confusion_picture, precision_recall_picture

PICTURE = 480  # px
_TITLES = {
    "map50": "AP at IoU 0.5",
    "map": "AP at 0.5 to 0.95",
    "map_small": "AP small",
    "map_medium": "AP medium",
    "map_large": "AP large",
    "ar_100": "recall (AR 100)",
}


class BoxJudge:
    """Compares answers with the truth.

    Args:
        truth: the images, all of them.
        answers: of each image by id: boxes (list of xyxy px), labels (places in the truth's categories), scores.
        confidence: least score in confusion matrix and pictures; COCO's figures count all answers.
    """

    def __init__(self, truth: Annotations, answers: Mapping[str, Found], confidence: float) -> None:
        self.truth, self._answers, self._confidence = truth, answers, confidence
        self.precision: Precision = average_precision(to_coco(truth), self.results())
        self._rows = truth.table.to_pylist()

    def results(self) -> list[dict[str, Any]]:
        """Every answer as COCO's result files have it; images are numbered as `to_coco` does."""
        return [
            {
                "image_id": at,
                "category_id": self.truth.category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": s,
            }
            for at, name in enumerate(self.truth.table["id"].to_pylist(), start=1)
            for (x1, y1, x2, y2), s, label in _rows(self._answers[name])
        ]

    @property
    def figures(self) -> dict[str, float | None]:
        """See `Precision`; None where there is nothing to measure."""
        return {name: value if value == value else None for name, value in self.precision.figures.items()}

    @property
    def table(self) -> list[dict[str, Any]]:
        """See `Precision`; None for a class without objects."""
        return [
            {key: None if isinstance(v, float) and v != v else v for key, v in row.items()}
            for row in self.precision.table
        ]

    def confusion(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[K + 1, K + 1] counts at IoU 0.5: row the true class, column the answer's; the last is "background".

        An answer and an object that overlap belong together whatever their classes, the best pair first.
        """
        count = len(self.truth.categories)
        matrix = np.zeros((count + 1, count + 1), np.int64)
        for row in self._rows:
            found, boxes, labels = self._shown(row["id"]), *_objects(row)
            anything = match(found._replace(labels_N=found.labels_N * 0), boxes, labels * 0)
            for answer, place in zip(found.labels_N.tolist(), anything.tolist(), strict=True):
                matrix[labels[place] if place >= 0 else count, answer] += 1
            for place in set(range(len(labels))) - set(anything.tolist()):
                matrix[labels[place], count] += 1
        return matrix

    def sections(self, draw: int) -> list[Section]:
        """What a page says about the answers; `draw` of the worst images."""
        own = self.figures
        figures: dict[str, float] = {_TITLES[name]: v for name, v in own.items() if name in _TITLES and v is not None}
        names = (*self.truth.categories, "background")
        columns = ("class", "objects", "AP50", "AP", "recall")
        rows = [
            (row["name"], row["objects"], *("–" if row[k] is None else row[k] for k in ("ap50", "ap", "recall")))
            for row in self.table
        ]
        curves = precision_recall_picture(self.precision.curves_KR, self.truth.categories)
        confused = confusion_picture(self.confusion(), names)
        least = f"answers with a score of {self._confidence:g} and more"
        sections = [
            Section("Result", [Numbers(figures | {"images": len(self._rows)})]),
            Section("Classes", [Table(columns, rows, frozenset({"AP50", "AP", "recall"}))]),
            Section("Precision and recall", [Picture(curves, "at IoU 0.5, all answers")]),
            Section("Confusion", [Picture(confused, f"at IoU 0.5, {least}; background: nothing there, or not found")]),
        ]
        pictures = self._worst(draw)
        if pictures:
            about = Text(f"Lowest average precision at IoU 0.5. White: the truth; in colour: {least}.")
            sections.append(Section("Worst images", [about, Gallery(pictures)]))
        return sections

    def score(self, at: int) -> float:
        """Average precision at IoU 0.5 of one image, by what is shown of it; see `picture_precision`."""
        row = self._rows[at]
        return picture_precision(self._shown(row["id"]), *_objects(row))

    def drawn(self, at: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """An image with its true boxes in white and the answers in colour, small."""
        row = self._rows[at]
        found, boxes = self._shown(row["id"]), np.array(row["boxes"]).reshape(-1, 4)
        image = Image.fromarray(decode(fetch_known(row["path"])))
        image.thumbnail((PICTURE, PICTURE))
        scale = image.width / row["width"]
        parts = (found.boxes_N4.numpy() * scale, found.labels_N.numpy(), self.truth.categories, found.scores_N.numpy())
        return draw_boxes(np.asarray(image), *parts, truth_M4=boxes * scale)

    def _worst(self, draw: int) -> list[Picture]:
        scored = sorted((self.score(at), row["id"], at) for at, row in enumerate(self._rows))
        return [
            Picture(png(self.drawn(at)), f"{name}\nAP50 {score:.3f}") for score, name, at in scored[:draw] if score < 1
        ]

    def _shown(self, name: str) -> Found:
        found = self._answers[name]
        keep = found.scores_N >= self._confidence
        return Found(*(part[keep] for part in found))


def _objects(row: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and labels of the objects that count."""
    count = torch.tensor([not (c or d) for c, d in zip(row["crowd"], row["difficult"], strict=True)], dtype=torch.bool)
    boxes = torch.tensor(row["boxes"], dtype=torch.float32).reshape(-1, 4)
    return boxes[count], torch.tensor(row["labels"], dtype=torch.int64)[count]


def _rows(found: Found) -> list[tuple[list[float], float, int]]:
    return list(zip(found.boxes_N4.tolist(), found.scores_N.tolist(), found.labels_N.tolist(), strict=True))


def as_found(boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int]) -> Found:
    """Plain lists as `Found`."""
    return Found(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )
