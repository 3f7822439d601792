"""/v1/segment of the real service over real HTTP."""

import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from cnnray.cli import main
from cnnray.errors import ServiceError
from cnnray.infer.segment import Segmenter
from cnnray.ops.decode import decode
from cnnray.ops.masks import decode_mask
from cnnray.ops.overlay import overlay
from tests.segmenters import draw_blobs


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def alone(segmenter):
    return Segmenter.load(segmenter, device="cpu")


def test_the_class_map_is_that_of_the_segmenter_alone(client, alone):
    for seed, size in enumerate([(80, 96), (40, 33), (150, 220)]):  # the last is cut into tiles
        image = draw_blobs(seed, *size)[0]
        answer = client.segment(encoded(image))
        (expected,) = alone.predict([image])
        np.testing.assert_array_equal(decode_mask(answer.content), np.array([0, 255])[expected.classes_HW])
        assert (answer.height, answer.width, answer.model) == (*size, alone.name)
        assert [(part.label, part.value) for part in answer.classes] == [("background", 0), ("blob", 255)]
        assert [part.share for part in answer.classes] == pytest.approx([share for _, share in expected.shares])
        assert answer.confidence == pytest.approx(expected.confidence, abs=1e-4)


def test_draw_gives_the_image_with_its_classes(client, alone):
    image = draw_blobs(5)[0]
    drawn = decode(client.segment(encoded(image), draw=True).content)
    (expected,) = alone.predict([image])
    np.testing.assert_array_equal(drawn, overlay(image, expected.classes_HW, 2))


def test_json_has_the_figures_alone(service):
    image = encoded(draw_blobs(6)[0])
    url, octets = f"{service.url}/v1/segment", {"content-type": "application/octet-stream"}
    whole = httpx.post(url, content=image, headers=octets, timeout=60)
    assert whole.headers["content-type"] == "image/png" and len(whole.headers["x-request-id"]) > 8
    figures = httpx.post(url, content=image, headers=octets, params={"format": "json"}, timeout=60).json()
    header = json.loads(whole.headers["x-segmentation"])
    for name in ("model", "height", "width", "classes", "confidence"):
        assert figures[name] == header[name]
    form = httpx.post(url, files={"file": ("a.png", image)}, timeout=60)
    assert form.content == whole.content
    docs = httpx.get(f"{service.url}/openapi.json").json()["paths"]["/v1/segment"]["post"]["responses"]["200"]
    assert set(docs["content"]) == {"image/png", "application/json"}


def test_bad_images_are_refused_with_their_code(client, service):
    with pytest.raises(ServiceError) as caught:
        client.segment(b"not an image at all")
    assert (caught.value.status, caught.value.code) == (422, "not_an_image")
    answer = httpx.post(f"{service.url}/v1/segment", params={"format": "gif"}, content=b"x", timeout=60)
    assert answer.status_code == 422 and answer.json()["code"]


def test_the_command_line_writes_a_png_for_each_image(service, tmp_path, capsys):
    image = draw_blobs(8)[0]
    (tmp_path / "photo.png").write_bytes(encoded(image))
    main(
        [
            "query",
            "segment",
            str(tmp_path / "photo.png"),
            "--out",
            str(tmp_path / "out"),
            "--url",
            service.url,
            "--json",
        ]
    )
    (row,) = json.loads(capsys.readouterr().out)["answers"]
    assert row["blob"] + row["background"] == pytest.approx(1)
    assert decode_mask((tmp_path / "out" / "photo.png").read_bytes()).shape == image.shape[:2]
