"""Large pictures searched in overlapping slices, and what they find put together.

Slicing Aided Hyper Inference, Akyon et al. 2022, arXiv:2202.06934
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnray.errors import OptionError
from cnnray.ops.boxes import area, iou
from cnnray.ops.detections import Found

_NEAR_BORDER = 2.0  # px
_INSIDE = 0.5  # share of a cut box that lies in a better one, from which on it is a part of it


def plan_slices(height: int, width: int, size: int, overlap: float) -> list[tuple[int, int, int, int]]:
    """Slices (top, left, bottom, right) in px that cover a picture; one of it all where both sides are at most `size`.

    Args:
        size: longest side of a slice in px.
        overlap: share of a slice that its neighbour has too, at least.

    Raises:
        OptionError: an overlap below 0, or of 0.9 and more.
    """
    if not 0 <= overlap < 0.9:
        raise OptionError(f"overlap of slices must be at least 0 and below 0.9, got {overlap}")
    rows, columns = (_starts(side, size, round(size * overlap)) for side in (height, width))
    return [(top, left, min(top + size, height), min(left + size, width)) for top in rows for left in columns]


def _starts(length: int, size: int, shared: int) -> list[int]:
    if length <= size:
        return [0]
    count = -(-(length - shared) // (size - shared))
    return [round(number * (length - size) / (count - 1)) for number in range(count)]


def merge_slices(
    parts: Sequence[tuple[tuple[int, int, int, int], Found]],
    height: int,
    width: int,
    overlap: float,
    class_wise: bool = True,
) -> Found:
    """The objects of a picture from those of its slices, and of all of it at once if that is among the parts.

    An object at the inner border of a slice may be a part of one. Where a better box of its class holds more than half
    of it, it goes; it also comes after all whole boxes, whatever its score. Whole boxes of different parts suppress
    each other by IoU; those of one part have been through that, hard or soft, when they were found.

    Args:
        parts: (top, left, bottom, right) of each slice, and what was found in it, in its own coordinates.
        overlap: largest IoU of two boxes that stay.
        class_wise: whether a box suppresses only those of its own class.
    """
    boxes, scores, labels, cut, origin = [], [], [], [], []
    for number, ((top, left, bottom, right), found) in enumerate(parts):
        boxes.append(found.boxes_N4 + torch.tensor([left, top, left, top]))
        scores.append(found.scores_N)
        labels.append(found.labels_N)
        cut.append(_touches(boxes[-1], (top, left, bottom, right), height, width))
        origin.append(torch.full_like(found.labels_N, number))
    joined = Found(torch.cat(boxes), torch.cat(scores), torch.cat(labels))
    order = (joined.scores_N - torch.cat(cut).float()).sort(descending=True, stable=True).indices
    joined, is_cut, origin_N = Found(*(part[order] for part in joined)), torch.cat(cut)[order], torch.cat(origin)[order]
    groups = joined.labels_N if class_wise else torch.zeros_like(joined.labels_N)
    kept = _suppress(joined.boxes_N4, groups, is_cut, origin_N, overlap)
    found = Found(*(part[kept] for part in joined))
    best = found.scores_N.sort(descending=True, stable=True).indices
    return Found(*(part[best] for part in found))


def _touches(boxes_N4: Tensor, place: tuple[int, int, int, int], height: int, width: int) -> Tensor:
    """Whether boxes end where their slice does, but not the picture."""
    top, left, bottom, right = place
    sides = [
        (boxes_N4[:, 0] < left + _NEAR_BORDER) & (left > 0),
        (boxes_N4[:, 1] < top + _NEAR_BORDER) & (top > 0),
        (boxes_N4[:, 2] > right - _NEAR_BORDER) & (right < width),
        (boxes_N4[:, 3] > bottom - _NEAR_BORDER) & (bottom < height),
    ]
    return torch.stack(sides).any(0)


def _suppress(boxes: Tensor, groups: Tensor, is_cut: Tensor, origin: Tensor, overlap: float) -> Tensor:
    """Places that stay, in order; each box is compared with the better ones that stayed."""
    low, high = (torch.maximum, 0), (torch.minimum, 2)
    corners = [f(boxes[:, None, at : at + 2], boxes[None, :, at : at + 2]) for f, at in (low, high)]
    common = (corners[1] - corners[0]).clamp(min=0).prod(-1)
    inside = common / area(boxes).clamp(min=1e-6)[:, None]
    seen_again = (iou(boxes, boxes) > overlap) & (origin[:, None] != origin[None, :])
    repeats = seen_again | (is_cut[:, None] & (inside > _INSIDE))
    repeats &= groups[:, None] == groups[None, :]
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for at in range(1, len(boxes)):
        alive[at] = not (repeats[at, :at] & alive[:at]).any()
    return alive.nonzero().flatten()
