"""The asyncio client against the same scripted server as the other one, and the two held together."""

import asyncio
import inspect
import json
import re
import threading
import time

import pytest

from cnnray.client import AsyncClient, Client, DroppedGallery, Receipt
from cnnray.errors import OptionError, ServiceError, StorageError
from tests.unit.test_client import ANSWER, DROP, FACE, OK, WHY, Scripted, refuse
from tests.unit.test_client_galleries import ENROLLED, GALLERY, LOST, PERSON, RECEIPT

SMALL = {"height": 5, "width": 6}
IMAGES = {"model": "m", "request_id": "r", "images": [SMALL | {"objects": [], "faces": [FACE], "error": None}]}
BAD = {"model": "m", "request_id": "r", "images": [{"error": {"code": "empty", "detail": "it is empty"}}]}
MODEL = {
    "name": "n", "task": "t", "classes": 1, "input_size": 2, "weights_sha256": "0", "backbone": "b", "metrics": {},
}  # fmt: skip
PAIR = {
    "model": "m", "same": True, "distance": 0.2, "probability": None, "threshold": 0.4, "faces": [FACE, FACE],
    "found": [1, 1], "timings": {}, "request_id": "r",
}  # fmt: skip
CLAIM = {
    "gallery": "g", "gallery_version": 1, "identity": {"id": "ada", "name": "Ada"}, "same": True, "score": 0.9,
    "threshold": 0.5, "found": 1, "model": "m", "timings": {}, "request_id": "r",
}  # fmt: skip
SEGMENTED = SMALL | {"model": "m", "classes": [{"label": "a", "value": 0, "share": 1.0}], "confidence": 0.5}
PAINTED = SMALL | {"model": "m", "styles": {"dots": 1.0}, "timings": {}}
JOB = SMALL | {
    "id": "j1", "state": "done", "created": 1.0, "step": 9, "steps": 9, "loss": 1.0, "style": 1.0, "content": 1.0,
    "variation": 0.0, "seconds_left": 0.0, "code": "", "error": "",
}  # fmt: skip
FAILED = JOB | {"state": "failed", "code": "no_memory", "error": "too large"}
SUMMARY = {name: GALLERY[name] for name in ("name", "model", "identities", "faces", "gallery_version", "created_at")}
RECOGNIZED = {"gallery": "g", "gallery_version": 7, "model": "m", "timings": {}, "request_id": "r"}
RECOGNIZED |= {"images": [SMALL | {"faces": []}]}


def json_answer(body):
    return 200, {}, body


def picture(header, figures):
    return 200, {header: json.dumps(figures | {"request_id": "r"})}, b"file"


FILE = (200, {}, b"file")
# A call of each method, and what the service answers.
CALLS = [
    ("classify", (b"x", 2, True, "dog"), {}, [json_answer(ANSWER | {"explanation": WHY})]),
    ("classify", (b"x",), {}, [refuse(422, code="truncated")]),
    ("classify", (b"x",), {}, [json_answer({"label": "cat"})]),
    ("classify_many", ([b"x", b"x"],), {"concurrency": 1, "explain": True}, [OK, refuse(422, code="empty")]),
    ("detect", (b"x",), {"confidence": 0.2}, [json_answer(IMAGES)]),
    ("detect_many", ([b"x"],), {"most": 3}, [json_answer(IMAGES)]),
    ("detect_many", ([b"x", b""],), {}, [json_answer(BAD)]),
    ("draw_objects", (b"x",), {"slice": 3}, [FILE]),
    ("detect_faces", (b"x",), {"embeddings": True, "most": 3}, [json_answer(IMAGES)]),
    ("detect_faces_many", ([b"x"],), {"embeddings": True}, [json_answer(IMAGES)]),
    ("draw_faces", (b"x",), {"rotated": True}, [FILE]),
    ("verify_faces", (b"x", b"y"), {"threshold": 0.5, "pick": "only"}, [json_answer(PAIR)]),
    ("segment", (b"x",), {"draw": True}, [picture("x-segmentation", SEGMENTED)]),
    ("segment", (b"x",), {}, [FILE]),
    ("stylize", (b"x", {"dots": 0.5, "lines": 0.5}), {"strength": 0.5}, [picture("x-stylize", PAINTED)]),
    ("style_preview", ("a/b",), {}, [FILE]),
    ("health", (), {}, [json_answer({})]),
    ("ready", (), {}, [refuse(503)]),
    ("wait_ready", (5,), {}, [refuse(404), FILE, json_answer({})]),
    ("wait_ready", (0,), {}, [refuse(503, code="not_ready")]),
    ("models", (), {}, [json_answer({"models": [MODEL]})]),
    ("create_gallery", ("g", {"min_size": 40.0}), {}, [json_answer(GALLERY)]),
    ("list_galleries", (), {}, [json_answer({"galleries": [SUMMARY | {"calibrated": False}]})]),
    ("gallery", ("g",), {}, [json_answer(GALLERY)]),
    ("drop_gallery", ("g",), {}, [json_answer({"gallery": "g", "audit_hash": "h"})]),
    ("add_identity", ("g", "ada", "Ada", {"a": 1}), {}, [json_answer(PERSON)]),
    ("list_identities", ("g", "c", 3), {}, [json_answer({"identities": [PERSON], "cursor": "d"})]),
    ("identity", ("g", "a/.."), {}, [json_answer(PERSON | {"faces": []})]),
    ("identity", ("g", ""), {}, [OK]),
    ("update_identity", ("g", "ada", "Eve", {"a": 2}), {}, [json_answer(PERSON | {"faces": []})]),
    ("erase_identity", ("g", "ada"), {}, [json_answer(RECEIPT)]),
    ("enroll", ("g", "ada", [b"x", b"y"]), {"request_key": "k", "name": "A"}, [json_answer(ENROLLED)]),
    ("enroll", ("g", "ada", b"x"), {"request_key": "ü"}, [OK]),
    ("delete_face", ("g", "ada", 3), {}, [json_answer(RECEIPT)]),
    ("recognize", ("g", b"x"), {"threshold": 0.5, "candidates": 2, "rotated": True}, [json_answer(RECOGNIZED)]),
    ("verify_identity", ("g", "ada", b"x"), {"threshold": 0.5, "pick": "only"}, [json_answer(CLAIM)]),
    ("start_stylize_job", (b"x", [b"y", b"z"], b"m"), {"key": "k", "steps": 9}, [json_answer(JOB)]),
    ("start_stylize_job", (b"x", []), {}, [OK]),
    ("stylize_jobs", (3,), {}, [json_answer({"jobs": [JOB]})]),
    ("stylize_job", ("j1",), {}, [json_answer(JOB)]),
    ("stylize_preview", ("j1",), {}, [FILE]),
    ("stylize_picture", ("j1",), {}, [FILE]),
    ("delete_stylize_job", ("j1",), {}, [refuse(404, code="no_job")]),
    ("delete_stylize_job", ("j1",), {}, [refuse(409, code="other")]),
    ("wait_stylize_job", ("j1",), {"seconds": 0.01}, [json_answer(JOB | {"state": "running"}), json_answer(JOB), FILE]),
    ("wait_stylize_job", ("j1",), {"seconds": 0.01}, [json_answer(FAILED)]),
]


def public(kind):
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def answered(run):
    """The answer, or what was raised: type, words without the port, and what else is on it."""
    try:
        return run()
    except (ServiceError, OptionError, StorageError) as error:
        return type(error), plain(str(error)), vars(error)


def plain(value):
    return re.sub(r"127\.0\.0\.1:\d+", "HERE", value) if isinstance(value, str) else value


def comparable(answer):
    if isinstance(answer, list):
        return [comparable(one) for one in answer]
    return (type(answer), plain(str(answer)), vars(answer)) if isinstance(answer, ServiceError) else answer


def sent(server):
    """What the server saw, without what differs by chance: port, boundary of the form."""
    rows = []
    for method, path, headers, body in server.seen:
        kept = {name.lower(): value for name, value in headers.items() if name.lower() != "host"}
        mark = re.search("boundary=(.*)", kept.get("content-type", ""))
        if mark:
            body = body.replace(mark[1].encode(), b"mark")
            kept["content-type"] = "form"
        rows.append((method, path, kept, body))
    return rows


def ask(call, *script, **options):
    """What comes of a call of the asyncio client, and the server."""

    async def run(url):
        async with AsyncClient(url, **{"patience": 5, **options}) as client:
            return await call(client)

    with Scripted(*script) as server:
        return answered(lambda: asyncio.run(run(server.url))), server


def test_both_clients_have_the_same_methods():
    assert public(Client) - {"close"} == public(AsyncClient) - {"aclose"}
    assert public(Client) - {"close"} == {name for name, _, _, _ in CALLS}
    for name in sorted(public(Client) - {"close"} | {"__init__"}):
        waits, runs = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(waits) == inspect.signature(runs), name
        if name != "__init__":
            assert inspect.iscoroutinefunction(runs), name
            assert runs.__doc__ == f"As `Client.{name}`.", name


@pytest.mark.parametrize(("name", "values", "options", "script"), CALLS, ids=[call[0] for call in CALLS])
def test_both_ask_the_same_and_answer_the_same(name, values, options, script):
    with Scripted(*script) as server, Client(server.url, patience=0, key="k") as client:
        expected = answered(lambda: getattr(client, name)(*values, **options))
    found, asked = ask(lambda client: getattr(client, name)(*values, **options), *script, patience=0, key="k")
    assert comparable(found) == comparable(expected)
    assert sent(asked) == sent(server)


def test_files_are_read(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"image")
    answer, server = ask(lambda client: client.classify(path), OK)
    assert answer.label == "cat" and server.seen[0][3] == b"image"
    assert ask(lambda client: client.classify(str(tmp_path)), OK)[0][:2] == (
        StorageError,
        f"cannot read {tmp_path}: Is a directory",
    )


def test_what_passes_is_tried_again_but_not_before_retry_after():
    began = time.monotonic()
    answer, server = ask(lambda client: client.classify(b"x"), refuse(503, {"retry-after": "1"}), DROP, OK)
    assert answer.label == "cat" and len(server.seen) == 3 and time.monotonic() - began >= 1
    for status in (429, 502, 504):
        answer, server = ask(lambda client: client.classify(b"x"), refuse(status), OK)
        assert answer.label == "cat" and len(server.seen) == 2


def test_patience_bounds_the_tries():
    error, server = ask(lambda client: client.classify(b"x"), refuse(503), patience=0.5)
    assert error[0] is not OptionError and error[2]["status"] == 503 and 2 <= len(server.seen) <= 5
    error, server = ask(lambda client: client.classify(b"x"), refuse(503, {"retry-after": "3600"}))
    assert error[2]["status"] == 503 and len(server.seen) == 1


def test_no_answer_in_time_is_final_and_nobody_there_is_said():
    def slow(_):
        time.sleep(0.6)
        return OK

    async def wait(client):
        try:
            return await client.classify(b"x")
        finally:
            await asyncio.sleep(0.6)  # the handler's thread ends before its server

    error, server = ask(wait, slow, timeout=0.2)
    assert "did not answer in time" in error[1] and len(server.seen) == 1
    with Scripted(OK) as server:
        url = server.url

    async def ask_nobody():
        async with AsyncClient(url, patience=0.3) as client:
            assert not await client.health()
            await client.classify(b"x")

    with pytest.raises(ServiceError, match="no connection to http://127.0.0.1"):
        asyncio.run(ask_nobody())


@pytest.mark.parametrize("lost", LOST, ids=str)
def test_a_retry_that_finds_its_work_done_has_succeeded(lost):
    found, _ = ask(lambda client: client.erase_identity("g", "ada"), lost, refuse(404, code="no_identity"))
    assert found == Receipt("g", "ada")
    found, _ = ask(lambda client: client.drop_gallery("g"), lost, refuse(404, code="no_gallery"))
    assert found == DroppedGallery("g", "")
    exists = refuse(409, code="gallery_exists")
    found, server = ask(lambda client: client.create_gallery("g"), lost, exists, json_answer(GALLERY))
    assert found.name == "g" and server.seen[-1][:2] == ("GET", "/v1/galleries/g")
    error, _ = ask(lambda client: client.create_gallery("g", {"min_size": 9}), lost, exists, json_answer(GALLERY))
    assert error[0] is ServiceError and error[2]["code"] == "gallery_exists"
    error, _ = ask(lambda client: client.erase_identity("g", "ada"), refuse(404, code="no_identity"))
    assert error[2]["code"] == "no_identity"


def test_an_enrolment_and_a_job_keep_their_keys_over_their_attempts():
    for call, answer in (
        (lambda client: client.enroll("g", "ada", b"x"), ENROLLED),
        (lambda client: client.start_stylize_job(b"x", [b"y"]), JOB),
    ):
        _, server = ask(call, DROP, refuse(503), json_answer(answer))
        keys = {headers["idempotency-key"] for _, _, headers, _ in server.seen}
        assert len(server.seen) == 3 and len(keys) == 1 and len(keys.pop()) == 32


def test_many_keep_their_order_and_one_failure_spoils_no_other(tmp_path):
    def answer(body):
        time.sleep(0.02 * (body[0] % 3))
        return refuse(422, code="not_an_image") if body[0] == 5 else json_answer(ANSWER | {"label": str(body[0])})

    images = [bytes([i]) for i in range(20)]
    images[9] = tmp_path / "absent.png"
    results, server = ask(lambda client: client.classify_many(images, concurrency=4), answer)
    assert isinstance(results[5], ServiceError) and results[5].code == "not_an_image"
    assert isinstance(results[9], StorageError)
    good = [i for i in range(20) if i not in (5, 9)]
    assert [results[i].label for i in good] == [str(i) for i in good]
    assert 1 < server.most <= 4
    assert ask(lambda client: client.classify_many([]), OK)[0] == []
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"(concurrency|max_workers)"):
            found = kind(server.url).classify_many([b"x"], concurrency=0)
            asyncio.run(found)


def test_what_nobody_expects_ends_all_of_many():
    async def run(client):
        with pytest.raises(TypeError):
            await client.classify_many([b"x"] * 9, colour="red")
        return len(asyncio.all_tasks())

    assert ask(run, OK)[0] == 1


def test_calls_wait_side_by_side_and_can_be_given_up():
    together = threading.Barrier(8)

    def slow(_):
        together.wait(30)  # the first is answered when the last has come
        return OK

    async def run(client):
        return await asyncio.gather(*(client.classify(b"x") for _ in range(8)))

    answers, server = ask(run, slow)
    assert len(answers) == server.most == 8

    async def give_up(client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):  # enough to be refused, too little for another attempt
                await client.classify(b"x")
        return await client.classify(b"y")

    answer, server = ask(give_up, refuse(503, {"retry-after": "2"}), OK)
    assert answer.label == "cat" and [body for _, _, _, body in server.seen] == [b"x", b"y"]


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://[::1", "http://a:b"])
def test_a_wrong_url_is_refused_at_once(url):
    with pytest.raises(OptionError, match="expected"):
        AsyncClient(url)
