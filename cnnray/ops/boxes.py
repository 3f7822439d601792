"""Boxes: overlap, suppression of repeated answers, and the grids that YOLO predicts on.

Legend: N, M boxes; a box is (x1, y1, x2, y2) in px, float, with x1 <= x2 and y1 <= y2; the picture's top left corner is
(0, 0) and the centre of its first pixel (0.5, 0.5). S cells along each side of a grid, K classes.

You Only Look Once, Redmon et al. 2016, arXiv:1506.02640 (the grid)
Soft-NMS, Bodla et al. 2017, arXiv:1704.04503, equation 3 (Gaussian)
"""

import torch
import torchvision
from torch import Tensor
from torchvision.ops import box_convert

from cnnray.errors import OptionError

SUPPRESSIONS = ("hard", "soft")
_SOFT_SIGMA = 0.5


def iou(a_N4: Tensor, b_M4: Tensor) -> Tensor:
    """Intersection over union of each pair, [N, M] in [0, 1]; 0 where both boxes are empty."""
    overlap: Tensor = torchvision.ops.box_iou(a_N4, b_M4).nan_to_num_(0.0)
    return overlap


def paired_iou(a_N4: Tensor, b_N4: Tensor) -> Tensor:
    """Intersection over union of a box and the one at the same place, [N]; leading axes may be more than one."""
    low, high = torch.maximum(a_N4[..., :2], b_N4[..., :2]), torch.minimum(a_N4[..., 2:], b_N4[..., 2:])
    common = (high - low).clamp_(min=0).prod(-1)
    union = area(a_N4) + area(b_N4) - common
    return torch.where(union > 0, common / union, 0.0)


def area(boxes_N4: Tensor) -> Tensor:
    """Areas [...] in px² of boxes [..., 4]."""
    return (boxes_N4[..., 2:] - boxes_N4[..., :2]).clamp(min=0).prod(-1)


def suppress(
    boxes_N4: Tensor,
    scores_N: Tensor,
    groups_N: Tensor,
    threshold: float,
    method: str = "hard",
    least: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression within each group.

    Args:
        groups_N: int64; boxes of different groups never suppress each other: class numbers, or image and class in one
            number for a batch. All equal numbers suppress whatever the class.
        threshold: a box goes when its IoU with a better one is above (not at) it.
        method: "hard" removes, "soft" multiplies the score by exp(-IoU² / 0.5) for each better box, whatever the
            threshold.
        least: lowest score that stays.

    Returns:
        places of what stays, int64 [n] with the best first (of equals the one that came first), and its scores [n].

    Raises:
        OptionError: another method.
    """
    if method not in SUPPRESSIONS:
        raise OptionError(f"suppression must be one of {', '.join(SUPPRESSIONS)}; got {method!r}")
    if method == "soft":
        return _soft(boxes_N4, scores_N, groups_N, least)
    kept = torchvision.ops.batched_nms(boxes_N4.float(), scores_N.float(), groups_N, threshold)
    kept = kept[scores_N[kept] >= least]
    # batched_nms sorts the whole once more, and not stably: order of equals by place
    kept = kept.sort().values
    kept = kept[scores_N[kept].sort(descending=True, stable=True).indices]
    return kept, scores_N[kept]


def _soft(boxes_N4: Tensor, scores_N: Tensor, groups_N: Tensor, least: float) -> tuple[Tensor, Tensor]:
    decay = torch.exp(-(iou(boxes_N4, boxes_N4) ** 2) / _SOFT_SIGMA)
    decay = torch.where(groups_N[:, None] == groups_N[None, :], decay, 1.0)
    left, order, found = scores_N.clone(), [], []
    for _ in range(len(left)):
        best = int(left.argmax())
        if left[best] < least or left[best] == -torch.inf:
            break
        order.append(best)
        found.append(left[best].clone())
        left = left * decay[best]
        left[order] = -torch.inf
    empty = scores_N.new_zeros(0)
    return torch.tensor(order, dtype=torch.int64, device=left.device), torch.stack(found) if found else empty


def encode_grid(boxes_N4: Tensor, labels_N: Tensor, cells: int, num_classes: int, size: float) -> Tensor:
    """What every cell of an S x S grid should say about a square picture: YOLO's target.

    A box belongs to the cell that its centre is in. Where two centres share a cell, the larger box has it.

    Args:
        labels_N: class numbers.
        cells: S.
        size: side of the picture in px.

    Returns:
        float32 [S, S, 5 + K], rows from top to bottom: p_c (1 where there is a box); b_x, b_y, the centre in cell
        coordinates in [0, 1]; b_w, b_h in cells, so that they may exceed 1; c_1 .. c_K, one-hot. Zeros without a box.
    """
    target = torch.zeros(cells, cells, 5 + num_classes)
    step = size / cells
    order = area(boxes_N4).argsort(stable=True)  # the largest is written last
    centres = box_convert(boxes_N4[order].float(), "xyxy", "cxcywh") / step
    columns, rows = centres[:, :2].long().clamp(0, cells - 1).unbind(1)
    for row, column, place, label in zip(rows, columns, centres, labels_N[order], strict=True):
        inside = place[:2] - torch.stack([column, row])
        target[row, column] = 0
        target[row, column, 0] = 1
        target[row, column, 1:5] = torch.cat([inside, place[2:]])
        target[row, column, 5 + label] = 1
    return target


def decode_grid(grid: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes that the cells speak of: the inverse of `encode_grid`, one for each cell.

    Args:
        grid: [S, S, 5 + K]: p_c, box and class probabilities as `encode_grid` has them.
        size: side of the picture in px.

    Returns:
        boxes [S*S, 4], scores [S*S]: p_c times the largest class probability, and class numbers int64 [S*S].
    """
    cells = grid.shape[0]
    row, column = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    corner = torch.stack([column, row], dim=-1).to(grid)
    centres = torch.cat([grid[..., 1:3] + corner, grid[..., 3:5]], dim=-1) * (size / cells)
    best, labels = grid[..., 5:].max(-1)
    boxes: Tensor = box_convert(centres.reshape(-1, 4), "cxcywh", "xyxy")
    return boxes, (grid[..., 0] * best).flatten(), labels.flatten()


def cell_centres(height: int, width: int, stride: int) -> Tensor:
    """Centres in px of the cells of a map, row after row: float32 [height * width, 2] of (x, y)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], dim=-1).reshape(-1, 2).float() + 0.5) * stride


def boxes_around(centres_A2: Tensor, distances_NA4: Tensor) -> Tensor:
    """Boxes [N, A, 4] from the distances in px of each centre to their left, top, right and bottom side (FCOS)."""
    return torch.cat([centres_A2 - distances_NA4[..., :2], centres_A2 + distances_NA4[..., 2:]], dim=-1)
