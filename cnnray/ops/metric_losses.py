"""Losses that teach a network distances between faces, in sums over pairs or triplets of a batch.

Dimensionality Reduction by Learning an Invariant Mapping, Hadsell et al. 2006, equation 4: the contrastive loss
FaceNet, Schroff et al. 2015, arXiv:1503.03832, section 3: the triplet loss and semi-hard negatives
In Defense of the Triplet Loss for Person Re-Identification, Hermans et al. 2017, arXiv:1703.07737, equation 5: batch
hard; and why only the triplets with a loss are averaged
DeepFace, Taigman et al. 2014, section 4.2: a logistic unit on the weighted absolute differences

Each worker pairs its own examples, the anchors, with all of the global batch, and the sums of all workers add up: the
batch's loss is (sum of losses) / (sum of weights); its gradient too, if it flows into `others_BD` from every worker. A
batch in which no label occurs twice, or only one occurs, has a loss of 0, with a graph, and a weight of exactly 0.

Legend: A anchors; B examples of the global batch; D numbers of an embedding, float; n = A * B pairs. Labels are int64.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnray.errors import UnknownNameError

_TINY = 1e-9


class Gathered(NamedTuple):
    """What one worker compares: its own examples with all of the global batch.

    Attributes:
        anchors_AD: embeddings of its own.
        others_BD: of all; gradients must flow back to every worker.
        labels_B: int64, of all.
        numbers_A: int64, where in the global batch each anchor is.
    """

    anchors_AD: Tensor
    others_BD: Tensor
    labels_B: Tensor
    numbers_A: Tensor

    @property
    def same_AB(self) -> Tensor:
        """Bool, whether anchor and other have one label."""
        return self.labels_B[self.numbers_A][:, None] == self.labels_B

    @property
    def itself_AB(self) -> Tensor:
        """Bool, whether they are one and the same example."""
        return self.numbers_A[:, None] == torch.arange(len(self.labels_B), device=self.numbers_A.device)


class TripletSums(NamedTuple):
    """Sums over one worker's triplets.

    Attributes:
        loss: scalar, carries the gradient.
        weight: scalar, float: `num_active`, and a billionth for each triplet.
        num_active: scalar, int64, triplets with a loss above 0.
    """

    loss: Tensor
    weight: Tensor
    num_active: Tensor


class BinaryPairs(NamedTuple):
    """All pairs of one worker's anchors with the global batch, anchor by anchor, for a logistic unit.

    Attributes:
        differences_nD: |f1 - f2|.
        targets_n: float, 1 for two examples of one label, else 0.
        weights_n: float; 0 for an example with itself.
    """

    differences_nD: Tensor
    targets_n: Tensor
    weights_n: Tensor


def distances(anchors_AD: Tensor, others_BD: Tensor) -> Tensor:
    """[A, B]: Euclidean; the gradient at a distance of 0, where it has no direction, is 0.

    From A * B * D differences: a product of matrices would round to half precision under autocast, tell equal examples
    apart, and depend on how many anchors a worker has.
    """
    return _root(_squares(anchors_AD, others_BD))


def count_pairs(labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Ordered pairs of two examples of the batch with the same and with different labels: scalars, int64."""
    same = (labels_B[:, None] == labels_B).sum()
    return same - len(labels_B), len(labels_B) ** 2 - same


def contrastive_loss(batch: Gathered, margin: float) -> tuple[Tensor, Tensor]:
    """Sums of loss and weight over pairs: d^2 / 2 of one label, max(0, margin - d)^2 / 2 of two.

    Pairs of one label together weigh as much as all others, 1/2 in a global batch, however rare they are in it.

    Args:
        batch: no example makes a pair with itself.
        margin: from which distance on different labels have no loss.
    """
    squares, same = _squares(batch.anchors_AD, batch.others_BD), batch.same_AB
    losses = torch.where(same, squares, (margin - _root(squares)).relu().square()) / 2
    weights = _balanced(batch)
    return (losses * weights).sum(), weights.sum()


def triplet_loss(batch: Gathered, margin: float, mining: str, choice_AB: Tensor, squared: bool = True) -> TripletSums:
    """Sums over triplets of [d(anchor, positive) + margin - d(anchor, negative)]_+.

    Triplets without a loss do not count: soon they are nearly all, and a mean over all would fade away (Hermans et al.,
    section 3.2). So the mean says how wrong the wrong ones are, and `num_active` that they become fewer. A billionth of
    weight for every triplet besides makes a batch in which all are right 0, not 0 / 0.

    Args:
        batch: no example is its own positive.
        margin: see above.
        mining: of `MINING`.
        choice_AB: uniform random numbers for "random", the anchors' rows of numbers [B, B] that all workers share.
        squared: distances and margin are squared ones, as in FaceNet.

    Raises:
        UnknownNameError: no such mining.
    """
    if mining not in MINING:
        raise UnknownNameError("mining", mining, MINING)
    squares, same = _squares(batch.anchors_AD, batch.others_BD), batch.same_AB
    away = squares if squared else _root(squares)
    positive = same & ~batch.itself_AB & ~same.all(1, keepdim=True)
    pairs, negatives = MINING[mining](away.detach(), positive, ~same, choice_AB)
    losses = torch.where(pairs, (away + margin - away.gather(1, negatives)).relu(), 0.0)
    num_active = (losses > 0).sum()
    return TripletSums(losses.sum(), num_active + _TINY * pairs.sum(), num_active)


def binary_pairs(batch: Gathered) -> BinaryPairs:
    """Absolute differences of all pairs, weighted as in `contrastive_loss`."""
    differences = (batch.anchors_AD.float()[:, None] - batch.others_BD.float()).abs()
    return BinaryPairs(differences.flatten(0, 1), batch.same_AB.flatten().float(), _balanced(batch).flatten())


def binary_loss(logits_n: Tensor, targets_n: Tensor, weights_n: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of loss and weight of `BinaryPairs`: weighted cross-entropy of the logit of "the same"."""
    loss = F.binary_cross_entropy_with_logits(logits_n.float(), targets_n, weights_n, reduction="sum")
    return loss, weights_n.sum()


def _random(away: Tensor, positive: Tensor, negative: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """Every positive pair; a random negative, the same for all pairs of an anchor."""
    return positive, torch.where(negative, choice, -1.0).argmax(1, keepdim=True)


def _semihard(away: Tensor, positive: Tensor, negative: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """Every positive pair; the nearest negative that is farther than the positive, or the farthest if none is."""
    ordered, order = torch.where(negative, away, torch.inf).sort(dim=1, stable=True)
    farther = torch.searchsorted(ordered, away, right=True)
    last = negative.sum(1, keepdim=True) - 1
    return positive, order.gather(1, farther.minimum(last).clamp(min=0))


def _hard(away: Tensor, positive: Tensor, negative: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """The farthest positive and the nearest negative of each anchor."""
    farthest = torch.where(positive, away, -1.0).argmax(1, keepdim=True)
    nearest = torch.where(negative, away, torch.inf).argmin(1, keepdim=True)
    return positive & torch.zeros_like(positive).scatter_(1, farthest, True), nearest


# Positive pairs that become triplets, bool [A, B], and where their negatives are in the batch, [A, B] or [A, 1].
MINING: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "random": _random,
    "semihard": _semihard,
    "hard": _hard,
}


def _squares(anchors: Tensor, others: Tensor) -> Tensor:
    return (anchors.float()[:, None] - others.float()).square().sum(-1)


def _root(squares: Tensor) -> Tensor:
    apart = squares != 0  # also of NaN, so that a network that diverged is seen
    return torch.where(apart, squares, 1.0).sqrt() * apart


def _balanced(batch: Gathered) -> Tensor:
    num_same, num_different = count_pairs(batch.labels_B)
    weights = torch.where(batch.same_AB, 0.5 / num_same.clamp(min=1), 0.5 / num_different.clamp(min=1))
    return weights * (~batch.itself_AB & (num_same > 0) & (num_different > 0))
