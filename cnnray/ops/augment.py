"""Views of an image for a network: the plain one, and augmented ones by preset.

All start from a decoded image, uint8 RGB [H, W, 3], and end in a uint8 tensor [3, size, size], in memory as
[size, size, 3]: networks in channels_last take it without a copy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from cnnray.errors import UnknownNameError
from cnnray.ops.mix import cutmix, cutmix_pair, mixup, mixup_pair, sample_lam
from cnnray.ops.transforms import (
    INTERPOLATIONS,
    Affine,
    ColorJitter,
    Erase,
    GaussianBlur,
    ResizedCrop,
    Sometimes,
    Transform,
    channels_first,
    grayscale,
    horizontal_flip,
    resize_image,
)

__all__ = [
    "PRESETS",
    "Augment",
    "build_augment",
    "cutmix",
    "cutmix_pair",
    "mixup",
    "mixup_pair",
    "plain_view",
    "sample_lam",
]


def _light(size: int, interpolation: str) -> tuple[Transform, ...]:
    return (
        ResizedCrop(size, scale=(0.5, 1.0), interpolation=interpolation),
        Sometimes(horizontal_flip, 0.5),
    )


def _standard(size: int, interpolation: str) -> tuple[Transform, ...]:
    return (
        ResizedCrop(size, scale=(0.35, 1.0), interpolation=interpolation),
        Sometimes(horizontal_flip, 0.5),
        ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        Affine(degrees=10),
    )


def _strong(size: int, interpolation: str) -> tuple[Transform, ...]:
    return (
        ResizedCrop(size, scale=(0.2, 1.0), interpolation=interpolation),
        Sometimes(horizontal_flip, 0.5),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        Sometimes(ColorJitter(hue=0.05), 0.3),
        Sometimes(grayscale, 0.1),
        Sometimes(GaussianBlur(), 0.2),
        # After the colours, so that what it uncovers stays neutral.
        Affine(degrees=20, scale=(0.8, 1.2)),
        Sometimes(Erase(), 0.3),
    )


_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

PRESETS: dict[str, Callable[[int, str], tuple[Transform, ...]]] = {
    "light": _light,
    "standard": _standard,
    "strong": _strong,
}


@dataclass(frozen=True)
class Augment:
    """Random transforms in sequence; the same generator state gives the same view, bit for bit."""

    transforms: tuple[Transform, ...]

    def __call__(self, image_HWC: NDArray[np.uint8], generator: Generator) -> Tensor:
        """A uint8 tensor [3, size, size] from uint8 RGB [H, W, 3]."""
        image = channels_first(image_HWC)
        for transform in self.transforms:
            image = transform(image, generator)
        return interleaved(image)


def build_augment(preset: str, *, size: int, interpolation: str = "bilinear") -> Augment:
    """The augmentation of that name, for a network that takes [3, size, size].

    Raises:
        UnknownNameError: no such preset or interpolation.
    """
    if preset not in PRESETS:
        raise UnknownNameError("augmentation preset", preset, PRESETS)
    if interpolation not in INTERPOLATIONS:
        raise UnknownNameError("interpolation", interpolation, INTERPOLATIONS)
    return Augment(PRESETS[preset](size, interpolation))


def plain_view(image_HWC: NDArray[np.uint8], *, size: int, resize: int, interpolation: str = "bilinear") -> Tensor:
    """The view without chance: shorter side to `resize` px, then the centre [size, size].

    Equals torchvision's Resize(resize, antialias) and CenterCrop(size) on a Pillow image up to one level, by rounding;
    where `size` exceeds what is there, the rest is black, as there.

    Args:
        image_HWC: uint8 RGB [H, W, 3], of any size and shape.
        size: side of the result in px.
        resize: shorter side before the crop, in px.
        interpolation: "bilinear" or "bicubic".

    Returns:
        uint8 tensor [3, size, size], in memory as [size, size, 3].

    Raises:
        UnknownNameError: no such interpolation.
    """
    height, width = image_HWC.shape[:2]
    short, long = min(height, width), max(height, width)
    scaled = int(resize * long / short)
    rows, columns = (resize, scaled) if height <= width else (scaled, resize)
    if long <= 4 * short:
        # Resizing all in torch's vectorised kernel takes a third of the time of Pillow's resize of the crop alone.
        image = resize_image(channels_first(image_HWC), rows, columns, interpolation)
    else:
        image = _middle_of_strip(image_HWC, rows, columns, size, interpolation)
    view: Tensor = F.center_crop(image, [size, size])
    return interleaved(view)


def interleaved(image_CHW: Tensor) -> Tensor:
    """The same image [C, H, W] with its channels side by side in memory; copied only where they are not."""
    return image_CHW.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def _middle_of_strip(image_HWC: NDArray[np.uint8], rows: int, columns: int, size: int, interpolation: str) -> Tensor:
    """The middle [size, size] of an image resized to [rows, columns], as uint8 [3, size or less, size or less].

    A line of 1 x 5000 px would grow to 256 x 1,280,000; here only the middle is made, whatever the length.
    """
    if interpolation not in _RESAMPLING:
        raise UnknownNameError("interpolation", interpolation, _RESAMPLING)
    y_part, top, bottom = _middle(image_HWC.shape[0], rows, size)
    x_part, left, right = _middle(image_HWC.shape[1], columns, size)
    part = Image.fromarray(np.ascontiguousarray(image_HWC[y_part, x_part]))
    sides = (min(size, columns), min(size, rows))
    return channels_first(np.array(part.resize(sides, _RESAMPLING[interpolation], (left, top, right, bottom))))


def _middle(length: int, scaled: int, size: int) -> tuple[slice, float, float]:
    """Which part of an axis its middle needs, and where the middle starts and ends in that part, in px.

    The axis has `length` px, is resized to `scaled` px, and the middle `size` px of those are wanted.
    """
    step = length / scaled
    start = round((scaled - min(size, scaled)) / 2) * step
    stop = min(length, start + min(size, scaled) * step)
    reach = math.ceil(2 * max(1.0, step)) + 1  # the filters look two px or two steps beyond
    first = max(0, math.floor(start) - reach)
    return slice(first, math.ceil(stop) + reach), start - first, stop - first
