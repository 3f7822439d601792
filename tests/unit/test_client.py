"""The client against a real HTTP server on loopback that answers what the test scripts, byte for byte."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cnnray.client import Client
from cnnray.errors import OptionError, ServiceError, StorageError

ANSWER = {
    "model": "net@0123",
    "label": "cat",
    "probability": 0.75,
    "top": [{"label": "cat", "probability": 0.75}, {"label": "dog", "probability": 0.25}],
    "batch_size": 1,
    "timings": {"queue_ms": 1.0, "inference_ms": 2.0, "total_ms": 4.0},
    "request_id": "r1",
}
PROBLEM = {
    "type": "about:blank",
    "title": "t",
    "status": 0,
    "detail": "what it was",
    "code": "busy",
    "request_id": "r2",
}
DROP = "drop the connection"


class Scripted(ThreadingHTTPServer):
    """Answers each request with the next step of `script`: (status, headers, body), or DROP; the last one repeats."""

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen, self.lock = list(script), [], threading.Lock()
        self.now = self.most = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.server.lock:
            self.server.seen.append((self.command, self.path, dict(self.headers), body))
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            step = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        if callable(step):
            step = step(body)
        with self.server.lock:
            self.server.now -= 1
        if step == DROP:
            self.close_connection = True
            return
        status, headers, content = step
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(raw))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST


OK = (200, {}, ANSWER)


def refuse(status, headers=None, **fields):
    return status, headers or {}, {**PROBLEM, **fields}


def test_an_answer_is_read_and_the_image_sent_as_it_is(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8 image")
    with Scripted(OK) as server, Client(server.url + "/") as client:
        for image in (path, str(path), b"\xff\xd8 image"):
            answer = client.classify(image, top_k=2)
    assert (answer.label, answer.probability, answer.model) == ("cat", 0.75, "net@0123")
    assert [(g.label, g.probability) for g in answer.top] == [("cat", 0.75), ("dog", 0.25)]
    assert answer.timings["total_ms"] == 4.0 and answer.request_id == "r1"
    for method, target, headers, body in server.seen:
        assert (method, target, body) == ("POST", "/v1/classify?top_k=2", b"\xff\xd8 image")
        assert headers["content-type"] == "application/octet-stream"


WHY = {
    "label": "dog", "probability": 0.25, "stage": "head", "height": 300, "width": 400,
    "seen": [50.0, 0.0, 350.0, 300.0], "overlay": "anBlZw==", "heat": "cG5n", "guided": None, "note": "no ReLU",
}  # fmt: skip


def test_an_explanation_is_asked_for_by_name_and_its_pictures_decoded():
    drawn = WHY | {"guided": "cG5nMg==", "note": ""}
    script = [(200, {}, {**ANSWER, "explanation": why}) for why in (None, WHY, drawn)]
    with Scripted(*script) as server, Client(server.url) as client:
        plain = client.classify(b"x", 3)
        why = client.classify(b"x", explain=True, explain_label="dog").explanation
        (other,) = client.classify_many([b"x"], concurrency=1, explain=True)
    assert [target for _, target, _, _ in server.seen] == [
        "/v1/classify?top_k=3",
        "/v1/classify?top_k=5&explain=true&explain_label=dog",
        "/v1/classify?top_k=5&explain=true",
    ]
    assert plain.explanation is None and (why.label, why.probability, why.stage) == ("dog", 0.25, "head")
    assert (why.height, why.width, why.seen) == (300, 400, (50.0, 0.0, 350.0, 300.0))
    assert (why.overlay, why.heat, why.guided, why.note) == (b"jpeg", b"png", None, "no ReLU")
    assert (other.explanation.guided, other.explanation.note) == (b"png2", "")


def test_a_service_that_knows_no_explanations_gives_none():
    with Scripted(OK) as server, Client(server.url) as client:
        assert client.classify(b"x", explain=True).explanation is None


@pytest.mark.parametrize("wrong", [{"label": "dog"}, WHY | {"heat": "*"}, WHY | {"overlay": None}, ["x"]])
def test_a_broken_explanation_is_the_services_fault(wrong):
    with Scripted((200, {}, {**ANSWER, "explanation": wrong})) as server, Client(server.url) as client:
        with pytest.raises(ServiceError, match="expected an Explanation's pictures in base64"):
            client.classify(b"x", explain=True)


def test_fields_of_a_newer_service_are_passed_over_and_missing_ones_named():
    with Scripted((200, {}, {**ANSWER, "new": 1})) as server, Client(server.url) as client:
        assert client.classify(b"x").label == "cat"
    for wrong in ({"label": "cat"}, {"top": [1]}):
        with Scripted((200, {}, wrong)) as server, Client(server.url) as client:
            with pytest.raises(ServiceError, match="expected (Answer|Guess) from the service"):
                client.classify(b"x")


def test_busy_answers_are_tried_again_but_not_before_retry_after():
    busy = refuse(503, {"retry-after": "1"})
    with Scripted(busy, OK) as server, Client(server.url) as client:
        started = time.monotonic()
        assert client.classify(b"x").label == "cat"
        assert 1.0 <= time.monotonic() - started < 2.0
    assert len(server.seen) == 2


def test_broken_connections_are_tried_again():
    with Scripted(DROP, DROP, OK) as server, Client(server.url) as client:
        assert client.classify(b"x").label == "cat"
    assert len(server.seen) == 3


def test_patience_bounds_the_tries():
    with Scripted(refuse(503, {"retry-after": "0"})) as server, Client(server.url, patience=0.5) as client:
        started = time.monotonic()
        with pytest.raises(ServiceError, match="what it was") as caught:
            client.classify(b"x")
        assert time.monotonic() - started < 1.0
    assert 2 <= len(server.seen) <= 5
    assert caught.value.status == 503
    with Scripted(refuse(503, {"retry-after": "3600"})) as server, Client(server.url, patience=5) as client:
        started = time.monotonic()
        with pytest.raises(ServiceError):
            client.classify(b"x")
        assert time.monotonic() - started < 1.0  # no use in waiting that long
    with Scripted(refuse(503)) as server, Client(server.url, patience=0) as client:
        with pytest.raises(ServiceError):
            client.classify(b"x")
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_not_now_is_tried_again(status):
    with Scripted(refuse(status), OK) as server, Client(server.url) as client:
        assert client.classify(b"x").label == "cat"
    assert len(server.seen) == 2


@pytest.mark.parametrize("body", [b"Internal Server Error", b"", b"[1]"])
def test_a_fault_of_the_proxy_is_tried_again(body):
    with Scripted((500, {}, body), OK) as server, Client(server.url) as client:
        assert client.classify(b"x").label == "cat"
    assert len(server.seen) == 2


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500])
def test_other_errors_are_final_and_carry_code_and_request_id(status):
    with Scripted(refuse(status, code="truncated")) as server, Client(server.url) as client:
        with pytest.raises(ServiceError, match=f"/v1/classify answered {status}: what it was") as caught:
            client.classify(b"x")
    assert len(server.seen) == 1
    assert (caught.value.code, caught.value.status, caught.value.request_id) == ("truncated", status, "r2")


def test_answers_of_another_program_become_service_errors():
    with (
        Scripted((502, {"x-request-id": "p9"}, b"<html>bad gateway")) as server,
        Client(server.url, patience=0) as client,
    ):
        with pytest.raises(ServiceError, match="502: <html>bad gateway") as caught:
            client.models()
    assert (caught.value.code, caught.value.request_id) == ("service", "p9")
    for body in (b"<html>hello", b"[1]"):
        with Scripted((200, {}, body)) as server, Client(server.url) as client:
            with pytest.raises(ServiceError, match="is it a cnnray service"):
                client.models()


def test_no_answer_in_time_is_final():
    def slow(_):
        time.sleep(0.6)
        return OK

    with Scripted(slow) as server, Client(server.url, timeout=0.2) as client:
        with pytest.raises(ServiceError, match="did not answer in time"):
            client.classify(b"x")
        assert len(server.seen) == 1
        time.sleep(0.6)  # the handler's thread ends before its server


def test_nobody_there(free_port):
    with Client(f"http://127.0.0.1:{free_port}", patience=0.3) as client:
        assert not client.health() and not client.ready()
        with pytest.raises(ServiceError, match="no connection to http://127.0.0.1") as caught:
            client.classify(b"x")
        assert (caught.value.status, caught.value.exit_code) == (0, 5)
        with pytest.raises(ServiceError, match="was not ready after 0.2 s: no connection"):
            client.wait_ready(0.2)


def test_wait_ready_waits():
    not_ready = refuse(503, code="not_ready")
    with Scripted(not_ready, not_ready, (200, {}, {"status": "ready"})) as server, Client(server.url) as client:
        assert not client.ready()
        client.wait_ready(5)
        assert client.ready() and client.health()
    assert {target for _, target, _, _ in server.seen} == {"/v1/ready", "/v1/health"}


def test_many_keep_their_order_and_one_failure_spoils_no_other(tmp_path):
    def answer(body):
        time.sleep(0.02 * (body[0] % 3))
        return refuse(422, code="not_an_image") if body[0] == 5 else (200, {}, {**ANSWER, "label": str(body[0])})

    images = [bytes([i]) for i in range(20)]
    images[9] = tmp_path / "absent.png"
    with Scripted(answer) as server, Client(server.url) as client:
        results = client.classify_many(images, concurrency=4)
    assert isinstance(results[5], ServiceError) and results[5].code == "not_an_image"
    assert isinstance(results[9], StorageError)
    good = [i for i in range(20) if i not in (5, 9)]
    assert [results[i].label for i in good] == [str(i) for i in good]
    assert 1 < server.most <= 4


def test_models_are_read():
    model = {
        "name": "net@0123", "task": "classify", "classes": 3, "input_size": 224, "weights_sha256": "0123",
        "backbone": "net", "metrics": {"val_accuracy": 0.5},
    }  # fmt: skip
    painter = model | {"task": "stylize", "styles": ["dots", "stripes"]}
    with Scripted((200, {}, {"models": [model, painter]})) as server, Client(server.url) as client:
        got, other = client.models()
    assert (got.classes, got.input_size, got.metrics, got.styles) == (3, 224, {"val_accuracy": 0.5}, ())
    assert other.styles == ("dots", "stripes")


FACE = {
    "box": [1.0, 2.0, 3.0, 4.0], "confidence": 1.1, "landmarks": {"nose": [2.0, 3.0]}, "quality": {"size": 2.0},
    "embedding": None,
}  # fmt: skip


def test_faces_are_read_and_a_bad_image_has_its_error():
    parts = [
        {"height": 5, "width": 6, "faces": [FACE, FACE | {"embedding": [0.6, 0.8]}], "error": None},
        {"error": {"code": "empty", "detail": "it is empty"}},
    ]
    answer = {"model": "net@0123", "images": parts, "request_id": "r1"}
    with Scripted((200, {}, answer)) as server, Client(server.url) as client:
        found, bad = client.detect_faces_many([b"x", b""], embeddings=True, most=2)
    assert (found.height, found.width, found.model) == (5, 6, "net@0123")
    assert found.faces[0].box == (1.0, 2.0, 3.0, 4.0) and found.faces[0].landmarks == {"nose": (2.0, 3.0)}
    assert [face.embedding for face in found.faces] == [None, (0.6, 0.8)]
    assert isinstance(bad, ServiceError) and (bad.code, bad.status, bad.request_id) == ("empty", 422, "r1")
    ((_, target, _, _),) = server.seen
    assert target == "/v1/faces/detect?most=2&embeddings=true"


def test_two_images_are_sent_by_name_and_a_threshold_only_where_there_is_one():
    answer = {
        "model": "net@0123", "same": True, "distance": 0.2, "probability": None, "threshold": 0.4,
        "faces": [FACE, FACE], "found": [1, 3], "timings": {}, "request_id": "r1",
    }  # fmt: skip
    with Scripted((200, {}, answer)) as server, Client(server.url) as client:
        got = client.verify_faces(b"one image", b"another", pick="only")
        client.verify_faces(b"one image", b"another", threshold=0.0)
    assert (got.same, got.probability, got.found, len(got.faces)) == (True, None, (1, 3), 2)
    assert [target for _, target, _, _ in server.seen] == [
        "/v1/faces/verify?pick=only",
        "/v1/faces/verify?pick=largest&threshold=0.0",
    ]
    for _, _, headers, body in server.seen:
        assert headers["Content-Type"].startswith("multipart/form-data")
        assert body.index(b'name="first"') < body.index(b"one image") < body.index(b'name="second"')


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://[::1", "http://a:b"])
def test_a_wrong_url_is_refused_at_once(url):
    with pytest.raises(OptionError, match="expected"):
        Client(url)


def test_an_unreadable_file_is_named(tmp_path):
    with Client() as client, pytest.raises(StorageError, match=f"cannot read {tmp_path}"):
        client.classify(tmp_path)


def test_the_client_loads_neither_torch_nor_ray():
    code = "import sys, cnnray.client; print([m for m in ('torch', 'ray', 'numpy', 'fastapi') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_key_is_shown_from_the_call_or_the_environment_and_only_there(monkeypatch):
    def shown(*words, **options):
        with Scripted(OK) as server, Client(server.url, *words, **options) as client:
            client.classify(b"x")
            return {name.lower(): value for name, value in server.seen[0][2].items()}.get("authorization")

    assert shown() is None and shown(key="cnnray_k") == "Bearer cnnray_k"
    monkeypatch.setenv("CNNRAY_API_KEY", "cnnray_e\n")
    assert shown() == "Bearer cnnray_e" and shown(key="cnnray_k") == "Bearer cnnray_k" and shown(key="") is None
    for wrong in ("a\nb", "schlüssel"):
        with pytest.raises(OptionError, match="expected a key of printable ASCII") as caught:
            Client(key=wrong)
        assert wrong not in str(caught.value)


@pytest.mark.parametrize("key", ["Auftrag-ä", "a\nb", "\ud800"])
def test_a_key_of_a_request_that_no_header_holds_is_told_at_once(key):
    with Client("http://127.0.0.1:9") as client:
        for ask in (
            lambda: client.enroll("g", "ada", b"x", request_key=key),
            lambda: client.start_stylize_job(b"x", [b"y"], key=key),
        ):
            with pytest.raises(OptionError, match="expected printable ASCII characters as the key of a request"):
                ask()


def test_a_limit_is_waited_for_and_a_wrong_key_is_told_at_once():
    limited = (429, {"retry-after": "1"}, PROBLEM | {"code": "rate_limited"})
    with Scripted(limited, OK) as server, Client(server.url) as client:
        began = time.monotonic()
        assert client.classify(b"x").label == "cat" and time.monotonic() - began >= 1
    unknown = (401, {"www-authenticate": "Bearer"}, PROBLEM | {"code": "unauthenticated"})
    with Scripted(unknown) as server, Client(server.url) as client:
        with pytest.raises(ServiceError, match="answered 401: what it was") as caught:
            client.classify(b"x")
        assert caught.value.code == "unauthenticated" and len(server.seen) == 1
