"""The assignment against a version in plain loops."""

import pytest
import torch

from cnnray.ops.assign import CROWD, PADDING, assign
from cnnray.ops.boxes import boxes_around, cell_centres
from tests.unit.test_boxes import random_boxes, slow_iou


def cells(seed, size=64, num_classes=3):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.cat([cell_centres(size // stride, size // stride, stride) for stride in (8, 16, 32)])
    distances = torch.rand(2, len(centres), 4, generator=generator) * 20 + 1
    scores = torch.rand(2, len(centres), num_classes, generator=generator)
    return scores, boxes_around(centres, distances), centres


def slow_assign(scores, boxes, centres, objects, labels):
    """One picture: {cell: (object, quality)}."""
    fits, overlaps = {}, {}
    for m, (box, label) in enumerate(zip(objects, labels, strict=True)):
        if label < 0:
            continue
        inside = [a for a, (x, y) in enumerate(centres) if box[0] < x < box[2] and box[1] < y < box[3]]
        if not inside:
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            away = [(x - middle[0]) ** 2 + (y - middle[1]) ** 2 for x, y in centres]
            inside = [min(range(len(centres)), key=away.__getitem__)]
        values = {a: scores[a][label] ** 0.5 * slow_iou(box, boxes[a]) ** 6 for a in inside}
        chosen = sorted(inside, key=lambda a: -values[a])[:10]
        for a in chosen:
            fits[m, a], overlaps[m, a] = values[a], slow_iou(box, boxes[a])
    owner = {}
    for m, a in overlaps:
        if a not in owner or overlaps[m, a] > overlaps[owner[a], a]:
            owner[a] = m
    result = {}
    for a, m in owner.items():
        mine = [cell for cell, other in owner.items() if other == m]
        top_fit, top_iou = max(fits[m, c] for c in mine), max(overlaps[m, c] for c in mine)
        result[a] = (m, fits[m, a] / top_fit * top_iou if top_fit else 0.0)
    return result


@pytest.mark.parametrize("seed", range(6))
def test_every_cell_learns_what_the_slow_version_says(seed):
    scores, boxes, centres = cells(seed)
    objects = torch.stack([random_boxes(5, seed, 64.0), random_boxes(5, seed + 100, 64.0)])
    labels = torch.tensor([[0, 1, 2, 0, PADDING], [2, 2, PADDING, PADDING, PADDING]])
    found = assign(scores, boxes, centres, objects, labels)
    for at in range(2):
        plain = [t[at].tolist() for t in (scores, boxes)]
        expected = slow_assign(*plain, centres.tolist(), objects[at].tolist(), labels[at].tolist())
        quality = torch.zeros(len(centres))
        for cell, (m, value) in expected.items():
            quality[cell] = value
            if value > 1e-4:
                assert found.labels_bA[at, cell] == labels[at, m]
                torch.testing.assert_close(found.boxes_bA4[at, cell], objects[at, m])
        torch.testing.assert_close(found.quality_bA[at], quality, atol=1e-4, rtol=1e-3)


def test_an_object_between_the_cells_has_the_nearest_one():
    scores, boxes, centres = cells(0)
    tiny = torch.tensor([[[5.0, 5, 7, 7]], [[60.0, 60, 60.5, 60.5]]])  # no centre inside: these are at 4, 12 ...
    boxes[0, 0], boxes[1, 63] = torch.tensor([4.5, 4.5, 7, 7]), torch.tensor([59.0, 59, 61, 61])
    found = assign(scores, boxes, centres, tiny, torch.tensor([[1], [2]]))
    assert found.quality_bA[0].nonzero().flatten().tolist() == [0] and found.labels_bA[0, 0] == 1
    assert found.quality_bA[1].nonzero().flatten().tolist() == [63] and found.labels_bA[1, 63] == 2
    assert found.quality_bA[0, 0] == pytest.approx(slow_iou([5, 5, 7, 7], [4.5, 4.5, 7, 7]))


@pytest.mark.parametrize("most", [0, 3])
def test_without_objects_no_cell_learns_any(most):
    scores, boxes, centres = cells(0)
    found = assign(scores, boxes, centres, torch.zeros(2, most, 4), torch.full((2, most), PADDING))
    assert not found.quality_bA.any() and not found.ignored_bA.any()


def test_cells_in_a_crowd_learn_nothing_unless_an_object_is_there():
    scores, boxes, centres = cells(1)
    objects = torch.tensor([[[0.0, 0, 32, 32], [4.0, 4, 20, 20]]] * 2)
    found = assign(scores, boxes, centres, objects, torch.tensor([[CROWD, 0], [CROWD, PADDING]]))
    in_crowd = (centres < 32).all(1)
    taken = found.quality_bA[0] > 0
    assert taken.any() and (found.ignored_bA[0] == (in_crowd & ~taken)).all()
    assert (found.ignored_bA[1] == in_crowd).all() and not found.quality_bA[1].any()


def test_a_thousand_objects_in_one_picture():
    scores, boxes, centres = cells(2)
    found = assign(scores[:1], boxes[:1], centres, random_boxes(1000, 3, 64.0)[None], torch.zeros(1, 1000).long())
    assert torch.isfinite(found.quality_bA).all() and found.quality_bA.max() <= 1.0001
