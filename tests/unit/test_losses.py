"""Losses of segmentation against slow versions and PyTorch's own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cnnray.ops.losses import cross_entropy, dice_loss, overlap_score
from cnnray.ops.masks import IGNORE


def sample(ignore=True, classes=3):
    torch.manual_seed(1)
    logits = torch.randn(4, classes, 7, 5) * 2
    truth = torch.randint(0, classes, (4, 7, 5)).to(torch.uint8)
    if ignore:
        truth[0, :3] = IGNORE
        truth[3] = IGNORE
    return logits, truth


def slow_dice(logits, truth):
    losses = []
    for x, t in zip(logits.double().numpy(), truth.numpy(), strict=True):
        p = np.exp(x) / np.exp(x).sum(0)
        counted = t != IGNORE
        per_class = []
        for k in range(len(p)):
            shared = sum(p[k][at] for at in zip(*np.nonzero(counted & (t == k)), strict=True))
            total = p[k][counted].sum() + (t[counted] == k).sum()
            per_class.append((2 * shared + 1) / (total + 1))
        losses.append(1 - np.mean(per_class))
    return losses


@pytest.mark.parametrize("ignore", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_dice_is_that_of_the_slow_version(ignore, classes):
    logits, truth = sample(ignore, classes)
    np.testing.assert_allclose(dice_loss(logits, truth), slow_dice(logits, truth), rtol=1e-5, atol=1e-6)


def test_cross_entropy_is_pytorchs_image_by_image():
    logits, truth = sample()
    ours = cross_entropy(logits, truth)
    for at in range(3):
        expected = F.cross_entropy(logits[at : at + 1], truth[at : at + 1].long(), ignore_index=IGNORE)
        assert float(ours[at]) == pytest.approx(float(expected), rel=1e-6)
    assert float(ours[3]) == 0  # nothing counts


def test_the_right_answer_costs_nothing_and_the_wrong_one_everything():
    truth = torch.zeros(1, 20, 20, dtype=torch.uint8)
    truth[0, 5:15] = 1
    sure = 50 * F.one_hot(truth.long(), 2).movedim(-1, 1).float()
    assert float(dice_loss(sure, truth)) < 1e-6 and float(cross_entropy(sure, truth)) < 1e-6
    assert float(dice_loss(-sure, truth)) > 0.99
    flat = torch.zeros(1, 2, 20, 20)
    assert float(cross_entropy(flat, truth)) == pytest.approx(math.log(2))
    assert float(overlap_score(sure, truth)) == 1 and float(overlap_score(-sure, truth)) == 0


def test_ignored_pixels_have_no_gradient():
    logits, truth = sample()
    logits.requires_grad_()
    (dice_loss(logits, truth) + cross_entropy(logits, truth)).sum().backward()
    ignored = (truth == IGNORE)[:, None].expand_as(logits)
    assert float(logits.grad[ignored].abs().max()) == 0
    assert float(logits.grad[~ignored].abs().min()) > 0


def test_overlap_is_the_mean_iou_of_foreground_classes_that_are_there():
    truth = torch.tensor([[[0, 1, 1, 2], [0, 1, 0, 0]]], dtype=torch.uint8)
    answer = torch.tensor([[[0, 1, 0, 0], [0, 1, 1, 0]]])
    logits = F.one_hot(answer, 4).movedim(-1, 1).float()
    assert float(overlap_score(logits, truth)) == pytest.approx((2 / 4 + 0) / 2)  # class 3 is nowhere
    assert float(overlap_score(logits, torch.zeros_like(truth))) == 0
    nothing = F.one_hot(torch.zeros_like(answer), 4).movedim(-1, 1).float()
    assert float(overlap_score(nothing, torch.zeros_like(truth))) == 1
