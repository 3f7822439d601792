"""Networks made ready for inference: batch norms folded into convolutions, and what bfloat16 needs to stay exact.

Rounding a network of 50 layers to 8 significant bits moves features by several degrees. Measured on photos, most of it
comes from three places, which are cheap to keep in float32: shifts of batch norms (a rounded shift is wrong in the same
direction at every place of the map), the sums of residual blocks, and the first layers, where a flat background gives
the same rounding everywhere.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


class Shift(nn.Module):
    """Adds a number to each channel in float32; what is left of a batch norm when its scale is in the weights."""

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift.detach().reshape(1, -1, 1, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, C, H, W] of any precision to float32."""
        return x_NCHW.float() + self.shift


class InFloat32(nn.Module):
    """A part of a network that stays in float32 where the rest runs under autocast."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """The part's output, float32."""
        with torch.autocast(x.device.type, enabled=False):
            output: Tensor = self.part(x.float())
        return output


def fold_batch_norms(network: nn.Module, shifts_in_float32: bool = False) -> None:
    """Move each batch norm into the convolution that it follows.

    In place, for evaluation mode. A batch norm follows a convolution where the two are neighbours among a module's
    children and the channels fit; others are left as they are. The network computes the same function.

    Args:
        network: any.
        shifts_in_float32: a `Shift` stays in the batch norm's place, instead of a bias of the convolution.
    """
    children = list(network.named_children())
    for (_, conv), (name, norm) in zip(children, children[1:], strict=False):
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if conv.out_channels != norm.num_features or norm.running_mean is None or norm.running_var is None:
            continue
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = weight, None if shifts_in_float32 else bias
        setattr(network, name, Shift(bias) if shifts_in_float32 else nn.Identity())
    for child in network.children():
        fold_batch_norms(child, shifts_in_float32)


def make_ready_for_bfloat16(chain: nn.Sequential, float32_stages: tuple[str, ...]) -> None:
    """Change a frozen chain of stages, in place, so that it loses little under bfloat16 autocast.

    Args:
        chain: stages by name, in evaluation mode.
        float32_stages: names of those that stay in float32.
    """
    fold_batch_norms(chain, shifts_in_float32=True)
    for name, stage in chain.named_children():
        if name in float32_stages:
            setattr(chain, name, InFloat32(stage))
