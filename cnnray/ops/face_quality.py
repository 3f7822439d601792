"""How good a picture of a face is: what a gallery asks before it takes one in.

Legend: N faces. Angles are in degrees; landmarks as in `cnnray.ops.align`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnray.errors import OptionError
from cnnray.ops.align import TEMPLATE

# Mean faces have the end of their nose so far before the middle of their eyes' corners, in the template's unit of about
# 12 cm.
_DEPTH = 0.21
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class FaceQuality:
    """Of one face.

    Attributes:
        size: shorter side of its box as it was found, px.
        inside: share of its box that is in the picture, in [0, 1].
        sharpness: see `sharpness`; below 0.05 out of focus, 0.1 to 0.2 in good photos.
        brightness: mean grey of the aligned face in [0, 1].
        yaw: degrees that the face, held upright, looks to the picture's right; negative to its left.
        pitch: degrees that it then looks down; rough, since five points say little of it, and never above 27.
        roll: degrees that it is turned clockwise in the picture.
    """

    size: float
    inside: float
    sharpness: float
    brightness: float
    yaw: float
    pitch: float
    roll: float


def head_pose(landmarks_N52: Tensor) -> Tensor:
    """Yaw, pitch and roll [N, 3] by five landmarks, as in `FaceQuality`.

    Under weak perspective, and from three points: roll is that of the line through the eyes; without it, the nose lies
    beside the middle of the eyes by tan(yaw) sin(q), and below it by cos(q) / cos(yaw), where q is pitch but for the
    angle under which the nose stands in the mean face; lengths in the distance of the eyes, times what they are there.
    The mean face looks straight ahead in dlib's photos, so a face that does has angles near 0. Where q would be below
    0, of faces that look down by more than 27 degrees, its sign is lost.
    """
    model = torch.tensor(TEMPLATE).double()
    eyes = model[:2].mean(0), model[2:4].mean(0)
    below = model[4, 1] - (eyes[0][1] + eyes[1][1]) / 2
    scale = (eyes[0] - eyes[1]).norm() / math.hypot(float(below), _DEPTH)
    points = landmarks_N52.double()
    left, right, nose = points[:, :2].mean(1), points[:, 2:4].mean(1), points[:, 4]
    line, nose = left - right, nose - (left + right) / 2
    unit = line / line.norm(dim=1, keepdim=True).clamp(min=1e-9)
    aside = (nose * unit).sum(1) / line.norm(dim=1).clamp(min=1e-9) * scale
    down = (nose[:, 1] * unit[:, 0] - nose[:, 0] * unit[:, 1]) / line.norm(dim=1).clamp(min=1e-9) * scale
    # (1 - down^2 c) (1 - c) = aside^2 c, whose smaller root is c = cos(yaw)^2
    half = 1 + aside.square() + down.square()
    cosine2 = 2 / (half + (half.square() - 4 * down.square()).clamp(min=0).sqrt())
    yaw = torch.copysign(torch.acos(cosine2.clamp(0, 1).sqrt()), aside)
    pitch = math.atan2(_DEPTH, float(below)) - torch.acos((down * cosine2.sqrt()).clamp(-1, 1))
    roll = torch.atan2(line[:, 1], line[:, 0])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], 1)).float()


def sharpness(faces_NCHW: Tensor) -> Tensor:
    """[N]: mean absolute Laplacian of the grey aligned face over its standard deviation; 0 of a flat picture.

    A face that was enlarged to the aligned size is as blurred as the embedder sees it. Contrast does not change it.

    Args:
        faces_NCHW: uint8 [N, 3, S, S] in RGB.

    Raises:
        OptionError: fewer than 3 px a side.
    """
    if min(faces_NCHW.shape[-2:]) < 3:
        raise OptionError(f"expected faces of at least 3 x 3 px, got {list(faces_NCHW.shape[-2:])}")
    grey = _grey(faces_NCHW)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=grey.device).reshape(1, 1, 3, 3)
    change = F.conv2d(grey, kernel).abs().mean((1, 2, 3))
    deviation = (grey - grey.mean((1, 2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt()
    return torch.where(deviation > 1e-3, change / deviation.clamp(min=1e-3), 0.0)


def brightness(faces_NCHW: Tensor) -> Tensor:
    """[N]: mean luma (ITU-R BT.601) of the middle of the aligned face, in [0, 1]."""
    side = faces_NCHW.shape[-1] // 4
    return _grey(faces_NCHW[..., side : -side or None, side : -side or None]).mean((1, 2, 3))


def _grey(faces_NCHW: Tensor) -> Tensor:
    weights = torch.tensor(_GREY, device=faces_NCHW.device).reshape(1, 3, 1, 1)
    return (faces_NCHW.float() * weights).sum(1, keepdim=True) / 255
