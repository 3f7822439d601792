"""Quality of faces: poses of a turned model come back, and what spoils a picture is seen."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import gaussian_blur

from cnnray.errors import OptionError
from cnnray.ops.align import TEMPLATE, template
from cnnray.ops.face_quality import _DEPTH, brightness, head_pose, sharpness


def turned(yaw, pitch, roll):
    """Landmarks of the mean face in a picture: x to the right, y down, z away from the camera."""
    y, p, r = (math.radians(value) for value in (yaw, pitch, roll))
    about_y = [[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]]
    about_x = [[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]]
    about_z = [[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]]
    rotation = torch.tensor(about_z) @ torch.tensor(about_y) @ torch.tensor(about_x)
    depth = (0.0, 0.0, 0.0, 0.0, _DEPTH)
    face = torch.tensor([[x, y, -ahead] for (x, y), ahead in zip(TEMPLATE, depth, strict=True)])
    return (70 * face @ rotation.T)[None, :, :2] + torch.tensor([30.0, 200.0])


@settings(max_examples=200, deadline=None)
@given(st.floats(-60, 60), st.floats(-40, 20), st.floats(-179, 179))
def test_angles_of_a_turned_face_come_back(yaw, pitch, roll):
    found = head_pose(turned(yaw, pitch, roll))[0].tolist()
    assert found == pytest.approx([yaw, pitch, roll], abs=0.3)  # the mean face is not quite symmetrical


def test_a_face_that_looks_far_down_is_taken_for_one_that_looks_less_far():
    """The nose then lies between camera and eyes: five points do not tell on which side."""
    assert head_pose(turned(0, 35, 0))[0, 1] < 27.4


def test_signs_are_those_of_the_picture():
    """A face that looks to the right shows its nose nearer to the right eye's corner in the picture."""
    front = template(100, 0.25)[None]
    assert head_pose(front).abs().max() < 0.1
    right, down, clockwise = front.clone(), front.clone(), front[..., [1, 0]] * torch.tensor([-1.0, 1.0])
    right[0, 4, 0] += 8
    down[0, 4, 1] += 8
    assert head_pose(right)[0, 0] > 5 and head_pose(right * 3 - 50)[0, 0] > 5
    assert head_pose(down)[0, 1] > 5
    assert head_pose(clockwise)[0, 2] == pytest.approx(90, abs=0.1)
    assert head_pose(torch.zeros(0, 5, 2)).shape == (0, 3)
    assert torch.isfinite(head_pose(torch.zeros(1, 5, 2))).all()


def test_blur_is_seen_and_contrast_is_not():
    torch.manual_seed(0)
    faces = torch.nn.functional.interpolate(torch.rand(3, 3, 50, 50) * 200, 150, mode="bicubic").clamp(0, 255)
    sharp = sharpness(faces.to(torch.uint8))
    last = sharp
    for sigma in (1.0, 2.0, 4.0):
        blurred = sharpness(gaussian_blur(faces, 25, sigma).to(torch.uint8))
        assert (blurred < last).all()
        last = blurred
    torch.testing.assert_close(sharpness((faces / 2 + 40).to(torch.uint8)), sharp, rtol=0.05, atol=0)
    assert sharpness(torch.full((2, 3, 9, 9), 77, dtype=torch.uint8)).tolist() == [0, 0]
    with pytest.raises(OptionError, match=r"at least 3 x 3 px, got \[2, 9\]"):
        sharpness(torch.zeros(1, 3, 2, 9, dtype=torch.uint8))


def test_brightness_is_that_of_the_middle():
    face = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    face[..., 10:30, 10:30] = 255
    assert brightness(face).item() == pytest.approx(1)
    face[:, 1:] = 0  # red alone: BT.601
    assert brightness(face).item() == pytest.approx(0.299)
