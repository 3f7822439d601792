"""Masks as pictures: files of class values, and colours over the photo.

The colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart; more classes repeat
them, lighter.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnray.ops.masks import IGNORE

_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_OUTLINE = 255


def palette(num_classes: int) -> NDArray[np.uint8]:
    """Colours [num_classes, 3], RGB; class 0, the background, is black."""
    colours: list[tuple[int, ...]] = [(0, 0, 0)]
    for number in range(num_classes - 1):
        base, lighter = _OKABE_ITO[number % len(_OKABE_ITO)], number // len(_OKABE_ITO) / 4 % 1
        colours.append(tuple(round(c + (255 - c) * lighter) for c in base))
    return np.array(colours, np.uint8)


def overlay(
    image_HWC: NDArray[np.uint8], classes_HW: NDArray[np.uint8], num_classes: int, alpha: float = 0.4
) -> NDArray[np.uint8]:
    """The photo with the colours of its classes over it, and their outlines.

    Args:
        image_HWC: uint8 RGB.
        classes_HW: class numbers of the pixels; class 0 and IGNORE stay clear.
        num_classes: K.
        alpha: share of the colour, from 0 to 1.

    Returns:
        uint8 RGB [H, W, 3].
    """
    seen = np.where(classes_HW == IGNORE, 0, classes_HW)
    colours = palette(num_classes)[seen]
    share = np.where(seen > 0, alpha, 0.0)[..., None]
    share = np.where(outlines(seen)[..., None], 1.0, share)
    mixed: NDArray[np.uint8] = np.rint(image_HWC * (1 - share) + colours * share).astype(np.uint8)
    return mixed


def outlines(classes_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a class above 0 that have a neighbour, in the four directions, of another class."""
    edge = np.zeros(classes_HW.shape, bool)
    down, right = classes_HW[1:] != classes_HW[:-1], classes_HW[:, 1:] != classes_HW[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (classes_HW > 0)


def mask_png(classes_HW: NDArray[np.uint8], values: Sequence[int]) -> bytes:
    """A grey PNG with each class's value, as the masks that were trained on have it: 8 bits, or 16 where needed."""
    table = np.array(values, np.uint8 if max(values) < 256 else np.uint16)
    return png(table[classes_HW])


def png(pixels: NDArray[Any]) -> bytes:
    """A PNG file of uint8 or uint16 [H, W], or uint8 RGB [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode(pixels_HWC: NDArray[np.uint8], suffix: str) -> bytes:
    """A file of uint8 RGB [H, W, 3]: a PNG if `suffix` is "png", else a JPEG."""
    return png(pixels_HWC) if suffix == "png" else jpeg(pixels_HWC)


def jpeg(pixels_HWC: NDArray[np.uint8], quality: int = 95) -> bytes:
    """A JPEG file of uint8 RGB [H, W, 3], its colours at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
