"""Faces turned upright and brought to one size by their five landmarks, as dlib's embedder has learned to see them.

Legend: N faces, L landmarks, S px side of the aligned faces. Points are (x, y) in px; the centre of the first pixel is
(0, 0) here, as in dlib.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnray.errors import OptionError
from cnnray.ops.transforms import resize_image

# Where dlib's faces have their landmarks on average: outer and inner corner of the left eye, then of the right one (as
# the face's owner calls them), and the nose, in a square that a face fills.
TEMPLATE = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)


def template(size: int, padding: float) -> Tensor:
    """Landmarks of an aligned face [5, 2] in px of a square of `size` with `padding` of the face on every side."""
    return (torch.tensor(TEMPLATE) + padding) / (2 * padding + 1) * size


def similarity(model_L2: Tensor, points_NL2: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation with scale [N, 2, 2] and shift [N, 2] that bring the model nearest to each set of points.

    Least squares; Umeyama 1991, which in the plane and without reflection is a division of complex numbers.
    """
    model_middle, middle_N2 = model_L2.mean(0), points_NL2.mean(1)
    model, points = model_L2 - model_middle, points_NL2 - middle_N2[:, None]
    size = model.square().sum()
    along = (points * model).sum((1, 2)) / size
    across = (points[..., 1] * model[:, 0] - points[..., 0] * model[:, 1]).sum(1) / size
    turn = torch.stack([torch.stack([along, -across], -1), torch.stack([across, along], -1)], -2)
    return turn, middle_N2 - turn @ model_middle


def align_faces(image_CHW: Tensor, landmarks_N52: Tensor, size: int = 150, padding: float = 0.25) -> Tensor:
    """Aligned faces, uint8 [N, 3, S, S]; what lies outside of the picture is black.

    Args:
        image_CHW: uint8 RGB [3, H, W].
        landmarks_N52: in the order of TEMPLATE, px.
        padding: see `template`.

    Raises:
        OptionError: a size below 1.
    """
    if size < 1:
        raise OptionError(f"expected a size of at least 1 px for aligned faces, got {size}")
    turns, shifts = similarity(template(size, padding), landmarks_N52.float())
    faces = [_cut(image_CHW, turn, shift, size) for turn, shift in zip(turns, shifts, strict=True)]
    return torch.stack(faces) if faces else image_CHW.new_zeros(0, 3, size, size)


def _cut(image_CHW: Tensor, turn_22: Tensor, shift_2: Tensor, size: int) -> Tensor:
    """One face: the part of the picture around it, shrunk where it is larger than wanted, then turned."""
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy"), -1)
    places = grid.float() @ turn_22.T + shift_2
    height, width = image_CHW.shape[1:]
    low = (places.amin((0, 1)).floor().long() - 2).tolist()
    high = (places.amax((0, 1)).ceil().long() + 3).tolist()
    left, right = (min(max(value, 0), width) for value in (low[0], high[0]))
    top, bottom = (min(max(value, 0), height) for value in (low[1], high[1]))
    if right <= left or bottom <= top:
        return image_CHW.new_zeros(3, size, size)
    part = image_CHW[:, top:bottom, left:right]
    shrink = max(1.0, math.hypot(float(turn_22[0, 0]), float(turn_22[1, 0])))
    rows, columns = (max(1, round(side / shrink)) for side in (bottom - top, right - left))
    if (rows, columns) != tuple(part.shape[1:]):
        part = resize_image(part, rows, columns, "bilinear")
    # grid_sample counts from -1 to 1 over the part, from the border of its first to that of its last pixel
    scale = torch.tensor([right - left, bottom - top])
    seen = F.grid_sample(
        part[None].float(),
        ((places - torch.tensor([left, top]) + 0.5) / scale * 2 - 1)[None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return seen[0].round().clamp(0, 255).to(torch.uint8)
