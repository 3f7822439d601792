"""/v1/stylize/jobs of the real service over real HTTP: painted in the background, whatever dies."""

import json
import os
import signal
import time

import httpx
import numpy as np
import psutil
import pytest

from cnnray.cli import main
from cnnray.config import StylizeConfig
from cnnray.errors import ServiceError
from cnnray.infer.stylize import StyleOptimizer
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from tests.painters import draw_photo, draw_style

PHOTO, STYLE = png(draw_photo()), png(draw_style("dots"))
SMALL = {"steps": 3, "pyramid": 1, "size": 96}
LONG = {"steps": 250, "pyramid": 1, "size": 96}


@pytest.fixture(autouse=True)
def no_jobs_left(client):
    yield
    for job in client.stylize_jobs():
        client.delete_stylize_job(job.id)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alone(**settings):
    return StyleOptimizer(decode(PHOTO), [decode(STYLE)], StylizeConfig(device="cpu", **settings)).run().image_HWC


def off(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def pids(title):
    children = psutil.Process().children(recursive=True)
    return [p.pid for p in children if title in " ".join(p.cmdline())]


def test_a_job_is_painted_and_fetched(client):
    job = client.start_stylize_job(PHOTO, [STYLE], **SMALL)
    assert (job.state, job.steps, job.loss) == ("queued", 3, None)
    seen = []
    picture = client.wait_stylize_job(job.id, seen.append, seconds=0.1)
    assert off(decode(picture), alone(**SMALL)) <= 1
    done = seen[-1]
    assert (done.state, done.step, done.height, done.width) == ("done", 3, 72, 96) and done.loss > 0
    assert decode(client.stylize_preview(job.id)).shape == (72, 96, 3)
    assert client.stylize_jobs()[0] == done
    client.delete_stylize_job(job.id)
    client.delete_stylize_job(job.id)  # as after a lost answer
    with pytest.raises(ServiceError) as caught:
        client.stylize_job(job.id)
    assert (caught.value.status, caught.value.code) == (404, "no_job")


def test_styles_masks_and_settings_arrive(client):
    settings = SMALL | {"style_weight": (1.0, 2.0), "keep_colors": True, "optimizer": "lbfgs", "seed": 3}
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[:, 64:] = 255
    styles = [STYLE, png(draw_style("stripes"))]
    job = client.start_stylize_job(PHOTO, styles, png(mask), **settings)
    picture = decode(client.wait_stylize_job(job.id, seconds=0.1))
    config = StylizeConfig(device="cpu", **settings)
    given = [decode(style) for style in styles]
    expected = StyleOptimizer(decode(PHOTO), given, config, mask_HW=mask[..., 0]).run().image_HWC
    assert off(picture, expected) <= 1


def test_the_answer_of_the_start(service):
    form = [("file", ("a", PHOTO)), ("style", ("b", STYLE))]
    headers = {"idempotency-key": "once"}
    one, again = (
        httpx.post(f"{service.url}/v1/stylize/jobs", files=form, params=SMALL, headers=headers) for _ in range(2)
    )
    assert (one.status_code, again.status_code) == (202, 202) and one.json()["id"] == again.json()["id"]
    place = one.headers["location"]
    assert one.json()["preview"] == f"{place}/preview" and place == f"/v1/stylize/jobs/{one.json()['id']}"
    other = httpx.post(f"{service.url}/v1/stylize/jobs", files=form, params=SMALL | {"seed": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "key_reused")
    assert httpx.delete(service.url + place).status_code == 204


def test_a_dead_painter_and_a_dead_keeper_lose_nothing(client):
    job = client.start_stylize_job(PHOTO, [STYLE], **LONG)

    def has_step(least):
        return client.stylize_job(job.id).step >= least

    wait_for(lambda: has_step(1))
    with pytest.raises(ServiceError) as caught:
        client.stylize_picture(job.id)
    assert (caught.value.status, caught.value.code) == (409, "not_finished") and "of 250" in str(caught.value)
    for title in ("ray::paint_job", "ServeReplica:cnnray:StylizeJobs"):
        before = client.stylize_job(job.id).step
        wait_for(lambda: pids(title))  # noqa: B023 (called at once)
        os.kill(pids(title)[0], signal.SIGKILL)
        wait_for(lambda: has_step(before + 1))  # noqa: B023 (called at once)
    picture = decode(client.wait_stylize_job(job.id, seconds=0.2))
    assert off(picture, alone(**LONG)) <= 1
    client.wait_ready(30)


def test_a_deleted_job_stops(client):
    first, second = (client.start_stylize_job(PHOTO, [STYLE], **LONG) for _ in range(2))
    wait_for(lambda: client.stylize_job(first.id).step > 0)
    assert client.stylize_job(second.id).state == "queued"  # one at once
    client.delete_stylize_job(second.id)
    client.delete_stylize_job(first.id)
    assert client.stylize_jobs() == []
    third = client.start_stylize_job(PHOTO, [STYLE], **SMALL)
    client.wait_stylize_job(third.id, seconds=0.1)  # the core is free


@pytest.mark.parametrize(
    ("files", "params", "status", "code", "words"),
    [
        ([("file", PHOTO)], {}, 422, "no_file", "field 'style'"),
        ([("style", STYLE)], {}, 422, "no_file", "field 'file'"),
        ([("file", PHOTO), *[("style", STYLE)] * 5], {}, 422, "too_many_files", "at most 4 files"),
        ([("file", b"what"), ("style", STYLE)], {}, 422, "not_an_image", "content: "),
        ([("file", PHOTO), ("style", b"what")], {}, 422, "not_an_image", "style 1: "),
        ([("file", PHOTO), ("style", png(draw_style("dots", 8)))], {}, 400, "bad_option", "at least 16 px"),
        ([("file", png(draw_photo(1, 1))), ("style", STYLE)], {}, 400, "bad_option", "content of at least 16 px"),
        ([("file", PHOTO), ("style", STYLE)], {"style_weight": [1, 2]}, 400, "bad_option", "style_weight"),
        ([("file", PHOTO), ("style", STYLE)], {"style_loss": -1}, 400, "bad_option", "style_loss"),
        ([("file", PHOTO), ("style", STYLE)], {"style_loss": "nan"}, 400, "bad_option", "style_loss"),
        ([("file", PHOTO), ("style", STYLE)], {"size": 10**6}, 422, "invalid_parameter", "size"),
        ([("file", PHOTO), ("style", STYLE)], {"steps": 10**6}, 422, "invalid_parameter", "steps"),
        ([("file", PHOTO), ("style", STYLE)], {"start": "/etc/passwd"}, 422, "invalid_parameter", "start"),
    ],
)
def test_what_cannot_be_asked_is_named(service, files, params, status, code, words):
    form = [(field, ("name", content)) for field, content in files]
    answer = httpx.post(f"{service.url}/v1/stylize/jobs", files=form, params=params, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (status, code) and words in answer.json()["detail"]
    assert httpx.get(f"{service.url}/v1/stylize/jobs").json() == {"jobs": []}


def test_other_bodies_and_other_ids(service):
    answer = httpx.post(f"{service.url}/v1/stylize/jobs", content=PHOTO, headers={"content-type": "image/png"})
    assert answer.status_code == 415 and "'file' and 'style'" in answer.json()["detail"]
    for path in ("x", "x/preview", "x/picture", "..%2F..", "a" * 32):
        answer = httpx.get(f"{service.url}/v1/stylize/jobs/{path}")
        assert answer.status_code == 404


def test_the_commands(service, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(PHOTO)
    (tmp_path / "style.png").write_bytes(STYLE)

    def run(*words):
        main(["query", "stylize-jobs", *map(str, words), "--url", service.url, "--json"])
        return json.loads(capsys.readouterr().out)

    settings = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    done = run("start", tmp_path / "a.png", "--style", tmp_path / "style.png", "--out", tmp_path / "o.png", *settings)
    assert done["state"] == "done" and decode((tmp_path / "o.png").read_bytes()).shape == (72, 96, 3)
    started = run("start", tmp_path / "a.png", "--style", tmp_path / "style.png", *settings)
    assert run("get", started["id"], "--out", tmp_path / "p.png")["id"] == started["id"]
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "o.png").read_bytes()
    assert run("get", started["id"], "--preview", tmp_path / "q.jpg")["state"] == "done"
    assert [job["id"] for job in run("list")["jobs"]] == [started["id"], done["id"]]
    assert run("delete", started["id"]) == {"deleted": started["id"]}
    with pytest.raises(SystemExit) as caught:
        run("get", started["id"])
    assert caught.value.code == 5
