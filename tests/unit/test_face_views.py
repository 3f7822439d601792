"""Views of stored faces: the same as aligning anew, and random ones that are reproducible."""

import pytest
import torch

from cnnray.errors import UnknownNameError
from cnnray.ops.align import align_faces, template
from cnnray.ops.face_views import FACE_PRESETS, STORED, cut_view, random_view, stored_size


@pytest.fixture
def photo():
    torch.manual_seed(0)
    small = torch.rand(1, 3, 30, 40) * 255
    return torch.nn.functional.interpolate(small, (300, 400), mode="bicubic").clamp(0, 255)[0].to(torch.uint8)


def landmarks():
    """A face turned by some degrees."""
    turn = torch.tensor([[0.95, -0.2], [0.2, 0.95]])
    return (template(110, 0.25) @ turn.T + torch.tensor([120.0, 60.0]))[None]


@pytest.mark.parametrize("padding", [0.2, 0.25, 0.4])
def test_a_view_is_what_aligning_the_photo_gives(photo, padding):
    (crop,) = align_faces(photo, landmarks(), stored_size(150, 0.25), STORED)
    (direct,) = align_faces(photo, landmarks(), 150, padding)
    assert (cut_view(crop, 150, padding).float() - direct.float()).abs().mean() < 2.5
    mirrored = cut_view(crop, 150, padding, mirrored=True).flip(2)
    assert (mirrored.float() - direct.float()).abs().mean() < 2.5


def test_turns_and_shifts_go_where_they_say():
    """A white dot right of the middle goes down when the face turns clockwise, and left when the view goes right."""
    crop = torch.zeros(3, 200, 200, dtype=torch.uint8)
    crop[:, 98:102, 138:142] = 255

    def dot(**options):
        return (cut_view(crop, 100, STORED, **options)[0] > 128).nonzero().float().mean(0).tolist()

    row, column = dot()
    assert (row, column) == pytest.approx((49.5, 69.5), abs=0.6)
    assert dot(angle=90.0) == pytest.approx([69.5, 49.5], abs=0.6)
    assert dot(shift=(0.1, 0.0)) == pytest.approx([49.5, 64.5], abs=0.6)  # a face is half of the stored crop
    assert dot(shift=(0.0, 0.1)) == pytest.approx([44.5, 69.5], abs=0.6)
    assert dot(mirrored=True) == pytest.approx([49.5, 29.5], abs=0.6)


@pytest.mark.parametrize("preset", FACE_PRESETS)
def test_random_views_come_from_their_seed(photo, preset):
    (crop,) = align_faces(photo, landmarks(), 200, STORED)
    views = [random_view(crop, 96, 0.25, preset, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1]) and views[0].shape == (3, 96, 96) and views[0].dtype == torch.uint8
    assert torch.equal(views[0], views[2]) == (preset == "none")
    if preset == "none":
        assert torch.equal(views[0], cut_view(crop, 96, 0.25))


def test_another_preset():
    with pytest.raises(
        UnknownNameError, match="unknown augmentation of faces 'x'; known: none, light, standard, strong"
    ):
        random_view(torch.zeros(3, 9, 9, dtype=torch.uint8), 4, 0.25, "x", torch.Generator())
