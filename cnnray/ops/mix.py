"""Mixup and cutmix: two labelled images become one, with a soft label.

x is a batch of images [N, C, H, W] or features [N, D]; y_NK holds soft labels, a distribution over K classes per row.
The share `lam` belongs to the first of a pair, 1 - lam to the second.
"""

import math

import numpy as np
import torch
from torch import Generator, Tensor

from cnnray.errors import OptionError


def sample_lam(alpha: float, generator: Generator) -> float:
    """A share from Beta(alpha, alpha), in [0, 1]; 1.0 where alpha is 0, which is off.

    Raises:
        OptionError: alpha is negative.
    """
    if alpha < 0:
        raise OptionError(f"the alpha of Beta(alpha, alpha) must be at least 0, got {alpha}")
    if alpha == 0:
        return 1.0
    # NumPy's sampler is exact for small alpha too, where two gamma draws in float32 underflow to 0 / 0.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def mixup_pair(a: Tensor, b: Tensor, lam: float) -> Tensor:
    """lam * a + (1 - lam) * b, for float tensors of one shape (Zhang et al. 2018, equation 1)."""
    return lam * a + (1 - lam) * b


def mixup(x: Tensor, y_NK: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Mixes every row of a batch with the row that a random permutation puts beside it (Zhang et al. 2018).

    Args:
        x: float [N, ...].
        y_NK: soft labels, float [N, K].
        alpha: of Beta(alpha, alpha); 0 leaves the batch as it is.
        generator: on the CPU, whatever the device of the batch.

    Returns:
        mixed x and y_NK, and the share of the rows' own image.
    """
    lam = sample_lam(alpha, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return mixup_pair(x, x[partner], lam), mixup_pair(y_NK, y_NK[partner], lam), lam


def cutmix_pair(a_CHW: Tensor, b_CHW: Tensor, lam: float, generator: Generator) -> tuple[Tensor, float]:
    """`a` with a rectangle of `b` in the same place; leading batch axes are allowed, the rectangle is shared.

    Returns:
        the mixed image and the exact share of the pixels that are still `a`'s: the rectangle has whole pixels and is
        cut off at the border (Yun et al. 2019, equation 2 and their published training).
    """
    top, left, bottom, right = _rectangle(a_CHW.shape[-2], a_CHW.shape[-1], lam, generator)
    mixed = a_CHW.clone()
    mixed[..., top:bottom, left:right] = b_CHW[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (a_CHW.shape[-2] * a_CHW.shape[-1])


def cutmix(x_NCHW: Tensor, y_NK: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Pastes a rectangle of a random partner into every image of a batch (Yun et al. 2019).

    Arguments and results are those of `mixup`; labels are mixed by the exact area.
    """
    lam = sample_lam(alpha, generator)
    partner = torch.randperm(len(x_NCHW), generator=generator).to(x_NCHW.device)
    mixed, lam = cutmix_pair(x_NCHW, x_NCHW[partner], lam, generator)
    return mixed, mixup_pair(y_NK, y_NK[partner], lam), lam


def _rectangle(height: int, width: int, lam: float, generator: Generator) -> tuple[int, int, int, int]:
    """(top, left, bottom, right): a share of 1 - lam of the area about a random centre, cut to the image."""
    side = math.sqrt(1 - lam)
    h, w = int(height * side), int(width * side)
    y = int(torch.randint(height, (), generator=generator))
    x = int(torch.randint(width, (), generator=generator))
    return max(0, y - h // 2), max(0, x - w // 2), min(height, y - h // 2 + h), min(width, x - w // 2 + w)
