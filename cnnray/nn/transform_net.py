"""Fast stylisation: one network that paints any of several styles, or a blend of them, in one pass.

Johnson, Alahi and Fei-Fei 2016, arXiv:1603.08155: the transform network
Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022: instance normalisation
Dumoulin, Shlens and Kudlur 2017, arXiv:1610.07629: scale and shift of every normalisation by style, and their blends
Odena, Dumoulin and Olah 2016, doi 10.23915/distill.00003: resize and convolve, so that no checkerboard shows

Of the two ways to one network for several styles (the other is adaptive instance normalisation, Huang and Belongie
2017, which paints any style at once) this one needs no encoder of a large network to run, is a tenth of the size, and
paints what it was trained for better; a new style means to train 1,500 numbers, or all.

A picture of any size is painted layer by layer in bands of rows: every layer is computed for the whole picture before
the next, so that statistics are those of the whole picture and no seam can be, and no more is held than a layer's input
and output.

Legend: N pictures, S styles, W width of the first layer.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import OptionError

WIDTH, BLOCKS = 16, 5
STRIDE = 4  # of the middle of the network
_BAND = 64  # rows of a layer's output that are computed at once
TINY = 1e-5


class StyledConv(nn.Module):
    """Resize, reflect at the borders, convolve, normalise each channel of each picture, scale and shift by style.

    Args:
        c_in, c_out, kernel, stride: of the convolution; it keeps the size but for its stride.
        num_styles: S.
        grow: times that the input is enlarged before, by repeating its pixels.
        relu: whether what is negative becomes 0 at last.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, num_styles: int, *, stride: int = 1, grow: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, bias=False)
        self.scale_SC = nn.Parameter(torch.ones(num_styles, c_out))
        self.shift_SC = nn.Parameter(torch.zeros(num_styles, c_out))
        self.pad, self.stride, self.grow, self.relu = kernel // 2, stride, grow, relu

    def forward(self, x_NCHW: Tensor, weights_NS: Tensor, bands: bool = False) -> Tensor:
        """[N, C, H', W'] of [N, C, H, W].

        Args:
            weights_NS: share of each style.
            bands: compute it in bands of rows, which takes less memory.
        """
        x = self._convolved_in_bands(x_NCHW) if bands else self._convolved(x_NCHW, 0, x_NCHW.shape[2] * self.grow)
        return self._styled(x, weights_NS)

    def _convolved(self, x_NCHW: Tensor, top: int, bottom: int) -> Tensor:
        """The convolution at rows top to bottom of the enlarged input."""
        height = x_NCHW.shape[2] * self.grow
        first, last = max(0, top - self.pad), min(height, bottom + self.pad)
        rows = x_NCHW[:, :, first // self.grow : -(-last // self.grow)]
        if self.grow > 1:
            rows = F.interpolate(rows, scale_factor=self.grow, mode="nearest")
            rows = rows[:, :, first % self.grow : first % self.grow + last - first]
        above, below = self.pad - (top - first), self.pad - (last - bottom)
        convolved: Tensor = self.conv(F.pad(rows, (self.pad, self.pad, above, below), mode="reflect"))
        return convolved

    def _convolved_in_bands(self, x_NCHW: Tensor) -> Tensor:
        height, width = (side * self.grow for side in x_NCHW.shape[2:])
        size = (x_NCHW.shape[0], self.conv.out_channels, -(-height // self.stride), -(-width // self.stride))
        out = x_NCHW.new_empty(size)
        for top in range(0, size[2], _BAND):
            bottom = min(top + _BAND, size[2])
            out[:, :, top:bottom] = self._convolved(x_NCHW, top * self.stride, min(bottom * self.stride, height))
        return out

    def _styled(self, x_NCHW: Tensor, weights_NS: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x_NCHW.float(), (2, 3), correction=0)
        scale = (weights_NS @ self.scale_SC) * torch.rsqrt(variance + TINY)
        shift = weights_NS @ self.shift_SC - mean * scale
        if torch.is_grad_enabled():
            x = torch.addcmul(shift[..., None, None], x_NCHW, scale[..., None, None])
            return F.relu(x) if self.relu else x
        x_NCHW.mul_(scale[..., None, None]).add_(shift[..., None, None])
        return x_NCHW.relu_() if self.relu else x_NCHW


class ResidualPair(nn.Module):
    """x + two styled 3x3 convolutions of x."""

    def __init__(self, channels: int, num_styles: int) -> None:
        super().__init__()
        self.first = StyledConv(channels, channels, 3, num_styles)
        self.second = StyledConv(channels, channels, 3, num_styles, relu=False)

    def forward(self, x_NCHW: Tensor, weights_NS: Tensor, bands: bool = False) -> Tensor:
        """Of the same shape."""
        change: Tensor = self.second(self.first(x_NCHW, weights_NS, bands), weights_NS, bands)
        return x_NCHW + change


class TransformNet(nn.Module):
    """Photos to paintings.

    Args:
        num_styles: S.
        width: W; the middle of the network has four times as many channels.
        blocks: residual blocks in the middle.

    Raises:
        OptionError: fewer than one of any of these.
    """

    def __init__(self, num_styles: int, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        if min(num_styles, width, blocks) < 1:
            raise OptionError(f"expected at least one style, channel and block, got {num_styles}, {width}, {blocks}")
        self.num_styles = num_styles
        s, w = num_styles, width
        self.layers = nn.ModuleList(
            [
                StyledConv(3, w, 9, s),
                StyledConv(w, 2 * w, 3, s, stride=2),
                StyledConv(2 * w, 4 * w, 3, s, stride=2),
                *(ResidualPair(4 * w, s) for _ in range(blocks)),
                StyledConv(4 * w, 2 * w, 3, s, grow=2),
                StyledConv(2 * w, w, 3, s, grow=2),
                StyledConv(w, 3, 9, s, relu=False),
            ]
        )

    def forward(self, images_N3HW: Tensor, weights_NS: Tensor, bands: bool = False) -> Tensor:
        """Paintings [N, 3, H, W], RGB in [0, 1].

        Args:
            images_N3HW: RGB, float in [0, 1] or uint8, of any size; it is reflected to multiples of 4 px.
            weights_NS: share of each style; rows sum to 1.
            bands: little memory for large pictures; for evaluation.
        """
        height, width = images_N3HW.shape[2:]
        x = reflected(centred(images_N3HW), -height % STRIDE, -width % STRIDE)
        for layer in self.layers:
            x = layer(x, weights_NS, bands)
        return torch.sigmoid(x[:, :, :height, :width])


def centred(images_N3HW: Tensor) -> Tensor:
    """Float in [-1, 1]; of uint8 without a second copy, which counts where a picture is large."""
    if images_N3HW.dtype == torch.uint8:
        return images_N3HW.float().mul_(2 / 255).sub_(1)
    return images_N3HW * 2 - 1


def reflected(x_NCHW: Tensor, below: int, right: int) -> Tensor:
    """More rows and columns; those of a picture too small to be reflected are repeated."""
    if not below and not right:
        return x_NCHW
    enough = below < x_NCHW.shape[2] and right < x_NCHW.shape[3]
    return F.pad(x_NCHW, (0, right, 0, below), mode="reflect" if enough else "replicate")


def style_parameters(net: TransformNet) -> Iterator[nn.Parameter]:
    """Those that differ between styles; all others are shared."""
    for module in net.modules():
        if isinstance(module, StyledConv):
            yield from (module.scale_SC, module.shift_SC)
