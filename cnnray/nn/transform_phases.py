"""A trained transform network in a form that paints faster and is the same function.

- Enlarging twice by repeating pixels and convolving by 3x3 is one 3x3 convolution of the small map to four times the
  channels: a kernel for each of the four phases (places in a square of 2x2) of the large map, its taps on repeated
  pixels added up (Shi et al. 2016, arXiv:1609.05158, section 2.2). The reflected border becomes a repeated one.
- The last convolution, 9x9 to three channels, reads those phases as they are: 5x5 from four times the channels to four
  times three. Three channels alone leave most of a vector unit idle.
- Normalisation, scale and shift are one batch normalisation of a picture.

Legend: N pictures, S styles, C channels, h x w squares of 2x2 px. Phased maps are [N, 4C, h, w]: the channels of a
phase lie side by side, phases row by row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnray.nn.transform_net import STRIDE, TINY, StyledConv, TransformNet, centred, reflected

_FAR = 2  # squares of 2x2 px that the last convolution reaches to either side


class PhasedNet:
    """Paints as the `TransformNet` that it is made of, on its device; for evaluation only.

    Args:
        net: trained.
        dtype: of kernels and maps, float32 or bfloat16; statistics are float32 in any case.
    """

    def __init__(self, net: TransformNet, dtype: torch.dtype) -> None:
        self._dtype = dtype
        layers: list[Any] = list(net.layers)
        first, down, further, *pairs, up, last_up, last = layers
        self._start = [_Layer.of(layer, dtype) for layer in (first, down, further)]
        self._pairs = [(_Layer.of(pair.first, dtype), _Layer.of(pair.second, dtype)) for pair in pairs]
        self._up, self._last_up = (_Layer.of(layer, dtype, _enlarging) for layer in (up, last_up))
        self._last = _Layer.of(last, dtype, _of_phases)

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor, weights_NS: Tensor) -> Tensor:
        """Paintings, see `TransformNet`; float32."""
        height, width = images_N3HW.shape[2:]
        x = reflected(centred(images_N3HW), -height % STRIDE, -width % STRIDE)
        x = x.to(self._dtype, memory_format=torch.channels_last)
        for layer in self._start:
            x = layer.plain(x, weights_NS)
        for one, two in self._pairs:
            x = two.plain(one.plain(x, weights_NS), weights_NS).add_(x)
        x = _side_by_side(self._up.phased(x, weights_NS))
        x = _with_border(self._last_up.phased(x, weights_NS))
        x = F.pixel_shuffle(F.conv2d(x, self._last.kernel), 2)
        x = self._last.styled(x, weights_NS)
        return torch.sigmoid(x[:, :, :height, :width].float())


@dataclass(frozen=True)
class _Layer:
    """A `StyledConv` with its kernel in the form that is used."""

    kernel: Tensor
    scale_SC: Tensor
    shift_SC: Tensor
    pad: int
    stride: int
    relu: bool

    @classmethod
    def of(
        cls, layer: StyledConv, dtype: torch.dtype, form: Callable[[Tensor], Tensor] = torch.Tensor.float
    ) -> "_Layer":
        kernel = form(layer.conv.weight.detach()).to(dtype, memory_format=torch.channels_last)
        scale, shift = layer.scale_SC.detach().float(), layer.shift_SC.detach().float()
        return cls(kernel, scale, shift, layer.pad, layer.stride, layer.relu)

    def plain(self, x_NCHW: Tensor, weights_NS: Tensor) -> Tensor:
        padded = F.pad(x_NCHW, (self.pad,) * 4, mode="reflect")
        return self.styled(F.conv2d(padded, self.kernel, stride=self.stride), weights_NS)

    def phased(self, x_NCHW: Tensor, weights_NS: Tensor) -> Tensor:
        """Phases of the output, for input that is to be enlarged."""
        maps = F.conv2d(F.pad(x_NCHW, (1,) * 4, mode="replicate"), self.kernel)
        count, channels, height, width = maps.shape
        # the phases one after the other along the rows: their statistics are those of the large map
        beside = maps.permute(0, 2, 3, 1).reshape(count, height, width * 4, channels // 4).permute(0, 3, 1, 2)
        styled = self.styled(beside, weights_NS).permute(0, 2, 3, 1)
        return styled.reshape(count, height, width, channels).permute(0, 3, 1, 2)

    def styled(self, x_NCHW: Tensor, weights_NS: Tensor) -> Tensor:
        """Normalised, scaled and shifted as each picture wants it; a picture is a batch of its own."""
        scale, shift = weights_NS @ self.scale_SC, weights_NS @ self.shift_SC
        as_one = x_NCHW.reshape(1, -1, *x_NCHW.shape[2:])  # of one picture the same memory, still channels last
        found = F.batch_norm(as_one, None, None, scale.flatten(), shift.flatten(), training=True, eps=TINY)
        x = found.view(x_NCHW.shape) if len(x_NCHW) > 1 else found
        return x.relu_() if self.relu else x


def _enlarging(kernel_OI33: Tensor) -> Tensor:
    """[4O, I, 3, 3] for the small map: of "repeat every pixel, then convolve"."""
    # Row 2i of the large map sees rows i - 1, i, i of the small one, row 2i + 1 sees i, i, i + 1; columns alike.
    taps = torch.tensor([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]]).to(kernel_OI33)
    phases = torch.einsum("ayr,bxc,oirc->aboiyx", taps, taps, kernel_OI33)
    return phases.reshape(-1, *kernel_OI33.shape[1:])


def _of_phases(kernel_OI99: Tensor) -> Tensor:
    """[4O, 4I, 5, 5] from phases to phases, those of the output in the order of `F.pixel_shuffle`."""
    size = kernel_OI99.shape[2]
    out, found = kernel_OI99.shape[:2], kernel_OI99.new_zeros(*kernel_OI99.shape[:2], 2, 2, 2, 2, 5, 5)
    for row in range(2):
        for column in range(2):
            for y in range(size):
                for x in range(size):
                    (down, a), (right, b) = divmod(row + y - size // 2, 2), divmod(column + x - size // 2, 2)
                    found[:, :, row, column, a, b, down + _FAR, right + _FAR] = kernel_OI99[:, :, y, x]
    return found.permute(0, 2, 3, 4, 5, 1, 6, 7).reshape(4 * out[0], 4 * out[1], 5, 5)


def _side_by_side(phased_NCHW: Tensor) -> Tensor:
    """[N, C, 2h, 2w] of phased maps, channels last."""
    count, channels, height, width = phased_NCHW.shape
    split = phased_NCHW.permute(0, 2, 3, 1).reshape(count, height, width, 2, 2, channels // 4)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(count, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def _with_border(phased_NCHW: Tensor) -> Tensor:
    """Phased maps with two squares more at each side: the large map reflected by four px."""
    padded = F.pad(phased_NCHW, (_FAR,) * 4)
    count, channels, height, width = padded.shape
    split = padded.permute(0, 2, 3, 1).view(count, height, width, 2, 2, channels // 4)
    for axis, side in ((1, height), (2, width)):
        for phase in range(2):
            part = split.select(axis + 2, phase)
            for at in range(_FAR):
                near, far = 2 * _FAR - at - phase, side - 1 - 2 * _FAR + at + 1 - phase
                part.select(axis, at).copy_(part.select(axis, near))
                part.select(axis, side - 1 - at).copy_(part.select(axis, far))
    return padded
