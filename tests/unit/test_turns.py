"""Boxes and points of turned pictures lie where the turned pixels came from."""

import pytest
import torch

from cnnray.ops.turns import turn_back


@pytest.mark.parametrize("turns", range(4))
def test_the_pixel_in_a_box_comes_back(turns):
    picture = torch.zeros(7, 11)
    picture[2, 8] = 1
    row, column = (torch.rot90(picture, turns, (-2, -1)) == 1).nonzero()[0].tolist()
    box = torch.tensor([[column, row, column + 1.0, row + 1.0]])
    boxes, points = turn_back(box, torch.tensor([[[float(column), float(row)]]]), turns, 7, 11)
    assert boxes.tolist() == [[8, 2, 9, 3]] and points.tolist() == [[[8, 2]]]


def test_no_boxes():
    boxes, points = turn_back(torch.zeros(0, 4), torch.zeros(0, 5, 2), 1, 7, 11)
    assert boxes.shape == (0, 4) and points.shape == (0, 5, 2)
