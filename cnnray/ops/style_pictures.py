"""Pictures of the sizes in which networks are shown them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnray.errors import OptionError

SMALLEST = 32  # px


def check_style(image_HWC: NDArray[np.uint8], title: str) -> None:
    """Refuse a picture without anything in it.

    Args:
        image_HWC: uint8 RGB.
        title: what it is, for the message.

    Raises:
        OptionError: it is of one colour.
    """
    if (image_HWC == image_HWC[0, 0]).all():
        raise OptionError(
            f"expected a picture with something in it, but {title} is of one colour all over (white, where all of a "
            "picture is transparent)"
        )


def fit_style(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A style picture whose shorter side is `size` px, or its own where that is smaller.

    Args:
        image_HWC: uint8 RGB.

    Raises:
        OptionError: the picture is too small to have a style, or of one colour.
    """
    height, width = image_HWC.shape[:2]
    if min(height, width) < SMALLEST:
        raise OptionError(f"expected a style picture of at least {SMALLEST} px, got {width} x {height}")
    check_style(image_HWC, "the style picture")
    share = min(1.0, size / min(height, width))
    if share == 1.0:
        return image_HWC
    return _resized(image_HWC, share)


def draw_sample(side: int) -> NDArray[np.uint8]:
    """A picture to show styles on, uint8 RGB [side, side, 3]: a sun over hills, with flat and with busy places."""
    y, x = np.mgrid[:side, :side] / side
    sky = np.stack([0.45 + 0.5 * y, 0.65 + 0.2 * y, 0.95 - 0.3 * y], 2)
    sky[(x - 0.68) ** 2 + (y - 0.27) ** 2 < 0.012] = (1.0, 0.85, 0.4)
    for number, color in enumerate(((0.35, 0.5, 0.55), (0.25, 0.5, 0.3), (0.15, 0.3, 0.2))):
        ridge = 0.5 + 0.14 * number + 0.09 * np.sin(9 * x + 2.1 * number) + 0.02 * np.sin(47 * x + number)
        light = 1 + 0.15 * np.sin(70 * x + 40 * y * (number + 1))
        sky[y > ridge] = (np.array(color) * light[..., None])[y > ridge]
    return (sky.clip(0, 1) * 255).astype(np.uint8)


def fit_longest(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture whose longer side is at most `size` px; 0 leaves it as it is."""
    share = size / max(image_HWC.shape[:2])
    return _resized(image_HWC, share) if 0 < share < 1 else image_HWC


def _resized(image_HWC: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    height, width = image_HWC.shape[:2]
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.array(Image.fromarray(image_HWC).resize(size, Image.Resampling.LANCZOS))  # writable
