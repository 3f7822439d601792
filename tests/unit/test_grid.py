"""The first YOLO and single-object localisation: the loss by hand, and that both learn."""

import math

import pytest
import torch

from cnnray.errors import OptionError
from cnnray.nn.grid import answers, build_grid_net, grid_loss, grid_targets
from cnnray.ops.boxes import iou
from cnnray.ops.detections import pick, picture_precision
from tests.detectors import draw_shapes

BACKBONE = "residual:width=0.25"


def logit(probability):
    return math.log(probability / (1 - probability))


def test_what_is_surely_wrong_is_learned_from():
    """Probabilities near 0 and 1 have a gradient, on GPUs too, where losses of probabilities are refused."""
    target = torch.zeros(1, 1, 2, 7)
    target[0, 0, 0] = torch.tensor([1, 0.5, 0.5, 1, 1, 1, 0])
    said = torch.tensor([[[[-40.0, 0, 0, 0, 0, -40, 40], [40, 0, 0, 0, 0, 0, 0]]]], requires_grad=True)
    grid_loss(said, target).sum().backward()
    assert said.grad[0, 0, 0, 0] < -0.9 and said.grad[0, 0, 1, 0] > 0.4
    assert said.grad[0, 0, 0, 5] < -0.9 and said.grad[0, 0, 0, 6] > 0.9


def test_the_loss_on_paper():
    """Two cells side by side are one row of a 2 x 2 grid; the second row is empty and right."""
    target = torch.zeros(1, 2, 2, 7)
    target[0, 0, 0] = torch.tensor([1, 0.5, 0.5, 1.44, 0.25, 1, 0])
    found = torch.full((1, 2, 2, 7), 0.0)
    found[..., 0] = -40.0
    said = [0.8, 0.7, 0.5, 1.0, 0.25]
    found[0, 0, 0, :5] = torch.tensor([*map(logit, said[:3]), *(math.log(math.expm1(x**0.5)) for x in said[3:])])
    found[0, 0, 0, 5:] = torch.tensor([0.6, 0.4]).log()
    found[0, 0, 1] = torch.tensor([logit(0.4), 9, 9, 5, 5, 1, 0])  # what an empty cell says of a box does not count
    assert answers(found)[0, 0, 0].tolist() == pytest.approx([*said, 0.6, 0.4])
    of_box = 5 * (0.2**2 + (1.2 - 1.0) ** 2)
    expected = -math.log(0.8) + of_box - math.log(0.6) - 0.5 * math.log(1 - 0.4)
    assert grid_loss(found, target).tolist() == pytest.approx([expected])


def test_what_cells_say_is_in_range():
    net = build_grid_net({"backbone": BACKBONE, "cells": 3}, 4)
    with torch.no_grad():
        found = answers(net(torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8)))
    assert found.shape == (2, 3, 3, 9)
    assert (found[..., :3] >= 0).all() and (found[..., :3] <= 1).all() and (found[..., 3:5] > 0).all()
    torch.testing.assert_close(found[..., 5:].sum(-1), torch.ones(2, 3, 3))
    with pytest.raises(OptionError, match="at least 1 cell and 1 class, got 0 and 4"):
        build_grid_net({"backbone": BACKBONE, "cells": 0}, 4)
    with pytest.raises(OptionError, match="at least 96 px for 3 x 3 cells, got 64 x 96 px"):
        net(torch.zeros(1, 3, 96, 64))


def test_targets_leave_out_what_is_no_object():
    boxes, labels = torch.tensor([[[0.0, 0, 32, 32], [64, 64, 96, 96]]]), torch.tensor([[1, -1]])
    target = grid_targets(boxes, labels, 3, 2, 96)
    assert target[0, 0, 0].tolist() == [1, 0.5, 0.5, 1, 1, 0, 1]
    assert target[..., 0].sum() == 1


@pytest.mark.parametrize("cells", [1, 3])
def test_pictures_are_learned_by_heart(cells):
    """One cell: one object in each picture, or none. Three by three: all objects."""
    torch.manual_seed(0)
    seeds = (3, 6, 9) if cells == 1 else (1, 2, 4)  # of one object; of two and three
    drawn = [draw_shapes(seed) for seed in seeds]
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p, _ in drawn] + [torch.zeros(3, 96, 96).byte()])
    most = max(len(found) for _, found in drawn)
    boxes, labels = torch.zeros(4, most, 4), torch.full((4, most), -1)
    for at, (_, found) in enumerate(drawn):
        boxes[at, : len(found)] = torch.tensor([box for box, _ in found], dtype=torch.float32)
        labels[at, : len(found)] = torch.tensor([label for _, label in found])
    target = grid_targets(boxes, labels, cells, 2, 96)
    net = build_grid_net({"backbone": BACKBONE, "cells": cells}, 2).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(150):
        loss = grid_loss(net(images), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = [pick(c, 0.3, 0.5) for c in net.candidates(net(images), 96)]
    for at in range(3):
        own, classes = boxes[at][labels[at] >= 0], labels[at][labels[at] >= 0]
        assert picture_precision(found[at], own, classes) == pytest.approx(1), (at, found[at])
        assert iou(found[at].boxes_N4, own).amax(0).min() > 0.6
    assert len(found[3].scores_N) == 0
