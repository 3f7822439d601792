"""U-Net: a class for every pixel. An encoder that shrinks, a decoder that grows back, bridges between them.

U-Net: Convolutional Networks for Biomedical Image Segmentation, Ronneberger et al. 2015, arXiv:1505.04597. Different
from the paper: borders are mirrored instead of lost, and batch norms follow the convolutions (they came later).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import OptionError
from cnnray.nn.backbones import build_backbone
from cnnray.nn.blocks import PYTORCH, ConvNormAct
from cnnray.nn.encoder import BackboneEncoder

PLAIN = "plain"
LEAST = 96  # px; some backbones have convolutions without padding, which leave nothing of a smaller picture


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU; [N, in, H, W] to [N, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            ConvNormAct(in_channels, out_channels, 3, style=PYTORCH),
            ConvNormAct(out_channels, out_channels, 3, style=PYTORCH),
        )


class UpBlock(nn.Module):
    """One step of the decoder: a transposed 2x2 convolution doubles the sides, the bridge is put beside, two 3x3 mix.

    Args:
        in_channels: of what comes from below.
        skip_channels: of the bridge.
        out_channels: of the result.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.mix = DoubleConv(out_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[N, in, h, w] and [N, skip, H, W], H about 2h, to [N, out, H, W]."""
        x = fit(self.up(x), skip.shape[-2], skip.shape[-1])
        mixed: Tensor = self.mix(torch.cat([x, skip], dim=1))
        return mixed


class PlainEncoder(nn.Module):
    """The paper's left side: two convolutions and a maximum over 2x2, again and again.

    Args:
        width: channels at full resolution, doubled at each level.
        depth: times that the sides are halved.

    Attributes:
        channels: of its outputs, full resolution first.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.channels = tuple(width * 2**level for level in range(depth + 1))
        steps = zip((3, *self.channels), self.channels, strict=False)
        self.levels = nn.ModuleList(DoubleConv(before, after) for before, after in steps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of every level, full resolution first."""
        maps: list[Tensor] = []
        for level in self.levels:
            x = level(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps


class SegmentNet(nn.Module):
    """Pictures to the classes of their pixels.

    Args:
        encoder: gives maps from full resolution down; `channels` says how many each has.
        widths: channels of the decoder's steps, full resolution first; one fewer than maps.
        num_classes: K.
        mean, std: normalisation of RGB in [0, 1].

    Attributes:
        encoder, decoder, classifier: in the order of computing; the encoder may be pre-trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: PlainEncoder | BackboneEncoder,
        widths: Sequence[int],
        num_classes: int,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.encoder = encoder
        below = (*widths[1:], encoder.channels[-1])
        steps = list(zip(below, encoder.channels[:-1], widths, strict=True))[::-1]
        self.decoder = nn.ModuleList(UpBlock(*step) for step in steps)
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)
        self.multiple = 2 ** (len(encoder.channels) - 1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits of every pixel, float32.

        Args:
            images_NCHW: uint8 in 0..255 or float in [0, 1], [N, 3, H, W], of any H and W: inside, the borders are
                mirrored up to a multiple of the smallest map's stride.

        Returns:
            [N, K, H, W].
        """
        height, width = images_NCHW.shape[-2:]
        x = images_NCHW.to(self.mean.dtype)
        if images_NCHW.dtype == torch.uint8:
            x = x / 255
        maps = self.encoder(grow((x - self.mean) / self.std, self.multiple))
        x = maps[-1]
        for step, skip in zip(self.decoder, maps[-2::-1], strict=True):
            x = step(x, skip)
        logits: Tensor = self.classifier(x)[..., :height, :width].float()
        return logits


def grow(x_NCHW: Tensor, multiple: int) -> Tensor:
    """Mirrored at the right and at the bottom until both sides are multiples, and LEAST px or more.

    Where there is too little to mirror, the border is repeated.
    """
    height, width = x_NCHW.shape[-2:]
    more = (0, max(LEAST - width, 0), 0, max(LEAST - height, 0))
    more = (0, more[1] + -(width + more[1]) % multiple, 0, more[3] + -(height + more[3]) % multiple)
    if not any(more):
        return x_NCHW
    mode = "reflect" if more[1] < width and more[3] < height else "replicate"
    return F.pad(x_NCHW, more, mode=mode)


def fit(x_NCHW: Tensor, height: int, width: int) -> Tensor:
    """Cut or stretched to [height, width]: encoders that round sizes up or down leave a pixel of difference."""
    if x_NCHW.shape[-2] >= height and x_NCHW.shape[-1] >= width:
        return x_NCHW[..., :height, :width]
    return F.interpolate(x_NCHW, (height, width), mode="nearest")


def build_segmenter(arch: Mapping[str, Any], num_classes: int, weights: str = "none") -> SegmentNet:
    """A U-Net in evaluation mode.

    Args:
        arch: "encoder": "plain" or a backbone's name; "width": channels at full resolution; "depth": halvings of the
            plain encoder (a backbone has its own).
        num_classes: K, at least 2.
        weights: of a backbone, see `build_backbone`; a plain encoder always starts at random.

    Raises:
        UnknownNameError, CheckpointError, StorageError: as `build_backbone`.
        OptionError: numbers that are out of range.
    """
    width, depth = int(arch["width"]), int(arch["depth"])
    if num_classes < 2 or width < 1 or not 1 <= depth <= 6:
        raise OptionError(
            "expected at least 2 classes, a width of at least 1 and a depth of 1 to 6, "
            f"got {num_classes}, {width}, {depth}"
        )
    if arch["encoder"] == PLAIN:
        plain = PlainEncoder(width, depth)
        return SegmentNet(plain, plain.channels[:-1], num_classes).eval()
    backbone = build_backbone(arch["encoder"], weights)
    encoder = BackboneEncoder(backbone)
    # half the work would be at full resolution, where there is least to say: widths shrink towards it
    widths = [min(width * 2**level, 256) for level in range(len(encoder.channels) - 1)]
    return SegmentNet(encoder, widths, num_classes, backbone.spec.mean, backbone.spec.std).eval()
