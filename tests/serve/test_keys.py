"""A service with keys, started by command line: who may ask what, keys that come and go, pages from elsewhere."""

import json
import time

import httpx
import pytest

from cnnray.client import Client
from cnnray.errors import ServiceError
from cnnray.serve.keys import create_key, read_keys, revoke_key
from tests.serving import Service

PAGE = "https://shop.example"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return str(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def shown(keys):
    """Keys by scope."""
    return {scope: create_key(keys, scope, (scope,))[1] for scope in ("infer", "faces:read", "admin")}


@pytest.fixture(scope="module")
def guarded(keys, shown, checkpoint, tmp_path_factory):
    words = ("--classifier", checkpoint, "--keys", keys, "--host", "0.0.0.0", "--cors-origins", PAGE)
    words += ("--access-log", "--logs", "logs")
    service = Service(tmp_path_factory.mktemp("guarded"), *words).start()
    yield service
    service.stop()


def code_of(call, *args, **options):
    with pytest.raises(ServiceError) as caught:
        call(*args, **options)
    return caught.value.status, caught.value.code


def test_a_key_opens_what_it_is_for(guarded, shown, photos, monkeypatch):
    with Client(guarded.url, key=shown["infer"]) as client:
        answer = client.classify(photos[0])
        assert answer.label and client.models()[0].task == "classify"
        assert code_of(client.list_galleries) == (403, "insufficient_scope")
    with Client(guarded.url, key=shown["faces:read"]) as client:
        assert code_of(client.classify, photos[0]) == (403, "insufficient_scope")
    with Client(guarded.url, key=shown["admin"]) as client:
        assert client.classify(photos[0]).label == answer.label
        assert code_of(client.list_galleries) == (404, "not_found")  # there are none, for whoever may see them
    monkeypatch.setenv("CNNRAY_API_KEY", shown["infer"])
    with Client(guarded.url) as client:
        assert client.classify(photos[0]).label == answer.label


def test_without_a_key_the_service_tells_that_it_lives_and_how_it_is_asked(guarded):
    with httpx.Client(base_url=guarded.url) as http:
        for path in ("/v1/health", "/v1/ready", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200, path
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/classify"), ("GET", "/v1/what"), ("PUT", "/v1/x")):
            answer = http.request(method, path)
            assert answer.status_code == 401 and answer.json()["code"] == "unauthenticated", path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_no_spelling_of_a_path_needs_less_than_the_path(guarded, shown):
    key = {"authorization": f"Bearer {shown['infer']}"}
    for path, headers, code in (("/metrics", {}, 401), ("/v1/galleries", key, 403)):
        assert httpx.get(guarded.url + path, headers=headers).status_code == code
        for spelling in (f"{path}%0A", f"{path}/%0A", f"{path}%00", f"/{path}", f"{path}/"):
            answer = httpx.get(guarded.url + spelling, headers=headers)
            assert answer.status_code in (401, 403, 404), (spelling, answer.text)


def test_keys_come_and_go_while_the_service_runs(guarded, keys, photos):
    key, shown = create_key(keys, "guest", ("infer",), per_minute=2)
    with Client(guarded.url, key=shown, patience=0) as client:
        answers = []
        for _ in range(100):
            try:
                answers.append(client.classify(photos[0]).label)
            except ServiceError as error:
                answers.append(error.code)
            if answers[-1] == "rate_limited":
                break
            time.sleep(0.1)
        assert set(answers) - {"unauthenticated"} > {"rate_limited"}, answers  # known soon, and then for two requests
        assert sum(one not in ("unauthenticated", "rate_limited") for one in answers) == 2
    revoke_key(keys, key.id)
    deadline = time.monotonic() + 10
    while httpx.get(f"{guarded.url}/v1/models", headers={"authorization": f"Bearer {shown}"}).status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_named_page_may_ask_from_a_browser(guarded, shown, photos):
    asks = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = httpx.options(f"{guarded.url}/v1/classify", headers=asks)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == PAGE
    headers = {"origin": PAGE, "authorization": f"Bearer {shown['infer']}"}
    answer = httpx.post(f"{guarded.url}/v1/classify", files={"file": photos[0]}, headers=headers)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
    other = httpx.options(f"{guarded.url}/v1/classify", headers=asks | {"origin": "https://other.example"})
    assert other.status_code == 400 and "access-control-allow-origin" not in other.headers


def test_requests_are_logged_by_their_ids_without_paths_and_secrets(guarded, shown, keys, photos):
    id = "request-that-is-looked-for"
    with httpx.Client(base_url=guarded.url, headers={"authorization": f"Bearer {shown['infer']}"}) as http:
        http.get("/v1/galleries/secret-name", headers={"x-request-id": id})
        http.post(
            "/v1/classify",
            content=photos[0],
            headers={"x-request-id": id, "content-type": "application/octet-stream"},
        )
    deadline = time.monotonic() + 20
    found = []
    while len(found) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        lines = [line for path in (guarded.folder / "logs").glob("*.log") for line in path.read_text().splitlines()]
        found = [record for record in map(json.loads, lines) if record.get("request") == id]
    (infer,) = [key.id for key in read_keys(keys)[0] if key.name == "infer"]
    assert [(one["method"], one["endpoint"], one["status"]) for one in found] == [
        ("GET", "", 403),
        ("POST", "/v1/classify", 200),
    ]
    assert found[1]["key"] == infer and found[1]["ms"] > 0
    text = "".join(lines)
    assert "secret-name" not in text and not any(key.rpartition("_")[2] in text for key in shown.values())
