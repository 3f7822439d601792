"""Random scenes for training detectors: one picture, or four that meet in a point, with the boxes that stay visible.

YOLOv4, Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.4 (mosaic)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from cnnray.errors import UnknownNameError
from cnnray.ops.assign import CROWD
from cnnray.ops.boxes import area
from cnnray.ops.transforms import NEUTRAL, ColorJitter, resize_image, uniform

_SLIVER = 0.05  # of a box: less to be seen than this is nothing at all


class Labelled(NamedTuple):
    """A picture with boxes: uint8 [3, H, W], float32 xyxy px [M, 4], int64 [M] (class numbers, or CROWD)."""

    image_CHW: Tensor
    boxes_M4: Tensor
    labels_M: Tensor


@dataclass(frozen=True)
class SceneMaker:
    """Random square scenes.

    Attributes:
        size: side in px.
        zoom: range of a picture's longer side, as a share of `size`, drawn evenly in its logarithm.
        flips: probabilities that the scene is mirrored left-right and upside down.
        jitter: of brightness, contrast and saturation; see `ColorJitter`.
        visible: a box of which less than this share is left becomes a CROWD region: neither an object nor background.
    """

    size: int
    zoom: tuple[float, float] = (0.7, 1.4)
    flips: tuple[float, float] = (0.5, 0.0)
    jitter: float = 0.0
    visible: float = 0.3

    def __call__(self, parts: Sequence[Labelled], generator: Generator) -> Labelled:
        """A scene of one picture or of four, which are then half as large."""
        size = self.size
        scene = torch.tensor(NEUTRAL, dtype=torch.uint8)[:, None, None].expand(3, size, size).contiguous()
        boxes, labels = [], []
        for part, place in zip(parts, self._places(len(parts), generator), strict=True):
            share = math.exp(uniform(math.log(self.zoom[0]), math.log(self.zoom[1]), generator))
            target = share * size / math.sqrt(len(parts))
            kept, of_kept = self._visible(*_placed(part, scene, target, place, generator))
            boxes.append(kept)
            labels.append(of_kept)
        made = Labelled(scene, torch.cat(boxes), torch.cat(labels))
        for axis, probability in zip((-1, -2), self.flips, strict=True):
            if uniform(0, 1, generator) < probability:
                made = mirrored(made, axis)
        if self.jitter:
            made = made._replace(
                image_CHW=ColorJitter(self.jitter, self.jitter, self.jitter)(made.image_CHW, generator)
            )
        return made

    def _places(self, count: int, generator: Generator) -> list[tuple[int, int, int, int]]:
        """Where in the scene each picture goes: (left, top, right, bottom)."""
        if count == 1:
            return [(0, 0, self.size, self.size)]
        assert count == 4, count
        x, y = (round(self.size * uniform(0.3, 0.7, generator)) for _ in range(2))
        return [(0, 0, x, y), (x, 0, self.size, y), (0, y, x, self.size), (x, y, self.size, self.size)]

    def _visible(self, cut_M4: Tensor, whole_M4: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
        share = area(cut_M4) / area(whole_M4).clamp(min=1e-6)
        labels = torch.where(share < self.visible, CROWD, labels_M)
        seen = (share > _SLIVER) & ((cut_M4[:, 2:] - cut_M4[:, :2]).amin(1) >= 1)
        return cut_M4[seen], labels[seen]


def _placed(
    part: Labelled, scene: Tensor, longer: float, place: tuple[int, int, int, int], generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a picture into its place, cut where it is larger, at random where it is smaller.

    Returns:
        its boxes in the scene as far as they are in the place, and whole, and its labels.
    """
    height, width = part.image_CHW.shape[1:]
    scale = longer / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    left, top, right, bottom = place
    # where the picture's corner comes to lie; negative room is a picture that is cut
    x, y = (
        low + round(uniform(0, 1, generator) * (high - low - side))
        for low, high, side in ((left, right, columns), (top, bottom, rows))
    )
    x1, y1, x2, y2 = max(left, x), max(top, y), min(right, x + columns), min(bottom, y + rows)
    if x2 > x1 and y2 > y1:
        pixels = resize_image(part.image_CHW, rows, columns, "bilinear")
        scene[:, y1:y2, x1:x2] = pixels[:, y1 - y : y2 - y, x1 - x : x2 - x]
    factors = torch.tensor([columns / width, rows / height] * 2)
    whole = part.boxes_M4 * factors + torch.tensor([x, y, x, y])
    cut = torch.maximum(torch.minimum(whole, torch.tensor([x2, y2] * 2)), torch.tensor([x1, y1] * 2))
    return cut, whole, part.labels_M


def mirrored(scene: Labelled, axis: int) -> Labelled:
    """Left becomes right (axis -1) or top becomes bottom (-2), boxes included."""
    side = scene.image_CHW.shape[axis]
    boxes, low = scene.boxes_M4.clone(), 0 if axis == -1 else 1
    boxes[:, [low, low + 2]] = side - scene.boxes_M4[:, [low + 2, low]]
    return Labelled(scene.image_CHW.flip(axis), boxes, scene.labels_M)


_PRESETS: dict[str, dict[str, object]] = {
    "none": {"zoom": (1.0, 1.0), "flips": (0.0, 0.0)},
    "light": {"zoom": (0.8, 1.25), "flips": (0.5, 0.0), "jitter": 0.1},
    "standard": {"zoom": (0.6, 1.5), "flips": (0.5, 0.0), "jitter": 0.3},
    "strong": {"zoom": (0.5, 2.0), "flips": (0.5, 0.5), "jitter": 0.4},
}


def build_scene_maker(preset: str, size: int, mirror: bool = True) -> SceneMaker:
    """The augmentation of that name for scenes of [size, size]; "strong" also turns scenes upside down.

    Args:
        mirror: False leaves left and right, top and bottom as they are: for writing, or traffic signs.

    Raises:
        UnknownNameError: no such preset.
    """
    if preset not in _PRESETS:
        raise UnknownNameError("augmentation preset", preset, _PRESETS)
    maker = SceneMaker(size, **_PRESETS[preset])  # type: ignore[arg-type]
    return maker if mirror else replace(maker, flips=(0.0, 0.0))
