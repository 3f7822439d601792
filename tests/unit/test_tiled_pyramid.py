"""All levels of a pyramid on one canvas: none touches another, and boxes find their way back."""

import pytest
import torch

from cnnray.ops.tiled_pyramid import into_picture, level_at, plan_tiling, tile


@pytest.mark.parametrize("height, width", [(480, 640), (250, 250), (100, 700), (700, 100), (1, 1), (4, 9), (6, 6)])
def test_levels_lie_apart_inside_of_the_canvas(height, width):
    tiling = plan_tiling(height, width)
    taken = torch.zeros(tiling.height, tiling.width, dtype=torch.int64)
    assert tiling.places[0][2:] == (height, width)
    for before, place in zip(tiling.places, tiling.places[1:], strict=False):
        assert place[2:] == (before[2] * 5 // 6, before[3] * 5 // 6)
    for top, left, high, wide in tiling.places:
        assert 11 <= top <= top + high <= tiling.height - 11 and 11 <= left <= left + wide <= tiling.width - 11
        taken[top : top + high, left : left + wide] += 1
    assert taken.max() == 1


def test_every_level_is_made_from_the_one_before():
    images = torch.arange(60.0).expand(2, 1, 90, 60)
    canvas = tile(images)
    tiling = plan_tiling(90, 60)
    assert canvas.shape == (2, 1, tiling.height, tiling.width)
    for top, left, high, wide in tiling.places:
        part = canvas[:, 0, top : top + high, left : left + wide]
        expected = torch.linspace(0, 59, wide)  # a ramp stays one; corners stay where they are
        torch.testing.assert_close(part, expected.expand(2, high, wide), atol=1e-3, rtol=0)
    assert canvas.sum() == pytest.approx(sum(h * w * 29.5 for *_, h, w in tiling.places) * 2, rel=1e-3)


def test_boxes_find_their_way_back():
    tiling = plan_tiling(480, 640)
    for level in (0, 1, 5):
        top, left, high, wide = tiling.places[level]
        middle = torch.tensor([[left + wide / 2, top + high / 2]], dtype=torch.float64)
        assert level_at(middle, tiling).tolist() == [level]
        box = torch.cat([middle - 3, middle + 3], 1)
        (found,) = into_picture(box, torch.tensor([level]), tiling).tolist()
        x, y = wide / 2, high / 2
        for _ in range(level):
            x, y = 1.2 * x + 0.3, 1.2 * y + 0.3
        assert ((found[0] + found[2]) / 2, (found[1] + found[3]) / 2) == pytest.approx((x, y))
        assert found[2] - found[0] == pytest.approx(6 * 1.2**level)
    assert level_at(torch.tensor([[-50.0, -50.0]]), tiling).tolist() == [0]  # the nearest one
