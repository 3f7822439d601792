"""Loaded Pillow images of any mode as RGB arrays: alpha over white, deep pixels scaled, orientation applied."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Pixels = NDArray[np.uint8]

_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
_EXIF_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def to_rgb(image: Image.Image) -> Pixels:
    """A loaded image as uint8 RGB [H, W, 3], C-contiguous.

    Palette, grey and CMYK are converted (no colour management); alpha is composited on white; 16-bit grey is
    scaled from [0, 65535]. The 32-bit modes of TIFF have no fixed white: see `_scale_deep`.
    """
    if image.mode.startswith(("I", "F")):
        return _grey_to_rgb(_deep_grey(image))
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        return np.array(_over_white(image.convert("RGBA")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def exif_orientation(image: Image.Image) -> int:
    """The orientation tag of EXIF or XMP, from 1 to 8; 1 where there is none or the metadata is damaged."""
    if not any(key in image.info for key in _EXIF_KEYS):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged metadata raises anything; the pixels are good, and upright is the best guess.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def orient(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels [H, W, ...] turned upright, C-contiguous; `orientation` from 1 to 8 as in EXIF 2.3, tag 0x0112."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # What is left after the transposition is a mirror image in columns, in rows or in both.
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _over_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _grey_to_rgb(grey: Pixels) -> Pixels:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _deep_grey(image: Image.Image) -> Pixels:
    values = np.asarray(image)
    # Pillow scales a PGM with more than 8 bits to 16 bits, in the 32-bit mode.
    is_16_bit = image.mode.startswith("I;16") or image.format == "PPM"
    grey = _scale(values, 65535) if is_16_bit else _scale_deep(values)
    clear = image.info.get("transparency")
    return np.where(values == clear, np.uint8(255), grey) if isinstance(clear, int) else grey


def _scale(values: NDArray[Any], white: float, black: float = 0.0) -> Pixels:
    # In double precision: differences of 32-bit integers and floats overflow in their own type.
    scaled = (values - np.float64(black)) / (white - black) * 255
    pixels: Pixels = np.rint(scaled).astype(np.uint8)
    return pixels


def _scale_deep(values: NDArray[Any]) -> Pixels:
    """32-bit grey: the first of [0, 1] (floats only), [0, 255] and [0, 65535] that holds all values.

    Where none does, the least value is black and the greatest white. Not-a-number and infinities count as 0.
    """
    whites = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    values = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in whites:
            if high <= white:
                return _scale(values, white)
    return _scale(values, high, low) if high > low else np.zeros(values.shape, np.uint8)
