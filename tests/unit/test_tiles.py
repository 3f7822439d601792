"""Tiles: they cover, they agree with one pass, and leave no seam."""

import pytest
import torch
from torch import nn

from cnnray.errors import OptionError
from cnnray.ops.tiles import plan_tiles, tiled


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 113, 500, 1001])
@pytest.mark.parametrize("overlap", [0, 8, 31])
def test_tiles_cover_and_overlap(length, overlap):
    starts = plan_tiles(length, 64, overlap)
    assert starts[0] == 0 and max(starts) + 64 >= length
    assert all(0 < after - before <= 64 - overlap for before, after in zip(starts, starts[1:], strict=False))
    if length > 64:
        assert starts[-1] == length - 64  # no tile sticks out
        assert len(starts) == 1 + -(-(length - 64) // (64 - overlap))  # as few as can be


@pytest.mark.parametrize("overlap", [-1, 32])
def test_an_overlap_of_half_a_tile_is_refused(overlap):
    with pytest.raises(OptionError, match="below half of the tile of 64 px"):
        plan_tiles(100, 64, overlap)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (100, 140), (40, 200), (129, 130)])
def test_tiles_give_what_one_pass_gives(size):
    torch.manual_seed(0)
    # three convolutions of 3 reach 3 px far; a quarter of the overlap is 4
    net = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 6), (6, 6), (6, 2)))).double()
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(tiled(net, images, 64, 16), net(images), rtol=1e-5, atol=1e-5)


def test_weights_sum_to_one_everywhere():
    ones = torch.ones(1, 3, 150, 333)
    for overlap in (0, 10, 24):
        torch.testing.assert_close(tiled(lambda x: x, ones, 64, overlap), ones)


def test_neighbours_that_disagree_leave_no_edge():
    """Each tile answers with its own constant: the result changes slowly across a seam, not at once."""
    counter = iter(range(100))
    image = torch.zeros(1, 1, 64, 300)
    result = tiled(lambda x: torch.full_like(x, float(next(counter))), image, 64, 24)
    assert float(result.diff(dim=3).abs().max()) <= 1 / 11  # the ramp is half of the overlap of 24 or more


def test_a_small_picture_is_one_pass():
    seen = []
    tiled(lambda x: seen.append(x.shape) or x, torch.zeros(1, 3, 50, 64), 64, 16)
    assert seen == [(1, 3, 50, 64)]
