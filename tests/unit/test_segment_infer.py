"""A segmenter from its checkpoint, against the network alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cnnray.errors import CheckpointError, ImageError, OptionError
from cnnray.infer.segment import Segmenter
from cnnray.ops.masks import decode_mask
from tests.segmenters import draw_blobs, save_segmenter
from tests.threads import watch


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return Segmenter.load(checkpoint, precision="float32", threads=2)


def test_answers_are_those_of_the_network(segmenter):
    images = [draw_blobs(seed, height, width)[0] for seed, (height, width) in enumerate([(80, 96), (50, 31), (96, 96)])]
    for image, answer in zip(images, segmenter.predict(images), strict=True):
        with torch.no_grad():
            logits = segmenter._net(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
        assert answer.classes_HW.shape == image.shape[:2] and answer.classes_HW.dtype == np.uint8
        np.testing.assert_array_equal(answer.classes_HW, logits.argmax(0).numpy())
        assert answer.confidence == pytest.approx(float(logits.softmax(0).max(0).values.mean()), abs=1e-5)
        shares = dict(answer.shares)
        assert shares["blob"] == pytest.approx((answer.classes_HW == 1).mean(), abs=1e-6)
        assert sum(shares.values()) == pytest.approx(1)


def test_a_large_picture_is_cut_and_joined_without_a_seam(segmenter):
    """The tiny network sees 20 px far: further than a quarter of the overlap, but hardly."""
    image = draw_blobs(7, 200, 260)[0]
    (answer,) = segmenter.predict([image])
    with torch.no_grad():
        whole = segmenter._net(torch.from_numpy(image).permute(2, 0, 1)[None])[0].argmax(0).numpy()
    assert answer.classes_HW.shape == (200, 260)
    assert (answer.classes_HW == whole).mean() > 0.97


def test_an_image_does_not_depend_on_its_neighbours_and_a_bad_one_spoils_none(segmenter):
    image = draw_blobs(1)[0]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    alone = segmenter.predict([image])[0]
    first, bad, last = segmenter.predict([buffer.getvalue(), b"no image", image])
    assert isinstance(bad, ImageError) and bad.code == "not_an_image"
    for answer in (first, last):
        np.testing.assert_array_equal(answer.classes_HW, alone.classes_HW)
    with pytest.raises(OptionError, match=r"expected uint8 images \[H, W, 3\], got float32 \[4, 4, 3\]"):
        segmenter.predict([np.zeros((4, 4, 3), np.float32)])


def test_low_precision_agrees(checkpoint, segmenter):
    image = draw_blobs(2)[0]
    low = Segmenter.load(checkpoint, precision="bfloat16").predict([image])[0]
    assert (low.classes_HW == segmenter.predict([image])[0].classes_HW).mean() > 0.97


def test_the_mask_file_has_the_values_of_the_training_masks(segmenter):
    (answer,) = segmenter.predict([draw_blobs(3)[0]])
    mask = decode_mask(segmenter.mask_png(answer))
    np.testing.assert_array_equal(mask, np.array([0, 255])[answer.classes_HW])


def test_it_describes_and_tests_itself(segmenter):
    segmenter.self_test()
    facts = segmenter.describe()
    assert facts["task"] == "segment" and facts["classes"] == 2 and facts["backbone"] == "plain"
    assert facts["name"] == segmenter.name == f"unet_plain@{segmenter.card.weights_sha256[:12]}"


@pytest.mark.parametrize(("join", "threads"), [(False, 3), (True, 4)])
def test_warmed_up_each_thread_has_segmented(checkpoint, monkeypatch, join, threads):
    segmenter = Segmenter.load(checkpoint, threads=3, join=join)
    calls = watch(monkeypatch, segmenter, "_answer")
    segmenter.warm_up()
    assert len({thread for thread, _ in calls}) == len(calls) == threads


def test_all_cores_work_on_an_image_that_comes_alone_where_that_is_asked(checkpoint, segmenter, monkeypatch):
    joined = Segmenter.load(checkpoint, precision="float32", threads=2, join=True)
    cores, logits = [], joined._logits
    monkeypatch.setattr(joined, "_logits", lambda images: cores.append(torch.get_num_threads()) or logits(images))
    images = [draw_blobs(seed)[0] for seed in range(2)]
    for some, expected in ((images[:1], {2}), (images, {1})):
        cores.clear()
        for ours, theirs in zip(joined.predict(some), segmenter.predict(some), strict=True):
            assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-5)
        assert set(cores) == expected


def test_checkpoints_of_others_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Segmenter.load(str(tmp_path / "none"))
    wrong = save_segmenter(tmp_path / "wrong", overlap=None)
    card = tmp_path / "wrong" / "card.json"
    card.write_text(card.read_text().replace('"plain"', '"plane"'))
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        Segmenter.load(wrong)
