"""dlib's published networks for faces in torch: a detector, five landmarks, and an embedding of 128 numbers.

Max-Margin Object Detection, King 2015, arXiv:1502.00046 (how the detector was trained)
One Millisecond Face Alignment with an Ensemble of Regression Trees, Kazemi and Sullivan 2014 (landmarks)
Deep Residual Learning, He et al. 2015, arXiv:1512.03385 (the embedder: 29 convolutions, half as wide)

Legend: N pictures or faces; pixels are RGB in 0..255.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.nn.dlib_file import Layer, NetworkFile
from cnnray.ops.boxes import suppress
from cnnray.ops.detections import Found
from cnnray.ops.tiled_pyramid import into_picture, level_at, plan_tiling, tile

CROP = 150  # px, side of the aligned faces that the embedder takes
NUM_FEATURES = 128
WINDOW = 80  # px, side of the smallest faces that the detector finds
_STEP, _FIRST, _HALF = 8, 14, (WINDOW - 1) / 2  # px: between its places, middle of the first, to a window's last px
_LEAST = 29  # px of canvas; less leaves nothing after three convolutions
_OVERLAP = 0.3382761351109955  # IoU, above which two windows are the same face; stands in dlib's file
_STEM, _LEVELS = 32, ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))


class FaceBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which loses nothing but is halved by a mean where the block halves.

    dlib adds maps of different sizes: what one of them lacks, in places or in channels, is zero.
    """

    def __init__(self, inputs: int, width: int, halves: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride=2 if halves else 1, padding=0 if halves else 1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, width, H', W']."""
        main = self.second(F.relu(self.first(x)))
        side = F.avg_pool2d(x, 2) if self.halves else x
        high, wide = (max(main.shape[axis], side.shape[axis]) for axis in (2, 3))
        return F.relu(_grown(main, main.shape[1], high, wide) + _grown(side, main.shape[1], high, wide))


def _grown(x: Tensor, channels: int, high: int, wide: int) -> Tensor:
    more = (0, wide - x.shape[3], 0, high - x.shape[2], 0, channels - x.shape[1])
    return F.pad(x, more) if any(more) else x


class DlibResNet(nn.Module):
    """Aligned faces to embeddings; two of one person are usually nearer than 0.6 (Euclidean)."""

    mean: Tensor  # of the pixels of dlib's photos; a part of the weights

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.stem = nn.Conv2d(3, _STEM, 7, stride=2)
        blocks, inputs = [], _STEM
        for width, count, halves in _LEVELS:
            for number in range(count):
                blocks.append(FaceBlock(inputs, width, halves and number == 0))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.embedding = nn.Linear(inputs, NUM_FEATURES, bias=False)

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Embeddings [N, 128], float32.

        Args:
            faces_NCHW: [N, 3, 150, 150], uint8 or float in 0..255.
        """
        x = (faces_NCHW.to(self.mean.dtype) - self.mean) / 256
        x = self.blocks(F.max_pool2d(F.relu(self.stem(x)), 3, stride=2))
        embedded: Tensor = self.embedding(x.mean((2, 3))).float()
        return embedded


def resnet_of(file: NetworkFile) -> DlibResNet:
    """The embedder with the weights of dlib's file."""
    net = DlibResNet()
    net.mean.copy_(torch.tensor(file.means).reshape(1, 3, 1, 1))
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    _copy_convolutions(convolutions, file.layers)
    with torch.no_grad():
        net.embedding.weight.copy_(torch.from_numpy(file.layers[-1].tensors["weight"].T))
    return net


def _copy_convolutions(modules: Sequence[nn.Conv2d], layers: Sequence[Layer]) -> None:
    """Weights of the file's convolutions in their order, with the scales and shifts that follow them."""
    at = [number for number, layer in enumerate(layers) if layer.name == "con_4"]
    for module, number in zip(modules, at, strict=True):
        weight, bias = (torch.from_numpy(layers[number].tensors[name]) for name in ("weight", "bias"))
        after = layers[number + 1] if number + 1 < len(layers) else None
        if after is not None and "scale" in after.tensors:
            scale, shift = (torch.from_numpy(after.tensors[name]) for name in ("scale", "shift"))
            weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        with torch.no_grad():
            module.weight.copy_(weight)
            assert module.bias is not None
            module.bias.copy_(bias)


class DlibDetector(nn.Module):
    """Pictures to faces: a classifier of windows of 80 px, fully convolutional, on all scales of a pyramid at once.

    Three convolutions of stride 2, then four that keep the size: places of its output are 8 px apart.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        widths = (3, 16, 32, 32, 45, 45, 45)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            stride, padding = (2, 0) if number < 3 else (1, 2)
            layers += [nn.Conv2d(before, after, 5, stride=stride, padding=padding), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.score = nn.Conv2d(widths[-1], 1, 9, padding=4)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Scores [N, H', W'], float32, on the canvas of `tile`: above 0 there is a face around the place.

        Args:
            images_NCHW: uint8 or float in 0..255, [N, 3, H, W].
        """
        x = self.layers(tile((images_NCHW.to(self.mean.dtype) - self.mean) / 256))
        with torch.autocast(x.device.type, enabled=False):  # whose steps would be 1/128: many equal scores
            return self._scores(x.float())

    def _scores(self, x: Tensor) -> Tensor:
        """What `self.score` gives [N, H', W'], in a third of its time.

        A convolution to one channel takes as long as one to sixteen. So each place gets its products with all places of
        the filter as channels, and they are added where they meet.
        """
        weight, bias = self.score.weight, self.score.bias
        assert bias is not None
        _, channels, side, _ = weight.shape
        filters = weight[0].flip(1, 2).permute(1, 2, 0).reshape(side * side, channels, 1, 1)
        products = F.conv2d(x, filters).flatten(2)
        return F.fold(products, x.shape[2:], side, padding=side // 2)[:, 0] + bias

    def find(self, images_NCHW: Tensor, least: float = 0.0) -> list[Found]:
        """The faces in pictures of one size, best first, each at most once, on the CPU; all labels are 0.

        Args:
            least: score that a face must exceed; dlib's own is 0, and scores seldom exceed 1.2.
        """
        tiling = plan_tiling(*images_NCHW.shape[-2:])
        if min(tiling.height, tiling.width) < _LEAST:
            return [Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)) for _ in images_NCHW]
        results = []
        for scores in self(images_NCHW).cpu():
            rows, columns = (scores > least).nonzero(as_tuple=True)
            found = scores[rows, columns]
            middles = torch.stack([columns, rows], 1) * _STEP + float(_FIRST)
            on_canvas = torch.cat([middles - _HALF, middles + _HALF], 1).double()
            boxes = into_picture(on_canvas, level_at(middles.double(), tiling), tiling)
            boxes = (boxes + 0.5).floor().float() + torch.tensor([0.0, 0, 1, 1])  # dlib counts the last px in
            kept, best = suppress(boxes, found, torch.zeros_like(rows), _OVERLAP)
            results.append(Found(boxes[kept], best, torch.zeros(len(kept), dtype=torch.int64)))
        return results


def detector_of(file: NetworkFile) -> DlibDetector:
    """The detector with the weights of dlib's file."""
    net = DlibDetector()
    net.mean.copy_(torch.tensor(file.means).reshape(1, 3, 1, 1))
    _copy_convolutions([m for m in net.modules() if isinstance(m, nn.Conv2d)], file.layers)
    return net
