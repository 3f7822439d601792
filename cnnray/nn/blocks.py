"""Building blocks of mobile networks. Tensors are NCHW float.

MobileNetV2: Inverted Residuals and Linear Bottlenecks, Sandler et al. 2018, arXiv:1801.04381
Batch Normalization, Ioffe and Szegedy 2015, arXiv:1502.03167
"""

import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3  # TensorFlow's, with which the EfficientNets were trained
BATCH_NORM_MOMENTUM = 0.01  # 1 - TensorFlow's 0.99


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
        if (top, left) == (bottom, right):
            return F.conv2d(input, self.weight, None, self.stride, (top, left), 1, self.groups)
        return F.conv2d(F.pad(input, (left, right, top, bottom)), self.weight, None, self.stride, 0, 1, self.groups)


class ConvNormAct(nn.Sequential):
    """Convolution, batch normalisation, and ReLU6 unless `act` is false (a linear bottleneck)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        layers: list[nn.Module] = [
            SameConv2d(in_channels, out_channels, kernel, stride, groups),
            nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM),
        ]
        super().__init__(*layers, *([nn.ReLU6(inplace=True)] if act else []))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen with 1x1, filter each channel alone with kxk, narrow with a linear 1x1.

    The input is added to the output where both have the same shape.

    Args:
        expand: factor of the widening; 1 leaves the first 1x1 out.
        kernel, stride: of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = in_channels * expand
        widen = [ConvNormAct(in_channels, wide, 1)] if expand != 1 else []
        self.layers = nn.Sequential(
            *widen,
            ConvNormAct(wide, wide, kernel, stride, groups=wide),
            ConvNormAct(wide, out_channels, 1, act=False),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y
