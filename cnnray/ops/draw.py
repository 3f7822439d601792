"""Boxes and faces drawn on pictures, with labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cnnray.ops.overlay import palette

TRUTH = (255, 255, 255)


def class_colours(num_classes: int) -> list[tuple[int, ...]]:
    """A colour for each class, that people with any colour vision can tell from its neighbours."""
    return [tuple(int(part) for part in row) for row in palette(num_classes + 1)[1:]]


def draw_boxes(
    image_HWC: NDArray[np.uint8],
    boxes_N4: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    names: Sequence[str],
    scores_N: NDArray[np.floating] | None = None,
    truth_M4: NDArray[np.floating] | None = None,
) -> NDArray[np.uint8]:
    """A copy of the picture with a frame in its class's colour around each box, its name and score above.

    Args:
        image_HWC: uint8 RGB.
        boxes_N4: xyxy px.
        labels_N: class numbers, places in `names`.
        scores_N: in [0, 1]; None writes none.
        truth_M4: boxes to be drawn thinly in white under the others.
    """
    picture = Image.fromarray(image_HWC)
    colours = class_colours(len(names))
    for box in truth_M4 if truth_M4 is not None else ():
        ImageDraw.Draw(picture).rectangle(_ordered(box), outline=TRUTH, width=_thick(picture))
    texts = [names[int(label)] for label in labels_N]
    if scores_N is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores_N, strict=True)]
    _frame(picture, boxes_N4, texts, [colours[int(label)] for label in labels_N])
    return np.asarray(picture)


def draw_faces(
    image_HWC: NDArray[np.uint8],
    boxes_N4: NDArray[np.floating],
    landmarks_N52: NDArray[np.floating],
    texts: Sequence[str],
) -> NDArray[np.uint8]:
    """A copy of the picture with a frame around each face, its text above and dots on its landmarks.

    Args:
        image_HWC: uint8 RGB.
        boxes_N4: xyxy px.
        landmarks_N52: (x, y) px.
        texts: one for each face.
    """
    picture = Image.fromarray(image_HWC)
    _frame(picture, boxes_N4, texts, class_colours(1) * len(boxes_N4))
    pen, radius = ImageDraw.Draw(picture), max(1.0, max(picture.size) / 500)
    for x, y in landmarks_N52.reshape(-1, 2).tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255), outline=(0, 0, 0))
    return np.asarray(picture)


def _frame(
    picture: Image.Image,
    boxes_N4: NDArray[np.floating],
    texts: Sequence[str],
    colours: Sequence[tuple[int, ...]],
) -> None:
    """Frames with their texts above, in place; the first is drawn last."""
    pen, thick = ImageDraw.Draw(picture), _thick(picture)
    font = ImageFont.load_default(max(10, round(max(picture.size) / 45)))
    for box, text, colour in reversed(list(zip(boxes_N4, texts, colours, strict=True))):
        x1, y1, x2, y2 = _ordered(box)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=thick)
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        tall = bottom - top + 4
        y = y1 - tall if y1 >= tall else y1
        pen.rectangle((x1, y, x1 + right - left + 4, y + tall), fill=colour)
        pen.text((x1 + 2 - left, y + 2 - top), text, font=font, fill=_readable(colour))


def _thick(picture: Image.Image) -> int:
    """Width in px of a frame's lines."""
    return max(1, round(max(picture.size) / 300))


def _ordered(box: NDArray[np.floating]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _readable(colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Black on light colours, white on dark ones."""
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if light > 140 else (255, 255, 255)
