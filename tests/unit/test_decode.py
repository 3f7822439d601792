"""Oracles: pixels written by hand, and Pillow's own conversion."""

import io
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnnray.errors import ImageError
from cnnray.ops.decode import decode
from cnnray.ops.pixels import orient

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (18, 25, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((61, 47), Image.BICUBIC))
GREY = NOISE[:, :, 0]


def encode(image, fmt, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, fmt, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, color, rows, extra=b""):
    """A PNG written by hand; `rows` are the bytes of all lines, each with its filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def code_of(data, **options):
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.code


# ---- pixels


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_rgb_comes_back_as_it_was(fmt):
    pixels = decode(encode(NOISE, fmt))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, NOISE)


def test_lossless_webp_and_deflated_tiff_come_back_as_they_were():
    np.testing.assert_array_equal(decode(encode(NOISE, "WEBP", lossless=True)), NOISE)
    np.testing.assert_array_equal(decode(encode(NOISE, "TIFF", compression="tiff_adobe_deflate")), NOISE)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_is_repeated_in_all_channels(fmt):
    np.testing.assert_array_equal(decode(encode(GREY, fmt)), np.repeat(GREY[:, :, None], 3, axis=2))


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_one_bit_is_black_and_white(fmt):
    bits = GREY > 127
    expected = np.repeat(np.where(bits, 255, 0)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(bits), fmt)), expected)


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_colours_are_looked_up(fmt):
    palette = Image.fromarray(NOISE).quantize(40)
    np.testing.assert_array_equal(decode(encode(palette, fmt)), np.asarray(palette.convert("RGB")))


def over_white(rgb, alpha):
    share = alpha[:, :, None] / 255
    return rgb * share + 255 * (1 - share)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_on_white(fmt):
    alpha = RNG.integers(0, 256, GREY.shape, dtype=np.uint8)
    options = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    pixels = decode(encode(np.dstack([NOISE, alpha]), fmt, **options))
    assert np.abs(pixels - over_white(NOISE, alpha)).max() <= 1


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_grey_with_alpha_is_composited_on_white(fmt):
    alpha = RNG.integers(0, 256, GREY.shape, dtype=np.uint8)
    image = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha)))
    assert np.abs(decode(encode(image, fmt)) - over_white(GREY[:, :, None], alpha)).max() <= 1


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0, 128])])
def test_transparent_palette_entries_become_white(transparency):
    image = Image.fromarray(GREY % 5, mode="P")
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 100, 0])
    pixels = decode(encode(image, "PNG", transparency=transparency))
    assert (pixels[image.getchannel(0) == np.uint8(3)] == 255).all()
    assert (pixels[GREY % 5 == 2] == (40, 50, 60)).all()


def test_one_transparent_colour_of_grey_and_rgb_becomes_white():
    assert (decode(encode(GREY, "PNG", transparency=int(GREY[0, 0])))[0, 0] == 255).all()
    assert (decode(encode(NOISE, "PNG", transparency=tuple(map(int, NOISE[2, 3]))))[2, 3] == 255).all()
    deep = np.array([[0, 40_000, 65_535]], np.uint16)
    rows = b"\0" + deep.astype(">u2").tobytes()
    pixels = decode(png(3, 1, 16, 0, rows, extra=chunk(b"tRNS", struct.pack(">H", 40_000))))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 255, 255])


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    for data in (encode(ramp, "PNG"), encode(ramp, "TIFF"), encode(ramp, "PPM")):
        pixels = decode(data)
        assert len(np.unique(pixels)) == 256
        np.testing.assert_array_equal(pixels[:, :, 0], np.rint(ramp / 257).astype(np.uint8))
        assert (pixels == pixels[:, :, :1]).all()


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colour_and_alpha_are_scaled(color, channels):
    deep = RNG.integers(0, 65536, (9, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + line.tobytes() for line in deep)
    values = deep.astype(float) / 257
    expected = values if channels == 3 else over_white(values[:, :, :-1], values[:, :, -1])
    # Pillow keeps the upper byte of each value: up to one level below the quotient, once more for alpha.
    assert np.abs(decode(png(7, 9, 16, color, rows)) - expected).max() <= 2.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 254.6]], np.float32), [0, 100, 255]),
        (np.array([[-1.0, 0.0, 3.0]], np.float32), [0, 64, 255]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[0.0, -np.inf, 0.0]], np.float32), [0, 0, 0]),
        (np.array([[-7.0, -7.0, -7.0]], np.float32), [0, 0, 0]),
        (np.array([[-3e38, 0.0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-(2**31), 0, 2**31 - 1]], np.int32), [0, 128, 255]),
    ],
)
def test_32_bit_tiff_is_scaled_to_its_values(values, expected):
    np.testing.assert_array_equal(decode(encode(values, "TIFF"))[0, :, 0], expected)


def test_lab_and_cmyk_tiff_are_converted():
    assert (decode(encode(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF")) >= 254).all()
    cmyk = Image.fromarray(NOISE).convert("CMYK")
    np.testing.assert_array_equal(decode(encode(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))


# ---- JPEG: torchvision's decoder must give Pillow's pixels


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"restart_marker_blocks": 2},
        {"keep_rgb": True},
        {"optimize": True, "comment": "hello"},
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_equals_pillow(mode, options):
    for crop in (SMOOTH, SMOOTH[:1, :1], SMOOTH[:17, :16], SMOOTH[:8, :33]):
        data = encode(Image.fromarray(np.ascontiguousarray(crop)).convert(mode), "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode(data), expected)


def test_cmyk_jpeg_is_converted_with_adobe_inversion():
    image = Image.fromarray(SMOOTH).convert("CMYK")
    data = encode(image, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(decode(data).astype(int) - SMOOTH).mean() < 3


def test_photo_with_an_embedded_second_picture_gives_the_first():
    data = encode(SMOOTH, "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH[::-1].copy())], quality=95)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.abs(decode(data).astype(int) - SMOOTH).mean() < 3


def test_photos_equal_pillow(data_dir):
    paths = sorted((data_dir / "grocery").rglob("*.jpg"))[::100] + sorted((data_dir / "coco128").rglob("*.jpg"))[::8]
    assert len(paths) > 30
    for path in paths:
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        np.testing.assert_array_equal(decode(path.read_bytes()), expected, err_msg=str(path))


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for fmt in ("PNG", "TIFF", "JPEG", "WEBP"):
        data = encode(SMOOTH, fmt, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        pixels = decode(data)
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, expected, err_msg=fmt)


def test_orientation_6_turns_clockwise():
    np.testing.assert_array_equal(orient(np.array([[1, 2, 3], [4, 5, 6]]), 6), [[4, 1], [5, 2], [6, 3]])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encode(SMOOTH, "JPEG", exif=exif)).shape == SMOOTH.shape


def test_damaged_exif_does_not_spoil_the_picture():
    data = encode(NOISE, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage")
    np.testing.assert_array_equal(decode(data), NOISE)


# ---- errors


def test_codes_of_things_that_are_no_images():
    assert code_of(b"") == "empty"
    assert code_of(b"hello, world") == "not_an_image"
    assert code_of(b"\0" * 1000) == "not_an_image"
    assert code_of(b"RIFF\x10\0\0\0WAVEfmt ") == "not_an_image"


def test_an_image_of_an_unsupported_format_is_named():
    assert code_of(encode(NOISE, "AVIF")) == "unsupported_format"
    assert code_of(encode(NOISE, "JPEG2000")) == "unsupported_format"
    assert code_of(encode(NOISE, "ICO")) == "unsupported_format"
    with pytest.raises(ImageError, match="got PDF"):
        decode(encode(NOISE, "PDF"))


@pytest.mark.parametrize("data", [bytearray(b"x"), "text", None, io.BytesIO(b"x")])
def test_other_than_bytes_is_a_programmers_error(data):
    with pytest.raises(TypeError, match="expected bytes"):
        decode(data)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_cut_files_are_truncated(fmt):
    data = encode(SMOOTH, fmt)
    for share in (0.3, 0.5, 0.9):
        assert code_of(data[: int(len(data) * share)]) == "truncated", share


def test_cut_cmyk_and_progressive_jpegs_are_truncated():
    for data in (encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"), encode(SMOOTH, "JPEG", progressive=True)):
        assert code_of(data[: len(data) // 2]) == "truncated"
        assert code_of(data[:40]) == "truncated"


def test_a_broken_checksum_is_corrupt():
    data = bytearray(encode(NOISE, "PNG"))
    data[20] ^= 1
    assert code_of(bytes(data)) == "corrupt"


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_animated(fmt):
    frames = [Image.fromarray(NOISE[::-1].copy())]
    assert code_of(encode(NOISE, fmt, save_all=True, append_images=frames)) == "animated"


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_the_pixel_cap_is_inclusive(fmt):
    data = encode(NOISE, fmt)
    assert decode(data, max_pixels=18 * 25).shape == (18, 25, 3)
    assert code_of(data, max_pixels=18 * 25 - 1) == "too_large"


def test_endless_progressive_scans_are_refused():
    data = encode(SMOOTH, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert code_of(data[:last] + data[last:-2] * 200 + b"\xff\xd9") == "corrupt"


# ---- hostile files: memory is that of the whole process, as the decoders allocate outside Python

MEASURE = """
import sys
from cnnray.errors import ImageError
from cnnray.ops.decode import decode
def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) / 1024
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    open("/proc/self/clear_refs", "w").write("5")  # peak := now
    before = status("VmRSS")
    try:
        code = str(decode(data).shape)
    except ImageError as error:
        code = error.code
    print(code.replace(" ", ""), status("VmHWM") - before)
"""


def hostile_files():
    lines = zlib.compressobj(9)
    claim = b"".join(lines.compress(b"\0" * 15001) for _ in range(700)) + lines.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 15000, 15000, 8, 0, 0, 0, 0))
    megabyte = zlib.compress(b"a" * 1_000_000, 9)
    text = b"".join(chunk(b"zTXt", b"k%d\0\0" % i + megabyte) for i in range(200))
    frame = b"!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    tags = b"".join(struct.pack("<HHII", tag, 7, 1_000_000, 8) for tag in range(1, 65536))
    tiff = b"II*\0" + struct.pack("<I", 8 + 10**6) + b"\0" * 10**6 + b"\xff\xff" + tags + b"\0" * 4
    webp = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0\xff\x32\0\xff\x32\0"
    one = b"\0\0"
    return {
        "pixels": (b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", claim) + chunk(b"IEND", b""), "too_large", 50),
        "profile": (
            png(1, 1, 8, 0, one, chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 80_000_000, 1))),
            "corrupt",
            50,
        ),
        "rows": (png(1, 1, 8, 0, b"\0" * 80_000_000), "(1,1,3)", 50),
        # Pillow holds up to 64 MiB of text before it refuses.
        "text": (png(1, 1, 8, 0, one, text), "corrupt", 100),
        "frames": (b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 100_000 + b";", "animated", 50),
        "tags": (tiff, "corrupt", 50),
        "canvas": (webp + b"VP8 \0\0\0\0", "corrupt", 50),
    }


def test_hostile_files_cost_little_memory(tmp_path):
    cases = hostile_files()
    assert len(cases["pixels"][0]) < 11_000
    paths = []
    for name, (data, _, _) in cases.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for (name, (_, expected, most)), line in zip(cases.items(), done.stdout.splitlines(), strict=True):
        code, grown = line.split()
        assert code == expected, (name, line)
        assert float(grown) < most, (name, line)


def test_threads_get_the_same_pixels():
    files = [encode(np.roll(SMOOTH, i, axis=1), fmt) for i in range(10) for fmt in ("JPEG", "PNG", "GIF", "TIFF")]
    expected = [decode(data) for data in files]
    start = threading.Barrier(4)

    def all_at_once(_):
        start.wait()
        return [decode(data) for data in files]

    with ThreadPoolExecutor(4) as pool:
        for pixels in pool.map(all_at_once, range(4)):
            for got, want in zip(pixels, expected, strict=True):
                np.testing.assert_array_equal(got, want)
