"""Reads files that dlib has written: its networks and its shape predictors, as plain numbers.

dlib's format is a plain sequence of values without names or offsets:

    integer    a byte with the number of bytes that follow, its highest bit the sign; then these, little-endian
    number     mantissa and exponent, two integers: mantissa * 2^exponent; some exponents stand for infinities and NaN
    text       its length, then its bytes
    list       its length, then its items
    matrix     minus its rows, minus its columns, then its numbers, row by row
    tensor     2 (a version), four sizes, then 32-bit floats, little-endian

A network is the version numbers of its layers, outermost first, then its layers as they compute, each with its name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import CheckpointError

Floats = NDArray[np.float32]
Item = TypeVar("Item")
_SIGN, _BYTES = 0x80, 0x0F
_NOT_FINITE = {32000: math.inf, 32001: -math.inf, 32002: math.nan}
_LONGEST = 10**7  # items of a list, letters of a text: more is a damaged file


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: of its kind, as dlib has it, such as "con_4".
        sizes: its whole numbers, in dlib's order.
        tensors: its arrays by name, float32.
    """

    name: str
    sizes: tuple[int, ...] = ()
    tensors: dict[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkFile:
    """A network as dlib has stored it.

    Attributes:
        means: of red, green and blue, which are taken from the pixels before these are divided by 256.
        layers: as they compute, from the input on.
    """

    means: tuple[float, float, float]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Tree:
    """One regression tree: its inner nodes in breadth-first order, then its leaves.

    Attributes:
        places_S2: int64, of each split the two pixels that are compared.
        thresholds_S: of their difference.
        leaves_LP: float32, what each of the S + 1 leaves adds to the shape.
    """

    places_S2: NDArray[np.int64]
    thresholds_S: Floats
    leaves_LP: Floats


@dataclass(frozen=True)
class ShapeFile:
    """A cascade of regression trees as dlib has stored it.

    Attributes:
        initial_P: the mean shape: x and y of each landmark in turn, in the face's box from 0 to 1.
        forests: trees of each step.
        anchors, deltas: of each step: of each pixel the number of the landmark that it hangs on, and (x, y) from there.
    """

    initial_P: Floats
    forests: tuple[tuple[Tree, ...], ...]
    anchors: tuple[NDArray[np.int64], ...]
    deltas: tuple[Floats, ...]


class Reader:
    """Takes one value after the other from a file's content.

    Args:
        content: of the file.
        name: of the file, for messages.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._name, self._at = content, name, 0

    def fault(self, expected: str) -> CheckpointError:
        """The error of a file that goes on otherwise than expected."""
        return CheckpointError(
            f"expected {expected} at byte {self._at:,} of {self._name}, which has {len(self._content):,}: it was cut "
            "short or changed, or is no such file of dlib's"
        )

    def take(self, count: int, expected: str) -> bytes:
        """The next bytes."""
        if count < 0 or self._at + count > len(self._content):
            raise self.fault(expected)
        self._at += count
        return self._content[self._at - count : self._at]

    def integer(self) -> int:
        """A whole number."""
        head = self.take(1, "a whole number")[0]
        size = head & _BYTES
        if not 1 <= size <= 8 or head & ~(_SIGN | _BYTES):
            raise self.fault("a whole number")
        value = int.from_bytes(self.take(size, "a whole number"), "little")
        return -value if head & _SIGN else value

    def count(self) -> int:
        """A length."""
        value = self.integer()
        if not 0 <= value <= _LONGEST:
            raise self.fault("a length")
        return value

    def number(self) -> float:
        """A number with a fraction."""
        mantissa, exponent = self.integer(), self.integer()
        if exponent in _NOT_FINITE:
            return _NOT_FINITE[exponent]
        try:
            return math.ldexp(mantissa, exponent)
        except OverflowError as error:
            raise self.fault("a number") from error

    def text(self) -> str:
        """ASCII text."""
        return self.take(self.count(), "a text").decode("ascii", "replace")

    def switch(self) -> bool:
        """Yes or no."""
        letter = self.take(1, "yes or no")
        if letter not in (b"0", b"1"):
            raise self.fault("yes or no")
        return letter == b"1"

    def items(self, read: Callable[[], Item]) -> list[Item]:
        """A list."""
        return [read() for _ in range(self.count())]

    def version(self, *known: int) -> int:
        """A version number.

        Raises:
            CheckpointError: none of the known ones.
        """
        value = self.integer()
        if value not in known:
            raise self.fault(f"version {' or '.join(map(str, known))}, not {value},")
        return value

    def matrix(self) -> Floats:
        """float32 [rows, columns]."""
        rows, columns = -self.integer(), -self.integer()
        if not 0 <= rows * columns <= _LONGEST:
            raise self.fault("the sizes of a matrix")
        return np.array([self.number() for _ in range(rows * columns)], np.float32).reshape(rows, columns)

    def tensor(self) -> Floats:
        """float32 with four axes."""
        self.version(2)
        shape = tuple(self.count() for _ in range(4))
        content = self.take(4 * math.prod(shape), "the numbers of a tensor")
        return np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)

    def shape(self) -> tuple[int, ...]:
        """Of a part of a tensor."""
        self.version(1)
        return tuple(self.count() for _ in range(4))

    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._content)

    def end(self) -> None:
        """The file must end here."""
        if not self.is_done():
            raise self.fault("the end")

    def skip_to(self, text: str) -> None:
        """Go to where a text begins; what is before is left out."""
        found = self._content.find(bytes([1, len(text)]) + text.encode(), self._at)
        if found < 0:
            raise self.fault(f"{text!r}")
        self._at = found


def read_network(content: bytes, name: str) -> NetworkFile:
    """A network with the layers that its face models use.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        CheckpointError: it was cut short or changed, or has other layers.
    """
    file = Reader(content, name)
    sized = b"input_rgb_image_sized" in content[:1000]
    file.skip_to("input_rgb_image_sized" if sized else "input_rgb_image_pyramid")
    file.text()
    means = (file.number(), file.number(), file.number())
    if sized:
        file.integer(), file.integer()
    layers: list[Layer] = []
    while not layers or not file.is_done():
        layers.append(_layer(file))
        for _ in range(3):  # of training: was set up, gradients are stale, are wanted
            file.switch()
        for _ in range(3):  # gradients and the last output
            file.tensor()
        if len(layers) == 1:
            file.integer()  # of the input: pictures for each example
    return NetworkFile(means, tuple(layers))


def read_shape(content: bytes, name: str) -> ShapeFile:
    """A shape predictor.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        CheckpointError: it was cut short or changed.
    """
    file = Reader(content, name)
    file.version(1)
    initial = file.matrix().flatten()
    forests = tuple(tuple(trees) for trees in file.items(lambda: file.items(lambda: _tree(file))))
    anchors = [np.array(row, np.int64) for row in file.items(lambda: file.items(file.count))]
    deltas = [
        np.array(row, np.float32).reshape(-1, 2)
        for row in file.items(lambda: file.items(lambda: (file.number(), file.number())))
    ]
    file.end()
    if not len(forests) == len(anchors) == len(deltas):
        raise file.fault("as many forests as sets of pixels")
    return ShapeFile(initial, forests, tuple(anchors), tuple(deltas))


def _tree(file: Reader) -> Tree:
    splits = file.items(lambda: (file.count(), file.count(), file.number()))
    leaves = file.items(lambda: file.matrix().flatten())
    if len(leaves) != len(splits) + 1 or len(leaves) & len(splits):
        raise file.fault("a full tree, with one leaf more than splits")
    places = np.array([split[:2] for split in splits], np.int64).reshape(-1, 2)
    return Tree(places, np.array([split[2] for split in splits], np.float32), np.stack(leaves))


def _layer(file: Reader) -> Layer:
    name = file.text()
    if name not in _LAYERS:
        raise file.fault(f"a layer among {', '.join(_LAYERS)}, not {name!r},")
    return _LAYERS[name](file, name)


def _convolution(file: Reader, name: str) -> Layer:
    numbers, sizes = file.tensor().flatten(), tuple(file.integer() for _ in range(7))
    filters, biases = file.shape(), file.shape()
    _rates(file)
    weight, bias = _parts(file, numbers, filters, biases)
    return Layer(name, sizes, {"weight": weight, "bias": bias.flatten()})


def _affine(file: Reader, name: str) -> Layer:
    numbers, gamma, beta = file.tensor().flatten(), file.shape(), file.shape()
    mode = file.integer()
    scale, shift = _parts(file, numbers, gamma, beta)
    return Layer(name, (mode,), {"scale": scale.flatten(), "shift": shift.flatten()})


def _batch_norm(file: Reader, name: str) -> Layer:
    numbers, gamma, beta = file.tensor().flatten(), file.shape(), file.shape()
    file.tensor(), file.tensor()  # statistics of the last batch
    mean, variance = file.tensor().flatten(), file.tensor().flatten()
    file.integer(), file.integer()  # updates of the statistics, and over how many batches
    _rates(file)
    epsilon = file.number()
    scale, shift = (part.flatten() for part in _parts(file, numbers, gamma, beta))
    scale = scale / np.sqrt(variance + np.float32(epsilon))
    return Layer(name, (), {"scale": scale, "shift": shift - scale * mean})


def _fully_connected(file: Reader, name: str) -> Layer:
    outputs, inputs = file.count(), file.count()
    numbers, weights, biases = file.tensor().flatten(), file.shape(), file.shape()
    file.integer()  # whether there are biases, which their shape says as well
    _rates(file)
    weight, _ = _parts(file, numbers, weights, biases)
    return Layer(name, (outputs, inputs), {"weight": weight.reshape(inputs, outputs)})


def _pooling(file: Reader, name: str) -> Layer:
    return Layer(name, tuple(file.integer() for _ in range(6)))


def _plain(file: Reader, name: str) -> Layer:
    return Layer(name)


def _rates(file: Reader) -> None:
    """Multipliers of learning rate and weight decay of weights and biases."""
    for _ in range(4):
        file.number()


def _parts(file: Reader, numbers: Floats, *shapes: tuple[int, ...]) -> list[Floats]:
    """A flat array cut into arrays of these shapes, which must use it up."""
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) != len(numbers):
        raise file.fault(f"{len(numbers):,} numbers for shapes {', '.join(map(str, shapes))}")
    ends = np.cumsum(sizes)
    return [numbers[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]


_LAYERS: dict[str, Callable[[Reader, str], Layer]] = {
    "con_4": _convolution,
    "affine_": _affine,
    "bn_con2": _batch_norm,
    "relu_": _plain,
    "add_prev_": _plain,
    "max_pool_2": _pooling,
    "avg_pool_2": _pooling,
    "fc_2": _fully_connected,
}
