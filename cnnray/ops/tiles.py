"""Large pictures in overlapping tiles, and the answers put together again so that no seam shows.

U-Net, Ronneberger et al. 2015, arXiv:1505.04597, figure 2: overlap-tile strategy
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cnnray.errors import OptionError


def plan_tiles(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of `tile` px start along an axis of `length` px: as few as cover it, spread evenly.

    Args:
        length: of the axis.
        tile: side of a tile; where it is not below `length`, one tile of the whole axis is enough.
        overlap: px that neighbours share at least.

    Raises:
        OptionError: an overlap that is negative, or half a tile or more.
    """
    if not 0 <= 2 * overlap < tile:
        raise OptionError(f"overlap must be at least 0 and below half of the tile of {tile} px, got {overlap}")
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(number * (length - tile) / (count - 1)) for number in range(count)]


def tiled(model: Callable[[Tensor], Tensor], images_NCHW: Tensor, tile: int, overlap: int) -> Tensor:
    """What `model` gives for large pictures, computed in tiles.

    Each tile's answer counts fully in its middle and ever less through the second half of its overlap; the outer
    quarter, where its border is closest, does not count where a neighbour knows better. At the picture's own border
    a tile ends as the picture does. For a model whose output at a pixel depends on nothing further away than a quarter
    of the overlap, this is what one pass over the whole picture gives.

    Args:
        model: [N, C, h, w] to [N, K, h, w], h and w at most `tile`.
        images_NCHW: of any size; one pass where both sides are at most `tile`.
        tile, overlap: px, see `plan_tiles`.

    Returns:
        float32 [N, K, H, W] on the model's device.
    """
    height, width = images_NCHW.shape[-2:]
    if height <= tile and width <= tile:
        return model(images_NCHW)
    rows, columns = plan_tiles(height, tile, overlap), plan_tiles(width, tile, overlap)
    total: Tensor | None = None
    for top in rows:
        down = _ramp(top, rows, height, tile, overlap)
        for left in columns:
            along = _ramp(left, columns, width, tile, overlap)
            answer = model(images_NCHW[..., top : top + tile, left : left + tile])
            if total is None:
                total = answer.new_zeros(*answer.shape[:2], height, width)
            weight = (down[:, None] * along[None, :]).to(answer)
            total[..., top : top + len(down), left : left + len(along)] += answer * weight
    assert total is not None
    return total


def _ramp(start: int, starts: list[int], length: int, tile: int, overlap: int) -> Tensor:
    """[tile or length] weight of each pixel of the tile at `start` along an axis; over all tiles they sum to 1."""
    own = _shape(start, length, tile, overlap)
    total = torch.zeros(length, dtype=torch.float64)
    for other in starts:
        part = _shape(other, length, tile, overlap)
        total[other : other + len(part)] += part
    return (own / total[start : start + len(own)]).float()


def _shape(start: int, length: int, tile: int, overlap: int) -> Tensor:
    """Rises from 0 at a quarter of the overlap to 1 at three quarters, falls likewise; 1 at the picture's border."""
    size = min(tile, length)
    place = torch.arange(size, dtype=torch.float64) + 0.5
    shape = torch.ones(size, dtype=torch.float64)
    margin, rise = overlap / 4, max(overlap / 2, 1e-9)
    if start > 0:
        shape *= ((place - margin) / rise).clamp(0, 1)
    if start + size < length:
        shape *= ((size - place - margin) / rise).clamp(0, 1)
    return shape
