"""The stages of a backbone as an encoder: maps of several sizes, for segmenters and detectors."""

from typing import NamedTuple

from torch import Tensor, nn

from cnnray.errors import OptionError
from cnnray.nn.backbones import Backbone
from cnnray.ops.costs import output_shape

LOW_STRIDE = 4  # edges and colours, which are the same everywhere


class Layers(NamedTuple):
    """The parts of a network that learn differently.

    Attributes:
        stages: of its backbone, from the image on.
        num_low: of these, the first ones whose maps are finer than all that is predicted on: up to LOW_STRIDE.
        others: what is not pre-trained, or for other classes.
    """

    stages: tuple[nn.Module, ...]
    num_low: int
    others: tuple[nn.Module, ...]


class BackboneEncoder(nn.Module):
    """The stages of a backbone; the last one at each size is a bridge. The picture itself is the first map.

    Attributes:
        channels: of its outputs, full resolution first.
        strides: of its outputs, px from one place to the next; 0 where borders without padding make it no whole number.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        shapes: list[tuple[int, ...]] = []
        size = 32 * -(-backbone.spec.input_size // 32)  # halved five times without a rest
        for tap in backbone.taps[:-1]:
            shape = output_shape(backbone.split(tap)[0], 3, size, size)
            if len(shape) == 3 and min(shape[1:]) > 1:
                shapes.append(shape)
        sides = [shape[1] for shape in shapes]
        if not sides:
            raise OptionError(f"expected an encoder that gives maps, but {backbone.name} gives none")
        self.stages = nn.ModuleList(list(backbone.body)[: len(shapes)])
        # a stage is a bridge where the next one is smaller; the last stage is the bottom
        self.kept = tuple(n for n, side in enumerate(sides) if n + 1 == len(sides) or sides[n + 1] < side)
        self.channels = (3, *(shapes[number][0] for number in self.kept))
        self.strides = (1, *(_stride(size, sides[number]) for number in self.kept))

    @property
    def num_low(self) -> int:
        """Stages with maps up to LOW_STRIDE, see `Layers`."""
        low = [n for n, stride in zip(self.kept, self.strides[1:], strict=True) if 0 < stride <= LOW_STRIDE]
        return low[-1] + 1 if low else 0

    def forward(self, x: Tensor) -> list[Tensor]:
        """The picture and the kept maps, full resolution first."""
        maps = [x]
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in self.kept:
                maps.append(x)
        return maps


def _stride(size: int, side: int) -> int:
    stride = round(size / side)
    return stride if -(-size // stride) == side else 0
