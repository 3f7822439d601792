"""Faces brought upright: known turns are undone, large faces shrink without aliasing, borders are black."""

import math

import pytest
import torch

from cnnray.errors import OptionError
from cnnray.ops.align import align_faces, similarity, template


def turned(points, degrees, scale, shift):
    angle = math.radians(degrees)
    turn = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return points @ turn.T + torch.tensor(shift), turn


def test_a_known_turn_is_found():
    model = template(150, 0.25)
    points, turn = turned(model, 33, 1.7, (20.0, -5.0))
    turns, shifts = similarity(model, torch.stack([points, model]))
    torch.testing.assert_close(turns, torch.stack([turn, torch.eye(2)]))
    torch.testing.assert_close(shifts, torch.tensor([[20.0, -5], [0, 0]]), atol=1e-4, rtol=0)


def smooth(x, y):
    """A picture that is known between its pixels, too."""
    return torch.stack([100 + 60 * torch.sin(x / 23), 120 + 50 * torch.cos(y / 19), 90 + 0.2 * x + 0.1 * y])


@pytest.mark.parametrize("degrees, scale", [(0, 1.0), (25, 0.6), (-80, 1.0), (170, 1.6), (10, 3.0)])
def test_an_aligned_face_shows_what_is_there(degrees, scale):
    x, y = torch.meshgrid(torch.arange(600.0), torch.arange(500.0), indexing="xy")
    image = smooth(x, y).round().to(torch.uint8)
    points, _ = turned(template(100, 0.25) - 50, degrees, scale, (300.0, 250.0))
    (face,) = align_faces(image, points[None], size=100)
    u, v = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="xy")
    places, _ = turned(torch.stack([u, v], -1) - 50, degrees, scale, (300.0, 250.0))
    away = (face.float() - smooth(places[..., 0], places[..., 1])).abs()
    assert face.dtype == torch.uint8 and away.mean() < 1 and away.max() < 5


def test_fine_patterns_do_not_become_coarse_ones():
    x, y = torch.meshgrid(torch.arange(800), torch.arange(800), indexing="xy")
    image = (((x + y) % 2) * 255).to(torch.uint8).expand(3, -1, -1)
    points, _ = turned(template(100, 0.25) - 50, 0, 4.1, (400.0, 400.0))
    (face,) = align_faces(image, points[None], size=100)
    assert (face.float() - 127.5).abs().max() < 12


def test_outside_of_the_picture_is_black():
    image = torch.full((3, 80, 80), 200, dtype=torch.uint8)
    at_corner, _ = turned(template(100, 0.25) - 50, 0, 1.0, (0.0, 0.0))
    far, _ = turned(template(100, 0.25) - 50, 0, 1.0, (500.0, 500.0))
    faces = align_faces(image, torch.stack([at_corner, far]), size=100)
    assert (faces[0, :, :48, :48] == 0).all() and (faces[0, :, 52:, 52:] == 200).all() and (faces[1] == 0).all()
    assert align_faces(image, torch.zeros(0, 5, 2)).shape == (0, 3, 150, 150)
    with pytest.raises(OptionError, match="at least 1 px for aligned faces, got 0"):
        align_faces(image, far[None], size=0)
