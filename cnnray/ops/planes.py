"""Pictures between files and networks: uint8 RGB [H, W, 3], and planes, float [1, C, H, W] in [0, 1]."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def to_planes(pixels: NDArray[np.uint8]) -> Tensor:
    """Planes [1, 3, H, W] of RGB [H, W, 3], or [1, 1, H, W] of grey [H, W]."""
    planes = torch.from_numpy(np.array(pixels, np.float32) / 255)
    return planes[None, None] if planes.ndim == 2 else planes.permute(2, 0, 1)[None].contiguous()


def to_pixels(planes_13HW: Tensor) -> NDArray[np.uint8]:
    """Planes [1, 3, H, W] as RGB [H, W, 3], rounded; those of `to_planes` become the pixels that they were."""
    scaled = (planes_13HW[0].detach().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def resized(planes_1CHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, antialiased; the planes themselves where they have that size."""
    if planes_1CHW.shape[2:] == (height, width):
        return planes_1CHW
    return F.interpolate(planes_1CHW, (height, width), mode="bilinear", align_corners=False, antialias=True)


def size_with_longer(planes_1CHW: Tensor, side: float) -> tuple[int, int]:
    """Height and width of the same shape whose longer side is `side` px, rounded, and the other at least 1."""
    height, width = planes_1CHW.shape[2:]
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
