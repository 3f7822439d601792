"""The real service over real HTTP: every endpoint, every refusal, overload, and a killed replica."""

import io
import os
import random
import re
import signal
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cnnray.client import Answer, Client
from cnnray.errors import OptionError
from cnnray.infer.classify import Classifier
from cnnray.infer.explain import Explainer
from cnnray.serve.app import up
from tests.commands import run_command

OCTETS = {"content-type": "application/octet-stream"}


def is_problem(response, status, code):
    body = response.json()
    assert (response.status_code, body.get("code")) == (status, code), body
    assert response.headers["content-type"] == "application/problem+json"
    assert set(body) == {"type", "title", "status", "detail", "code", "request_id"}
    assert body["status"] == status and body["request_id"] and body["detail"]
    assert "Traceback" not in response.text and ".py" not in response.text
    return True


def post(service, content=b"", headers=OCTETS, **options):
    return httpx.post(f"{service.url}/v1/classify", content=content, headers=headers, timeout=60, **options)


@pytest.fixture(scope="module")
def explainer(checkpoint):
    return Explainer.load(checkpoint, device="cpu")


def large_photo():
    file = io.BytesIO()
    Image.effect_noise((3000, 1500), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()


# --- good answers -------------------------------------------------------------------------------------------------


def test_answers_equal_the_classifier_alone(client, checkpoint, photos):
    alone = Classifier.load(checkpoint, device="cpu")
    tolerance = 1e-5 if alone.precision == "float32" else 2e-2
    answers = client.classify_many(photos, top_k=2)
    for answer, expected in zip(answers, alone.predict(photos, top_k=2), strict=True):
        assert answer.label == expected.label
        assert answer.probability == pytest.approx(expected.probability, abs=tolerance)
        assert [(g.label, pytest.approx(g.probability, abs=tolerance)) for g in answer.top] == list(expected.top)
        assert answer.model == alone.name
    assert len({answer.probability for answer in answers}) == len(photos)


def test_form_and_raw_body_give_the_same(service, photos):
    raw = post(service, photos[0]).json()
    typed = post(service, photos[0], headers={"content-type": "Image/JPEG; q=1"}).json()
    form = httpx.post(f"{service.url}/v1/classify", files={"file": ("any name.jpg", photos[0])}).json()
    for field in ("model", "label"):
        assert raw[field] == typed[field] == form[field]
    assert raw["probability"] == pytest.approx(form["probability"], abs=1e-5)


def test_an_answer_has_its_timings_and_all_its_classes(service, photos):
    body = post(service, photos[0], params={"top_k": 1000}).json()
    assert [len(body["top"]), body["top"][0]["label"]] == [3, body["label"]]
    assert sum(guess["probability"] for guess in body["top"]) == pytest.approx(1, abs=1e-5)
    timings = body["timings"]
    assert 0 <= timings["queue_ms"] and 0 < timings["inference_ms"]
    assert timings["queue_ms"] + timings["inference_ms"] <= timings["total_ms"] < 5000


def test_an_explained_answer_is_the_plain_one_and_says_why(service, client, explainer, photos):
    plain, body = (post(service, photos[0], params=params).json() for params in ({}, {"explain": True}))
    assert plain["explanation"] is None
    why = body["explanation"]
    for field in ("model", "label"):
        assert body[field] == plain[field]
    assert [guess["label"] for guess in body["top"]] == [guess["label"] for guess in plain["top"]]
    assert body["probability"] == pytest.approx(plain["probability"], abs=1e-5)
    alone = explainer.why(photos[0])
    assert (why["label"], why["stage"], why["note"]) == (plain["label"], explainer.stage, "")
    assert why["probability"] == pytest.approx(alone.probability, abs=1e-5)
    assert (why["height"], why["width"]) == alone.heat_HW.shape
    found = client.classify(photos[0], explain=True).explanation
    assert found.seen == pytest.approx([alone.seen[at] for at in (1, 0, 3, 2)])
    pictures = [Image.open(io.BytesIO(part)) for part in (found.overlay, found.heat, found.guided)]
    assert [(p.format, p.mode, p.size) for p in pictures] == [
        ("JPEG", "RGB", (why["width"], why["height"])),
        ("PNG", "L", (why["width"], why["height"])),
        ("PNG", "RGB", (why["width"], why["height"])),
    ]
    heat = np.asarray(pictures[1])
    assert heat.max() == 255 and np.abs(heat / 255 - alone.heat_HW / alone.heat_HW.max()).max() < 0.01
    left, top, right, bottom = found.seen
    assert not heat[:, : int(left) - 1].any() and not heat[: int(top) - 1].any()


def test_another_class_is_explained_and_an_unknown_one_is_refused_with_those_that_are(service, client, photos):
    answer = client.classify(photos[1], top_k=3, explain=True)
    (other,) = {"apple", "pear", "plum"} - {guess.label for guess in answer.top[:2]}
    found = client.classify(photos[1], top_k=3, explain=True, explain_label=other)
    assert (found.label, found.explanation.label) == (answer.label, other)
    assert found.explanation.probability == pytest.approx(answer.top[2].probability, abs=2e-2)
    assert found.explanation.heat != answer.explanation.heat
    unknown = post(service, photos[1], params={"explain": True, "explain_label": "kiwi"})
    assert is_problem(unknown, 422, "unknown_name") and "known: apple, pear, plum" in unknown.json()["detail"]
    assert is_problem(post(service, photos[1], params={"explain_label": "pear"}), 422, "explain_label_alone")
    for content, code in ((b"", "empty"), (b"hello, this is no image", "not_an_image"), (jpeg()[:2000], "truncated")):
        assert is_problem(post(service, content, params={"explain": True}), 422, code)
    large = client.classify(large_photo(), explain=True).explanation
    assert (large.height, large.width) == (1500, 3000)
    assert Image.open(io.BytesIO(large.overlay)).size == Image.open(io.BytesIO(large.guided)).size == (512, 256)
    assert len(large.overlay) + len(large.heat) + len(large.guided) < 400_000


def test_explanations_leave_places_for_plain_requests(service, client, photos):
    client.classify(photos[0], explain=True)  # loads the explainer
    url, until = f"{service.url}/v1/classify?explain=true", time.monotonic() + 3

    def insist(_):
        statuses = []
        with httpx.Client(timeout=30) as http:
            while time.monotonic() < until:
                statuses.append(http.post(url, content=photos[0], headers=OCTETS).status_code)
        return statuses

    plain = []
    with ThreadPoolExecutor(4) as pool:
        asked = pool.map(insist, range(4))
        while time.monotonic() < until - 0.5:
            plain.append(post(service, photos[2]).status_code)
        statuses = [status for part in asked for status in part]
    assert set(statuses) == {200, 503} and statuses.count(200) > 3
    assert set(plain) == {200} and len(plain) > 5


def test_the_command_writes_what_speaks_for_each_answer(service, photos, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(photos[0])
    (tmp_path / "bad.jpg").write_bytes(b"rubbish")
    ask, options = ["query", "classify", tmp_path / "a.jpg"], ["--url", service.url]
    plain, _ = run_command([*ask, *options], capsys)
    assert "explanation" not in plain["answers"][0]
    options += ["--explain", tmp_path / "why"]
    found, said = run_command([*ask, tmp_path / "bad.jpg", *options], capsys)
    good, bad = found["answers"]
    assert good["label"] == plain["answers"][0]["label"] and bad["explanation"] is None and bad["error"]
    why = good["explanation"]
    assert set(why) == {"label", "probability", "stage", "height", "width", "seen", "note", "pictures"}
    names = ["a-overlay.jpg", "a-heat.png", "a-guided.png"]
    assert why["pictures"] == [str(tmp_path / "why" / name) for name in names]
    assert {place.name for place in (tmp_path / "why").iterdir()} == set(names)
    assert "a-overlay.jpg" in said and f"what speaks for {why['label']}" in said
    other = next(label for label in ("apple", "pear", "plum") if label != why["label"])
    words = [*ask, *options, "--explain-label"]
    assert run_command([*words, other], capsys)[0]["answers"][0]["explanation"]["label"] == other
    assert "known: apple, pear, plum" in run_command([*words, "kiwi"], capsys, 5)[1]


def test_health_ready_and_models(client, checkpoint):
    assert client.health() and client.ready()
    model, finder, other, faces, painter = client.models()
    assert (finder.task, finder.classes, finder.input_size) == ("detect", 2, 96)
    assert (other.task, other.classes, other.backbone) == ("segment", 2, "plain")
    assert (faces.task, faces.input_size, faces.backbone) == ("faces", 150, "dlib_resnet")
    assert (painter.task, painter.classes, painter.input_size) == ("stylize", 2, 0)
    alone = Classifier.load(checkpoint, device="cpu")
    assert (model.name, model.task, model.classes, model.input_size) == (alone.name, "classify", 3, 96)
    assert (model.weights_sha256, model.backbone) == (alone.card.weights_sha256, "efficientnet_lite0")
    assert model.metrics == {"val_accuracy": 0.5}


def test_the_documentation_needs_no_internet(service):
    page = httpx.get(f"{service.url}/docs")
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/"), f"{asset} would be fetched from elsewhere"
        assert httpx.get(service.url + asset).status_code == 200
    schema = httpx.get(f"{service.url}/openapi.json").json()
    assert set(schema["paths"]) - {"/metrics"} == {
        f"/v1/{name}"
        for name in (
            "classify",
            "detect",
            "segment",
            "faces/detect",
            "faces/verify",
            "stylize",
            "stylize/styles/{style}",
            "stylize/jobs",
            "stylize/jobs/{job}",
            "stylize/jobs/{job}/preview",
            "stylize/jobs/{job}/picture",
            "health",
            "ready",
            "models",
        )
    }
    body = schema["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/octet-stream", "image/*"}
    parameters = schema["paths"]["/v1/classify"]["post"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["top_k", "explain", "explain_label"]
    assert "overlay" in schema["components"]["schemas"]["Explanation"]["properties"]


def test_starting_wrote_nothing_to_stdout(service):
    assert service.stdout == ""
    assert "INFO" not in service.stderr and "Traceback" not in service.stderr


# --- hostile input ------------------------------------------------------------------------------------------------


def bomb(side=15_000):
    """A black 1-bit PNG of side x side pixels in a few kB."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg():
    file = io.BytesIO()
    Image.effect_noise((200, 200), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    "content, code",
    [
        (b"", "empty"),
        (b"hello, this is no image", "not_an_image"),
        (jpeg()[:2000], "truncated"),
        (bomb(), "too_large"),
        (b"\0" * 100_000, "not_an_image"),
        (b"%PDF-1.7 ...", "unsupported_format"),
    ],
    ids=["empty", "text", "truncated", "bomb", "zeros", "pdf"],
)
def test_bad_images_are_the_callers_fault(service, content, code):
    assert is_problem(post(service, content), 422, code)
    form = httpx.post(f"{service.url}/v1/classify", files={"file": ("x", content)})
    assert is_problem(form, 422, code)


FORM = {"content-type": "multipart/form-data; boundary=b"}
CUT_FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"'
FORM_OF_NO_TEXT = {"content-type": FORM["content-type"] + "; charset=undefined"}  # which Python knows, and refuses
FORM_WITH_TEXT = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n'
STRANGE = {"content-type": b"\xff; \xfe"}


@pytest.mark.parametrize(
    "options, status, code",
    [
        ({"files": {"image": ("x.jpg", b"abc")}}, 422, "no_file"),
        ({"files": {"other": ("x.jpg", b"abc")}, "data": {"file": "text"}}, 422, "no_file"),
        ({"files": [("file", ("x", b"a")), ("file", ("y", b"b"))]}, 400, "bad_request"),
        ({"data": {f"f{i}": "x" for i in range(50)}, "files": {"file": ("x", b"a")}}, 400, "bad_request"),
        ({"headers": {"content-type": "multipart/form-data"}, "content": b"abc"}, 400, "bad_request"),
        ({"headers": FORM, "content": b"abc"}, 400, "bad_request"),
        ({"headers": FORM, "content": CUT_FORM}, 422, "no_file"),
        ({"headers": FORM, "content": b""}, 422, "no_file"),
        ({"headers": FORM_OF_NO_TEXT, "content": FORM_WITH_TEXT}, 400, "bad_request"),
        ({"headers": {"content-type": "text/plain"}, "content": b"abc"}, 415, "unsupported_media_type"),
        ({"headers": STRANGE, "content": b"abc"}, 415, "unsupported_media_type"),
        ({"content": b"abc"}, 415, "unsupported_media_type"),
        ({"data": {"file": "abc"}}, 415, "unsupported_media_type"),
        ({"params": {"top_k": 0}, "content": b"abc", "headers": OCTETS}, 422, "invalid_parameter"),
        ({"params": {"top_k": "many"}, "content": b"abc", "headers": OCTETS}, 422, "invalid_parameter"),
        ({"params": {"top_k": 10**30}, "content": b"abc", "headers": OCTETS}, 422, "invalid_parameter"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_in_words(service, options, status, code):
    response = httpx.post(f"{service.url}/v1/classify", **options)
    assert is_problem(response, status, code)


@pytest.mark.parametrize(
    "method, path, status, code",
    [
        ("GET", "/v1/classify", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/health", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/classify/../../etc/passwd", 404, "not_found"),
        ("GET", "/static-offline-docs/..%2f..%2fcore.py", 404, "not_found"),
    ],
)
def test_wrong_paths_and_methods(service, method, path, status, code):
    response = httpx.request(method, service.url + path)
    assert is_problem(response, status, code)
    assert (status == 405) == ("allow" in response.headers)


def test_a_body_above_the_limit_is_refused_however_it_is_sent(service):
    def parts():
        for _ in range(30):
            yield b"\xff" * 2**20

    assert is_problem(post(service, b"\xff" * (6 * 2**20)), 413, "body_too_large")
    assert is_problem(post(service, parts()), 413, "body_too_large")
    form = httpx.post(f"{service.url}/v1/classify", files={"file": ("x.jpg", b"\xff" * (6 * 2**20))})
    assert is_problem(form, 413, "body_too_large")


def test_a_large_image_below_the_limit_passes(service):
    file = io.BytesIO()
    Image.effect_noise((2200, 2200), 80).save(file, "BMP")
    assert 4 * 2**20 < len(file.getvalue()) < 5 * 2**20
    assert post(service, file.getvalue()).status_code == 200
    assert httpx.post(f"{service.url}/v1/classify", files={"file": ("x", file.getvalue())}).status_code == 200


def raw(service, head, body=b"", wait=20):
    """An answer to bytes written to the socket as they are."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(head + body)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received.decode("latin-1")


def test_a_request_id_comes_back(service):
    response = httpx.get(f"{service.url}/v1/nothing", headers={"x-request-id": "trace-1:a/b"})
    assert response.json()["request_id"] == response.headers["x-request-id"] == "trace-1:a/b"
    first, second = (httpx.get(f"{service.url}/v1/nothing") for _ in range(2))
    assert first.json()["request_id"] == first.headers["x-request-id"] != second.json()["request_id"]


@pytest.mark.parametrize("sent", [b"a b", b"<script>", b"x" * 3000, "ä".encode(), b"a\tb", b"{}"])
def test_a_strange_request_id_is_not_used(service, sent):
    head = b"GET /v1/nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: " + sent + b"\r\n\r\n"
    answer = raw(service, head)
    assert answer.startswith("HTTP/1.1 404")
    body = answer.partition("\r\n\r\n")[2]
    assert re.search(r'"request_id":"[0-9a-f]{32}"', body), body


def test_a_request_id_cannot_add_headers(service):
    for separator in (b"\r\n", b"\n", b"\r", b"\0", b"%0d%0a"):
        head = b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: a"
        answer = raw(service, head + separator + b"set-cookie: stolen=1\r\n\r\n")
        headers = answer.partition("\r\n\r\n")[0].lower().splitlines()
        assert not any(line.startswith("set-cookie") for line in headers), answer


def test_an_upload_that_never_ends_times_out(service):
    head = b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    head += b"content-type: image/png\r\ncontent-length: 1000\r\n\r\n"
    began = time.monotonic()
    answer = raw(service, head, b"\x89PNG")
    assert answer.startswith("HTTP/1.1 504") and '"code":"timeout"' in answer
    assert service.config.timeout_s <= time.monotonic() - began < service.config.timeout_s + 4


def test_mutated_images_get_an_answer_or_a_reason(service, photos):
    draw = random.Random(0)

    def mutate(data):
        data = bytearray(data)
        for _ in range(draw.choice([1, 5, 50])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return bytes(data[: draw.randrange(1, len(data))] if draw.random() < 0.3 else data)

    bodies = [mutate(draw.choice(photos)) for _ in range(200)]
    with Client(service.url) as client:
        results = client.classify_many(bodies, concurrency=6)
    statuses = [getattr(result, "status", 200) for result in results]
    assert set(statuses) <= {200, 422} and statuses.count(200) > 10 and statuses.count(422) > 10
    assert post(service, photos[0]).status_code == 200


# --- load and faults ----------------------------------------------------------------------------------------------


def test_requests_that_come_together_share_a_forward_pass(client, photos):
    answers = client.classify_many(photos * 3, concurrency=6)
    sizes = [answer.batch_size for answer in answers]
    assert max(sizes) > 1 and max(sizes) <= 4


def test_overload_is_refused_and_passes_by(service, photos):
    url = f"{service.url}/v1/classify"
    with httpx.Client(limits=httpx.Limits(max_connections=100), timeout=30) as http, ThreadPoolExecutor(40) as pool:
        send = [pool.submit(http.post, url, content=photos[0], headers=OCTETS) for _ in range(80)]
        health = [http.get(f"{service.url}/v1/health").status_code for _ in range(3)]
        responses = [each.result() for each in send]
    refused = [r for r in responses if r.status_code != 200]
    assert 0 < len(refused) < len(responses)
    for response in refused:
        assert is_problem(response, 503, "busy") and response.headers["retry-after"] == "1"
    assert health == [200] * 3
    with Client(service.url) as client:
        assert client.ready()
        assert all(isinstance(answer, Answer) for answer in client.classify_many(photos * 5, concurrency=20))


def test_a_killed_replica_is_replaced_and_clients_do_not_notice(service, client, photos):
    def replicas():
        children = psutil.Process().children(recursive=True)
        return [p for p in children if "ServeReplica:cnnray:Classifier" in " ".join(p.cmdline())]

    expected = client.classify(photos[1])
    (replica,) = replicas()
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(client.classify_many, [photos[1]] * 60, concurrency=4)
        time.sleep(0.3)
        os.kill(replica.pid, signal.SIGKILL)
        answers = many.result()
    assert [answer for answer in answers if not isinstance(answer, Answer)] == []
    for answer in answers:
        assert answer.label == expected.label
        assert answer.probability == pytest.approx(expected.probability, abs=1e-5)
    client.wait_ready(30)
    assert [p.pid for p in replicas()] != [replica.pid]


def test_a_second_service_beside_this_one_is_refused(service, checkpoint):
    with pytest.raises(OptionError, match="already runs"):
        up(service.config)
    assert httpx.get(f"{service.url}/v1/ready").status_code == 200


def test_prometheus_is_told_of_requests_and_batches(service, client, photos):
    client.classify(photos[0])
    deadline = time.monotonic() + 30
    while True:
        answer = httpx.get(f"{service.url}/metrics")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
        counts = {
            (sample.labels["route"], sample.labels["status"]): sample.value
            for sample in samples
            if sample.name == "ray_cnnray_requests_total"
        }
        batches = [s for s in samples if s.name == "ray_cnnray_batch_size_count" and s.labels["model"] == "Classifier"]
        if counts.get(("/v1/classify", "200"), 0) >= 1 and batches:
            break
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
    assert batches[0].value >= 1 and "photo" not in answer.text
    assert {sample.name for sample in samples} >= {"ray_cnnray_request_seconds_bucket", "ray_cnnray_queue_ms_count"}


def test_without_keys_a_page_from_elsewhere_may_not_ask(service, photos):
    here = httpx.URL(service.url).netloc.decode()
    for origin, status in ((f"http://{here}", 200), ("https://other.example", 403)):
        answer = httpx.post(f"{service.url}/v1/classify", files={"file": photos[0]}, headers={"origin": origin})
        assert answer.status_code == status
    answer = httpx.get(f"{service.url}/v1/models", headers={"host": "other.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_host")
