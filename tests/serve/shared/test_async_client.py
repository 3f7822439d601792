"""The asyncio client against the real service, and questions about folders from the command line."""

import asyncio
import time

import pytest

from cnnray.client import AsyncClient
from cnnray.errors import ServiceError
from tests.commands import run_command


def run(service, call, **options):
    async def body():
        async with AsyncClient(service.url, **options) as client:
            return await call(client)

    return asyncio.run(body())


def test_it_answers_as_the_other_client_does(service, client, photos):
    async def all_of(other):
        await other.wait_ready(5)
        return await asyncio.gather(
            other.models(),
            other.health(),
            other.detect(photos[0], confidence=0.01),
            other.detect_faces(photos[0]),
            other.segment(photos[0]),
            other.draw_objects(photos[0]),
            other.style_preview("dots"),
            other.stylize_jobs(),
        )

    models, health, found, faces, segmented, drawn, style, jobs = run(service, all_of)
    assert models == client.models() and health is True
    one = client.detect(photos[0], confidence=0.01)
    assert [thing.label for thing in found.objects] == [thing.label for thing in one.objects]
    assert len(faces.faces) == len(client.detect_faces(photos[0]).faces)
    assert segmented.content == client.segment(photos[0]).content
    assert drawn == client.draw_objects(photos[0])
    assert style == client.style_preview("dots") and jobs == client.stylize_jobs()


def test_many_at_once_share_batches_and_a_bad_one_spoils_none(service, client, photos):
    images = [*photos, b"rubbish", *photos]
    answers = run(service, lambda other: other.classify_many(images, concurrency=8))
    bad = answers.pop(len(photos))
    assert isinstance(bad, ServiceError) and (bad.code, bad.status) == ("not_an_image", 422)
    expected = [client.classify(photo) for photo in photos] * 2
    assert [answer.label for answer in answers] == [answer.label for answer in expected]
    for answer, one in zip(answers, expected, strict=True):
        assert answer.probability == pytest.approx(one.probability, abs=2e-2)
    assert max(answer.batch_size for answer in answers) > 1


def test_more_than_the_service_takes_wait_their_turn(service, photos):
    """6 are answered at a time and 6 wait, the others get 503 and come again."""
    answers = run(service, lambda other: other.classify_many(photos * 8, concurrency=40))
    assert all(answer.label for answer in answers) and len(answers) == 8 * len(photos)


def test_a_job_is_waited_for_while_others_are_answered(service, photos):
    async def paint(other):
        job = await other.start_stylize_job(photos[0], [photos[1]], size=64, steps=4, pyramid=1)
        seen = []
        painting, answer = await asyncio.gather(
            other.wait_stylize_job(job.id, seen.append, seconds=0.1), other.classify(photos[0])
        )
        await other.delete_stylize_job(job.id)
        await other.delete_stylize_job(job.id)
        return painting, answer, seen

    painting, answer, seen = run(service, paint)
    assert painting.startswith(b"\x89PNG") and answer.label and seen[-1].finished


def test_nothing_ready_is_said_with_exit_code_5(free_url, capsys):
    began = time.monotonic()
    assert "was not ready after 0 s: no connection" in run_command(["query", "ready", "--url", free_url], capsys, 5)[1]
    assert time.monotonic() - began < 5


@pytest.fixture
def free_url(free_port):
    return f"http://127.0.0.1:{free_port}"


def test_the_commands_take_folders(service, photos, tmp_path, capsys):
    for name, photo in (("a/x.jpg", photos[0]), ("a/deep/x.jpg", photos[1]), ("b/x.jpg", photos[2])):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo)
    (tmp_path / "b" / "bad.jpg").write_bytes(b"rubbish")
    folders, url = [tmp_path / "a", tmp_path / "b"], ["--url", service.url]
    found, _ = run_command(["query", "classify", *folders, *url], capsys)
    assert [bool(row["label"]) for row in found["answers"]] == [True, True, False, True]
    found, _ = run_command(["query", "segment", *folders, "--out", tmp_path / "out", *url], capsys)
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert written == {"a/x.png", "deep/x.png", "b/x.png"} and "422" in found["answers"][2]["error"]
    found, said = run_command(["query", "models", *url], capsys)
    assert {model["task"] for model in found["models"]} >= {"classify", "detect", "segment", "faces", "stylize"}
    assert "efficientnet_lite0" in said
    assert run_command(["query", "ready", *url], capsys)[0] == {"url": service.url, "ready": True}
