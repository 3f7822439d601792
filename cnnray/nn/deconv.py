"""Activations of a network projected back to pixels: what in this image made this unit fire?

Visualizing and Understanding Convolutional Networks (DeconvNet), Zeiler and Fergus 2013, arXiv:1311.2901

One unit of a layer keeps its activation and all others are set to zero. From there the layers are passed backwards:
each max pooling puts the signal where its maximum came from, each ReLU lets only what is positive pass, each
convolution is applied with its filters transposed (section 2.1, figure 1). How autograd does that is said in
`cnnray.nn.rectify`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnray.errors import OptionError
from cnnray.nn.backbones import Backbone
from cnnray.nn.layer_names import ConvLayer, conv_layers, find_layer
from cnnray.nn.rectify import Rectified, check_rectified
from cnnray.nn.watch import Watch, normalised, stages_up_to


@dataclass(frozen=True)
class Projection:
    """Of one unit for each image.

    Attributes:
        signal_NCHW: float32 [N, 3, H, W], signed, in units of the normalised image; zero outside of the receptive
            field, and everywhere if the unit did not fire.
        values_N: the units' activations, float32.
        places_N2: (row, column) of the units in the layer's map, int64.
    """

    signal_NCHW: Tensor
    values_N: Tensor
    places_N2: Tensor


class Deconv:
    """Projects activations of a backbone back to its images; safe to call from several threads at once.

    Args:
        backbone: put in evaluation mode; its weights are only read.
        rule: "deconv", "guided" or "gradient", see `cnnray.nn.rectify`; `suited_rule` names the one for a network.

    Attributes:
        layers: the convolutions by name, see `conv_layers`.

    Raises:
        UnknownNameError: another rule.
        OptionError: a network with activations that the rule does not know.
    """

    def __init__(self, backbone: Backbone, rule: str = "deconv") -> None:
        self.backbone = backbone.eval()
        self.rule = Rectified(rule).rule
        if rule != "gradient":
            size = backbone.spec.input_size
            check_rectified(backbone.body, backbone.name, 3, size, size)
        self.layers = conv_layers(backbone)

    def layer(self, name: str) -> ConvLayer:
        """The layer of that name.

        Raises:
            UnknownNameError: lists the known ones.
        """
        return find_layer(self.layers, name, self.backbone.name)

    def activations(self, images_NCHW: Tensor, layer: str) -> Tensor:
        """Of a layer, after its batch norm and before its ReLU.

        Args:
            images_NCHW: [N, 3, H, W], uint8 in 0..255 or float in [0, 1].
            layer: a name in `layers`.

        Returns:
            float32 [N, F, H', W'].

        Raises:
            UnknownNameError: no such layer.
        """
        with torch.no_grad():
            return self._forward(normalised(images_NCHW, self.backbone), self.layer(layer))

    def project(
        self, images_NCHW: Tensor, layer: str, filters_N: Tensor, places_N2: Tensor | None = None
    ) -> Projection:
        """One unit of each image, projected back to the image.

        Args:
            images_NCHW: [N, 3, H, W], uint8 in 0..255 or float in [0, 1].
            layer: a name in `layers`.
            filters_N: the unit's filter for each image, int64.
            places_N2: (row, column) of the unit in the layer's map, int64; None is the filter's strongest unit, of
                equals the first in reading order.

        Raises:
            UnknownNameError: no such layer.
            OptionError: a filter or place that the layer does not have.
        """
        target = self.layer(layer)
        with torch.inference_mode(False), torch.enable_grad():
            x_NCHW = normalised(images_NCHW, self.backbone).requires_grad_()
            activation = self._forward(x_NCHW, target)
            filters_N = filters_N.to(activation.device)
            _check_filters(filters_N, len(images_NCHW), layer, target.num_filters)
            images_N = torch.arange(len(filters_N), device=activation.device)
            maps_NHW = activation.detach()[images_N, filters_N]
            places_N2 = strongest_places(maps_NHW) if places_N2 is None else places_N2.to(activation.device)
            _check_places(places_N2, maps_NHW, layer)
            unit = images_N, filters_N, places_N2[:, 0], places_N2[:, 1]
            values_N = activation.detach()[unit]
            seed = torch.zeros_like(activation)
            seed[unit] = values_N.relu()
            (signal_NCHW,) = torch.autograd.grad(activation, x_NCHW, seed)
        return Projection(signal_NCHW, values_N, places_N2)

    def _forward(self, x_NCHW: Tensor, layer: ConvLayer) -> Tensor:
        """The layer's activation, a tensor into which nothing writes later."""
        seen: list[Tensor] = []

        def see(_: str, activation: Tensor) -> Tensor:
            seen.append(activation)
            return activation.detach().clone()  # a residual block adds its input in place

        with Rectified(self.rule), Watch({"": layer}, see):
            stages_up_to(self.backbone, [layer])(x_NCHW)
        return seen[0]


def strongest_places(maps_NHW: Tensor) -> Tensor:
    """(row, column) of the maximum of each map [N, H, W], int64 [N, 2]; of equals the first in reading order."""
    first_N = maps_NHW.flatten(1).argmax(1)
    return torch.stack([first_N // maps_NHW.shape[2], first_N % maps_NHW.shape[2]], 1)


def _check_filters(filters_N: Tensor, count: int, layer: str, num_filters: int) -> None:
    if filters_N.shape != (count,):
        raise OptionError(f"expected one filter for each of {count} images, got {list(filters_N.shape)}")
    if bool(((filters_N < 0) | (filters_N >= num_filters)).any()):
        raise OptionError(f"{layer} has filters 0 to {num_filters - 1}, got {filters_N.tolist()}")


def _check_places(places_N2: Tensor, maps_NHW: Tensor, layer: str) -> None:
    sides = torch.tensor(maps_NHW.shape[1:], device=places_N2.device)
    if places_N2.shape != (len(maps_NHW), 2):
        raise OptionError(f"expected (row, column) for each of {len(maps_NHW)} images, got {list(places_N2.shape)}")
    if bool(((places_N2 < 0) | (places_N2 >= sides)).any()):
        raise OptionError(f"{layer} has a map of {list(maps_NHW.shape[1:])} here, got places {places_N2.tolist()}")
