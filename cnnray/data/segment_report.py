"""Answers of a segmenter against the masks: figures over all pixels, and pictures of the worst images."""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnray.ops.masks import IGNORE
from cnnray.ops.metrics import overlaps, pixel_confusion, segmentation_summary
from cnnray.ops.overlay import overlay, palette, png
from cnnray.page import Gallery, Numbers, Picture, Section, Table, Text

PANEL = 256  # px, largest side of one panel of a picture
GAP = 6
_WRONG = (213, 30, 60)
_TITLES = {
    "foreground_iou": "foreground IoU",
    "mean_iou": "mean IoU",
    "foreground_dice": "foreground Dice",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel accuracy",
}


class Judge:
    """Counts pixels of answers against masks, image after image, and remembers the worst ones.

    Args:
        classes: names of the K classes.
        draw: images to remember.
    """

    def __init__(self, classes: Sequence[str], draw: int) -> None:
        self._classes, self._draw = classes, draw
        self._matrix = np.zeros((len(classes), len(classes)), np.int64)
        self._worst: list[tuple[float, str, NDArray[np.uint8]]] = []
        self._count = 0

    def add(
        self, name: str, image_HWC: NDArray[np.uint8], truth_HW: NDArray[np.uint8], answer_HW: NDArray[np.uint8]
    ) -> None:
        """Take one image into account; `truth_HW` holds class numbers, or IGNORE."""
        matrix = pixel_confusion(answer_HW, truth_HW, len(self._classes), IGNORE)
        self._matrix += matrix
        self._count += 1
        score = segmentation_summary(matrix)["foreground_iou"]
        if len(self._worst) < self._draw or (self._worst and -self._worst[0][0] > score):
            panels = side_by_side(image_HWC, truth_HW, answer_HW, len(self._classes))
            heapq.heappush(self._worst, (-score, name, panels))
            if len(self._worst) > self._draw:
                heapq.heappop(self._worst)

    @property
    def figures(self) -> dict[str, float]:
        """See `segmentation_summary`."""
        return segmentation_summary(self._matrix)

    @property
    def table(self) -> list[dict[str, Any]]:
        """name, iou, dice and pixels of every class; None for a class that is nowhere."""
        found = overlaps(self._matrix)
        rows = zip(self._classes, found.iou.tolist(), found.dice.tolist(), self._matrix.sum(1).tolist(), strict=True)
        return [
            {"name": n, "iou": i if i == i else None, "dice": d if d == d else None, "pixels": p} for n, i, d, p in rows
        ]

    def sections(self) -> list[Section]:
        """What a page says about the answers."""
        figures = {_TITLES[name]: value for name, value in self.figures.items()} | {"images": self._count}
        rows = [
            (row["name"], *("–" if row[key] is None else row[key] for key in ("iou", "dice")), row["pixels"])
            for row in self.table
        ]
        worst = sorted(self._worst, key=lambda entry: (-entry[0], entry[1]))
        pictures = [Picture(png(panels), f"{name}\nforeground IoU {-score:.3f}") for score, name, panels in worst]
        colours = ", ".join(
            f"{name} #{''.join(f'{part:02x}' for part in colour)}"
            for name, colour in list(zip(self._classes, palette(len(self._classes)), strict=True))[1:]
        )
        about = Text(f"Photo, mask, answer, and in red the pixels where they differ. Colours: {colours}.")
        sections = [Section("Result", [Numbers(figures)])]
        sections.append(
            Section("Classes", [Table(("class", "IoU", "Dice", "pixels"), rows, frozenset({"IoU", "Dice"}))])
        )
        return [*sections, Section("Worst images", [about, Gallery(pictures)])] if pictures else sections


def side_by_side(
    image_HWC: NDArray[np.uint8], truth_HW: NDArray[np.uint8], answer_HW: NDArray[np.uint8], num_classes: int
) -> NDArray[np.uint8]:
    """Photo, mask over photo, answer over photo, and where both differ, next to each other; uint8 RGB."""
    wrong = (truth_HW != answer_HW) & (truth_HW != IGNORE)
    grey = np.repeat(image_HWC.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
    differences = np.where(wrong[..., None], np.array(_WRONG, np.uint8), grey)
    panels = (
        image_HWC,
        overlay(image_HWC, truth_HW, num_classes),
        overlay(image_HWC, answer_HW, num_classes),
        differences,
    )
    small = [_shrunk(panel) for panel in panels]
    gap = np.full((small[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for panel in small for part in (panel, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(pixels)
    picture.thumbnail((PANEL, PANEL))
    return np.array(picture)
