"""Points in a picture that was turned by quarters, as they lie in the picture itself."""

import torch
from torch import Tensor


def turn_back(boxes_N4: Tensor, points_NL2: Tensor, turns: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes and points of a picture that was turned by `torch.rot90(picture, turns, (-2, -1))`.

    Args:
        boxes_N4: xyxy px, from border to border: the first pixel goes from 0 to 1.
        points_NL2: (x, y) px, whose (0, 0) is the middle of the first pixel.
        turns: quarters against the clock, 0 to 3.
        height, width: of the picture before it was turned.

    Returns:
        both in px of the picture before.
    """
    first, second = (_back(corner, turns, height, width) for corner in (boxes_N4[:, :2], boxes_N4[:, 2:]))
    boxes = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], 1)
    return boxes, _back(points_NL2, turns, height - 1, width - 1)


def _back(points: Tensor, turns: int, height: int, width: int) -> Tensor:
    x, y = points.unbind(-1)
    return torch.stack([(x, y), (width - y, x), (width - x, height - y), (y, height - x)][turns], -1)
