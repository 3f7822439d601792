"""The one door for image bytes: uint8 RGB arrays, or an ImageError with a code.

The header is read first; format and size are judged before a pixel is decoded. Nothing here changes a setting of
Pillow, so threads may decode at once.
"""

import struct
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torchvision.io import ImageReadMode

from cnnray.errors import ImageError, OptionError
from cnnray.ops.pixels import exif_orientation, orient, to_rgb

MAX_PIXELS = 25_000_000

# A progressive JPEG of a few kB can ask for thousands of passes over all its pixels; encoders write about ten.
_MAX_JPEG_SCANS = 100

# Formats by their first bytes. The classes are called directly: Image.open would turn a JPEG with an embedded second
# picture (most phones write one) into a multi-frame file, and warn about sizes that are judged here.
_READERS: tuple[tuple[bytes, Callable[[BytesIO], ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF....WEBP", WebPImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"P4", PpmImageFile),
    (b"P5", PpmImageFile),
    (b"P6", PpmImageFile),
)
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, PGM or PPM"
# Formats that are recognised to be refused with a better message than "not an image".
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"....ftypavi", "AVIF"),
    (b"....ftyphe", "HEIC"),
    (b"....ftypmif1", "HEIF"),
    (b"....ftypmsf1", "HEIF"),
    (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "ICO"),
    (b"%PDF-", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"P1", "plain PBM"),
    (b"P2", "plain PGM"),
    (b"P3", "plain PPM"),
)

# Pillow warns about damaged metadata in text that the file chooses, and Python remembers every text it has shown:
# in a service, memory and log would grow with each hostile file. Filters are process-wide, so it is set once, here.
warnings.filterwarnings("ignore", module=r"PIL\.\w+ImagePlugin")


def read_pixels(image: bytes | NDArray[np.uint8]) -> NDArray[np.uint8] | ImageError:
    """Pixels of an encoded file, see `decode`, or what is wrong with it; decoded pixels as they are.

    Args:
        image: an encoded file, or uint8 RGB [H, W, 3].

    Raises:
        OptionError: an array of another shape or type.
    """
    if not isinstance(image, np.ndarray):
        try:
            return decode(image)
        except ImageError as error:
            return error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise OptionError(f"expected uint8 images [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Bytes of an image file as uint8 RGB [H, W, 3], C-contiguous and upright.

    Accepts JPEG, PNG, WebP, GIF, BMP, TIFF and binary PBM, PGM and PPM. EXIF orientation is applied, alpha
    composited on white, 16-bit grey scaled, CMYK converted without a colour profile. A JPEG with damage inside its
    data decodes with artefacts, as in every libjpeg program; one that ends early is an error.

    Args:
        data: the whole file.
        max_pixels: largest width times height, checked before pixels are decoded.

    Raises:
        ImageError: for any input that is not acceptable; `code` is one of `errors.IMAGE_CODES`.
        TypeError: `data` is not bytes.
    """
    pixels: NDArray[np.uint8] = _read(data, max_pixels, _pixels)
    return pixels


def decode_values(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.int32]:
    """Bytes of an image file as the numbers that stand in it, int32 [H, W], upright: for masks of classes.

    Of a palette image these are the indices, not the colours; of 1 bit 0 and 1; 16 bits are not scaled. Three equal
    channels count as one, and alpha is left out.

    Args:
        data, max_pixels: as for `decode`.

    Raises:
        ImageError: as `decode`; "unsupported_format" for colours or fractions.
    """
    values: NDArray[np.int32] = _read(data, max_pixels, _values)
    return values


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width in px of what `decode` would give, from the header where that tells it.

    Args:
        data, max_pixels: as for `decode`.

    Raises:
        ImageError: as `decode`, as far as it shows without decoding the pixels.
    """
    size: tuple[int, int] = _read(data, max_pixels, _size)
    return size


def _read(data: bytes, max_pixels: int, read: Callable[[ImageFile, bytes], Any]) -> Any:
    if not isinstance(data, bytes):
        raise TypeError(f"expected bytes, got {type(data).__name__}")
    if not data:
        raise ImageError("empty", "expected an image file, got 0 bytes")
    reader = _reader_for(data)
    try:
        with reader(BytesIO(data)) as image:
            _check_header(image, data, max_pixels)
            return read(image, data)
    except ImageError:
        raise
    except Exception as error:  # Decoders raise nearly every built-in exception on damaged files.
        _raise_typed(error, data)


def _reader_for(data: bytes) -> Callable[[BytesIO], ImageFile]:
    head = data[:16]
    for magic, reader in _READERS:
        if _starts_with(head, magic):
            return reader
    for magic, name in _REFUSED:
        if _starts_with(head, magic):
            raise ImageError("unsupported_format", f"expected {_ACCEPTED}, got {name}")
    raise ImageError("not_an_image", f"expected {_ACCEPTED}, got {len(data)} bytes that begin {head!r}")


def _starts_with(head: bytes, magic: bytes) -> bool:
    """Whether `head` begins with `magic`, in which a leading or inner run of dots stands for any bytes."""
    return len(head) >= len(magic) and all(m in (b, ord(".")) for m, b in zip(magic, head, strict=False))


def _check_header(image: ImageFile, data: bytes, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_large", f"expected at most {max_pixels} pixels, got {width} x {height}")
    if getattr(image, "is_animated", False):
        raise ImageError("animated", f"expected a single picture, got a {image.format} of several frames or pages")
    if image.format == "JPEG" and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise ImageError("corrupt", f"expected at most {_MAX_JPEG_SCANS} scans in a JPEG, got more")


def _pixels(image: ImageFile, data: bytes) -> NDArray[np.uint8]:
    pixels = _fast_jpeg(image, data) if image.format == "JPEG" and image.mode in ("RGB", "L") else None
    if pixels is None:
        image.load()
        pixels = to_rgb(image)
    # Read after the pixels: a PNG may hold it behind them, and a TIFF turns itself while it loads.
    orientation = exif_orientation(image)
    return pixels if orientation == 1 else orient(pixels, orientation)


def _values(image: ImageFile, data: bytes) -> NDArray[np.int32]:
    image.load()
    values = np.asarray(image)
    if image.mode in ("LA", "PA", "La"):
        values = values[..., 0]
    elif values.ndim == 3 and image.mode.startswith("RGB"):
        if (values[..., :3] != values[..., :1]).any():
            raise ImageError("unsupported_format", "expected a mask with one number per pixel, got colours")
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind == "f":
        raise ImageError("unsupported_format", f"expected a mask of whole numbers, got an image of mode {image.mode}")
    return orient(values.astype(np.int32), exif_orientation(image))


def _size(image: ImageFile, data: bytes) -> tuple[int, int]:
    if image.format in ("PNG", "TIFF"):  # their orientation may stand behind the pixels
        image.load()
    width, height = image.size
    return (height, width) if exif_orientation(image) < 5 else (width, height)


def _fast_jpeg(image: ImageFile, data: bytes) -> NDArray[np.uint8] | None:
    """Plain JPEG by torchvision: Pillow's pixels in less time. None where it fails: then Pillow has the last word."""
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        # The operator, not torchvision.io.decode_jpeg: that warns on each call that a later release drops both. A
        # torchvision without the operator raises AttributeError, and all goes through Pillow.
        decoded = torch.ops.image.decode_jpeg(buffer, ImageReadMode.RGB.value, False)
    except (RuntimeError, AttributeError):
        return None
    pixels: NDArray[np.uint8] = decoded.permute(1, 2, 0).contiguous().numpy()
    return pixels if pixels.shape == (image.height, image.width, 3) else None


def _raise_typed(error: Exception, data: bytes) -> NoReturn:
    kind = type(error).__name__
    if isinstance(error, (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning)):
        raise ImageError("too_large", f"expected an image that fits into memory, got {kind}: {error}") from error
    if _is_cut(error, data):
        raise ImageError("truncated", f"expected a whole image file, got {len(data)} bytes that end early") from error
    raise ImageError("corrupt", f"expected a sound image file, got {kind}: {error}") from error


def _is_cut(error: Exception, data: bytes) -> bool:
    """Whether the decoder failed because the file ends early, as far as its words and the file's own lengths tell."""
    # The header parsers hide the end of the data behind a SyntaxError.
    if isinstance(error.__cause__ or error, (EOFError, IndexError, struct.error)):
        return True
    if any(word in str(error).lower() for word in ("truncated", "eof", "cannot load")):
        return True
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xda" not in data
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
        directory = int.from_bytes(data[4:8], order)
        num_tags = int.from_bytes(data[directory : directory + 2], order)
        return directory + 2 + 12 * num_tags > len(data)
    return False
