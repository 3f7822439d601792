"""Activations of a network's inner layers, seen while it computes: no hooks, so threads do not see each other's."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnray.nn.backbones import Backbone
from cnnray.nn.layer_names import ConvLayer

_FUNCTIONS = ("conv2d", "batch_norm")


class Watch(TorchFunctionMode):
    """Within it, in one thread, `see` is called with name and activation of each of the layers, as they compute.

    Args:
        layers: to be watched, by name.
        see: gets the name and the activation [N, F, H', W']; what it returns goes on in the network. The network may
            write into that later.
    """

    def __init__(self, layers: Mapping[str, ConvLayer], see: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self._names = {id(layer.key): name for name, layer in layers.items()}
        self._see = see

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch for each of its functions."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") in _FUNCTIONS:
            for argument in (*args, *kwargs.values()):
                if id(argument) in self._names:
                    return self._see(self._names[id(argument)], result)
        return result


def stages_up_to(backbone: Backbone, layers: Iterable[ConvLayer]) -> nn.Sequential:
    """The stages that have to compute before all of the layers have."""
    last = max((layer.stage for layer in layers), key=backbone.taps.index)
    return backbone.split(last)[0]


def normalised(images_NCHW: Tensor, backbone: Backbone) -> Tensor:
    """What the first stage sees of images, float32 in channels_last memory on the backbone's device.

    Args:
        images_NCHW: [N, 3, H, W], uint8 in 0..255 or float in [0, 1].
    """
    device = next(backbone.parameters()).device
    mean, std = (
        torch.tensor(given, device=device).reshape(1, 3, 1, 1) for given in (backbone.spec.mean, backbone.spec.std)
    )
    x = images_NCHW.to(device, torch.float32, memory_format=torch.channels_last)
    return ((x / 255 if images_NCHW.dtype == torch.uint8 else x) - mean) / std
