"""The guard around a small Starlette application, spoken to over ASGI without a server in between."""

import asyncio
import json
import logging
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from cnnray.serve.access import ByKey, ByPlace
from cnnray.serve.guard import Guard, kind_of, safe_request_id
from cnnray.serve.key_ring import KeyRing
from cnnray.serve.keys import create_key
from cnnray.serve.problems import HANDLERS

LIMIT = 1000


async def echo(request):
    body = await request.body()
    return JSONResponse({"bytes": len(body), "request_id": request.state.request_id})


async def sleepy(request):
    await asyncio.sleep(30)


async def broken(request):
    raise RuntimeError("secret inside")


async def broken_half_way(request):
    async def parts():
        yield b"half"
        raise RuntimeError("secret inside")

    return StreamingResponse(parts())


async def inner_timeout(request):
    raise TimeoutError("of something else")


async def hello(request):
    return PlainTextResponse("hello")


ROUTES = [
    Route("/echo", echo, methods=["POST"]),
    Route("/sleepy", sleepy, methods=["GET", "POST"]),
    Route("/broken", broken),
    Route("/broken_half_way", broken_half_way),
    Route("/inner_timeout", inner_timeout),
    Route("/hello", hello),
]


@pytest.fixture
def guarded():
    return guard_of(ByPlace(local=False))


def guard_of(access):
    app = Starlette(routes=ROUTES, exception_handlers=HANDLERS)
    return Guard(app, access, max_body_bytes=LIMIT, max_in_flight=2, timeout_s=0.3)


def run(guard, talk):
    async def main():
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await talk(client)

    return asyncio.run(main())


def is_problem(response, status, code):
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert set(body) == {"type", "title", "status", "detail", "code", "request_id"} and body["request_id"]
    assert "secret" not in response.text and "Traceback" not in response.text
    return True


async def chunks(count, size):
    for _ in range(count):
        yield b"x" * size


def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(guarded):
    for sent in (b"x" * LIMIT, chunks(10, LIMIT // 10)):
        response = run(guarded, lambda c, sent=sent: c.post("/echo", content=sent))
        assert (response.status_code, response.json()["bytes"]) == (200, LIMIT)
    for sent in (b"x" * (LIMIT + 1), chunks(11, LIMIT // 10)):
        response = run(guarded, lambda c, sent=sent: c.post("/echo", content=sent))
        assert is_problem(response, 413, "body_too_large") and str(LIMIT) in response.json()["detail"]


def test_a_small_content_length_is_not_believed(guarded):
    response = run(guarded, lambda c: c.post("/echo", content=chunks(50, 100), headers={"content-length": "5"}))
    assert is_problem(response, 413, "body_too_large")


def test_reading_stops_soon_after_the_limit(guarded):
    taken = 0

    async def endless():
        nonlocal taken
        while True:
            taken += 100
            yield b"x" * 100

    async def talk():
        sent = []
        source = endless()

        async def receive():
            return {"type": "http.request", "body": await anext(source), "more_body": True}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/echo", "query_string": b"", "headers": []}
        await guarded(scope, receive, send)
        return sent

    sent = asyncio.run(talk())
    assert sent[0]["status"] == 413 and json.loads(sent[1]["body"])["code"] == "body_too_large"
    assert taken <= LIMIT + 100


def test_what_takes_too_long_is_cancelled(guarded):
    assert is_problem(run(guarded, lambda c: c.get("/sleepy")), 504, "timeout")


def test_a_timeout_inside_the_application_is_its_own_fault(guarded):
    assert is_problem(run(guarded, lambda c: c.get("/inner_timeout")), 500, "internal")


def test_too_many_at_once_are_refused_except_those_without_a_body(guarded):
    async def talk(client):
        waiting = [asyncio.create_task(client.post("/sleepy")) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused, passed = await client.post("/echo", content=b"x"), await client.get("/hello")
        await asyncio.gather(*waiting)
        return refused, passed, await client.post("/echo", content=b"x")

    refused, passed, later = run(guarded, talk)
    assert is_problem(refused, 503, "busy") and refused.headers["retry-after"] == "1"
    assert passed.status_code == 200
    assert later.status_code == 200  # the places were given back


def test_a_fault_tells_the_caller_nothing_and_the_log_everything(guarded, caplog):
    with caplog.at_level(logging.ERROR, "ray.serve"):
        response = run(guarded, lambda c: c.get("/broken", headers={"x-request-id": "abc"}))
    assert is_problem(response, 500, "internal") and response.json()["request_id"] == "abc"
    assert "request abc failed" in caplog.text and "secret inside" in caplog.text


def test_a_fault_after_the_answer_began_breaks_it_off(guarded):
    with pytest.raises(RuntimeError, match="secret inside"):
        run(guarded, lambda c: c.get("/broken_half_way"))


def test_the_applications_own_refusals_are_problems_too(guarded):
    assert is_problem(run(guarded, lambda c: c.get("/none")), 404, "not_found")
    response = run(guarded, lambda c: c.get("/echo"))
    assert is_problem(response, 405, "method_not_allowed") and response.headers["allow"] == "POST"


@pytest.mark.parametrize("sent", ["a", "Root=1-67891233-abcdef012345678912345678", "x" * 128, "a/b+c=@d:e.f_g-h"])
def test_a_harmless_request_id_is_kept(guarded, sent):
    response = run(guarded, lambda c: c.post("/echo", headers={"x-request-id": sent}))
    assert response.json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "a\tb", "<script>", 'a"b', "a\r\nset-cookie: b", "ä", "a\n"])
def test_any_other_request_id_is_replaced(sent):
    assert len(safe_request_id(sent)) == 32 and safe_request_id(sent).isalnum()
    assert safe_request_id(sent) != safe_request_id(sent)
    assert len(safe_request_id(None)) == 32


def test_who_may_not_ask_is_answered_before_the_body_is_read(tmp_path):
    _, shown = create_key(str(tmp_path), "a", ("infer",))

    async def shut(scope, receive, send):
        raise AssertionError("asked the application")

    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def talk():
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/classify", "query_string": b"", "headers": []}
        guard = Guard(shut, ByKey(KeyRing(str(tmp_path))), max_body_bytes=9, max_in_flight=1, timeout_s=1)
        await guard(scope, receive, send)
        return sent

    started, *_ = asyncio.run(talk())
    assert started["status"] == 401 and not read
    headers = dict(started["headers"])
    assert headers[b"www-authenticate"] == b"Bearer" and headers[b"content-type"] == b"application/problem+json"


def test_routes_overlook_a_last_line_feed():
    """Why the guard looks for it: a route's pattern ends with $, which is also before a last line feed."""
    assert run(Starlette(routes=ROUTES), lambda client: client.get("/hello%0A")).status_code == 200


@pytest.mark.parametrize("ending", ["%0A", "%0a", "%0D%0A", "%00", "%C2%85", "/%0A"])
def test_a_path_that_could_be_taken_for_another_leads_nowhere(guarded, ending):
    for method, path in (("GET", "/hello"), ("POST", "/echo"), ("GET", "/nowhere")):
        answer = run(guarded, lambda client, method=method, path=path: client.request(method, path + ending))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "control characters" in answer.json()["detail"]


def test_requests_of_a_kind_are_of_any_gallery_and_person():
    kinds = {
        "/v1/classify": "/v1/classify",
        "/v1/faces/verify": "/v1/faces/verify",
        "/v1/galleries": "/v1/galleries",
        "/v1/galleries/staff": "/v1/galleries",
        "/v1/galleries/staff/recognize": "/v1/galleries/recognize",
        "/v1/galleries/staff/identities": "/v1/galleries/identities",
        "/v1/galleries/guests/identities/ada/faces": "/v1/galleries/identities/faces",
    }
    assert {path: kind_of(path) for path in kinds} == kinds


def test_every_answer_says_what_browsers_must_not_do(guarded):
    for response in (
        run(guarded, lambda c: c.get("/hello")),
        run(guarded, lambda c: c.get("/absent")),
        run(guarded, lambda c: c.get("/broken")),
        run(guarded, lambda c: c.post("/echo", content=b"x" * (LIMIT + 1))),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store" and response.headers["x-frame-options"] == "DENY"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_callers_that_ask_again_at_once_leave_time_for_those_who_were_let_in():
    # room for two; sixty others spin for two seconds
    guard = guard_of(ByPlace(local=False))
    refused = []

    async def spin(client, until):
        while time.monotonic() < until:
            refused.append((await client.post("/sleepy")).status_code)

    async def talk(client):
        holders = [asyncio.create_task(client.post("/sleepy")) for _ in range(2)]
        await asyncio.sleep(0.05)
        await asyncio.gather(*holders, *(spin(client, time.monotonic() + 2) for _ in range(60)))

    run(guard, talk)
    assert set(refused) <= {503, 504}
    assert 60 <= len(refused) < 2 * (100 * 2 + 60)
