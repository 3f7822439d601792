"""From what a detector takes into account to what is in the picture, and how good that is for one picture."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cnnray.ops.assign import CROWD
from cnnray.ops.boxes import iou, suppress

MOST = 300  # boxes of a picture
_CANDIDATES = 3000  # before suppression, whose work grows with the square


class Found(NamedTuple):
    """What is in a picture, best first.

    Attributes:
        boxes_N4: float32 xyxy px.
        scores_N: float32 in [0, 1].
        labels_N: int64 class numbers.
    """

    boxes_N4: Tensor
    scores_N: Tensor
    labels_N: Tensor


class Candidates(NamedTuple):
    """What may be in a picture, before repeated answers are suppressed.

    Attributes:
        scores_AK: of each box for each class, in [0, 1].
        boxes_A4: xyxy px.
    """

    scores_AK: Tensor
    boxes_A4: Tensor


def pick(
    candidates: Candidates,
    least: float,
    overlap: float,
    method: str = "hard",
    class_wise: bool = True,
    most: int = MOST,
) -> Found:
    """The objects of one picture, on the CPU. A candidate may stand for several classes.

    Args:
        least: lowest score.
        overlap, method: see `cnnray.ops.boxes.suppress`.
        class_wise: whether a box suppresses only those of its own class.
        most: boxes of a picture.
    """
    scores_AK, boxes_A4 = (part.cpu() for part in candidates)
    cells, labels = (scores_AK >= max(least, 1e-6)).nonzero(as_tuple=True)
    scores = scores_AK[cells, labels].float()
    if len(scores) > _CANDIDATES:
        best = scores.topk(_CANDIDATES).indices.sort().values
        cells, labels, scores = cells[best], labels[best], scores[best]
    boxes = boxes_A4[cells].float()
    groups = labels if class_wise else torch.zeros_like(labels)
    kept, scores = suppress(boxes, scores, groups, overlap, method, least)
    return Found(boxes[kept][:most], scores[:most], labels[kept][:most])


def match(found: Found, boxes_M4: Tensor, labels_M: Tensor, overlap: float = 0.5) -> Tensor:
    """Which object each answer has found: the best answer first takes the object of its class that it overlaps most.

    Args:
        boxes_M4, labels_M: of the true objects; CROWD and PADDING are none.
        overlap: least IoU.

    Returns:
        int64 [N]: place of the object, or -1: none, or one that a better answer has taken.
    """
    result = torch.full((len(found.scores_N),), -1, dtype=torch.int64)
    if not len(labels_M) or not len(result):
        return result
    same = found.labels_N[:, None] == labels_M[None, :]
    fits = torch.where(same, iou(found.boxes_N4, boxes_M4.to(found.boxes_N4)), -1.0)
    for at in range(len(result)):
        best = int(fits[at].argmax())
        if fits[at, best] >= overlap:
            result[at] = best
            fits[:, best] = -1.0
    return result


def picture_precision(found: Found, boxes_M4: Tensor, labels_M: Tensor) -> float:
    """Average precision at IoU 0.5 of one picture, all classes together, in [0, 1].

    The area under precision over recall as answers come in, best first. Of a picture without objects it is 1 less the
    best score that was given. Answers inside of a crowd do not count. A figure to choose epochs by, not COCO's: that
    one orders the answers of all pictures.
    """
    objects = labels_M >= 0
    crowd = boxes_M4[labels_M == CROWD]
    hits = match(found, boxes_M4[objects], labels_M[objects]) >= 0
    if len(crowd):
        middle = (found.boxes_N4[:, :2] + found.boxes_N4[:, 2:]) / 2
        inside = ((middle[:, None] > crowd[None, :, :2]) & (middle[:, None] < crowd[None, :, 2:])).all(-1).any(-1)
        counts = hits | ~inside
        hits, found = hits[counts], Found(*(part[counts] for part in found))
    if not objects.any():
        return 1.0 - (float(found.scores_N[0]) if len(found.scores_N) else 0.0)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / objects.sum())


def to_rows(found: Found, names: Sequence[str]) -> list[dict[str, object]]:
    """Label, score and box of each object, as plain values."""
    columns = (found.boxes_N4.tolist(), found.scores_N.tolist(), found.labels_N.tolist())
    return [{"label": names[n], "score": s, "box": b} for b, s, n in zip(*columns, strict=True)]
