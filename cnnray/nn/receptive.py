"""Which pixels a unit of a convolutional layer can see, exactly, for chains, concatenations and skip connections.

The network runs once on tensors without content, and with each tensor travel, for each row and each column of its map,
the first and the last pixel that it depends on. A convolution or a pooling takes the least and the greatest over its
window without the padding; where tensors are joined, over all of them. Both axes are independent. All channels of a
tensor count as seen together, which they are wherever a convolution over all of them follows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cnnray.errors import OptionError
from cnnray.nn.backbones import Backbone
from cnnray.nn.layer_names import conv_layers, find_layer, layers_of
from cnnray.nn.watch import stages_up_to
from cnnray.ops.costs import without_weights

Box = tuple[int, int, int, int]

_NOWHERE = 1 << 40  # the start of what depends on no pixel: all of its window is padding


@dataclass(frozen=True)
class Axis:
    """What the places along one axis of a map depend on.

    Attributes:
        starts, stops: int64 [length of the map's axis], px of the image: from the first up to, not including, the last.
        side: of the image, px.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    side: int

    def slide(self, kernel: int, stride: int, padding: int, dilation: int, length: int) -> "Axis":
        """After a window has moved along the axis to `length` places."""
        index = np.arange(length)[:, None] * stride - padding + np.arange(kernel) * dilation
        inside, index = (index >= 0) & (index < len(self.starts)), index.clip(0, len(self.starts) - 1)
        starts = np.where(inside, self.starts[index], _NOWHERE).min(1)
        return Axis(starts, np.where(inside, self.stops[index], -_NOWHERE).max(1), self.side)

    def join(self, other: "Axis") -> "Axis":
        """Where both are put together; one of length 1 goes to all places."""
        starts, stops = np.minimum(self.starts, other.starts), np.maximum(self.stops, other.stops)
        return Axis(starts, stops, self.side)

    def whole(self, length: int) -> "Axis":
        """Where every place depends on all."""
        return Axis(np.full(length, self.starts.min()), np.full(length, self.stops.max()), self.side)

    def window(self, place: int) -> tuple[int, int]:
        """Start and stop of a place, as wide as those of the place that sees most: beyond the image's border."""
        start, stop = int(self.starts[place]), int(self.stops[place])
        missing = int((self.stops - self.starts).max()) - (stop - start)
        return (start - missing, stop) if start == 0 else (start, stop + missing)


@dataclass(frozen=True)
class Field:
    """The receptive fields of all units of a layer."""

    rows: Axis
    columns: Axis

    def box(self, place: tuple[int, int]) -> Box:
        """(top, left, bottom, right) in px of the image, bottom and right exclusive, of the unit at (row, column)."""
        self._check(place)
        (row, column), y, x = place, self.rows, self.columns
        return int(y.starts[row]), int(x.starts[column]), int(y.stops[row]), int(x.stops[column])

    def window(self, place: tuple[int, int]) -> Box:
        """As `box`, but of the same size for all places: beyond the image where that cuts the field."""
        self._check(place)
        (top, bottom), (left, right) = self.rows.window(place[0]), self.columns.window(place[1])
        return top, left, bottom, right

    def _check(self, place: tuple[int, int]) -> None:
        sides = len(self.rows.starts), len(self.columns.starts)
        if not all(0 <= at < side for at, side in zip(place, sides, strict=True)):
            raise OptionError(f"the layer has a map of {list(sides)} here, got place {list(place)}")


def receptive_field(backbone: Backbone, layer: str, input_hw: tuple[int, int], place: tuple[int, int]) -> Box:
    """The part of the image that a unit depends on, see `Field.box`.

    Args:
        layer: of `conv_layers`.
        input_hw: height and width of the image, px.
        place: (row, column) of the unit in the layer's map.

    Raises:
        UnknownNameError: no such layer.
        OptionError: a place outside of the map.
    """
    return receptive_fields(backbone, input_hw, [layer])[layer].box(place)


def receptive_fields(backbone: Backbone, input_hw: tuple[int, int], layers: Iterable[str]) -> dict[str, Field]:
    """Of several convolutions, by name; where a map changes its size in any other way than by a window, its places are
    taken to see all that it sees.

    Raises:
        UnknownNameError: no such layer.
    """
    known = conv_layers(backbone)
    chosen = {name: find_layer(known, name, backbone.name) for name in layers}
    if not chosen:
        return {}
    body = without_weights(stages_up_to(backbone, chosen.values())).eval()
    copied = layers_of(body)
    trace = _Trace({id(copied[name].conv.weight): name for name in chosen})
    x = torch.empty(1, 3, *input_hw, device="meta")
    trace.put(x, Field(*(Axis(np.arange(side), np.arange(side) + 1, side) for side in input_hw)))
    with torch.no_grad(), trace:
        body(x)
    return trace.found


class _Trace(TorchFunctionMode):
    """Carries fields from the inputs of each function to its output."""

    def __init__(self, weights: dict[int, str]) -> None:
        super().__init__()
        self.found: dict[str, Field] = {}
        self._weights = weights
        self._fields: dict[int, tuple[Tensor, Field]] = {}  # the tensor is kept, so that its id stays its own

    def put(self, tensor: Tensor, field: Field) -> None:
        self._fields[id(tensor)] = tensor, field

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        fields = [self._fields[id(t)][1] for t in _tensors((*args, *kwargs.values())) if id(t) in self._fields]
        result = func(*args, **kwargs)
        if fields and isinstance(result, Tensor):
            name = getattr(func, "__name__", "")
            field = _AFTER.get(name, _after_any)(fields, args, kwargs, result)
            self.put(result, field)
            if name == "conv2d" and id(args[1]) in self._weights:
                self.found[self._weights[id(args[1])]] = field
        return result


def _tensors(values: tuple[Any, ...] | list[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _after_any(fields: list[Field], args: Any, kwargs: Any, result: Tensor) -> Field:
    """Each place of itself where the map keeps its size, all of all where it does not."""
    height, width = result.shape[-2:] if result.ndim == 4 else (1, 1)
    rows, columns = fields[0].rows, fields[0].columns
    for field in fields[1:]:
        rows, columns = rows.join(field.rows), columns.join(field.columns)
    if (len(rows.starts), len(columns.starts)) == (height, width):
        return Field(rows, columns)
    return Field(rows.whole(height), columns.whole(width))


def _after_conv(fields: list[Field], args: Any, kwargs: Any, result: Tensor) -> Field:
    given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), args, strict=False)) | kwargs
    kernel = given["weight"].shape[2:]
    return _slide(fields[0], kernel, given.get("stride", 1), given.get("padding", 0), given.get("dilation", 1), result)


def _after_pool(fields: list[Field], args: Any, kwargs: Any, result: Tensor) -> Field:
    given = dict(zip(("input", "kernel_size", "stride", "padding"), args, strict=False)) | kwargs
    stride, kernel = given.get("stride"), given["kernel_size"]
    dilation = given.get("dilation", 1)
    return _slide(
        fields[0], kernel, kernel if stride in (None, []) else stride, given.get("padding", 0), dilation, result
    )


def _after_pad(fields: list[Field], args: Any, kwargs: Any, result: Tensor) -> Field:
    left, _, top, _ = kwargs["pad"] if "pad" in kwargs else args[1]
    return _slide(fields[0], 1, 1, (top, left), 1, result)


def _slide(field: Field, kernel: Any, stride: Any, padding: Any, dilation: Any, result: Tensor) -> Field:
    k, s, p, d = ((given, given) if isinstance(given, int) else given for given in (kernel, stride, padding, dilation))
    height, width = result.shape[-2:]
    rows = field.rows.slide(k[0], s[0], p[0], d[0], height)
    return Field(rows, field.columns.slide(k[-1], s[-1], p[-1], d[-1], width))


_AFTER: dict[str, Callable[[list[Field], Any, Any, Tensor], Field]] = {
    "conv2d": _after_conv,
    "max_pool2d": _after_pool,
    "avg_pool2d": _after_pool,
    "pad": _after_pad,
}
