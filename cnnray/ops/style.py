"""What makes a picture's style and content, as losses on the activations of a network.

Gatys, Ecker and Bethge 2016, Image Style Transfer Using Convolutional Neural Networks: Gram matrices, both losses
Wang, Li and Vasconcelos 2021, arXiv:2104.05623: activations smoothed by a softmax, for networks with skip connections
Mahendran and Vedaldi 2015, arXiv:1412.0035: total variation
Gatys et al. 2016, arXiv:1606.05897: luminance-only transfer, which keeps a picture's colours

Losses are relative, a share of what is wanted: 0 where that is met, about 1 for a flat grey picture. So those of layers
with large and with small activations count alike, and mean the same in every network.

Legend: maps_NCHW activations; images_N3HW RGB in [0, 1]; M positions of a map, H * W.
"""

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # BT.601
_TINY = 1e-12


def gram_matrix(maps_NCHW: Tensor, weights_NHW: Tensor | None = None) -> Tensor:
    """[N, C, C] products of the channels, mean over the positions: F F^T / M (Gatys et al., equation 3).

    The mean makes maps of any two sizes comparable.

    Args:
        weights_NHW: how much each position counts, not negative; None counts all alike.
    """
    maps_NCM = _wide(maps_NCHW).flatten(2)
    if weights_NHW is None:
        return maps_NCM @ maps_NCM.mT / maps_NCM.shape[2]
    weights_N1M = weights_NHW.to(maps_NCM.dtype).flatten(1)[:, None]
    return (maps_NCM * weights_N1M) @ maps_NCM.mT / weights_N1M.sum(2, keepdim=True).clamp(min=_TINY)


def smoothed(maps_NCHW: Tensor) -> Tensor:
    """Softmax over all channels and positions of each map, times their number, so that 1 is the mean (Wang et al.)."""
    flat = _wide(maps_NCHW).flatten(1)
    return (flat.softmax(1) * flat.shape[1]).view_as(maps_NCHW)


def relative_error(found: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """[N]: |found - wanted|^2 / |wanted|^2, summed over all but the first axis; `wanted` may have 1 there for all.

    Args:
        weights: how much each number counts in both sums, of a shape that fits; None counts all alike.
    """
    wanted = _wide(wanted)
    error, size = (_wide(found) - wanted).square(), wanted.square()
    if weights is not None:
        error, size = error * weights, size * weights
    return error.flatten(1).sum(1) / size.flatten(1).sum(1).clamp(min=_TINY)


def total_variation(images_N3HW: Tensor, weights_N1HW: Tensor | None = None) -> Tensor:
    """[N]: mean squared difference of neighbours, down and along; 0 along an axis of one pixel.

    Args:
        weights_N1HW: how much the lower, or right, of two neighbours counts, not negative; None counts all alike.
    """
    found = images_N3HW.new_zeros(len(images_N3HW))
    for axis in (2, 3):
        if images_N3HW.shape[axis] < 2:
            continue
        steps = images_N3HW.diff(dim=axis).square().mean(1, keepdim=True)
        if weights_N1HW is None:
            found = found + steps.flatten(1).mean(1)
        else:
            weights = weights_N1HW.narrow(axis, 1, steps.shape[axis])
            found = found + (steps * weights).flatten(1).sum(1) / weights.flatten(1).sum(1).clamp(min=_TINY)
    return found


def luminance(images_N3HW: Tensor) -> Tensor:
    """[N, 1, H, W] of RGB."""
    weights = torch.tensor(_LUMA, dtype=images_N3HW.dtype, device=images_N3HW.device).view(1, 3, 1, 1)
    return (images_N3HW * weights).sum(1, keepdim=True)


def like_luminance(light_N1HW: Tensor, content_N1HW: Tensor) -> Tensor:
    """A luminance shifted and scaled to the mean and standard deviation of another, in [0, 1]; sizes may differ.

    Gatys et al. 2016b, section 5.2: styles that are darker or lighter than the content fit it then.
    """
    own, wanted = (torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True) for x in (light_N1HW, content_N1HW))
    return ((light_N1HW - own[1]) * (wanted[0] / own[0].clamp(min=_TINY)) + wanted[1]).clamp(0, 1)


def keep_colors(styled_N3HW: Tensor, content_N3HW: Tensor) -> Tensor:
    """The content with the lightness of the styled picture, in [0, 1]; both of one size.

    Where a colour has no room for that lightness it turns paler, and not into another one.
    """
    light, own = luminance(styled_N3HW), luminance(content_N3HW)
    color = content_N3HW - own
    room = torch.where(color > 0, (1 - light) / color.clamp(min=_TINY), light / (-color).clamp(min=_TINY))
    share = room.amin(1, keepdim=True).clamp(0, 1)
    return (light + color * share).clamp(0, 1)


def _wide(x: Tensor) -> Tensor:
    """At least float32: sums of products of bfloat16 numbers would lose digits."""
    return x if x.dtype == torch.float64 else x.float()
