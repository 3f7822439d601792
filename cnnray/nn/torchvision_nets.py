"""torchvision's networks as chains of named stages, with its own weights and preprocessing.

A pooling layer between two stages ends the earlier one. The last stage but "logits" is the default tap.

    squeezenet      Iandola et al. 2016, arXiv:1602.07360       stem, fire2 .. fire9
    mobilenet_v2    Sandler et al. 2018, arXiv:1801.04381       stem, block1 .. block17, head
    mobilenet_v3    Howard et al. 2019, arXiv:1905.02244        stem, block1 .., head, fc
    resnet          He et al. 2015, arXiv:1512.03385            stem, layer1 .. layer4
    googlenet       Szegedy et al. 2014, arXiv:1409.4842        stem, inception3a .. inception5b
    inception_v3    Szegedy et al. 2015, arXiv:1512.00567       stem, Mixed_5b .. Mixed_7c
    vgg             Simonyan and Zisserman 2014, arXiv:1409.1556    block1 .. block5, fc6, fc7
    efficientnet    Tan and Le 2019, arXiv:1905.11946           stem, stage1 .. stage7, head
"""

import posixpath
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from cnnray.nn.spec import IMAGENET_MEAN, IMAGENET_STD, LOGITS, BackboneSpec
from cnnray.nn.weights import download_once

Stages = dict[str, nn.Module]

_INCEPTION_BLOCKS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
_MIXED_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


class HalfNormalised(nn.Module):
    """Images normalised for ImageNet as TensorFlow's (x - 0.5) / 0.5, with which the Inceptions were trained."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, 3, H, W] to the same; each channel is scaled and shifted."""
        channels = [
            x_NCHW[:, i : i + 1] * (std / 0.5) + (mean - 0.5) / 0.5
            for i, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
        ]
        return torch.cat(channels, 1)


def _classifier(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), *layers)


def _squeezenet(net: Any) -> Stages:
    stages: dict[str, list[nn.Module]] = {"stem": []}
    for layer in net.features:
        if type(layer).__name__ == "Fire":
            stages[f"fire{len(stages) + 1}"] = []
        stages[list(stages)[-1]].append(layer)
    parts: Stages = {name: nn.Sequential(*layers) for name, layers in stages.items()}
    return parts | {LOGITS: nn.Sequential(*net.classifier, nn.Flatten(1))}


def _mobilenet_v2(net: Any) -> Stages:
    stem, *blocks, head = net.features
    middle = {f"block{i}": block for i, block in enumerate(blocks, 1)}
    return {"stem": stem, **middle, "head": head, LOGITS: _classifier(*net.classifier)}


def _mobilenet_v3(net: Any) -> Stages:
    stem, *blocks, head = net.features
    linear, activation, dropout, last = net.classifier
    dropout.inplace = False  # it is the first layer after a tap, and must not write into stored activations
    return {
        "stem": stem,
        **{f"block{i}": block for i, block in enumerate(blocks, 1)},
        "head": head,
        "fc": _classifier(linear, activation),
        LOGITS: nn.Sequential(dropout, last),
    }


def _resnet(net: Any) -> Stages:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    layers = {name: getattr(net, name) for name in ("layer1", "layer2", "layer3", "layer4")}
    return {"stem": stem, **layers, LOGITS: _classifier(net.fc)}


def _googlenet(net: Any) -> Stages:
    stages: Stages = {
        "stem": nn.Sequential(HalfNormalised(), net.conv1, net.maxpool1, net.conv2, net.conv3, net.maxpool2)
    }
    pools = {"3b": net.maxpool3, "4e": net.maxpool4}
    for block in _INCEPTION_BLOCKS:
        module = getattr(net, f"inception{block}")
        stages[f"inception{block}"] = nn.Sequential(module, pools[block]) if block in pools else module
    return stages | {LOGITS: _classifier(net.dropout, net.fc)}


def _inception_v3(net: Any) -> Stages:
    stem = (
        net.Conv2d_1a_3x3,
        net.Conv2d_2a_3x3,
        net.Conv2d_2b_3x3,
        net.maxpool1,
        net.Conv2d_3b_1x1,
        net.Conv2d_4a_3x3,
        net.maxpool2,
    )
    mixed: Stages = {f"Mixed_{block}": getattr(net, f"Mixed_{block}") for block in _MIXED_BLOCKS}
    classifier = nn.Sequential(net.avgpool, net.dropout, nn.Flatten(1), net.fc)
    return {"stem": nn.Sequential(HalfNormalised(), *stem), **mixed, LOGITS: classifier}


def _vgg(net: Any) -> Stages:
    stages: Stages = {}
    layers: list[nn.Module] = []
    for layer in net.features:
        layers.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            stages[f"block{len(stages) + 1}"] = nn.Sequential(*layers)
            layers = []
    fc6, relu6, drop6, fc7, relu7, drop7, fc8 = net.classifier
    return stages | {
        "fc6": nn.Sequential(net.avgpool, nn.Flatten(1), fc6, relu6),
        "fc7": nn.Sequential(drop6, fc7, relu7),
        LOGITS: nn.Sequential(drop7, fc8),
    }


def _efficientnet(net: Any) -> Stages:
    stem, *stages, head = net.features
    middle = {f"stage{i}": stage for i, stage in enumerate(stages, 1)}
    return {"stem": stem, **middle, "head": head, LOGITS: _classifier(*net.classifier)}


def _numbered(name: str, last: int, first: int = 1) -> tuple[str, ...]:
    return tuple(f"{name}{i}" for i in range(first, last + 1))


# How a network is cut, and the names of its stages before the logits: known without building it.
_SQUEEZENET = (_squeezenet, ("stem", *_numbered("fire", 9, first=2)))
_RESNET = (_resnet, ("stem", *_numbered("layer", 4)))
_VGG = (_vgg, (*_numbered("block", 5), "fc6", "fc7"))
_EFFICIENTNET = (_efficientnet, ("stem", *_numbered("stage", 7), "head"))
_CUTS: dict[str, tuple[Callable[[Any], Stages], tuple[str, ...]]] = {
    "squeezenet1_0": _SQUEEZENET,
    "squeezenet1_1": _SQUEEZENET,
    "mobilenet_v2": (_mobilenet_v2, ("stem", *_numbered("block", 17), "head")),
    "mobilenet_v3_small": (_mobilenet_v3, ("stem", *_numbered("block", 11), "head", "fc")),
    "mobilenet_v3_large": (_mobilenet_v3, ("stem", *_numbered("block", 15), "head", "fc")),
    "resnet18": _RESNET,
    "resnet50": _RESNET,
    "resnet152": _RESNET,
    "googlenet": (_googlenet, ("stem", *(f"inception{block}" for block in _INCEPTION_BLOCKS))),
    "inception_v3": (_inception_v3, ("stem", *(f"Mixed_{block}" for block in _MIXED_BLOCKS))),
    "vgg16": _VGG,
    "vgg19": _VGG,
    **{f"efficientnet_b{i}": _EFFICIENTNET for i in range(8)},
}

# The auxiliary classifiers of the Inceptions only help while training from scratch.
_OPTIONS = dict.fromkeys(("googlenet", "inception_v3"), {"aux_logits": False, "init_weights": False})
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def _build(name: str) -> nn.Module:
    network: nn.Module = models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
    return network


def _without_auxiliary(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith(_AUXILIARY.get(name, ()))}


def _spec(name: str, cut: Callable[[Any], Stages], taps: tuple[str, ...]) -> BackboneSpec:
    weights = models.get_model_weights(name).DEFAULT
    view = weights.transforms()
    return BackboneSpec(
        name=name,
        input_size=view.crop_size[0],
        resize=view.resize_size[0],
        interpolation=view.interpolation.value,
        mean=tuple(view.mean),
        std=tuple(view.std),
        taps=(*taps, LOGITS),
        build=partial(_build, name),
        stages=cut,
        adapt=partial(_without_auxiliary, name),
        fetch=partial(download_once, weights.url),
        source=f"torchvision {posixpath.basename(weights.url)}",
    )


TORCHVISION: dict[str, BackboneSpec] = {name: _spec(name, *cut) for name, cut in _CUTS.items()}
