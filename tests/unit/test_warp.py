"""Pictures and masks augmented through one grid."""

import numpy as np
import pytest
import torch

from cnnray.errors import UnknownNameError
from cnnray.ops.seeds import generator_for
from cnnray.ops.warp import Warp, build_warp


def numbered(height, width):
    """A picture whose pixels say where they are, and a mask of quadrants."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = (y >= height // 2).to(torch.uint8) * 2 + (x >= width // 2).to(torch.uint8)
    return torch.stack([y, x, mask * 60]).to(torch.uint8), mask


def generator(number=0):
    return generator_for("picture", 3, number)


def test_the_plain_crop_is_a_piece_of_the_picture():
    image, mask = numbered(60, 80)
    for number in range(10):
        warp = Warp(32)
        grid = warp.draw(60, 80, generator(number))
        grid = torch.floor(grid) + 0.5  # whole pixels: nothing to interpolate
        view, view_mask = warp.apply(image, mask, grid)
        top, left = int(view[0, 0, 0]), int(view[1, 0, 0])
        assert torch.equal(view, image[:, top : top + 32, left : left + 32])
        assert torch.equal(view_mask, mask[top : top + 32, left : left + 32])


@pytest.mark.parametrize("preset", ["none", "light", "standard", "strong"])
@pytest.mark.parametrize("size", [(64, 64), (20, 33), (200, 40)])
def test_picture_and_mask_stay_together_and_no_class_appears(preset, size):
    """Away from borders between quadrants the picture's own mask channel says what the mask must say."""
    image, mask = numbered(*size)
    warp = build_warp(preset, 48)
    for number in range(6):
        view, view_mask = warp.apply(image, mask, warp.draw(*size, generator(number)))
        assert view.shape == (3, 48, 48) and view.dtype == torch.uint8 and view_mask.shape == (48, 48)
        assert set(view_mask.unique().tolist()) <= set(mask.unique().tolist())
        pure = torch.isin(view[2], torch.tensor([0, 60, 120, 180], dtype=torch.uint8))
        wrong = pure & (view[2] // 60 != view_mask)
        assert float(wrong.float().mean()) < 0.02  # a blend of two classes may look like a third one


def test_flips_turns_and_zooms_are_those_of_numpy():
    image, mask = numbered(32, 32)
    identity = Warp(32).draw(32, 32, generator())
    for flipped, expected in (
        (identity.flip(1), mask.flip(1)),
        (identity.flip(0), mask.flip(0)),
        (identity.transpose(0, 1), mask.T),
    ):
        assert torch.equal(Warp(32).apply(image, mask, flipped)[1], expected)
    half = Warp(16, zoom=(0.5, 0.5)).draw(32, 32, generator())
    small, _ = Warp(16).apply(image, mask, half)
    expected = image.float().reshape(3, 16, 2, 16, 2).mean((2, 4))
    torch.testing.assert_close(small.float(), expected, atol=1.0, rtol=0)


def test_what_lies_outside_is_mirrored():
    image, mask = numbered(10, 10)
    view, _ = Warp(30).apply(image, mask, torch.floor(Warp(30).draw(10, 10, generator())) + 0.5)
    expected = np.pad(image.numpy(), ((0, 0), (10, 10), (10, 10)), mode="symmetric")
    np.testing.assert_array_equal(view.numpy(), expected)


def test_the_same_generator_gives_the_same_bits_at_any_number_of_threads():
    image, mask = numbered(90, 70)
    warp = build_warp("strong", 64)
    views = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        views.append(warp(image, mask, generator(5)))
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))
    assert not torch.equal(views[0][0], warp(image, mask, generator(6))[0])


def test_elastic_bends_by_about_its_strength():
    grids = torch.stack([Warp(128, elastic=5.0).draw(128, 128, generator(n)) for n in range(30)])
    moved = grids - Warp(128).draw(128, 128, generator())
    assert 2.0 < float(moved.std()) < 6.0
    steps = moved.diff(dim=1).abs()
    assert float(steps.max()) < 1.0  # it bends, it does not tear


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="known: none, light, standard, strong"):
        build_warp("wild", 32)
