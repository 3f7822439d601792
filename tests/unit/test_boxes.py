"""Boxes against slow versions that can be checked by reading them."""

import pytest
import torch

from cnnray.errors import OptionError
from cnnray.ops.boxes import (
    area,
    boxes_around,
    cell_centres,
    decode_grid,
    encode_grid,
    iou,
    paired_iou,
    suppress,
)


def random_boxes(count, seed=0, side=100.0):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * side
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union else 0.0


def slow_nms(boxes, scores, groups, threshold):
    left, kept = sorted(range(len(boxes)), key=lambda at: (-scores[at], at)), []
    while left:
        best, *left = left
        kept.append(best)
        left = [at for at in left if groups[at] != groups[best] or slow_iou(boxes[at], boxes[best]) <= threshold]
    return kept


def slow_soft(boxes, scores, groups, least):
    scores, left, kept = list(scores), list(range(len(boxes))), []
    while left:
        best = min(left, key=lambda at: (-scores[at], at))
        if scores[best] < least:
            break
        kept.append((best, scores[best]))
        left.remove(best)
        for at in left:
            if groups[at] == groups[best]:
                scores[at] *= 2.718281828459045 ** (-(slow_iou(boxes[at], boxes[best]) ** 2) / 0.5)
    return kept


def test_iou_is_that_of_the_slow_version():
    a, b = random_boxes(30), random_boxes(20, seed=1)
    expected = torch.tensor([[slow_iou(x, y) for y in b.tolist()] for x in a.tolist()])
    torch.testing.assert_close(iou(a, b), expected)
    torch.testing.assert_close(paired_iou(a[:20], b), expected[:20].diagonal())


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0),  # they touch
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3),
        ([0, 0, 4, 4], [1, 1, 3, 3], 0.25),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),  # nothing and nothing
    ],
)
def test_iou_of_boxes_that_can_be_drawn_on_paper(a, b, expected):
    a, b = (torch.tensor([box], dtype=torch.float32) for box in (a, b))
    assert iou(a, b).item() == pytest.approx(expected)
    assert paired_iou(a, b).item() == pytest.approx(expected)


def test_area():
    assert area(torch.tensor([[0.0, 0, 2, 3], [1, 1, 1, 5]])).tolist() == [6, 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_hard_suppression_is_that_of_the_slow_version(seed, threshold):
    boxes, generator = random_boxes(60, seed), torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 10, (60,), generator=generator) / 10  # many ties
    groups = torch.randint(0, 3, (60,), generator=generator)
    kept, values = suppress(boxes, scores, groups, threshold)
    assert kept.tolist() == slow_nms(boxes.tolist(), scores.tolist(), groups.tolist(), threshold)
    torch.testing.assert_close(values, scores[kept])


@pytest.mark.parametrize("seed", range(4))
def test_soft_suppression_is_that_of_the_slow_version(seed):
    boxes, generator = random_boxes(40, seed), torch.Generator().manual_seed(seed)
    scores, groups = torch.rand(40, generator=generator), torch.randint(0, 2, (40,), generator=generator)
    kept, values = suppress(boxes, scores, groups, 0.5, "soft", least=0.1)
    expected = slow_soft(boxes.tolist(), scores.tolist(), groups.tolist(), 0.1)
    assert kept.tolist() == [at for at, _ in expected]
    torch.testing.assert_close(values, torch.tensor([value for _, value in expected]))


@pytest.mark.parametrize("method", ["hard", "soft"])
def test_no_boxes_give_no_boxes(method):
    nothing = torch.zeros(0)
    kept, values = suppress(torch.zeros(0, 4), nothing, nothing.long(), 0.5, method)
    assert kept.shape == values.shape == (0,) and kept.dtype == torch.int64


def test_a_box_exactly_at_the_threshold_stays():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]])  # IoU 0.5
    scores, groups = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert suppress(boxes, scores, groups, 0.5)[0].tolist() == [0, 1]
    assert suppress(boxes, scores, groups, 0.49)[0].tolist() == [0]


def test_of_equals_the_first_stays():
    boxes = torch.tensor([[0.0, 0, 2, 2]] * 3)
    same = torch.full((3,), 0.5)
    assert suppress(boxes, same, torch.zeros(3, dtype=torch.int64), 0.5)[0].tolist() == [0]
    assert suppress(boxes, same, torch.tensor([0, 1, 1]), 0.5)[0].tolist() == [0, 1]


def test_an_unknown_method_is_named():
    with pytest.raises(OptionError, match="one of hard, soft; got 'firm'"):
        suppress(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5, "firm")


def test_the_grid_of_a_picture_on_paper():
    """A car of 200 x 50 px in the middle cell of 3 x 3 on 300 px: wider than its cell, centre at (0.5, 0.2)."""
    grid = encode_grid(torch.tensor([[50.0, 95, 250, 145]]), torch.tensor([1]), cells=3, num_classes=2, size=300)
    assert grid[1, 1].tolist() == pytest.approx([1, 0.5, 0.2, 2.0, 0.5, 0, 1])
    grid[1, 1] = 0
    assert not grid.any()


def test_what_is_encoded_is_decoded():
    boxes = torch.tensor([[10.0, 10, 30, 40], [100, 50, 180, 90], [5, 150, 199, 199]])
    labels = torch.tensor([2, 0, 1])
    found, scores, classes = decode_grid(encode_grid(boxes, labels, 7, 3, 200.0), 200.0)
    there = scores > 0
    order = found[there][:, 0].argsort()
    expected = boxes[:, 0].argsort()
    torch.testing.assert_close(found[there][order], boxes[expected])
    assert classes[there][order].tolist() == labels[expected].tolist() and scores.sum() == 3


def test_the_larger_of_two_boxes_has_the_cell():
    boxes = torch.tensor([[10.0, 10, 90, 90], [45, 45, 55, 55]])
    for order in ([0, 1], [1, 0]):
        grid = encode_grid(boxes[order], torch.tensor([0, 1])[order], cells=1, num_classes=2, size=100)
        assert grid[0, 0].tolist() == pytest.approx([1, 0.5, 0.5, 0.8, 0.8, 1, 0])


def test_a_centre_on_the_far_border_belongs_to_the_last_cell():
    grid = encode_grid(torch.tensor([[100.0, 100, 100, 100]]), torch.tensor([0]), cells=2, num_classes=1, size=100)
    assert grid[1, 1].tolist() == [1, 1, 1, 0, 0, 1]


def test_centres_and_the_boxes_around_them():
    centres = cell_centres(2, 3, 8)
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    distances = torch.tensor([1.0, 2, 3, 4]).expand(1, 6, 4)
    assert boxes_around(centres, distances)[0, 1].tolist() == [11, 2, 15, 8]
