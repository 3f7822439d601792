"""Scenes of digits: boxes that hold the ink, the same from the same seed, and test scenes of their own."""

from pathlib import Path

import numpy as np
import pytest

from cnnray.data.formats import read_annotations
from cnnray.demo.scenes import HEIGHT, WIDTH, _stock, compose, write_scenes
from cnnray.ops.decode import decode


@pytest.fixture(scope="module")
def stock():
    return _stock(0)


def test_boxes_hold_the_ink_and_touch_no_other(stock):
    digits, _ = stock["train"]
    grey = np.full((300, 400, 3), 128, np.uint8)
    counts = set()
    for seed in range(20):
        scene = compose(digits, [grey], np.random.default_rng(seed), 6)
        assert scene.image_HWC.shape == (HEIGHT, WIDTH, 3) and len(scene.boxes) == len(scene.digits) >= 1
        counts.add(len(scene.boxes))
        ink = (np.abs(scene.image_HWC.astype(int) - 128) > 40).any(-1)
        taken, around = np.zeros_like(ink), np.zeros_like(ink)
        for x1, y1, x2, y2 in scene.boxes:
            assert 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT
            assert not taken[y1:y2, x1:x2].any()
            assert ink[y1:y2, x1:x2].any(0).mean() > 0.9 and ink[y1:y2, x1:x2].any(1).mean() > 0.9
            taken[y1:y2, x1:x2] = True
            around[max(0, y1 - 6) : y2 + 6, max(0, x1 - 6) : x2 + 6] = True
        assert not (ink & ~around).any()
    assert max(counts) >= 5 and 1 in {len(compose(digits, [grey], np.random.default_rng(1), 1).boxes)}


def test_digits_and_photos_of_test_scenes_are_in_no_other(stock):
    seen, held = ({image.tobytes() for image, _ in stock[name][0]} for name in ("train", "test"))
    assert len(stock["train"][0]) + len(stock["test"][0]) == 1797 and len(held) > 300
    assert not seen & held  # no two digits of the data are alike, either
    photos, others = ({photo.tobytes() for photo in stock[name][1]} for name in ("train", "test"))
    assert len(photos) == 8 and len(others) == 5 and not photos & others


def test_the_same_seed_writes_the_same_scenes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_scenes(tmp_path / name, {"train": 3, "test": 2}, seed)
    texts = [(tmp_path / name / "train.json").read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    found = read_annotations(str(tmp_path / "a"))
    assert found.table["split"].to_pylist().count("test") == 2 and found.codes == {} and len(found.categories) == 10
    for row in found.table.to_pylist():
        image = decode(Path(row["path"]).read_bytes())
        np.testing.assert_array_equal(image, decode(Path(row["path"].replace("/a/", "/b/")).read_bytes()))
        assert image.shape[:2] == (row["height"], row["width"])
