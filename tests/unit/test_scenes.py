"""Scenes: boxes must follow the pixels. Objects are rectangles of one colour, whose pixels say where they are."""

import pytest
import torch

from cnnray.errors import UnknownNameError
from cnnray.ops.assign import CROWD
from cnnray.ops.scenes import Labelled, SceneMaker, build_scene_maker, mirrored

RED = torch.tensor([255, 0, 0])


def picture(height, width, boxes, colour=RED, labels=None):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = colour[:, None, None]
    return Labelled(image, torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels or [0] * len(boxes)))


def extent(image, channel):
    rows, columns = (image[channel] > 127).nonzero(as_tuple=True)
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


@pytest.mark.parametrize("seed", range(12))
def test_the_box_is_where_the_pixels_are(seed):
    maker = SceneMaker(128, zoom=(0.5, 1.5), flips=(0.5, 0.5))
    part = picture(90, 120, [(30, 20, 90, 70)])
    scene = maker([part], torch.Generator().manual_seed(seed))
    assert scene.image_CHW.shape == (3, 128, 128) and len(scene.boxes_M4) == 1
    pixels = extent(scene.image_CHW, 0)
    torch.testing.assert_close(scene.boxes_M4[0], pixels, atol=1.6, rtol=0)


@pytest.mark.parametrize("seed", range(12))
def test_four_pictures_meet_in_a_point(seed):
    maker = SceneMaker(128, zoom=(0.8, 1.6), flips=(0.5, 0.0), visible=0.0)
    parts = [picture(100, 100, [(20, 20, 80, 80)], labels=[number]) for number in range(4)]
    scene = maker(parts, torch.Generator().manual_seed(seed))
    covered = torch.zeros(128, 128, dtype=torch.bool)
    for box in scene.boxes_M4:
        x1, y1, x2, y2 = box.round().int().tolist()
        assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
        inner = scene.image_CHW[:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
        assert not inner.numel() or (inner[0].min() > 200 and inner[1].max() < 50)
        covered[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
    red = (scene.image_CHW[0] > 200) & (scene.image_CHW[1] < 50)
    assert not (red & ~covered).any()  # nothing is visible without a box
    assert len(set(scene.labels_M.tolist())) == len(scene.labels_M)


def test_a_sliver_is_neither_an_object_nor_background():
    maker = SceneMaker(100, zoom=(2.0, 2.0), flips=(0.0, 0.0), visible=0.3)
    part = picture(100, 100, [(0, 0, 20, 100)])
    seen = {False: 0, True: 0}
    for seed in range(60):
        scene = maker([part], torch.Generator().manual_seed(seed))
        for box, label in zip(scene.boxes_M4, scene.labels_M, strict=True):
            share = float((box[2:] - box[:2]).prod()) / (40 * 200)
            assert share > 0.05 and (label == CROWD) == (share < 0.3)
            seen[bool(label == CROWD)] += 1
    assert min(seen.values()) > 2


def test_mirroring_twice_is_nothing():
    part = picture(40, 60, [(5, 10, 25, 20)])
    for axis in (-1, -2):
        once = mirrored(part, axis)
        torch.testing.assert_close(once.boxes_M4[0], extent(once.image_CHW, 0))
        twice = mirrored(once, axis)
        assert (twice.image_CHW == part.image_CHW).all() and (twice.boxes_M4 == part.boxes_M4).all()


def test_the_same_seed_gives_the_same_scene():
    maker, part = build_scene_maker("strong", 64), picture(50, 70, [(10, 10, 40, 40)])
    one, two, other = (maker([part] * 4, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert (one.image_CHW == two.image_CHW).all() and torch.equal(one.boxes_M4, two.boxes_M4)
    assert not (one.image_CHW == other.image_CHW).all()


@pytest.mark.parametrize("preset", ["none", "light", "standard", "strong"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (500, 2)])
def test_odd_pictures(preset, shape):
    part = Labelled(torch.zeros(3, *shape, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for count in (1, 4):
        scene = build_scene_maker(preset, 64)([part] * count, torch.Generator().manual_seed(0))
        assert scene.image_CHW.shape == (3, 64, 64) and scene.boxes_M4.shape == (0, 4)


def test_an_unknown_preset_is_named():
    with pytest.raises(UnknownNameError, match="unknown augmentation preset 'wild'; known: none, light"):
        build_scene_maker("wild", 64)
