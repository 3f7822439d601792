"""Views of an aligned face, cut out of a larger aligned crop: plain ones for embedders, random ones for training.

The stored crop reaches STORED of a face beyond it on every side, see `cnnray.ops.align.template`; a view takes less.

Legend: T px side of the stored crop, S of the view.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnray.errors import UnknownNameError
from cnnray.ops.transforms import ColorJitter, Erase, GaussianBlur, Sometimes, Transform, grayscale, uniform

STORED = 0.5  # padding of a stored crop
_MIRRORED = 0.5  # share of the random views


def stored_size(size: int, padding: float) -> int:
    """T of the crop in which a view of `size` px with `padding` has its own resolution."""
    return math.ceil(size * (1 + 2 * STORED) / (1 + 2 * padding))


def cut_view(
    crop_CTT: Tensor,
    size: int,
    padding: float,
    mirrored: bool = False,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """A view uint8 [3, S, S]; what is outside of the crop is black.

    Args:
        crop_CTT: uint8 [3, T, T].
        padding: of the view.
        mirrored: left and right change places.
        angle: degrees that the face is turned clockwise.
        shift: of the view's middle to the right and down, in faces.
    """
    half = (1 + 2 * padding) / (1 + 2 * STORED)
    steps = (torch.arange(size) + 0.5) / size * 2 - 1
    across, down = steps * half, steps[:, None] * half
    across = -across if mirrored else across
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    moved = [2 * part / (1 + 2 * STORED) for part in shift]
    places = torch.stack([across * cosine + down * sine + moved[0], down * cosine - across * sine + moved[1]], -1)
    view = F.grid_sample(crop_CTT[None].float(), places[None], mode="bilinear", align_corners=False)
    return view[0].round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class FacePreset:
    """How much random views differ.

    Attributes:
        padding: is drawn from the middle one by up to so much.
        angle: degrees by which they are turned at most.
        shift: in faces.
        colours: what else happens to them.
    """

    padding: float
    angle: float
    shift: float
    colours: tuple[Transform, ...]


FACE_PRESETS = {
    "none": FacePreset(0.0, 0.0, 0.0, ()),
    "light": FacePreset(0.05, 5.0, 0.02, (ColorJitter(brightness=0.1, contrast=0.1),)),
    "standard": FacePreset(
        0.08,
        10.0,
        0.05,
        (ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3), Sometimes(grayscale, 0.1)),
    ),
    "strong": FacePreset(
        0.12,
        15.0,
        0.08,
        (
            ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            Sometimes(grayscale, 0.2),
            Sometimes(GaussianBlur(), 0.2),
            Sometimes(Erase(), 0.3),
        ),
    ),
}


def random_view(crop_CTT: Tensor, size: int, padding: float, preset: str, generator: torch.Generator) -> Tensor:
    """A view uint8 [3, S, S] as `cut_view`, with everything that a preset changes drawn at random.

    Args:
        padding: around which its own is drawn.
        preset: of FACE_PRESETS; "none" is the plain view.

    Raises:
        UnknownNameError: another preset.
    """
    if preset not in FACE_PRESETS:
        raise UnknownNameError("augmentation of faces", preset, FACE_PRESETS)
    amount = FACE_PRESETS[preset]
    if preset == "none":
        return cut_view(crop_CTT, size, padding)
    mirrored = uniform(0, 1, generator) < _MIRRORED
    padding = padding + uniform(-amount.padding, amount.padding, generator)
    angle = uniform(-amount.angle, amount.angle, generator)
    shift = (uniform(-amount.shift, amount.shift, generator), uniform(-amount.shift, amount.shift, generator))
    view = cut_view(crop_CTT, size, padding, mirrored, angle, shift)
    for transform in amount.colours:
        view = transform(view, generator)
    return view
