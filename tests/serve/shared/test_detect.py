"""/v1/detect of the real service over real HTTP."""

import json

import httpx
import numpy as np
import pytest

from cnnray.cli import main
from cnnray.config import SearchConfig
from cnnray.errors import ServiceError
from cnnray.infer.detect import Detector
from cnnray.ops.decode import decode
from cnnray.ops.draw import draw_boxes
from tests.detectors import draw_shapes
from tests.serve.shared.test_segment import encoded

LOW = {"confidence": 0.01, "most": 5}


@pytest.fixture(scope="module")
def alone(detector):
    return Detector.load(detector, device="cpu")


def expected(alone, image, **search):
    (found,) = alone.predict([image], SearchConfig(**(LOW | search)))
    return [(alone.classes[label], score) for label, score in zip(found.labels_N, found.scores_N, strict=True)], found


def test_the_objects_are_those_of_the_detector_alone(client, alone):
    for seed, size in enumerate([(80, 96), (96, 33), (150, 220)]):
        image = draw_shapes(seed, *size)[0] if size != (96, 33) else draw_shapes(seed)[0][:, :33]
        answer = client.detect(encoded(image), **LOW)
        labels, found = expected(alone, image)
        assert len(answer.objects) == 5 and (answer.height, answer.width, answer.model) == (*size, alone.name)
        assert [(o.label, o.score) for o in answer.objects] == [
            (n, pytest.approx(float(s), abs=1e-3)) for n, s in labels
        ]
        np.testing.assert_allclose([o.box for o in answer.objects], found.boxes_N4, atol=0.5)


def test_several_images_in_one_request_and_a_bad_one_spoils_none(client, alone):
    images = [draw_shapes(seed)[0] for seed in range(3)]
    first, bad, *rest = client.detect_many([encoded(images[0]), b"what", *map(encoded, images[1:])], **LOW)
    assert isinstance(bad, ServiceError) and (bad.code, bad.status) == ("not_an_image", 422)
    for answer, image in zip([first, *rest], images, strict=True):
        np.testing.assert_allclose([o.box for o in answer.objects], expected(alone, image)[1].boxes_N4, atol=0.5)


def test_thresholds_are_those_of_the_request(client, service):
    image = encoded(draw_shapes(3)[0])
    assert len(client.detect(image, confidence=0.01).objects) > len(client.detect(image, confidence=0.9).objects) == 0
    loose = client.detect(image, confidence=0.01, overlap=1.0)
    assert len(loose.objects) > len(client.detect(image, confidence=0.01, overlap=0.1).objects) > 0
    for search in (
        {"confidence": 0},
        {"confidence": 1.5},
        {"most": 0},
        {"suppression": "firm"},
        {"slice": 10_000},
        {"slice": 5},
    ):
        with pytest.raises(ServiceError) as caught:
            client.detect(image, **search)
        assert caught.value.status in (400, 422) and caught.value.code, search


def test_draw_gives_the_image_with_its_boxes(client, service, alone):
    image = draw_shapes(5)[0]
    drawn = decode(client.draw_objects(encoded(image), **LOW))
    _, found = expected(alone, image)
    plain = draw_boxes(image, found.boxes_N4, found.labels_N, alone.classes, found.scores_N)
    assert drawn.shape == image.shape and (drawn != image).any()
    assert (np.abs(drawn.astype(int) - plain).max(-1) > 40).mean() < 0.02  # scores and sides may round differently
    answer = httpx.post(
        f"{service.url}/v1/detect", params=LOW | {"draw": True}, files={"file": encoded(image)}, timeout=60
    )
    assert answer.headers["content-type"] == "image/png"
    assert len(json.loads(answer.headers["x-detections"])["images"][0]["objects"]) == 5
    parts = [("file", encoded(image))] * 2
    answer = httpx.post(f"{service.url}/v1/detect", params={"draw": True}, files=parts, timeout=60)
    assert answer.status_code == 422 and answer.json()["code"] == "one_image_to_draw"


def test_the_command_line_lists_objects_and_writes_pictures(service, tmp_path, capsys):
    (tmp_path / "photo.png").write_bytes(encoded(draw_shapes(8)[0]))
    words = ["query", "detect", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--confidence", "0.01"]
    main([*words, "--url", service.url, "--json"])
    (row,) = json.loads(capsys.readouterr().out)["answers"]
    assert row["objects"] and set(row["objects"][0]) == {"label", "score", "box"}
    assert decode((tmp_path / "out" / "photo.png").read_bytes()).shape == (96, 96, 3)
