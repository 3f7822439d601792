"""Random transforms of one image: parameters drawn from a given generator, pixels by torchvision's kernels.

Each takes and returns a uint8 RGB tensor [3, H, W]. `draw` samples the parameters, calling the object draws and applies
them. The same generator state gives the same pixels, bit for bit, at any number of threads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cnnray.errors import UnknownNameError

Transform = Callable[[Tensor, Generator], Tensor]

INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}

# The mean of ImageNet's pixels: nearly zero to a network that normalises with it, so it adds no edge of its own.
NEUTRAL = (124, 116, 104)


def channels_first(image_HWC: NDArray[np.uint8]) -> Tensor:
    """A view [3, H, W]; an array that is read-only or runs backwards is copied, as torch cannot hold it."""
    if not image_HWC.flags.writeable or min(image_HWC.strides) < 0:
        image_HWC = image_HWC.copy()
    return torch.from_numpy(image_HWC).permute(2, 0, 1)


def uniform(low: float, high: float, generator: Generator) -> float:
    """One number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _integer(below: int, generator: Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def resize_image(image_CHW: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Antialiased resize of uint8 [C, H, W] to [C, height, width]; `interpolation` is "bilinear" or "bicubic"."""
    if interpolation not in INTERPOLATIONS:
        raise UnknownNameError("interpolation", interpolation, INTERPOLATIONS)
    if image_CHW.shape[-1] == 1:  # contiguous columns of one pixel fail an assertion in PyTorch's kernel, these do not
        image_CHW = image_CHW.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    resized: Tensor = F.resize(image_CHW, [height, width], interpolation=INTERPOLATIONS[interpolation], antialias=True)
    return resized


@dataclass(frozen=True)
class Sometimes:
    """Applies `transform` with probability `p`."""

    transform: Transform
    p: float

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        """Draws and applies."""
        return self.transform(image_CHW, generator) if uniform(0, 1, generator) < self.p else image_CHW


def horizontal_flip(image_CHW: Tensor, generator: Generator | None = None) -> Tensor:
    """Left becomes right."""
    return image_CHW.flip(-1)


def vertical_flip(image_CHW: Tensor, generator: Generator | None = None) -> Tensor:
    """Top becomes bottom."""
    return image_CHW.flip(-2)


def grayscale(image_CHW: Tensor, generator: Generator | None = None) -> Tensor:
    """All three channels become the luma (ITU-R BT.601)."""
    grey: Tensor = F.rgb_to_grayscale(image_CHW, num_output_channels=3)
    return grey


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of the image, resized to [size, size]; only the part is resized (Szegedy et al. 2015).

    Attributes:
        size: side of the output in px.
        scale: range of the part's area, as a share of the image's.
        ratio: range of the part's width / height, drawn evenly in its logarithm.
        interpolation: "bilinear" or "bicubic".
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    def draw(self, height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part in px."""
        for _ in range(10):
            area = height * width * uniform(*self.scale, generator)
            ratio = math.exp(uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), generator))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return _integer(height - h + 1, generator), _integer(width - w + 1, generator), h, w
        # The image is too long or too flat for such a part: the largest centred one with an allowed ratio.
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        """Draws and applies."""
        top, left, height, width = self.draw(image_CHW.shape[1], image_CHW.shape[2], generator)
        part = image_CHW[:, top : top + height, left : left + width]
        # Planes of their own: the colour kernels take half as long again on the interleaved rows of a decoded image.
        return resize_image(part, self.size, self.size, self.interpolation).contiguous()


@dataclass(frozen=True)
class RandomCrop:
    """A random [size, size] window; an image that is smaller is first padded around with `fill`."""

    size: int
    fill: tuple[int, int, int] = NEUTRAL

    def draw(self, height: int, width: int, generator: Generator) -> tuple[int, int]:
        """(top, left) of the window in px, in an image of at least [size, size]."""
        return _integer(height - self.size + 1, generator), _integer(width - self.size + 1, generator)

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        """Draws and applies."""
        height, width = image_CHW.shape[-2:]
        short, narrow = max(0, self.size - height), max(0, self.size - width)
        if short or narrow:
            left, top = narrow // 2, short // 2
            image_CHW = F.pad(image_CHW, [left, top, narrow - left, short - top], fill=list(self.fill))
        top, left = self.draw(image_CHW.shape[1], image_CHW.shape[2], generator)
        return image_CHW[:, top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class Affine:
    """Rotation by up to `degrees` either way and zoom within `scale`, about the centre; corners get `fill`."""

    degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    fill: tuple[int, int, int] = NEUTRAL

    def draw(self, generator: Generator) -> tuple[float, float]:
        """(degrees, clockwise; factor, above 1 enlarges)."""
        return uniform(-self.degrees, self.degrees, generator), uniform(*self.scale, generator)

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        """Draws and applies."""
        angle, scale = self.draw(generator)
        turned: Tensor = F.affine(
            image_CHW, angle, [0, 0], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR, fill=list(self.fill)
        )
        return turned


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue change by up to these shares, in random order.

    Attributes:
        brightness, contrast, saturation: x draws a factor from [max(0, 1 - x), 1 + x]; 0 is off.
        hue: x draws a turn from [-x, x], in full turns of the colour wheel, at most 0.5; 0 is off. It costs ten times
            the others.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def draw(self, generator: Generator) -> list[tuple[str, float]]:
        """(which, factor or turn) in the order of application; those that are off are left out."""
        steps = []
        for name in ("brightness", "contrast", "saturation"):
            if strength := getattr(self, name):
                steps.append((name, uniform(max(0.0, 1 - strength), 1 + strength, generator)))
        if self.hue:
            steps.append(("hue", uniform(-self.hue, self.hue, generator)))
        return [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        """Draws and applies."""
        for name, value in self.draw(generator):
            image_CHW = ADJUST[name](image_CHW, value)
        return image_CHW


def adjust_contrast(image_CHW: Tensor, factor: float) -> Tensor:
    """Blends with the mean luma: factor 0 is flat grey, 1 the image itself, above 1 more contrast."""
    # torchvision's kernel adds up the mean in float32, in an order that depends on the number of threads.
    grey = F.rgb_to_grayscale(image_CHW)
    mean = int(grey.sum(dtype=torch.int64)) / grey.numel()
    blended: Tensor = image_CHW.float() * factor + mean * (1 - factor)
    return blended.clamp_(0, 255).to(torch.uint8)


# What ColorJitter does: (uint8 [3, H, W], factor or turn) -> uint8 [3, H, W].
ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


@dataclass(frozen=True)
class GaussianBlur:
    """Blurs with a standard deviation drawn from `sigma`, in px; the kernel reaches two of them to each side."""

    sigma: tuple[float, float] = (0.1, 2.0)

    def draw(self, generator: Generator) -> float:
        """The standard deviation in px."""
        return uniform(*self.sigma, generator)

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        """Draws and applies."""
        sigma = self.draw(generator)
        # Padding by reflection needs more pixels than it adds.
        reach = min(math.ceil(2 * sigma), min(image_CHW.shape[-2:]) - 1)
        blurred: Tensor = F.gaussian_blur(image_CHW, [2 * reach + 1] * 2, [sigma, sigma])
        return blurred


@dataclass(frozen=True)
class Erase:
    """Covers a random rectangle with `fill` (random erasing, Zhong et al. 2020).

    Attributes:
        area: range of the rectangle's area, as a share of the image's.
        ratio: range of its height / width, drawn evenly in its logarithm.
    """

    area: tuple[float, float] = (0.02, 0.2)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: tuple[int, int, int] = NEUTRAL

    def draw(self, height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the rectangle in px, cut to the image."""
        area = height * width * uniform(*self.area, generator)
        ratio = math.exp(uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), generator))
        h = min(height, max(1, round(math.sqrt(area * ratio))))
        w = min(width, max(1, round(math.sqrt(area / ratio))))
        return _integer(height - h + 1, generator), _integer(width - w + 1, generator), h, w

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        """Draws and applies."""
        top, left, height, width = self.draw(image_CHW.shape[1], image_CHW.shape[2], generator)
        patch = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None].expand(3, height, width)
        erased: Tensor = F.erase(image_CHW, top, left, height, width, patch)
        return erased
