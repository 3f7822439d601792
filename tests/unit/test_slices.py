import pytest
import torch

from cnnray.errors import OptionError
from cnnray.ops.slices import merge_slices, plan_slices
from tests.unit.test_detections import found


@pytest.mark.parametrize("height, width", [(640, 640), (641, 640), (3000, 4000), (100, 5000), (1281, 1919)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_slices_cover_the_picture_and_share_enough(height, width, overlap):
    slices = plan_slices(height, width, 640, overlap)
    seen = torch.zeros(height, width, dtype=torch.bool)
    for top, left, bottom, right in slices:
        assert 0 <= top < bottom <= height and 0 <= left < right <= width
        assert bottom - top == min(640, height) and right - left == min(640, width)
        seen[top:bottom, left:right] = True
    assert seen.all()
    for low, high in (("top", 0), ("left", 1)):
        starts = sorted({place[high] for place in slices})
        assert all(b - a <= 640 - round(640 * overlap) for a, b in zip(starts, starts[1:], strict=False)), low


def test_bad_overlaps_are_refused():
    with pytest.raises(OptionError, match="below 0.9, got 0.95"):
        plan_slices(100, 100, 64, 0.95)


LEFT, RIGHT = (0, 0, 100, 100), (0, 80, 100, 180)


def merged(*parts):
    return merge_slices(parts, 100, 180, 0.5)


def test_an_object_in_both_slices_is_one():
    both = merged((LEFT, found((82, 10, 98, 30, 0.8, 0))), (RIGHT, found((2, 10, 18, 30, 0.9, 0))))
    assert both.boxes_N4.tolist() == [[82, 10, 98, 30]] and both.scores_N.tolist() == pytest.approx([0.9])


def test_the_part_that_a_slice_cut_off_goes_even_if_it_is_surer():
    both = merged((LEFT, found((70, 10, 100, 30, 0.95, 0))), (RIGHT, found((0, 10, 35, 30, 0.9, 0))))
    # from 70 to 100 in the one, from 80 to 115 in the other: both are cut, the surer one stays
    assert both.boxes_N4.tolist() == [[70, 10, 100, 30]]
    whole = ((0, 0, 100, 180), found((70, 10, 115, 30, 0.5, 0)))
    both = merged(whole, (LEFT, found((70, 10, 100, 30, 0.95, 0))), (RIGHT, found((0, 10, 35, 30, 0.9, 0))))
    assert both.boxes_N4.tolist() == [[70, 10, 115, 30]]


def test_a_small_object_inside_of_a_larger_one_stays():
    both = merged((LEFT, found((10, 10, 90, 90, 0.9, 0), (40, 40, 50, 50, 0.8, 0))))
    assert len(both.scores_N) == 2


def test_other_classes_and_the_picture_s_own_border_do_not_matter():
    both = merged((LEFT, found((0, 0, 30, 30, 0.9, 0), (0, 0, 20, 20, 0.8, 1), (0, 0, 20, 20, 0.7, 0))))
    assert both.labels_N.tolist() == [0, 1, 0]


def test_one_object_of_two_classes_is_one_where_classes_do_not_matter():
    parts = ((0, 0, 100, 180), found((20, 10, 60, 50, 0.9, 0))), (LEFT, found((20, 10, 60, 51, 0.8, 1)))
    assert merged(*parts).labels_N.tolist() == [0, 1]
    assert merge_slices(parts, 100, 180, 0.5, class_wise=False).labels_N.tolist() == [0]


def test_boxes_that_soft_suppression_kept_in_one_slice_stay():
    crowd = found((20, 10, 60, 50, 0.9, 0), (24, 10, 64, 50, 0.4, 0))  # IoU 0.82
    assert len(merged((LEFT, crowd)).scores_N) == 2
    again = (RIGHT, found((0, 10, 40, 50, 0.7, 0)))  # cut at its border, and far from both
    assert len(merged((LEFT, crowd), again).scores_N) == 3


def test_nothing_is_nothing():
    assert merged((LEFT, found()), (RIGHT, found())).boxes_N4.shape == (0, 4)
