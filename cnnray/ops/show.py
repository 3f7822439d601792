"""Numbers as pictures: signed signals on grey, heat over a photo, parts of images, grids of nine.

Arrays of pictures are uint8 RGB [H, W, 3]; boxes are (top, left, bottom, right) in px, bottom and right exclusive.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

GREY = 128
_WHITE = 255

# Inferno of matplotlib (van der Walt and Smith, CC0) at 16 even steps: equal steps look equal, also in grey.
_INFERNO = np.array([
    (0, 0, 4), (12, 8, 38), (36, 12, 79), (66, 10, 104), (93, 18, 110), (120, 28, 109), (147, 38, 103), (174, 48, 92),
    (199, 62, 76), (221, 81, 58), (237, 105, 37), (248, 133, 15), (252, 165, 10), (250, 198, 45), (242, 230, 97),
    (252, 255, 164),
], np.float64)  # fmt: skip


def signed_picture(signal_HWC: NDArray[np.floating], percentile: float = 99.9) -> Pixels:
    """A signed signal on grey: zero is 128, positive values are lighter and negative ones darker, by one scale.

    Args:
        signal_HWC: [H, W, 3], any unit.
        percentile: of the magnitudes that are not zero; what is above is as bright as that, so that a few extreme
            values do not leave all else grey. 99.9 is for what is cut to a receptive field; whole pictures are mostly
            faint, about 99 shows them well.

    Returns:
        The picture; all grey where the signal is zero everywhere.
    """
    magnitudes = np.abs(signal_HWC[signal_HWC != 0])
    scale = float(np.percentile(magnitudes, percentile)) if magnitudes.size else 1.0
    share = np.clip(signal_HWC / scale, -1, 1)
    picture: Pixels = np.rint(GREY + share * (GREY - 1)).astype(np.uint8)
    return picture


def heat_colours(heat: NDArray[np.floating]) -> Pixels:
    """Colours [..., 3] of heat [...] in [0, 1]: from black over red to light yellow."""
    place = np.clip(heat, 0, 1) * (len(_INFERNO) - 1)
    below = np.minimum(place.astype(np.intp), len(_INFERNO) - 2)
    share = (place - below)[..., None]
    mixed: Pixels = np.rint(_INFERNO[below] * (1 - share) + _INFERNO[below + 1] * share).astype(np.uint8)
    return mixed


def heat_over(image_HWC: Pixels, heat_HW: NDArray[np.floating], alpha: float = 0.6) -> Pixels:
    """Heat in [0, 1] over a photo: the photo in grey, and the more heat the more of its colour, up to `alpha`."""
    grey = image_HWC @ np.array([0.299, 0.587, 0.114])
    share = alpha * np.clip(heat_HW, 0, 1)[..., None]
    mixed: Pixels = np.rint(grey[..., None] * (1 - share) + heat_colours(heat_HW) * share).astype(np.uint8)
    return mixed


def crop(image_HWC: NDArray[Any], box: tuple[int, int, int, int], fill: float = GREY) -> NDArray[Any]:
    """A copy of the part [bottom - top, right - left, C] within a box, `fill` where that is beyond the image."""
    height, width, channels = image_HWC.shape
    top, left, bottom, right = box
    part = np.full((bottom - top, right - left, channels), fill, image_HWC.dtype)
    y0, x0 = min(max(top, 0), height), min(max(left, 0), width)
    y1, x1 = max(min(bottom, height), y0), max(min(right, width), x0)
    part[y0 - top : y1 - top, x0 - left : x1 - left] = image_HWC[y0:y1, x0:x1]
    return part


def grid(pictures: Sequence[Pixels], columns: int = 3, gap: int = 2) -> Pixels:
    """Pictures of one size in rows, white between them and where the last row ends early.

    Args:
        pictures: at least one, [h, w, 3] each.
        gap: px between two pictures.
    """
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), _WHITE, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def nine_beside_nine(patches: Sequence[Pixels], signals: Sequence[Pixels], gap: int = 2) -> Pixels:
    """The strongest patches of a filter, three in a row, and to their right what made it fire in each."""
    left, right = grid(patches, gap=gap), grid(signals, gap=gap)
    return np.concatenate([left, np.full((len(left), 4 * gap, 3), _WHITE, np.uint8), right], axis=1)


def enlarge(picture_HWC: Pixels, side: int) -> Pixels:
    """Whole-number enlargement, pixels as squares, so that the longer side has `side` px or a little less."""
    factor = max(1, side // max(picture_HWC.shape[:2]))
    return picture_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
