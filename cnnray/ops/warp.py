"""Augmentation of a picture and its mask together: both are read through one sampling grid.

A grid holds, for each pixel of the view, the place in the picture that it shows: crop, zoom, turn, flip and elastic
deformation are one reading, so nothing is interpolated twice, and what lies outside is mirrored.

U-Net, Ronneberger et al. 2015, arXiv:1505.04597, section 3.1: elastic deformation from random vectors on a coarse grid
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from cnnray.errors import UnknownNameError
from cnnray.ops.transforms import ColorJitter, uniform

_COARSE = 4  # places of random displacement along each side


@dataclass(frozen=True)
class Warp:
    """Random square views of a picture of any size; a smaller picture is mirrored outwards.

    Attributes:
        size: side of the view in px.
        zoom: range of the enlargement, drawn evenly in its logarithm; below 1 shows more of the picture, without the
            smoothing that a proper reduction would need, so the range should stay near 1.
        degrees: turned by up to so many either way.
        flips: whether views are mirrored left-right and upside down, each at random.
        elastic: standard deviation, in px of the view, of the displacements on the coarse grid.
        jitter: of brightness, contrast and saturation; see `ColorJitter`.
    """

    size: int
    zoom: tuple[float, float] = (1.0, 1.0)
    degrees: float = 0.0
    flips: bool = False
    elastic: float = 0.0
    jitter: float = 0.0

    def draw(self, height: int, width: int, generator: Generator) -> Tensor:
        """Where each pixel of a view lies in a picture of [height, width]: float32 [size, size, 2] of (x, y) in px.

        The picture's top left corner is (0, 0); the centre of its first pixel is (0.5, 0.5).
        """
        scale = math.exp(uniform(math.log(self.zoom[0]), math.log(self.zoom[1]), generator))
        angle = math.radians(uniform(-self.degrees, self.degrees, generator))
        mirror = [-1.0 if self.flips and uniform(0, 1, generator) < 0.5 else 1.0 for _ in range(2)]
        half = self.size / (2 * scale)
        centre = [uniform(half, side - half, generator) if side > 2 * half else side / 2 for side in (width, height)]
        steps = torch.arange(self.size, dtype=torch.float32) + 0.5 - self.size / 2
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        if self.elastic:
            coarse = torch.randn(1, 2, _COARSE, _COARSE, generator=generator) * self.elastic
            bent = F.interpolate(coarse, (self.size, self.size), mode="bicubic", align_corners=True)[0]
            x, y = x + bent[0], y + bent[1]
        x, y = x * (mirror[0] / scale), y * (mirror[1] / scale)
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.stack([centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y], dim=-1)

    def apply(self, image_CHW: Tensor, mask_HW: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Read picture and mask through a grid.

        Args:
            image_CHW: uint8 [3, H, W]; read bilinearly.
            mask_HW: uint8 [H, W]; each pixel takes the nearest one's class, so no class appears that is not there.
            grid: from `draw`.

        Returns:
            uint8 [3, size, size] and uint8 [size, size].
        """
        height, width = mask_HW.shape
        places = (grid * 2 / torch.tensor([width, height]) - 1)[None]
        image = _read(image_CHW[None].float(), places, "bilinear")[0]
        mask = _read(mask_HW[None, None].float(), places, "nearest")[0, 0]
        return image.round().clamp_(0, 255).to(torch.uint8), mask.to(torch.uint8)

    def __call__(self, image_CHW: Tensor, mask_HW: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """One random view of picture and mask; colours change in the picture alone."""
        view, mask = self.apply(image_CHW, mask_HW, self.draw(mask_HW.shape[0], mask_HW.shape[1], generator))
        if self.jitter:
            view = ColorJitter(self.jitter, self.jitter, self.jitter)(view, generator)
        return view, mask


def _read(x_NCHW: Tensor, places: Tensor, mode: str) -> Tensor:
    return F.grid_sample(x_NCHW, places, mode=mode, padding_mode="reflection", align_corners=False)


_PRESETS: dict[str, dict[str, object]] = {
    "none": {},
    "light": {"flips": True, "zoom": (0.9, 1.1)},
    "standard": {"flips": True, "zoom": (0.75, 1.33), "degrees": 45.0, "jitter": 0.2},
    "strong": {"flips": True, "zoom": (0.7, 1.5), "degrees": 180.0, "jitter": 0.3, "elastic": 8.0},
}


def build_warp(preset: str, size: int) -> Warp:
    """The augmentation of that name for views of [size, size]; "none" is a random crop.

    Raises:
        UnknownNameError: no such preset.
    """
    if preset not in _PRESETS:
        raise UnknownNameError("augmentation preset", preset, _PRESETS)
    return Warp(size, **_PRESETS[preset])  # type: ignore[arg-type]
