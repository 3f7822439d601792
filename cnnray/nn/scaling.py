"""Larger and smaller networks of one design: MobileNet's two multipliers, and EfficientNet's one dial.

MobileNets, Howard et al. 2017, arXiv:1704.04861, sections 3.3 and 3.4: width and resolution multipliers
EfficientNet: Rethinking Model Scaling, Tan and Le 2019, arXiv:1905.11946, equation 3: compound scaling
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnray.nn.blocks import ConvNormAct, DepthwiseSeparable, InvertedResidual, Style

# (blocks, stride of the first, output channels) by size of the map: table 1 of the MobileNets paper
MOBILENET_V1 = ((1, 1, 64), (2, 2, 128), (2, 2, 256), (6, 2, 512), (2, 2, 1024))
# (blocks, kernel, stride, expansion, output channels) of stages 1 to 7: table 1 of the EfficientNet paper
EFFICIENTNET_B0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
SQUEEZE = 0.25
SWISH = Style(same=True, eps=1e-3, momentum=0.01, act=nn.SiLU)
MOBILE = Style(same=True, eps=1e-3, momentum=0.01, act=nn.ReLU6)


@dataclass(frozen=True)
class CompoundScaling:
    """Depth, width and resolution grow together, so that a step of the dial about doubles the computations.

    Attributes:
        alpha, beta, gamma: what depth, width and resolution are multiplied by at phi = 1; found by a grid search on
            the base network under alpha * beta^2 * gamma^2 = 2 (section 3.3).
    """

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    @property
    def cost(self) -> float:
        """Factor of the computations for each step of phi: they grow with depth, width^2 and resolution^2."""
        return self.alpha * self.beta**2 * self.gamma**2

    def at(self, phi: float) -> tuple[float, float, float]:
        """Multipliers of depth, width and resolution; phi below 0 makes the network smaller."""
        return float(self.alpha**phi), float(self.beta**phi), float(self.gamma**phi)


def scale_channels(channels: int, width: float, divisor: int = 8) -> int:
    """`channels` times `width`, to the nearest multiple of `divisor`, but never less than 90 % of the product."""
    wanted = channels * width
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def scale_depth(blocks: int, depth: float) -> int:
    """`blocks` times `depth`, rounded up."""
    return math.ceil(blocks * depth)


def scale_resolution(size: int, resolution: float, divisor: int = 8) -> int:
    """`size` px times `resolution`, to the nearest multiple of `divisor`: strides of 2 then lose no row."""
    return max(divisor, round(size * resolution / divisor) * divisor)


def mobilenet_v1(depth: float = 1.0, width: float = 1.0, num_classes: int = 1000) -> nn.Sequential:
    """MobileNetV1: images [N, 3, H, W] to logits [N, num_classes].

    Args:
        depth: multiplies the blocks for each size of the map; the paper has no such multiplier.
        width: the paper's alpha: multiplies all channels. Its resolution multiplier is the images' size.
        num_classes: of the classifier.

    Returns:
        stages by name: stem, block1 .. block13 (at depth 1), logits.
    """
    channels = scale_channels(32, width)
    net = nn.Sequential()
    net.add_module("stem", ConvNormAct(3, channels, 3, stride=2, style=MOBILE))
    for blocks, stride, base in MOBILENET_V1:
        out = scale_channels(base, width)
        for block in range(scale_depth(blocks, depth)):
            step = DepthwiseSeparable(channels, out, 3, 1 if block else stride, style=MOBILE)
            net.add_module(f"block{len(net)}", step)
            channels = out
    net.add_module("logits", classifier(channels, num_classes, dropout=0.001))
    return initialise(net)


def efficientnet(
    depth: float = 1.0, width: float = 1.0, num_classes: int = 1000, dropout: float = 0.2
) -> nn.Sequential:
    """EfficientNet-B0, deeper and wider: images [N, 3, H, W] to logits [N, num_classes].

    Args:
        depth, width: multipliers, for example from `CompoundScaling.at`.
        num_classes: of the classifier.
        dropout: before the classifier.

    Returns:
        stages by name: stem, stage1 .. stage7, head, logits.
    """
    channels = scale_channels(32, width)
    net = nn.Sequential()
    net.add_module("stem", ConvNormAct(3, channels, 3, stride=2, style=SWISH))
    for number, (blocks, kernel, stride, expand, base) in enumerate(EFFICIENTNET_B0, 1):
        stage, out = nn.Sequential(), scale_channels(base, width)
        for block in range(scale_depth(blocks, depth)):
            step: dict[str, Any] = {"kernel": kernel, "stride": 1 if block else stride, "expand": expand}
            stage.append(InvertedResidual(channels, out, **step, squeeze=SQUEEZE, style=SWISH))
            channels = out
        net.add_module(f"stage{number}", stage)
    net.add_module("head", ConvNormAct(channels, 4 * channels, 1, style=SWISH))
    net.add_module("logits", classifier(4 * channels, num_classes, dropout))
    return initialise(net)


def initialise(net: nn.Sequential) -> nn.Sequential:
    """Fresh weights with which a signal neither dies nor explodes on its way up (He et al. 2015, arXiv:1502.01852).

    PyTorch's own start shrinks it by a factor at each layer: after 27 layers all images look the same.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out" if module.groups == 1 else "fan_in")
    return net


def classifier(channels: int, num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """The last stage: a map [N, channels, H, W] is averaged and mapped to logits [N, num_classes]."""
    layers = (nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Dropout(dropout), nn.Linear(channels, num_classes))
    return nn.Sequential(*layers)
