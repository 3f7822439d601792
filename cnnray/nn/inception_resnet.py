"""FaceNet's Inception-ResNet-v1 in torch: aligned faces to embeddings of 512 numbers on the unit sphere.

Inception-v4, Inception-ResNet and the Impact of Residual Connections, Szegedy et al. 2016, arXiv:1602.07261
FaceNet, Schroff et al. 2015, arXiv:1503.03832

Widths are those of David Sandberg's facenet; modules are named as in facenet-pytorch, whose published weights fit.
Legend: N faces; pixels are RGB in 0..255.
"""

import os
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import UnknownNameError
from cnnray.nn.checkpoint import load_into, load_state_dict
from cnnray.nn.weights import download_once

SIZE = 160  # px, side of the faces that the published weights were trained on
NUM_FEATURES = 512
_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
PUBLISHED = {
    "vggface2": f"{_RELEASE}20180402-114759-vggface2.pt",
    "casia-webface": f"{_RELEASE}20180408-102900-casia-webface.pt",
}

Kernel = tuple[int, int]  # height, width
Branches = tuple[list[tuple[int, Kernel]], ...]  # of each convolution: channels, kernel

_1, _3 = (1, 1), (3, 3)
_BLOCK35: Branches = [(32, _1)], [(32, _1), (32, _3)], [(32, _1), (32, _3), (32, _3)]
_MIXED_6A: Branches = [(384, _3)], [(192, _1), (192, _3), (256, _3)]
_BLOCK17: Branches = [(128, _1)], [(128, _1), (128, (1, 7)), (128, (7, 1))]
_MIXED_7A: Branches = [(256, _1), (384, _3)], [(256, _1), (256, _3)], [(256, _1), (256, _3), (256, _3)]
_BLOCK8: Branches = [(192, _1)], [(192, _1), (192, (1, 3)), (192, (3, 1))]


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; `padded` keeps H and W."""

    def __init__(self, inputs: int, width: int, kernel: Kernel = _1, stride: int = 1, padded: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, kernel, stride, "same" if padded else "valid", bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, width, H', W']."""
        return F.relu(self.bn(self.conv(x)))


class SideBySide(nn.Module):
    """Views of one input, as `branch0`, `branch1`, ...; a `stride` is that of each one's last, unpadded convolution."""

    def __init__(self, inputs: int, branches: Branches, stride: int = 1) -> None:
        super().__init__()
        self.names = [f"branch{number}" for number in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            layers, before = [], inputs
            for number, (width, kernel) in enumerate(branch, 1):
                step = stride if number == len(branch) else 1
                layers.append(ConvNorm(before, width, kernel, step, padded=step == 1))
                before = width
            self.add_module(name, layers[0] if len(layers) == 1 else nn.Sequential(*layers))

    def views(self, x: Tensor) -> list[Tensor]:
        """Each branch's output, [N, its width, H', W']."""
        return [self.get_submodule(name)(x) for name in self.names]


class Reduction(SideBySide):
    """Branches that halve the map, and its maxima as the last of them (Szegedy et al., figures 7 and 12)."""

    def __init__(self, inputs: int, branches: Branches) -> None:
        super().__init__(inputs, branches, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, sum of widths + inputs, H', W']."""
        return torch.cat([*self.views(x), F.max_pool2d(x, 3, stride=2)], 1)


class ResidualInception(SideBySide):
    """What branches find, times `scale`, is added to their input (Szegedy et al., figures 10, 11, 13; section 3.3)."""

    def __init__(self, inputs: int, branches: Branches, scale: float, act: bool = True) -> None:
        super().__init__(inputs, branches)
        self.conv2d = nn.Conv2d(sum(branch[-1][0] for branch in branches), inputs, 1)
        self.scale, self.act = scale, act

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to the same shape."""
        added: Tensor = self.conv2d(torch.cat(self.views(x), 1)) * self.scale + x
        return F.relu(added) if self.act else added


class InceptionResNetV1(nn.Module):
    """Aligned faces to embeddings; those of one person are near each other. Random until weights are loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = ConvNorm(3, 32, _3, stride=2)
        self.conv2d_2a = ConvNorm(32, 32, _3)
        self.conv2d_2b = ConvNorm(32, 64, _3, padded=True)
        self.conv2d_3b = ConvNorm(64, 80)
        self.conv2d_4a = ConvNorm(80, 192, _3)
        self.conv2d_4b = ConvNorm(192, 256, _3, stride=2)
        self.repeat_1 = nn.Sequential(*(ResidualInception(256, _BLOCK35, 0.17) for _ in range(5)))
        self.mixed_6a = Reduction(256, _MIXED_6A)
        self.repeat_2 = nn.Sequential(*(ResidualInception(896, _BLOCK17, 0.10) for _ in range(10)))
        self.mixed_7a = Reduction(896, _MIXED_7A)
        self.repeat_3 = nn.Sequential(*(ResidualInception(1792, _BLOCK8, 0.20) for _ in range(5)))
        self.block8 = ResidualInception(1792, _BLOCK8, 1.0, act=False)
        self.dropout = nn.Dropout(0.6)
        self.last_linear = nn.Linear(1792, NUM_FEATURES, bias=False)
        self.last_bn = nn.BatchNorm1d(NUM_FEATURES, eps=1e-3, momentum=0.1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Embeddings [N, 512] of length 1, float32, under autocast too.

        Args:
            images_NCHW: [N, 3, 160, 160], or other sizes from 75 px, uint8 or float in 0..255; N > 1 in training.
        """
        dtype = self.last_bn.weight.dtype
        x = (images_NCHW.to(dtype) - 127.5) / 128
        x = F.max_pool2d(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))), 3, stride=2)
        x = self.repeat_1(self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x))))
        x = self.repeat_3(self.mixed_7a(self.repeat_2(self.mixed_6a(x))))
        x = self.last_linear(self.dropout(self.block8(x).mean((2, 3))))
        return F.normalize(self.last_bn(x.to(dtype)).float())


def adapt_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict without its classifier of the identities that it was trained on, `logits`."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("logits.")}


def load_inception_resnet(weights: str) -> InceptionResNetV1:
    """The network in evaluation mode, frozen, on the CPU.

    Args:
        weights: "vggface2" or "casia-webface" (published by facenet-pytorch; downloaded once, into torch.hub's cache),
            "none" (random, from torch's global generator), or path or URI of a state dict with the same names.

    Raises:
        UnknownNameError: a bare word that is none of these and no file.
        CheckpointError: the weights' file is absent, damaged, or of another network.
        StorageError: the download failed.
    """
    if weights == "none":
        return InceptionResNetV1().eval().requires_grad_(False)
    bare = not any(mark in weights for mark in "./\\:")
    if bare and weights not in PUBLISHED and not os.path.isfile(weights):
        raise UnknownNameError("weights", weights, [*PUBLISHED, "none", "path or URI of a state dict"])
    path = download_once(PUBLISHED[weights]) if weights in PUBLISHED else weights
    with torch.device("meta"):  # a random initialisation would be overwritten at once
        network = InceptionResNetV1()
    network.to_empty(device="cpu")
    load_into(network, adapt_published(load_state_dict(path)), f"{path} in Inception-ResNet-v1")
    return network.eval().requires_grad_(False)
