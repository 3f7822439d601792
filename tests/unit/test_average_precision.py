"""COCO's figures in cases that can be counted by hand; tests/data compares with pycocotools by itself."""

import math

import pytest
from pytest import approx

from cnnray.ops.average_precision import average_precision


def truth(*rows, categories=("cat", "dog"), images=3):
    """Rows of image, category, x, y, w, h and flags."""
    annotations = [
        {"id": at, "image_id": image, "category_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0} | flags
        for at, (image, number, box, flags) in enumerate(rows, start=1)
    ]
    return {
        "images": [{"id": at + 1, "width": 200, "height": 200, "file_name": f"{at}.jpg"} for at in range(images)],
        "annotations": annotations,
        "categories": [{"id": at, "name": name} for at, name in enumerate(categories, start=1)],
    }


def answer(image, number, box, score):
    return {"image_id": image, "category_id": number, "bbox": box, "score": score}


BOX = [10, 10, 50, 50]


def test_all_found_is_one():
    found = average_precision(truth((1, 1, BOX, {}), (2, 2, BOX, {})), [answer(1, 1, BOX, 0.9), answer(2, 2, BOX, 0.8)])
    assert [found.figures[name] for name in ("map", "map50", "ar_100")] == approx([1, 1, 1])
    assert [row["ap50"] for row in found.table] == approx([1, 1]) and found.curves_KR.shape == (2, 101)


def test_one_of_two_behind_a_false_one():
    """Precision 1/2 up to recall 1/2: 51 of 101 points at 0.5."""
    answers = [answer(1, 1, [100, 100, 20, 20], 0.95), answer(1, 1, BOX, 0.9)]
    found = average_precision(truth((1, 1, BOX, {}), (2, 1, BOX, {})), answers)
    assert found.figures["map50"] == approx(51 / 101 * 0.5)
    assert found.table[0]["recall"] == 0.5


def test_a_class_without_objects_is_not_measured():
    found = average_precision(truth((1, 1, BOX, {})), [answer(1, 1, BOX, 0.9), answer(1, 2, BOX, 0.9)])
    assert found.figures["map50"] == approx(1) and math.isnan(found.table[1]["ap50"]) and found.table[1]["objects"] == 0


def test_no_answers_and_no_objects():
    assert average_precision(truth((1, 1, BOX, {})), []).figures["map50"] == 0
    assert math.isnan(average_precision(truth(), [answer(1, 1, BOX, 0.5)]).figures["map50"])


@pytest.mark.parametrize("flag", ["iscrowd", "difficult"])
def test_crowds_and_difficult_objects_are_neither_hit_nor_miss(flag):
    rows = ((1, 1, BOX, {}), (2, 1, BOX, {flag: 1}))
    missed = average_precision(truth(*rows), [answer(1, 1, BOX, 0.5)])
    found = average_precision(truth(*rows), [answer(1, 1, BOX, 0.5), answer(2, 1, BOX, 0.9)])
    assert [missed.figures["map50"], found.figures["map50"]] == approx([1, 1])
    assert missed.table[0]["objects"] == 1
    # an answer elsewhere on that picture is a false one
    false = average_precision(truth(*rows), [answer(1, 1, BOX, 0.5), answer(2, 1, [150, 150, 20, 20], 0.9)])
    assert false.figures["map50"] == approx(0.5)


def test_many_small_answers_inside_of_a_crowd_are_borne():
    rows = ((1, 1, BOX, {}), (2, 1, [0, 0, 100, 100], {"iscrowd": 1}))
    inside = [answer(2, 1, [x, 0, 9, 9], 0.9) for x in range(0, 90, 10)]
    assert average_precision(truth(*rows), [answer(1, 1, BOX, 0.5), *inside]).figures["map50"] == approx(1)


def test_sizes():
    rows = ((1, 1, [0, 0, 20, 20], {}), (2, 1, [0, 0, 50, 50], {}), (3, 1, [0, 0, 150, 150], {}))
    found = average_precision(truth(*rows), [answer(2, 1, [0, 0, 50, 50], 0.9)])
    assert [found.figures[f"map_{size}"] for size in ("small", "medium", "large")] == approx([0, 1, 0])
