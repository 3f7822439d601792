"""Which cell of a detector learns which object, chosen by how well the cell already does.

TOOD: Task-aligned One-stage Object Detection, Feng et al. 2021, arXiv:2108.07755, section 3.2

Legend: b pictures, A cells of all maps together, M objects of a picture at most (rows beyond its own are padding),
K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cnnray.ops.boxes import iou

PADDING, CROWD = -1, -2  # in place of a class number: no object; a region whose cells learn nothing
_SCORE_POWER, _IOU_POWER = 0.5, 6.0
_CELLS = 10
_TINY = 1e-9


class Assignment(NamedTuple):
    """What each cell should say.

    Attributes:
        quality_bA: score that the cell should give to its object's class, in [0, 1]; 0 where it has none.
        labels_bA: int64, class of its object; 0 where it has none.
        boxes_bA4: of its object, px; any where it has none.
        ignored_bA: bool, cells without object inside of a crowd.
    """

    quality_bA: Tensor
    labels_bA: Tensor
    boxes_bA4: Tensor
    ignored_bA: Tensor


@torch.no_grad()
def assign(
    scores_bAK: Tensor, boxes_bA4: Tensor, centres_A2: Tensor, objects_bM4: Tensor, labels_bM: Tensor
) -> Assignment:
    """Give each object the cells that answer it best.

    Of the cells with their centre inside an object (or the nearest one where there is none) those with the highest
    t = score^0.5 * IoU^6 learn it, ten at most; a cell that several objects want goes to the one that it overlaps most.
    The score to learn is t, scaled so that an object's best cell learns its IoU.

    Args:
        scores_bAK: of the classes, float in [0, 1].
        boxes_bA4: that the cells predict, px.
        centres_A2: of the cells, (x, y) in px.
        objects_bM4: true boxes, px.
        labels_bM: int64; PADDING where there is no object, CROWD for regions.
    """
    valid = labels_bM >= 0
    inside, crowd = _candidates(centres_A2, objects_bM4, valid, labels_bM == CROWD)
    if not objects_bM4.shape[1]:
        nothing = scores_bAK.new_zeros(scores_bAK.shape[:2])
        return Assignment(nothing, nothing.long(), boxes_bA4.detach(), crowd)
    overlap = torch.stack([iou(a, b) for a, b in zip(objects_bM4.float(), boxes_bA4.float(), strict=True)])
    picked = labels_bM.clamp(min=0)[..., None].expand(-1, -1, scores_bAK.shape[1])
    own_score = scores_bAK.float().transpose(1, 2).gather(1, picked)
    fit = torch.where(inside, own_score**_SCORE_POWER * overlap**_IOU_POWER + _TINY, 0.0)
    best = fit.topk(min(_CELLS, fit.shape[-1]), dim=-1)
    chosen = torch.zeros_like(inside).scatter_(-1, best.indices, best.values > 0)
    wanted = torch.where(chosen, overlap + _TINY, -1.0)
    winner = wanted.argmax(dim=1)  # of the objects that want a cell
    has_object = wanted.gather(1, winner[:, None]).squeeze(1) > 0
    mine = (winner[:, None] == torch.arange(len(labels_bM[0]), device=winner.device)[None, :, None]) & chosen
    fit, overlap = fit * mine, overlap * mine
    scaled = fit / fit.amax(-1, keepdim=True).clamp(min=_TINY) * overlap.amax(-1, keepdim=True)
    quality = scaled.gather(1, winner[:, None]).squeeze(1) * has_object
    labels = labels_bM.gather(1, winner).clamp(min=0) * has_object
    boxes = objects_bM4.gather(1, winner[..., None].expand(-1, -1, 4))
    return Assignment(quality, labels, boxes, crowd & ~has_object)


def _candidates(centres: Tensor, objects: Tensor, valid: Tensor, crowd: Tensor) -> tuple[Tensor, Tensor]:
    """Cells that an object may have, bool [b, M, A], and cells inside of a crowd, bool [b, A]."""
    low, high = centres - objects[..., None, :2], objects[..., None, 2:] - centres
    contains = torch.cat([low, high], dim=-1).amin(-1) > 0
    inside = contains & valid[..., None]
    if centres.numel() and inside.numel():
        middle = (objects[..., :2] + objects[..., 2:]) / 2
        nearest = (middle[..., None, :] - centres).square().sum(-1).argmin(-1, keepdim=True)
        alone = valid & ~inside.any(-1)
        inside = inside.scatter(-1, nearest, inside.gather(-1, nearest) | alone[..., None])
    return inside, (contains & crowd[..., None]).any(1)
