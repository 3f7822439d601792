"""dlib's files: numbers as it writes them, and what is cut short or changed."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnray.errors import CheckpointError
from cnnray.nn.dlib_file import Reader, read_network, read_shape


def integer(value):
    size = max(1, -(-abs(value).bit_length() // 8))
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def number(value):
    """Mantissa and exponent as dlib chooses them: as many binary digits as a double has."""
    if not math.isfinite(value):
        return integer(0) + integer(32002 if math.isnan(value) else 32000 if value > 0 else 32001)
    mantissa, exponent = math.frexp(value)
    return integer(int(mantissa * 2**53)) + integer(exponent - 53)


def text(value):
    return integer(len(value)) + value.encode()


def tensor(array):
    shape = array.shape + (1,) * (4 - array.ndim)
    return integer(2) + b"".join(map(integer, shape)) + struct.pack(f"<{array.size}f", *array.ravel())


def part(*shape):
    return integer(1) + b"".join(map(integer, shape))


def matrix(rows):
    head = integer(-len(rows)) + integer(-len(rows[0]))
    return head + b"".join(number(value) for row in rows for value in row)


def items(*parts):
    return integer(len(parts)) + b"".join(parts)


TRAINING = b"110" + b"".join(tensor(np.zeros((0, 0, 0, 0), np.float32)) for _ in range(3))
RATES = b"".join(map(number, (1.0, 1.0, 1.0, 0.0)))


def network(first=3.5):
    """Two convolutions of one filter each, a batch norm with known statistics, and a ReLU."""
    numbers = np.array([first, 2, -1], np.float32)
    sizes = b"".join(map(integer, (1, 1, 2, 2, 2, 0, 0)))
    con = text("con_4") + tensor(numbers) + sizes + part(1, 1, 1, 2) + part(1, 1, 1, 1) + RATES + TRAINING
    stats = tensor(np.array([4.0], np.float32)), tensor(np.array([0.25], np.float32))
    norm = text("bn_con2") + tensor(np.array([3, 0.5], np.float32)) + part(1, 1, 1, 1) * 2
    norm += stats[0] + stats[1] + stats[0] + stats[1] + integer(100) + integer(100) + RATES + number(0.0) + TRAINING
    relu = text("relu_") + TRAINING
    head = integer(1) + text("loss_x") + integer(2) * 4
    return (
        head + text("input_rgb_image_pyramid") + b"".join(map(number, (1.5, 2.5, 3.5))) + con + integer(1) + norm + relu
    )


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers(value):
    reader = Reader(integer(value), "f")
    assert reader.integer() == value and reader.is_done()


@given(st.floats(allow_subnormal=False))
def test_numbers_to_the_last_bit(value):
    found = Reader(number(value), "f").number()
    assert found == value or math.isnan(found) and math.isnan(value)


def test_a_network_by_its_layers():
    found = read_network(network(), "net.dat")
    assert found.means == (1.5, 2.5, 3.5) and [layer.name for layer in found.layers] == ["con_4", "bn_con2", "relu_"]
    con, norm, _ = found.layers
    assert con.sizes == (1, 1, 2, 2, 2, 0, 0)
    assert con.tensors["weight"].tolist() == [[[[3.5, 2]]]] and con.tensors["bias"].tolist() == [-1]
    # 3 * (x - 4) / 0.5 + 0.5
    assert norm.tensors["scale"].tolist() == [6] and norm.tensors["shift"].tolist() == [-23.5]


def test_a_cascade_by_its_trees():
    split = integer(1) + integer(0) + number(0.25)
    tree = items(split) + items(matrix([[0.5], [1]]), matrix([[2], [3]]))
    content = integer(1) + matrix([[0.125], [0.75]]) + items(items(tree, tree))
    content += items(items(integer(0), integer(0))) + items(
        items(number(1.0) + number(2.0), number(-1.0) + number(0.5))
    )
    found = read_shape(content, "shape.dat")
    assert found.initial_P.tolist() == [0.125, 0.75] and len(found.forests) == 1 and len(found.forests[0]) == 2
    one = found.forests[0][0]
    assert one.places_S2.tolist() == [[1, 0]] and one.thresholds_S.tolist() == [0.25]
    assert one.leaves_LP.tolist() == [[0.5, 1], [2, 3]]
    assert found.anchors[0].tolist() == [0, 0] and found.deltas[0].tolist() == [[1, 2], [-1, 0.5]]
    for end in range(1, len(content)):
        with pytest.raises(CheckpointError, match="of shape.dat, which has .*cut short or changed"):
            read_shape(content[:end], "shape.dat")
    with pytest.raises(CheckpointError, match="expected the end at byte"):
        read_shape(content + b"1", "shape.dat")


def test_a_network_cut_short_anywhere_is_refused():
    content = network()
    for end in range(0, len(content), 3):
        try:
            found = read_network(content[:end], "net.dat")
        except CheckpointError as error:
            assert "of net.dat, which has" in str(error)
        else:  # between two layers nothing tells that more should come; the checksum does
            assert len(found.layers) < 3


@given(st.binary(max_size=300))
def test_whatever_is_in_a_file_is_read_or_refused(content):
    for read in (read_network, read_shape):
        with pytest.raises(CheckpointError):
            read(content, "f")
