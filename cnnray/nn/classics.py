"""The classic networks made of our own blocks, to be trained from scratch at any depth, width and size of images.

    mobilenet_v1    Howard et al. 2017, arXiv:1704.04861    stem, block1 .. block13
    efficientnet    Tan and Le 2019, arXiv:1905.11946       stem, stage1 .. stage7, head
    residual        He et al. 2015, arXiv:1512.03385        stem, layer1 .. layer4
    inception       Szegedy et al. 2014, arXiv:1409.4842    stem, inception3a .. inception5b

The first two are built in `cnnray.nn.scaling`. A pooling layer between two stages ends the earlier one.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from cnnray.nn.blocks import PYTORCH, ConvNormAct, Inception, ResidualBlock
from cnnray.nn.scaling import (
    EFFICIENTNET_B0,
    MOBILENET_V1,
    classifier,
    efficientnet,
    initialise,
    mobilenet_v1,
    scale_channels,
    scale_depth,
)
from cnnray.nn.spec import IMAGENET_MEAN, IMAGENET_STD, LOGITS, BackboneSpec

# (blocks, stride of the first, channels) of layers 1 to 4: table 1 of the ResNet paper, 18 layers
RESNET18 = ((2, 1, 64), (2, 2, 128), (2, 2, 256), (2, 2, 512))
# 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection of each module: table 1 of the Inception paper
GOOGLENET = {
    "3": ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    "4": (
        *((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64)),
        *((112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
    ),
    "5": ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
}


def residual(depth: float = 1.0, width: float = 1.0, num_classes: int = 1000) -> nn.Sequential:
    """ResNet-18, deeper and wider: images [N, 3, H, W] to logits [N, num_classes].

    Args:
        depth, width: multiply the blocks of each layer, and all channels.
        num_classes: of the classifier.

    Returns:
        stages by name: stem, layer1 .. layer4, logits.
    """
    channels = scale_channels(64, width)
    stem = nn.Sequential(ConvNormAct(3, channels, 7, stride=2, style=PYTORCH), nn.MaxPool2d(3, 2, padding=1))
    net = nn.Sequential()
    net.add_module("stem", stem)
    for number, (blocks, stride, base) in enumerate(RESNET18, 1):
        layer, out = nn.Sequential(), scale_channels(base, width)
        for block in range(scale_depth(blocks, depth)):
            layer.append(ResidualBlock(channels, out, 1 if block else stride))
            channels = out
        net.add_module(f"layer{number}", layer)
    net.add_module(LOGITS, classifier(channels, num_classes))
    return initialise(net)


def inception(depth: float = 1.0, width: float = 1.0, num_classes: int = 1000, large_kernel: int = 5) -> nn.Sequential:
    """GoogLeNet with batch norms, without auxiliary classifiers: images [N, 3, H, W] to logits [N, num_classes].

    Args:
        depth: multiplies the modules for each size of the map, see `modules_at`.
        width: multiplies all channels.
        num_classes: of the classifier.
        large_kernel: of the modules' third branch; torchvision's GoogLeNet has 3 there.

    Returns:
        stages by name: stem, inception3a .. inception5b, logits.
    """
    narrow, channels = scale_channels(64, width), scale_channels(192, width)
    convolutions = ConvNormAct(narrow, narrow, 1, style=PYTORCH), ConvNormAct(narrow, channels, 3, style=PYTORCH)
    net = nn.Sequential()
    net.add_module(
        "stem", nn.Sequential(ConvNormAct(3, narrow, 7, 2, style=PYTORCH), _halve(), *convolutions, _halve())
    )
    for name, (row, repeats) in modules_at(depth).items():
        direct, three, three_out, five, five_out, pooled = (scale_channels(base, width) for base in row)
        stage = nn.Sequential()
        for _ in range(repeats):
            module = Inception(channels, direct, (three, three_out), (five, five_out), pooled, large_kernel)
            stage.append(module)
            channels = module.out_channels
        net.add_module(name, stage.append(_halve()) if name in ("inception3b", "inception4e") else stage)
    net.add_module(LOGITS, classifier(channels, num_classes, dropout=0.4))
    return initialise(net)


def modules_at(depth: float) -> dict[str, tuple[tuple[int, ...], int]]:
    """GoogLeNet's modules by stage: (their row of the paper's table, how often one follows the other).

    The rows of one size of the map are repeated, or left out, as evenly as it goes; the last one always stays.
    """
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    for group, rows in GOOGLENET.items():
        total = scale_depth(len(rows), depth)
        chosen = Counter(-(-number * len(rows) // total) - 1 for number in range(1, total + 1))
        found |= {f"inception{group}{'abcde'[row]}": (rows[row], repeats) for row, repeats in chosen.items()}
    return found


def classic(name: str, depth: float = 1.0, width: float = 1.0) -> BackboneSpec:
    """A network of DESIGNS at a depth and width; its name stays plain."""
    build, stages = DESIGNS[name]
    return BackboneSpec(
        name=name,
        input_size=224,
        resize=256,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        taps=("stem", *stages(depth), LOGITS),
        build=partial(build, depth=depth, width=width),
        stages=_children,
        adapt=dict,
        fetch=None,
        source="none: train from scratch",
    )


def _halve() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _children(net: nn.Module) -> Mapping[str, nn.Module]:
    return dict(net.named_children())


def _mobilenet_stages(depth: float) -> list[str]:
    return [f"block{i}" for i in range(1, 1 + sum(scale_depth(blocks, depth) for blocks, _, _ in MOBILENET_V1))]


def _efficientnet_stages(depth: float) -> list[str]:
    return [*(f"stage{i}" for i in range(1, 1 + len(EFFICIENTNET_B0))), "head"]


def _residual_stages(depth: float) -> list[str]:
    return [f"layer{i}" for i in range(1, 1 + len(RESNET18))]


def _inception_stages(depth: float) -> list[str]:
    return list(modules_at(depth))


# How a network is built from depth, width and num_classes, and the names of its stages between stem and logits at a
# depth: known without building it.
DESIGNS: dict[str, tuple[Callable[..., nn.Sequential], Callable[[float], list[str]]]] = {
    "mobilenet_v1": (mobilenet_v1, _mobilenet_stages),
    "efficientnet": (efficientnet, _efficientnet_stages),
    "residual": (residual, _residual_stages),
    "inception": (inception, _inception_stages),
}

CLASSICS: dict[str, BackboneSpec] = {name: classic(name) for name in DESIGNS}
