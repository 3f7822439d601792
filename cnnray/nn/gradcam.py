"""Where a classifier looks: Grad-CAM's map of places, and the pixels that guided backpropagation finds there.

Grad-CAM, Selvaraju et al. 2016, arXiv:1610.02391
Striving for Simplicity (guided backpropagation), Springenberg et al. 2014, arXiv:1412.6806

A network is two parts: `below` gives a map A [N, C, H', W'] of normalised images, `above` logits y [N, K] of that map.
Both are in evaluation mode and their weights are only read, so threads may share them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import OptionError
from cnnray.nn.rectify import Rectified
from cnnray.ops.costs import without_weights

Part = Callable[[Tensor], Tensor]


def grad_cam(below: Part, above: Part, x_NCHW: Tensor, classes_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How much each place of the map speaks for a class.

    Args:
        x_NCHW: normalised images, float32.
        classes_N: the class of each image, int64; None is the one with the largest logit, of equals the first.

    Returns:
        relu(sum over channels of alpha_c * A_c), float32 [N, H', W'], where alpha_c is the gradient of the class's
        logit by A_c, averaged over places (equations 1 and 2); and the logits [N, K].
    """
    with torch.inference_mode(False), torch.enable_grad(), Rectified("gradient"):
        map_NCHW = below(x_NCHW.clone()).detach().requires_grad_()
        logits_NK = above(map_NCHW.clone())  # the first layer above may write in place
        (gradient_NCHW,) = torch.autograd.grad(_chosen(logits_NK, classes_N), map_NCHW)
    weights_NC11 = gradient_NCHW.mean((2, 3), keepdim=True)
    return (weights_NC11 * map_NCHW.detach()).sum(1).relu(), logits_NK.detach()


def guided_backprop(network: Part, x_NCHW: Tensor, classes_N: Tensor | None = None, rule: str = "guided") -> Tensor:
    """The class's logit sent back to the pixels.

    Args:
        network: normalised images to logits.
        x_NCHW: normalised images, float32.
        classes_N: as in `grad_cam`.
        rule: of `cnnray.nn.rectify`; whether the network suits it, the caller has checked.

    Returns:
        float32 [N, 3, H, W], signed, in units of the normalised image.
    """
    with torch.inference_mode(False), torch.enable_grad(), Rectified(rule):
        x_NCHW = x_NCHW.clone().requires_grad_()
        (signal_NCHW,) = torch.autograd.grad(_chosen(network(x_NCHW), classes_N), x_NCHW)
    return signal_NCHW


def guided_grad_cam(signal_NCHW: Tensor, heat_NHW: Tensor) -> Tensor:
    """The signal of guided backpropagation times Grad-CAM's map, which is resized to it (section 3.2)."""
    return signal_NCHW * enlarged(heat_NHW, signal_NCHW.shape[2], signal_NCHW.shape[3])[:, None]


def enlarged(heat_NHW: Tensor, height: int, width: int) -> Tensor:
    """Maps [N, H', W'] resized to [N, height, width], bilinear, both over the same area."""
    return F.interpolate(heat_NHW[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def stages_with_maps(stages: nn.Sequential, *shape: int) -> list[str]:
    """Names of the stages that give a map larger than 1x1, in their order; nothing is computed.

    Args:
        shape: of one input without the batch, such as (3, 224, 224).

    Raises:
        OptionError: no stage does.
    """
    found = []
    x = torch.empty(1, *shape, device="meta")
    with torch.no_grad():
        for name, stage in without_weights(stages).eval().named_children():
            x = stage(x)
            if x.ndim == 4 and x.shape[2] * x.shape[3] > 1:
                found.append(name)
    if not found:
        raise OptionError(f"expected a stage with a map larger than 1x1 for images of {list(shape[1:])} px")
    return found


def _chosen(logits_NK: Tensor, classes_N: Tensor | None) -> Tensor:
    """The sum of the chosen logits: each depends on its own image alone."""
    if classes_N is None:
        classes_N = winners(logits_NK)
    return logits_NK.gather(1, classes_N.to(logits_NK.device)[:, None]).sum()


def winners(logits_NK: Tensor) -> Tensor:
    """The class with the largest logit, of equals the first, int64 [N]."""
    return logits_NK.detach().argmax(1)
