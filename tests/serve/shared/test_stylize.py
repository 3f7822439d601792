"""/v1/stylize of the real service over real HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from cnnray.cli import main
from cnnray.errors import ServiceError
from cnnray.infer.fast_stylize import Stylizer
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from tests.painters import STYLES, draw_photo


@pytest.fixture(scope="module")
def alone(painter):
    return Stylizer.load(painter, device="cpu")


def off(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_the_painting_is_that_of_the_painter_alone(client, alone):
    photo = draw_photo(70, 90)
    answer = client.stylize(png(photo), "dots", format="png")
    assert off(decode(answer.content), alone.predict([photo], "dots")[0]) <= 2
    assert (answer.height, answer.width, answer.model, answer.styles) == (70, 90, alone.name, {"dots": 1.0})
    assert answer.timings["total_ms"] > 0 and answer.request_id
    blend = client.stylize(png(photo), {"dots": 1, "stripes": 3}, format="png", strength=0.5, keep_colors=True)
    (expected,) = alone.predict([photo], {"dots": 1, "stripes": 3}, strength=0.5, colors=True)
    assert off(decode(blend.content), expected) <= 2
    small = client.stylize(png(draw_photo(200, 100)), ["dots:0.5", "stripes"], longest_side=64)
    assert (small.height, small.width) == (64, 32) and small.content[:2] == b"\xff\xd8"


def test_requests_of_one_moment_are_answered_each_with_its_own(client, alone):
    photos = [draw_photo(60 + 20 * (seed % 2), 80, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda at: client.stylize(png(photos[at]), STYLES[at % 2], format="png"), range(8)))
    for at, answer in enumerate(answers):
        assert off(decode(answer.content), alone.predict([photos[at]], STYLES[at % 2])[0]) <= 2


def test_styles_are_listed_and_shown(client, service, alone):
    (painter,) = [model for model in httpx.get(f"{service.url}/v1/models").json()["models"] if model["styles"]]
    assert painter["styles"] == list(STYLES) and painter["task"] == "stylize" and painter["name"] == alone.name
    previews = [decode(client.style_preview(style)) for style in STYLES]
    assert previews[0].shape == (240, 240, 3) and off(*previews) > 20


@pytest.mark.parametrize(
    ("params", "status", "code", "words"),
    [
        ({}, 422, "invalid_parameter", "style"),
        ({"style": "monet"}, 404, "unknown_name", "unknown style 'monet'; known: stripes, dots"),
        ({"style": "dots:x"}, 422, "invalid_parameter", "NAME:SHARE"),
        ({"style": "dots:-1"}, 400, "bad_option", "not negative"),
        ({"style": "dots:nan"}, 400, "bad_option", "not negative"),
        ({"style": "dots", "strength": 2}, 422, "invalid_parameter", "strength"),
        ({"style": "dots", "longest_side": 100000}, 422, "invalid_parameter", "longest_side"),
        ({"style": "dots", "format": "gif"}, 422, "invalid_parameter", "format"),
    ],
)
def test_what_cannot_be_asked_is_named(service, params, status, code, words):
    photo = {"file": ("a.png", png(draw_photo()))}
    answer = httpx.post(f"{service.url}/v1/stylize", files=photo, params=params, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (status, code) and words in answer.json()["detail"]


def test_bad_photos_are_refused(client, service):
    for content, code in ((b"what", "not_an_image"), (png(draw_photo(1, 1)), "too_small"), (b"", "empty")):
        with pytest.raises(ServiceError) as caught:
            client.stylize(content, "dots")
        assert (caught.value.status, caught.value.code) == (422, code)
    assert httpx.get(f"{service.url}/v1/stylize/styles/monet").json()["code"] == "unknown_name"


def test_the_command_writes_a_file_for_each_photo(service, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png(draw_photo()))
    words = ["query", "stylize", str(tmp_path / "a.png"), "--style", "dots", "--out", str(tmp_path / "out")]
    main([*words, "--url", service.url, "--json"])
    assert json.loads(capsys.readouterr().out)["answers"][0]["width"] == 128
    assert decode((tmp_path / "out" / "a.jpg").read_bytes()).shape == (96, 128, 3)
