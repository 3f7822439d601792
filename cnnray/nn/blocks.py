"""Building blocks of convolutional networks. Tensors are NCHW float; "same" blocks keep H and W at stride 1.

Deep Residual Learning, He et al. 2015, arXiv:1512.03385
Going Deeper with Convolutions (Inception), Szegedy et al. 2014, arXiv:1409.4842
Network In Network (1x1 convolutions), Lin et al. 2013, arXiv:1312.4400
MobileNets, Howard et al. 2017, arXiv:1704.04861
MobileNetV2: Inverted Residuals and Linear Bottlenecks, Sandler et al. 2018, arXiv:1801.04381
Squeeze-and-Excitation Networks, Hu et al. 2017, arXiv:1709.01507
Batch Normalization, Ioffe and Szegedy 2015, arXiv:1502.03167
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Style:
    """How the convolutions of a family of networks pad, normalise and activate.

    Attributes:
        same: TensorFlow's "SAME" padding, see `same_padding`; else PyTorch's kernel // 2 on both sides. They differ
            where the stride is 2.
        eps, momentum: of batch normalisation, as PyTorch counts momentum.
        act: makes the activation.
    """

    same: bool
    eps: float
    momentum: float
    act: Callable[[], nn.Module]


TENSORFLOW = Style(same=True, eps=1e-3, momentum=0.01, act=partial(nn.ReLU6, inplace=True))
PYTORCH = Style(same=False, eps=1e-5, momentum=0.1, act=partial(nn.ReLU, inplace=True))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding of one axis: (before, after), so that the output has ceil(size / stride) places.

    What cannot be halved goes after: 224 px, kernel 3, stride 2 is padded by (0, 1), where PyTorch's padding=1
    would put the kernel one pixel to the left.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Square convolution with TensorFlow's "SAME" padding, whatever the input's size.

    An even padding is left to the convolution itself; only an odd one costs a padded copy of the input (a compiler
    fuses it into the layer before).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, K, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        top, bottom = same_padding(input.shape[-2], kernel, stride)
        left, right = same_padding(input.shape[-1], kernel, stride)
        padding = (top, left)
        if padding != (bottom, right):
            input, padding = F.pad(input, (left, right, top, bottom)), (0, 0)
        depthwise = self.groups == self.in_channels == self.out_channels and self.bias is None
        if depthwise and kernel > 3 and self.weight.requires_grad and torch.is_autocast_enabled("cpu"):
            return DepthwiseInBfloat16.convolve(input, self.weight, stride, padding)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, 1, self.groups)


class DepthwiseInBfloat16(torch.autograd.Function):
    """Depthwise convolution under autocast on a CPU whose weights' gradient is computed in float32.

    oneDNN's bfloat16 kernel for that gradient took 48 ms for 1,152 channels of 7x7 and a kernel of 5, batch 32 on two
    cores, the float32 one 14 ms with both conversions; the convolution itself takes 1 ms.
    """

    @staticmethod
    def convolve(x_NCHW: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
        """[N, C, H, W] to [N, C, H', W'] in autocast's number format."""
        dtype = torch.get_autocast_dtype("cpu")
        result: Tensor = DepthwiseInBfloat16.apply(x_NCHW.to(dtype), weight, stride, padding)
        return result

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
        """Called by autograd."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Called by autograd."""
        x, weight = ctx.saved_tensors

        def gradients(g: Tensor, x: Tensor, w: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
            geometry = ([ctx.stride] * 2, ctx.padding, [1, 1], False, [0, 0], len(w))
            found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(g, x, w, None, *geometry, wanted)
            return found

        of_weight = gradients(grad.float(), x.float(), weight, [False, True, False])[1]
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        return gradients(grad, x, weight.to(x.dtype), [True, False, False])[0], of_weight, None, None


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalisation, and the style's activation unless `act` is false."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
        style: Style = TENSORFLOW,
    ) -> None:
        conv: nn.Conv2d
        if style.same:
            conv = SameConv2d(in_channels, out_channels, kernel, stride, groups)
        else:
            conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        norm = nn.BatchNorm2d(out_channels, eps=style.eps, momentum=style.momentum)
        super().__init__(conv, norm, *([style.act()] if act else []))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in (0, 1) that is computed from the means of all channels (Hu et al., figure 2).

    Args:
        channels: of input and output.
        squeezed: channels between the two layers of the gate.
        act: makes the activation between them.
    """

    def __init__(self, channels: int, squeezed: int, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), act(), nn.Conv2d(squeezed, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape."""
        gate: Tensor = self.gate(x)
        return x * gate.sigmoid()


class DepthwiseSeparable(nn.Sequential):
    """MobileNet's convolution in two steps: kxk for each channel alone, then 1x1 across channels.

    It costs 1 / out_channels + 1 / kernel^2 of a full convolution (Howard et al., section 3.1).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, style: Style = PYTORCH
    ) -> None:
        super().__init__(
            ConvNormAct(in_channels, in_channels, kernel, stride, groups=in_channels, style=style),
            ConvNormAct(in_channels, out_channels, 1, style=style),
        )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen with 1x1, filter each channel alone with kxk, narrow with a linear 1x1.

    The input is added to the output where both have the same shape.

    Args:
        expand: factor of the widening; 1 leaves the first 1x1 out.
        kernel, stride: of the depthwise convolution.
        squeeze: channels of a squeeze-and-excitation gate after the depthwise convolution, as share of `in_channels`
            (EfficientNet: 0.25); 0 leaves it out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        expand: int,
        squeeze: float = 0.0,
        style: Style = TENSORFLOW,
    ) -> None:
        super().__init__()
        wide = in_channels * expand
        widen = [ConvNormAct(in_channels, wide, 1, style=style)] if expand != 1 else []
        gate = [SqueezeExcite(wide, max(1, int(in_channels * squeeze)), style.act)] if squeeze else []
        self.layers = nn.Sequential(
            *widen,
            ConvNormAct(wide, wide, kernel, stride, groups=wide, style=style),
            *gate,
            ConvNormAct(wide, out_channels, 1, act=False, style=style),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class ResidualBlock(nn.Module):
    """ResNet's block: the layers learn what to add to their input (He et al., equation 1, figure 5).

    Args:
        in_channels, out_channels: of the block; where they differ, or the stride is not 1, the shortcut is a 1x1
            convolution (option B of section 3.3), else the identity.
        stride: of the first 3x3 convolution.
        bottleneck: 0 for two 3x3 convolutions, else the channels of the 3x3 between two 1x1 convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, bottleneck: int = 0, style: Style = PYTORCH
    ) -> None:
        super().__init__()
        if bottleneck:
            self.layers = nn.Sequential(
                ConvNormAct(in_channels, bottleneck, 1, style=style),
                ConvNormAct(bottleneck, bottleneck, 3, stride, style=style),
                ConvNormAct(bottleneck, out_channels, 1, act=False, style=style),
            )
        else:
            self.layers = nn.Sequential(
                ConvNormAct(in_channels, out_channels, 3, stride, style=style),
                ConvNormAct(out_channels, out_channels, 3, act=False, style=style),
            )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else ConvNormAct(in_channels, out_channels, 1, stride, act=False, style=style)
        )
        self.act = style.act()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.act(self.shortcut(x) + self.layers(x))
        return y


class Inception(nn.Module):
    """Four views of one input side by side, the wide ones behind 1x1 bottlenecks (Szegedy et al., figure 2b).

    Args:
        in_channels: of the input.
        direct: channels of the 1x1 branch.
        three: channels of the 3x3 branch's bottleneck and output.
        five: channels of the 5x5 branch's bottleneck and output.
        pooled: channels of the 1x1 behind the 3x3 max pooling.
        large_kernel: of the third branch; torchvision's GoogLeNet has 3 there.
    """

    def __init__(
        self,
        in_channels: int,
        direct: int,
        three: tuple[int, int],
        five: tuple[int, int],
        pooled: int,
        large_kernel: int = 5,
        style: Style = PYTORCH,
    ) -> None:
        super().__init__()
        self.direct = ConvNormAct(in_channels, direct, 1, style=style)
        self.three = nn.Sequential(
            ConvNormAct(in_channels, three[0], 1, style=style), ConvNormAct(*three, 3, style=style)
        )
        self.five = nn.Sequential(
            ConvNormAct(in_channels, five[0], 1, style=style), ConvNormAct(*five, large_kernel, style=style)
        )
        self.pooled = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvNormAct(in_channels, pooled, 1, style=style)
        )
        self.out_channels = direct + three[1] + five[1] + pooled

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, H, W]; branches in the order of the arguments."""
        return torch.cat([self.direct(x), self.three(x), self.five(x), self.pooled(x)], 1)
