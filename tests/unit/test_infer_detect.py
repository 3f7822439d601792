"""A detector from its checkpoint or by torchvision's name, against the network alone."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from cnnray.config import SearchConfig
from cnnray.data.detect_report import as_found
from cnnray.errors import CheckpointError, ImageError, OptionError, UnknownNameError
from cnnray.infer.detect import Detections, Detector
from cnnray.nn.detect import build_detect_net
from cnnray.nn.torchvision_detectors import DETECTORS, build_torchvision_detector, coco_classes
from cnnray.ops.detections import pick
from cnnray.ops.letterbox import Letterbox
from cnnray.ops.slices import merge_slices, plan_slices
from tests.detectors import ARCH, draw_shapes, save_detector
from tests.published import publish
from tests.threads import watch

LOW = SearchConfig(confidence=0.005, most=20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector.load(checkpoint, precision="float32", threads=2)


def test_answers_are_those_of_the_network(detector):
    torch.manual_seed(0)
    net = build_detect_net(ARCH, 2)
    for seed, size in enumerate([(96, 96), (60, 130), (200, 90)]):
        image = draw_shapes(seed, *size)[0]
        letterbox = Letterbox.fit(*size, 96, 32)
        with torch.no_grad():
            (candidates,) = net.candidates(net(letterbox.apply(image)[None]), 0)
        expected = pick(candidates, 0.005, 0.5, most=20)
        (answer,) = detector.predict([image], LOW)
        assert (answer.height, answer.width) == size and len(answer.scores_N) == 20
        np.testing.assert_allclose(answer.scores_N, expected.scores_N, atol=1e-4)
        np.testing.assert_allclose(answer.boxes_N4, letterbox.back(expected.boxes_N4), atol=0.1)


def test_a_bad_image_spoils_none_and_each_may_be_asked_something_else(detector):
    image = draw_shapes(1)[0]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    many, bad, few = detector.predict([buffer.getvalue(), b"no image", image], [LOW, LOW, SearchConfig(confidence=0.9)])
    assert isinstance(bad, ImageError) and bad.code == "not_an_image"
    assert len(many.scores_N) == 20 and len(few.scores_N) == 0 and few.boxes_N4.shape == (0, 4)
    with pytest.raises(OptionError, match=r"expected uint8 images \[H, W, 3\], got float32 \[4, 4, 3\]"):
        detector.predict([np.zeros((4, 4, 3), np.float32)])


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
def test_odd_pictures(detector, size):
    (answer,) = detector.predict([np.zeros((*size, 3), np.uint8)], LOW)
    assert isinstance(answer, Detections) and (answer.boxes_N4 >= 0).all()
    assert (answer.boxes_N4[:, 2] <= size[1]).all() and (answer.boxes_N4[:, 3] <= size[0]).all()


@pytest.mark.parametrize(("join", "threads"), [(False, 2), (True, 3)])
def test_warmed_up_each_thread_has_searched(checkpoint, monkeypatch, join, threads):
    detector = Detector.load(checkpoint, threads=2, join=join)
    calls = watch(monkeypatch, detector, "_search")
    detector.warm_up()
    shown = [(thread, image.shape[:2]) for thread, (image, _) in calls]
    assert len(shown) == len(set(shown)) == 4 * threads and len({thread for thread, _ in shown}) == threads


def test_all_cores_work_on_an_image_that_comes_alone_where_that_is_asked(checkpoint, detector, monkeypatch):
    joined = Detector.load(checkpoint, precision="float32", threads=2, join=True)
    cores = []
    letterbox = joined._letterbox
    monkeypatch.setattr(joined, "_letterbox", lambda *size: cores.append(torch.get_num_threads()) or letterbox(*size))
    images = [draw_shapes(seed, 96, 96)[0] for seed in range(2)]
    for some, expected in ((images[:1], [2]), (images, [1, 1])):
        cores.clear()
        for ours, theirs in zip(joined.predict(some, LOW), detector.predict(some, LOW), strict=True):
            np.testing.assert_allclose(ours.scores_N, theirs.scores_N, atol=1e-5)
        assert cores == expected


@pytest.mark.parametrize("class_wise", [True, False])
def test_large_pictures_are_searched_in_slices_too(detector, class_wise):
    image = np.tile(draw_shapes(3)[0], (2, 3, 1))
    plain = SearchConfig(confidence=0.005, class_wise=class_wise)
    (answer,) = detector.predict([image], dataclasses.replace(plain, slice=96, slice_overlap=0.25))
    places = [(0, 0, 192, 288), *plan_slices(192, 288, 96, 0.25)]
    found = detector.predict([image[t:b, left:r] for t, left, b, r in places], plain)
    parts = [
        (p, as_found(f.boxes_N4.tolist(), f.scores_N.tolist(), f.labels_N.tolist()))
        for p, f in zip(places, found, strict=True)
    ]
    expected = merge_slices(parts, 192, 288, 0.5, class_wise)
    np.testing.assert_allclose(answer.boxes_N4, expected.boxes_N4[:300], atol=1e-4)


@pytest.mark.parametrize(
    "fault, message",
    [
        ({"confidence": 1.5}, "confidence must be from 0 to 1, got 1.5"),
        ({"overlap": -1}, "overlap must be from 0 to 1, got -1"),
        ({"suppression": "firm"}, "suppression must be one of hard, soft; got 'firm'"),
        ({"slice": 5}, "slice must be at least 64 px, or 0, got 5"),
        ({"slice_overlap": 0.95}, "slice_overlap must be at least 0 and below 0.9, got 0.95"),
        ({"most": 0}, "most must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_asked_is_told(fault, message):
    with pytest.raises(OptionError, match=message):
        SearchConfig(**fault)


def test_a_self_test_sees_damaged_weights(checkpoint):
    detector = Detector.load(checkpoint)
    detector.self_test()
    with torch.no_grad():
        detector._net.heads[0].sides[2].weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="failed its self-test"):
        detector.self_test()


def test_checkpoints_of_something_else_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Detector.load(str(tmp_path / "none"))
    save_detector(tmp_path / "a", arch=ARCH | {"width": 16})
    with pytest.raises(UnknownNameError, match="unknown detector 'yolo9000'; known: ssdlite320"):
        build_torchvision_detector("yolo9000", 2, "none")


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvisions_detectors_by_name(name, tmp_path, monkeypatch):
    """Published weights come from torch's cache, where this test puts random ones of the same shape."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = publish(name)
    detector = Detector.load(name, threads=1)
    assert len(detector.classes) == 90 and detector.classes[0] == "person" and detector.classes[89] == "toothbrush"
    assert detector.name.startswith(f"{name}@")
    image = np.random.default_rng(0).integers(0, 255, (100, 140, 3), dtype=np.uint8)
    (answer,) = detector.predict([image], SearchConfig(confidence=0.0, overlap=1.0))
    with torch.no_grad():
        (expected,) = detector._net.net([torch.from_numpy(image).permute(2, 0, 1) / 255])
    count = min(len(expected["scores"]), 300)
    assert len(answer.scores_N) == count
    np.testing.assert_allclose(answer.scores_N, expected["scores"].sort(descending=True).values[:count], atol=1e-5)
    assert (answer.boxes_N4[:, 2] <= 140).all() and (answer.labels_N < 90).all()
    few = build_torchvision_detector(name, 3, "default")  # for classes of one's own: the last layers are new
    same = sum(
        torch.equal(a, b) for a, b in zip(few.net.state_dict().values(), published.state_dict().values(), strict=True)
    )
    assert same > 0.8 * len(published.state_dict())


def test_numbers_of_coco():
    names = coco_classes(DETECTORS[0])
    assert names[11] == "N/A 12" and names[12] == "stop sign" and len(set(names)) == 90
