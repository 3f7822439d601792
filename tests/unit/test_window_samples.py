"""Windows to train a classifier on: which have an object, which have none, and what is in them."""

import pytest
import torch

from cnnray.ops.assign import CROWD
from cnnray.ops.boxes import iou
from cnnray.ops.scenes import Labelled
from cnnray.ops.window_samples import own_windows, sample_windows

BOXES = torch.tensor([[20.0, 30, 60, 50], [100, 60, 120, 110]])


def scene(labels=(0, 1)):
    """A picture whose objects are red and blue on green."""
    image = torch.zeros(3, 160, 200, dtype=torch.uint8)
    image[1] = 200
    image[:, 30:50, 20:60] = torch.tensor([250, 0, 0], dtype=torch.uint8)[:, None, None]
    image[:, 60:110, 100:120] = torch.tensor([0, 0, 250], dtype=torch.uint8)[:, None, None]
    return Labelled(image, BOXES, torch.tensor(labels))


def draw(labelled, count=12, seed=0):
    return sample_windows(labelled, count, 32, 0.8, 9, torch.Generator().manual_seed(seed))


def test_an_objects_window_is_a_square_around_it():
    assert own_windows(BOXES, 0.8).tolist() == [[15, 15, 65, 65], [78.75, 53.75, 141.25, 116.25]]


def test_windows_show_what_their_label_says():
    for seed in range(8):
        found = draw(scene(), seed=seed)
        assert found.images_W3SS.shape == (12, 3, 32, 32) and found.images_W3SS.dtype == torch.uint8
        assert sorted(found.labels_W.tolist()) == [0, 1] + [9] * 10
        for window, label in zip(found.images_W3SS, found.labels_W.tolist(), strict=True):
            middle = window[:, 14:18, 14:18].float().mean((1, 2))
            if label < 9:
                assert middle[2 * label] > 150 > middle[1], (seed, label)  # the object's colour in its middle


@pytest.mark.parametrize("box", [(5, 5, 25, 25), (36, 36, 156, 156), (0, 70, 60, 130)])
def test_background_is_not_what_fits_an_object(box):
    """In a corner, large, and at an edge, where windows are moved back into the picture."""
    x, y = torch.meshgrid(torch.arange(192), torch.arange(192), indexing="xy")
    image = torch.stack([torch.zeros_like(x), x, y]).to(torch.uint8)  # pixels that say where they are
    whole = torch.tensor([box], dtype=torch.float32)
    own = own_windows(whole, 0.8)
    for seed in range(40):
        found = draw(Labelled(image, whole, torch.tensor([0])), seed=seed)
        for window, label in zip(found.images_W3SS.float(), found.labels_W.tolist(), strict=True):
            low = torch.tensor([window[1].min(), window[2].min()])
            high = torch.tensor([window[1].max(), window[2].max()]) + 1
            overlap = float(iou(torch.cat([low, high])[None], own))
            assert overlap < 0.4 if label == 9 else overlap > 0.35, (seed, label, overlap)


def test_the_same_seed_draws_the_same_and_another_one_others():
    assert torch.equal(draw(scene()).images_W3SS, draw(scene()).images_W3SS)
    assert not torch.equal(draw(scene()).images_W3SS, draw(scene(), seed=1).images_W3SS)


def test_without_objects_all_is_background_and_a_crowd_is_left_out():
    empty = Labelled(torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert set(draw(empty).labels_W.tolist()) == {9}
    labelled = scene((CROWD, 1))
    assert sorted(set(draw(labelled).labels_W.tolist())) == [1, 9]
    crowd = torch.zeros(3, 160, 200, dtype=torch.uint8)
    crowd[:, 40:160, 60:200] = 255
    half = Labelled(crowd, torch.tensor([[60.0, 40, 200, 160]]), torch.tensor([CROWD]))
    middles = [
        float(window[0, 15:17, 15:17].float().mean()) for seed in range(5) for window in draw(half, seed=seed)[0]
    ]
    assert max(middles) < 200 and len(middles) == 60  # none has its middle in the crowd
    everywhere = Labelled(crowd, torch.tensor([[0.0, 0, 200, 160]]), torch.tensor([CROWD]))
    assert set(draw(everywhere).labels_W.tolist()) == {9}  # there is nothing else: the last one tried is taken


def test_more_objects_than_half_of_the_windows():
    boxes = torch.tensor([[float(x), 10, x + 12, 30] for x in range(0, 180, 15)])
    many = Labelled(torch.zeros(3, 160, 200, dtype=torch.uint8), boxes, torch.zeros(len(boxes), dtype=torch.int64))
    assert draw(many, count=8).labels_W.tolist().count(0) == 4
