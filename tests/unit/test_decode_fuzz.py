"""Damaged files of every kind: only arrays of the promised form or ImageError come out, in bounded memory."""

import io
import random
import resource
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnray.errors import IMAGE_CODES, ImageError
from cnnray.ops.decode import decode

FILES_PER_BASE = 700
MAX_PIXELS = 1_000_000


def smooth(channels):
    noise = np.random.default_rng(channels).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    planes = [Image.fromarray(noise[:, :, i]).resize((31, 22), Image.BICUBIC) for i in range(channels)]
    return Image.merge({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], planes)


def encode(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def base_files():
    rgb, grey, rgba = smooth(3), smooth(1), smooth(4)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera of some make"
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {
        "jpeg": encode(rgb, "JPEG", exif=exif),
        "jpeg grey": encode(grey, "JPEG"),
        "jpeg cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True),
        "png": encode(rgb, "PNG", exif=exif),
        "png palette": encode(rgb.quantize(16), "PNG", transparency=3),
        "png 16 bit": encode(deep, "PNG"),
        "png alpha": encode(rgba, "PNG"),
        "webp": encode(rgb, "WEBP", exif=exif),
        "webp lossless": encode(rgba, "WEBP", lossless=True),
        "bmp": encode(rgb, "BMP"),
        "tiff": encode(rgb, "TIFF"),
        "tiff deflated": encode(deep, "TIFF", compression="tiff_adobe_deflate"),
        "tiff float": encode(Image.fromarray(np.asarray(grey).astype(np.float32)), "TIFF"),
        "gif": encode(rgb.quantize(16), "GIF", transparency=2),
        "pgm": encode(grey, "PPM"),
    }


BASES = base_files()


# ---- mutations: each takes a random generator and a bytearray, and returns bytes


def flip_bits(rng, data):
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flip_header(rng, data):
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(min(64, len(data)))] = rng.randrange(256)
    return data


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def splice(rng, data):
    at, size = rng.randrange(len(data)), rng.randrange(1, 200)
    data[at : at + size] = rng.choice((b"", bytes(size), b"\xff" * size, rng.randbytes(size)))
    return data


def repeat_chunk(rng, data):
    at, size = rng.randrange(len(data)), rng.randrange(1, 300)
    data[at:at] = data[at : at + size] * rng.choice((1, 2, 50))
    return data


def set_number(rng, data):
    """An extreme number in either byte order: a size, a length, an offset or a count."""
    size = rng.choice((2, 4))
    value = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 5000)) % 256**size
    at = rng.randrange(min(200, len(data)))
    data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))
    return data


def cross(rng, data):
    """The head of one format on the body of another."""
    other = BASES[rng.choice(list(BASES))]
    return other[: rng.randrange(1, 60)] + data[rng.randrange(60) :]


MUTATIONS = (flip_bits, flip_bits, flip_header, cut, splice, repeat_chunk, set_number, cross)


def outcome(data):
    try:
        pixels = decode(bytes(data), max_pixels=MAX_PIXELS)
    except ImageError as error:
        assert error.code in IMAGE_CODES and str(error)
        return error.code
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
    return "decoded"


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("name", BASES)
def test_damaged_files_give_arrays_or_typed_errors(name):
    assert outcome(BASES[name]) == "decoded"
    rng = random.Random(f"fuzz {name}")
    before = peak_mib()
    outcomes = Counter(outcome(rng.choice(MUTATIONS)(rng, bytearray(BASES[name]))) for _ in range(FILES_PER_BASE))
    assert peak_mib() - before < 100
    # The damage reaches the decoders: it neither stops at the door nor leaves all files whole.
    assert outcomes["decoded"] > 20
    assert outcomes["truncated"] + outcomes["corrupt"] > FILES_PER_BASE / 10


def test_ten_thousand_files_are_tried():
    assert FILES_PER_BASE * len(BASES) >= 10_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes(data):
    outcome(data)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(BASES)), st.integers(0, 60), st.binary(max_size=300))
def test_arbitrary_bytes_behind_a_real_head(name, length, data):
    outcome(BASES[name][:length] + data)
