"""What the filters of a network look for: the images that make each fire most, and what in them does.

Visualizing and Understanding Convolutional Networks (DeconvNet), Zeiler and Fergus 2013, arXiv:1311.2901, figure 2
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnray.errors import OptionError
from cnnray.infer.embed import CPU_BATCH
from cnnray.nn.backbones import Backbone
from cnnray.nn.deconv import Deconv, strongest_places
from cnnray.nn.device import choose_device, single_threaded
from cnnray.nn.layer_names import conv_layers, find_layer
from cnnray.nn.receptive import Field, receptive_fields
from cnnray.nn.watch import Watch, normalised, stages_up_to
from cnnray.ops.show import crop
from cnnray.ops.strongest import State, Strongest

GPU_BATCH = 64


class TopNine:
    """The images that make each filter of some layers fire most, kept while images pass by.

    A filter fires in an image as much as at its strongest place, before the ReLU; where that is at most 0, the image
    does not count. Beside the network it costs one maximum of each map; the place is searched only for images that are
    kept. Not for several threads: give each its own and merge their states.

    On a CPU it computes in one thread, and everywhere in batches of one size, padded where images are missing: what an
    image gives does not depend on its neighbours, on the division into parts, or on the number of cores.

    Args:
        backbone: put in evaluation mode and moved to the device; only the stages up to the last of the layers compute.
        layers: names, see `conv_layers`.
        k: images to keep for each filter.
        device: see `choose_device`.
        start: state to go on from, of the same layers and k; None is before any image.

    Attributes:
        num_filters: of each layer, by name.
        state: of each layer, by name; see `cnnray.ops.strongest` for merging states and for their form as a table.

    Raises:
        UnknownNameError: no such layer.
        OptionError: no layer, k under 1, or a device that is not there.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        k: int = 9,
        device: str = "auto",
        start: State | None = None,
    ) -> None:
        if not layers:
            raise OptionError("expected at least one layer")
        self._device = choose_device(device)
        self._batch_size = GPU_BATCH if self._device.type == "cuda" else CPU_BATCH
        backbone = backbone.eval().to(self._device)
        known = conv_layers(backbone)
        self._layers = {name: find_layer(known, name, backbone.name) for name in layers}
        self._lower = stages_up_to(backbone, self._layers.values())
        self._backbone = backbone
        self.num_filters = {name: layer.num_filters for name, layer in self._layers.items()}
        empty = {name: Strongest.none(count, k) for name, count in self.num_filters.items()}
        self.state = empty if start is None else dict(start)

    def update(self, ids: Sequence[str], images_NCHW: Tensor) -> None:
        """Let images pass by.

        Args:
            ids: one for each image; an image that comes again under the same id changes nothing.
            images_NCHW: [N, 3, H, W], uint8 in 0..255 or float in [0, 1].

        Raises:
            OptionError: another number of ids than of images, or an empty id.
        """
        if len(ids) != len(images_NCHW) or not all(ids):
            raise OptionError(f"expected an id for each of {len(images_NCHW)} images, got {list(ids)}")
        names_N = np.array(ids, str)
        with torch.inference_mode(), single_threaded(self._device):
            for start in range(0, len(ids), self._batch_size):
                part = slice(start, start + self._batch_size)
                self._pass(names_N[part], images_NCHW[part].to(self._device))

    def _pass(self, ids_N: NDArray[np.str_], images_NCHW: Tensor) -> None:
        count, missing = len(ids_N), self._batch_size - len(ids_N)
        images_NCHW = torch.cat([images_NCHW, images_NCHW.new_zeros(missing, *images_NCHW.shape[1:])])
        images_NCHW = images_NCHW.contiguous()  # full batches too: sums have another order in other memory formats

        def see(layer: str, activation_NFHW: Tensor) -> Tensor:
            self._keep(layer, ids_N, activation_NFHW[:count])
            return activation_NFHW

        with Watch(self._layers, see):
            self._lower(normalised(images_NCHW, self._backbone))

    def _keep(self, layer: str, ids_N: NDArray[np.str_], activation_NFHW: Tensor) -> None:
        values_NF = activation_NFHW.amax((2, 3)).cpu().numpy()
        least_F = self.state[layer].least_F
        filters, images = np.nonzero(((values_NF > 0) & (values_NF >= least_F)).T)
        if not len(filters):
            return
        rows, row_of = np.unique(filters, return_inverse=True)
        found = Strongest.none(len(rows), len(ids_N))
        found.values_FK[row_of, images] = values_NF[images, filters]
        maps = activation_NFHW[torch.from_numpy(images), torch.from_numpy(filters)]
        found.places_FK2[row_of, images] = strongest_places(maps).cpu().numpy()
        found = Strongest(found.values_FK, np.broadcast_to(ids_N, found.values_FK.shape), found.places_FK2)
        self.state[layer] = self.state[layer].with_candidates(rows, found)


@dataclass(frozen=True)
class Reconstruction:
    """What a unit saw and what in it made it fire, both of the size of the layer's receptive field.

    Attributes:
        patch_HWC: uint8 RGB, the part of the image that the unit sees; grey beyond the image.
        signal_HWC: float32, signed, the unit's activation projected back to the same part; 0 beyond the image.
        value: the activation.
        box: (top, left, bottom, right) of the part in px of the image, bottom and right exclusive.
    """

    patch_HWC: NDArray[np.uint8]
    signal_HWC: NDArray[np.float32]
    value: float
    box: tuple[int, int, int, int]


class Reconstructor:
    """Units of images projected back and cut out, many at a time; safe to call from several threads at once.

    As in TopNine a CPU computes in one thread, and batches are of one size: a picture does not depend on what is
    drawn beside it.

    Args:
        backbone: put in evaluation mode and moved to the device.
        rule: see `cnnray.nn.deconv.Deconv`.
        size: height and width of the images, px.
        layers: names, see `conv_layers`.
        device: see `choose_device`.

    Raises:
        UnknownNameError: no such layer or rule.
        OptionError: a network with activations that the rule does not know, or a device that is not there.
    """

    def __init__(self, backbone: Backbone, rule: str, size: int, layers: Sequence[str], device: str = "auto") -> None:
        self._device = choose_device(device)
        self._batch_size = GPU_BATCH if self._device.type == "cuda" else CPU_BATCH
        self._deconv = Deconv(backbone.to(self._device), rule)
        self._fields = receptive_fields(backbone, (size, size), layers)

    def batches(self, count: int) -> list[slice]:
        """How so many units are divided into calls that each fill one batch."""
        return [slice(at, at + self._batch_size) for at in range(0, count, self._batch_size)]

    def show(self, images_NCHW: Tensor, layer: str, filters_N: Tensor, places_N2: Tensor) -> list[Reconstruction]:
        """One unit of each image.

        Args:
            images_NCHW: uint8 [N, 3, size, size], at least one and at most a batch.
            layer: one of `layers`.
            filters_N: int64.
            places_N2: (row, column) in the layer's map, int64.

        Raises:
            OptionError: a filter or place that the layer does not have.
        """
        count = len(images_NCHW)
        fill = torch.arange(self._batch_size).clamp(max=count - 1)
        with single_threaded(self._device):
            found = reconstruct(
                self._deconv, images_NCHW[fill], layer, filters_N[fill], places_N2[fill], self._fields[layer]
            )
        return found[:count]


def reconstruct(
    deconv: Deconv,
    images_NCHW: Tensor,
    layer: str,
    filters_N: Tensor,
    places_N2: Tensor | None = None,
    field: Field | None = None,
) -> list[Reconstruction]:
    """One unit of each image, projected back and cut out.

    Args:
        images_NCHW: uint8 [N, 3, H, W].
        layer: a name in `deconv.layers`.
        filters_N: int64.
        places_N2: (row, column) in the layer's map, int64; None is the filter's strongest.
        field: of the layer for images of this size, where the caller has it.

    Raises:
        UnknownNameError: no such layer.
        OptionError: a filter or place that the layer does not have.
    """
    projected = deconv.project(images_NCHW, layer, filters_N, places_N2)
    height, width = images_NCHW.shape[2:]
    field = field or receptive_fields(deconv.backbone, (height, width), [layer])[layer]
    found = []
    for number, (row, column) in enumerate(projected.places_N2.tolist()):
        box = field.window((row, column))
        image_HWC = images_NCHW[number].permute(1, 2, 0).cpu().numpy()
        signal_HWC = projected.signal_NCHW[number].permute(1, 2, 0).cpu().numpy()
        value = float(projected.values_N[number])
        found.append(Reconstruction(crop(image_HWC, box), crop(signal_HWC, box, fill=0), value, box))
    return found
