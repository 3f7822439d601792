"""Blocks against torchvision's with the same weights, and against their costs on paper."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.googlenet import Inception as TorchvisionInception
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionInvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from cnnray.nn.blocks import (
    PYTORCH,
    TENSORFLOW,
    ConvNormAct,
    DepthwiseSeparable,
    Inception,
    InvertedResidual,
    ResidualBlock,
    SameConv2d,
    SqueezeExcite,
    Style,
)
from cnnray.ops.costs import count_costs

GOOGLE = Style(same=False, eps=1e-3, momentum=0.1, act=nn.ReLU)
MOBILE = Style(same=False, eps=1e-5, momentum=0.1, act=partial(nn.ReLU6, inplace=True))


def shortcut(in_channels, out_channels, stride):
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


PAIRS = {
    "inception": (
        lambda: Inception(192, 64, (96, 128), (16, 32), 32, large_kernel=3, style=GOOGLE),
        lambda: TorchvisionInception(192, 64, 96, 128, 16, 32, 32),
        192,
    ),
    "inverted residual": (
        lambda: InvertedResidual(24, 24, 3, 1, 6, style=MOBILE),
        lambda: TorchvisionInvertedResidual(24, 24, 1, 6),
        24,
    ),
    "inverted residual, stride 2": (
        lambda: InvertedResidual(24, 32, 3, 2, 6, style=MOBILE),
        lambda: TorchvisionInvertedResidual(24, 32, 2, 6),
        24,
    ),
    "inverted residual, not widened": (
        lambda: InvertedResidual(32, 16, 3, 1, 1, style=MOBILE),
        lambda: TorchvisionInvertedResidual(32, 16, 1, 1),
        32,
    ),
    "residual": (lambda: ResidualBlock(64, 64), lambda: BasicBlock(64, 64), 64),
    "residual, stride 2": (
        lambda: ResidualBlock(64, 128, 2),
        lambda: BasicBlock(64, 128, 2, shortcut(64, 128, 2)),
        64,
    ),
    "residual with bottleneck": (
        lambda: ResidualBlock(64, 256, bottleneck=64),
        lambda: Bottleneck(64, 64, 1, shortcut(64, 256, 1)),
        64,
    ),
    "squeeze and excite": (lambda: SqueezeExcite(40, 10), lambda: SqueezeExcitation(40, 10), 40),
}


@torch.no_grad()
def randomise(module):
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if tensor.ndim == 1 else tensor.normal_(0, tensor[0].numel() ** -0.5)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", PAIRS)
def test_a_block_is_torchvisions_with_the_same_weights(name, mode):
    ours, theirs, channels = PAIRS[name][0](), PAIRS[name][1](), PAIRS[name][2]
    torch.manual_seed(0)
    randomise(theirs)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert [t.shape for t in mine.values()] == [t.shape for t in other.values()]
    ours.load_state_dict(dict(zip(mine, other.values(), strict=True)))
    x = torch.randn(2, channels, 15, 14)
    for module in (ours, theirs):
        module.train(mode == "train")
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_a_depthwise_separable_convolution_costs_what_the_paper_says():
    """1 / C_out + 1 / f^2 of a full convolution."""
    full = count_costs(nn.Conv2d(32, 64, 3, padding=1), 32, 28, 28).macs
    assert count_costs(DepthwiseSeparable(32, 64), 32, 28, 28).macs / full == pytest.approx(1 / 64 + 1 / 9, rel=1e-12)


def test_the_bottleneck_of_an_inception_module_saves_nine_tenths_of_its_5x5_branch():
    branch = Inception(192, 64, (96, 128), (16, 32), 32).five
    assert count_costs(branch, 192, 28, 28).macs == 12_443_648
    assert count_costs(nn.Conv2d(192, 32, 5, padding=2), 192, 28, 28).macs == 120_422_400


@pytest.mark.parametrize(("size", "stride"), [(8, 1), (8, 2), (9, 2), (7, 3)])
def test_both_styles_give_ceil_of_size_over_stride(size, stride):
    for style in (PYTORCH, TENSORFLOW):
        assert ConvNormAct(3, 5, 3, stride, style=style)(torch.zeros(1, 3, size, size)).shape[2] == -(-size // stride)


@pytest.mark.parametrize(("size", "stride", "first"), [(9, 1, False), (9, 2, False), (8, 2, False), (8, 1, True)])
def test_wide_depthwise_convolutions_under_autocast_have_the_gradients_of_float32(size, stride, first):
    """To what bfloat16 rounds; `first`: the layers below are frozen and nobody asks for the input's gradient."""
    conv, x = SameConv2d(6, 6, 5, stride, groups=6), torch.randn(4, 6, size, size)
    found = []
    for autocast in (False, True):
        leaf = x.clone().requires_grad_(not first)
        conv.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = conv(leaf)
        assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
        assert not autocast or "DepthwiseInBfloat16" in type(y.grad_fn).__name__
        (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        found.append([y.float(), conv.weight.grad] + ([] if first else [leaf.grad]))
    for exact, rounded in zip(*found, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02 * exact.abs().max().item())
