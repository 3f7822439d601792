"""A picture at smaller and smaller scales, all on one canvas: a network looks at every scale in a single pass.

The layout is that of dlib's detectors: level after level down the left side, and from where there is room, back up
along the right one. Each level is 5/6 of the one before, and made from it.

Legend: H, W of the picture; a place is (top, left, height, width) in px of the canvas; points are (x, y).
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_NUMERATOR, _DENOMINATOR = 5, 6
_SHIFT = 0.3  # px, between a level's coordinates and those of the level before
_GAP, _MARGIN = 10, 11  # px, between levels and around all
_LEAST = 5  # px, height of the last level


@dataclass(frozen=True)
class Tiling:
    """Where the levels of a pyramid are.

    Attributes:
        height, width: of the canvas.
        places: of the levels, the picture itself first.
    """

    height: int
    width: int
    places: tuple[tuple[int, int, int, int], ...]


@functools.lru_cache(maxsize=256)
def plan_tiling(height: int, width: int) -> Tiling:
    """The layout for a picture of this size, at least 1 px high and wide."""
    sizes = [(height, width)]
    while True:
        height, width = (side * _NUMERATOR // _DENOMINATOR for side in (height, width))
        if height < _LEAST or not width:
            break
        sizes.append((height, width))
    first_height, full_width = sizes[0]
    whole = sum(high + _GAP for high, _ in sizes) - 2 * _GAP
    column, before = 0, 0  # of the left side; width of the last level in it
    for high, wide in sizes:
        if wide <= full_width - before - _GAP and 2 * (column - first_height) >= whole - first_height:
            break
        column, before = column + high + _GAP, wide
    column -= _GAP
    places, top = [], 0
    for high, wide in sizes:
        if top >= column:
            break
        places.append((top, 0, high, wide))
        top += high + _GAP
    bottom = top - _GAP
    for high, wide in sizes[len(places) :]:
        places.append((bottom - high, full_width - wide, high, wide))
        bottom -= high + _GAP
    moved = tuple((top + _MARGIN, left + _MARGIN, high, wide) for top, left, high, wide in places)
    return Tiling(column + 2 * _MARGIN, full_width + 2 * _MARGIN, moved)


def tile(images_NCHW: Tensor) -> Tensor:
    """Pictures of one size as canvases [N, C, height, width] of `plan_tiling`; float, zeros between the levels.

    A canvas lies in memory as the pictures do, channels first or last.
    """
    count, channels, height, width = images_NCHW.shape
    tiling = plan_tiling(height, width)
    canvas = images_NCHW.new_zeros(count, tiling.height, tiling.width, channels).permute(0, 3, 1, 2)
    if not images_NCHW.is_contiguous(memory_format=torch.channels_last):
        canvas = canvas.contiguous()  # levels that had to be turned around would cost half of the time
    level = images_NCHW
    for top, left, high, wide in tiling.places:
        if level.shape[-2:] != (high, wide):
            level = F.interpolate(level, (high, wide), mode="bilinear", align_corners=True)
        canvas[..., top : top + high, left : left + wide] = level
    return canvas


def level_at(points_N2: Tensor, tiling: Tiling) -> Tensor:
    """Number of the level that each point of the canvas is in, or nearest to: int64 [N]."""
    places = points_N2.new_tensor(tiling.places)
    low = places[:, :2].flip(1)
    high = low + places[:, 2:].flip(1) - 1
    outside = torch.maximum(low - points_N2[:, None], points_N2[:, None] - high).clamp(min=0)
    return outside.square().sum(-1).argmin(1)


def into_picture(boxes_N4: Tensor, levels_N: Tensor, tiling: Tiling) -> Tensor:
    """Boxes on the canvas as they lie in the picture, px; those of level k grow by (6/5)^k."""
    corners = boxes_N4.new_tensor(tiling.places)[levels_N][:, :2].flip(1)
    factor = (_DENOMINATOR / _NUMERATOR) ** levels_N.to(boxes_N4)[:, None]
    # the sum of the shifts of all steps up: a geometric series
    shift = _SHIFT * (factor - 1) / (_DENOMINATOR / _NUMERATOR - 1)
    return (boxes_N4 - corners.repeat(1, 2)) * factor + shift
