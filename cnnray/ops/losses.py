"""Losses of segmentation, one number per image, so that images can be divided among workers in any way.

V-Net, Milletari et al. 2016, arXiv:1606.04797, equation of section 3: the Dice loss
The Importance of Skip Connections, Drozdzal et al. 2016, arXiv:1608.04117: Dice of probabilities as they are

Legend: logits_NKHW float; classes_NHW holds class numbers, IGNORE where a pixel does not count.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnray.ops.masks import IGNORE

_SMOOTH = 1.0


def cross_entropy(logits_NKHW: Tensor, classes_NHW: Tensor) -> Tensor:
    """[N]: mean over the pixels that count of the cross-entropy; 0 where none does."""
    losses = F.cross_entropy(logits_NKHW.float(), classes_NHW.long(), ignore_index=IGNORE, reduction="none")
    counted = (classes_NHW != IGNORE).sum((1, 2)).clamp(min=1)
    return losses.sum((1, 2)) / counted


def dice_loss(logits_NKHW: Tensor, classes_NHW: Tensor) -> Tensor:
    """[N]: 1 - mean over all classes of 2 |A B| / (|A| + |B|), with probabilities for A and the mask for B.

    One pixel is added above and below the line: a class that is neither in mask nor answer is then right, and a
    class of few pixels does not jump between 0 and 1.
    """
    counts = (classes_NHW != IGNORE)[:, None]
    probabilities = logits_NKHW.float().softmax(1) * counts
    known = torch.where(counts[:, 0], classes_NHW.long(), 0)
    truth = F.one_hot(known, logits_NKHW.shape[1]).movedim(-1, 1) * counts
    shared = (probabilities * truth).sum((2, 3))
    total = probabilities.sum((2, 3)) + truth.sum((2, 3))
    return 1 - ((2 * shared + _SMOOTH) / (total + _SMOOTH)).mean(1)


def overlap_score(logits_NKHW: Tensor, classes_NHW: Tensor) -> Tensor:
    """[N]: mean over the classes but the background that are in mask or answer of intersection over union; else 1."""
    counts = classes_NHW != IGNORE
    answers = logits_NKHW.argmax(1)
    scores = []
    for number in range(1, logits_NKHW.shape[1]):
        answer, truth = (answers == number) & counts, classes_NHW == number
        union = (answer | truth).sum((1, 2))
        scores.append(torch.where(union > 0, (answer & truth).sum((1, 2)) / union.clamp(min=1), torch.nan))
    return torch.stack(scores).nanmean(0).nan_to_num(1.0)
