import numpy as np
import pytest
import torch

from cnnray.ops.letterbox import Letterbox


@pytest.mark.parametrize("height, width", [(480, 640), (640, 480), (33, 1000), (7, 7), (1, 1), (416, 416)])
@pytest.mark.parametrize("multiple", [0, 32])
def test_boxes_come_back(height, width, multiple):
    letterbox = Letterbox.fit(height, width, 416, multiple)
    corners = torch.rand(50, 2, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    inside = letterbox.into(boxes)
    assert inside.amax() <= 416 and inside.amin() >= 0
    torch.testing.assert_close(letterbox.back(inside), boxes, atol=1e-3, rtol=1e-5)


def test_what_is_found_outside_of_the_picture_is_cut():
    letterbox = Letterbox.fit(100, 200, 400)
    back = letterbox.back(torch.tensor([[-10.0, -10, 500, 500]]))
    assert back.tolist() == [[0, 0, 200, 100]]


def test_sides():
    square = Letterbox.fit(480, 640, 416)
    assert (square.inner_height, square.inner_width, square.outer_height, square.outer_width) == (312, 416, 416, 416)
    tight = Letterbox.fit(480, 640, 416, multiple=32)
    assert (tight.outer_height, tight.outer_width) == (320, 416)


def test_the_picture_is_whole_and_the_rest_is_neutral():
    image = np.zeros((50, 100, 3), np.uint8)
    image[:, 60:] = 255
    made = Letterbox.fit(50, 100, 64).apply(image)
    assert made.shape == (3, 64, 64) and made.dtype == torch.uint8
    assert made.is_contiguous(memory_format=torch.channels_last) or made.stride()[0] == 1
    assert made[:, :32, :36].max() == 0 and made[:, :32, 42:].min() == 255
    assert (made[:, 32:].flatten(1).float().mean(1) == torch.tensor([124.0, 116, 104])).all()
    # a box around the white part of the picture is one around the white part of the letterbox
    assert Letterbox.fit(50, 100, 64).into(torch.tensor([[60.0, 0, 100, 50]]))[0, 0] == pytest.approx(38.4)


def test_a_picture_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    made = Letterbox.fit(64, 64, 64).apply(image)
    assert (made.permute(1, 2, 0).numpy() == image).all()
