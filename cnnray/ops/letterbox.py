"""Pictures of any size in a box of one size, whole and undistorted, and the way back for what was found in it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnray.ops.transforms import NEUTRAL, resize_image


@dataclass(frozen=True)
class Letterbox:
    """A picture scaled by one factor and padded at the right and at the bottom.

    Attributes:
        height, width: of the picture in px.
        inner_height, inner_width: of the scaled picture.
        outer_height, outer_width: of the box.
    """

    height: int
    width: int
    inner_height: int
    inner_width: int
    outer_height: int
    outer_width: int

    @classmethod
    def fit(cls, height: int, width: int, size: int, multiple: int = 0) -> "Letterbox":
        """The largest scale at which both sides are at most `size`; small pictures are enlarged.

        Args:
            multiple: 0 pads to a square of `size`; else each side only up to the next multiple, which wastes less.
        """
        scale = size / max(height, width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        outer = (size, size) if not multiple else tuple(multiple * math.ceil(side / multiple) for side in inner)
        return cls(height, width, *inner, *outer)

    @classmethod
    def none(cls, height: int, width: int) -> "Letterbox":
        """The picture as it is."""
        return cls(height, width, height, width, height, width)

    def apply(self, image_HWC: NDArray[np.uint8]) -> Tensor:
        """The picture in its box, uint8 [3, outer_height, outer_width] in channels_last memory."""
        planes = torch.from_numpy(np.ascontiguousarray(image_HWC)).permute(2, 0, 1)
        if planes.shape[1:] != (self.inner_height, self.inner_width):
            planes = resize_image(planes, self.inner_height, self.inner_width, "bilinear")
        box = torch.tensor(NEUTRAL, dtype=torch.uint8).expand(self.outer_height, self.outer_width, 3).contiguous()
        box[: self.inner_height, : self.inner_width] = planes.permute(1, 2, 0)
        return box.permute(2, 0, 1)

    def into(self, boxes_N4: Tensor) -> Tensor:
        """Boxes of the picture as they lie in the box; the inverse of `back`."""
        return boxes_N4 * self._scale(boxes_N4)

    def back(self, boxes_N4: Tensor) -> Tensor:
        """Boxes found in the box as they lie in the picture, clipped to it."""
        boxes = boxes_N4 / self._scale(boxes_N4)
        return boxes.clamp(min=0).minimum(boxes.new_tensor([self.width, self.height] * 2))

    def _scale(self, like: Tensor) -> Tensor:
        # sides are rounded, so the two factors differ a little
        return like.new_tensor([self.inner_width / self.width, self.inner_height / self.height] * 2)
