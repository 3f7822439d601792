"""Where features differ between pictures of one person, shrunk away: metric learning in closed form.

Within-Class Covariance Normalization for SVM-based Speaker Recognition, Hatch et al. 2006; the kept directions are
those in which whitened features vary most.

Legend: N examples, F features, D directions kept.
"""

import torch
from torch import Tensor

from cnnray.errors import DataError

_SHRINK = 0.1  # of the variance of a standardised feature: what few examples leave uncertain


def whiten_within(features_NF: Tensor, labels_N: Tensor, count: int) -> Tensor:
    """A projection [D, F], after which the differences within a class are about equal in all directions.

    Args:
        features_NF: standardised, each feature with mean 0 and variance about 1.
        labels_N: int64 class numbers; at least one class has two examples.
        count: D; more than F, or than N - 1, leave the rest 0.

    Raises:
        DataError: no class has two examples.
    """
    features = features_NF.double()
    _, place, sizes = torch.unique(labels_N, return_inverse=True, return_counts=True)
    if int(sizes.max()) < 2:
        raise DataError("expected a class with two examples, to see how they differ")
    middles = features.new_zeros(len(sizes), features.shape[1]).index_add_(0, place, features) / sizes[:, None]
    within = features - middles[place]
    covariance = within.T @ within / len(features)
    values, axes = torch.linalg.eigh(covariance + _SHRINK * torch.eye(len(covariance), dtype=torch.float64))
    whitening = axes * values.rsqrt()
    spread = features @ whitening
    spread = spread - spread.mean(0)
    strengths, directions = torch.linalg.eigh(spread.T @ spread)  # the largest come last
    directions = directions * (strengths > 1e-9 * strengths[-1])  # the others are noise: no example varies in them
    kept = (whitening @ directions.flip(1)[:, :count]).T
    projection = features.new_zeros(count, features.shape[1])
    projection[: len(kept)] = kept
    return projection.float()
