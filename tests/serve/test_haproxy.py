"""The service behind HAProxy: the same answers, and no port that others reach."""

import time
from pathlib import Path

import httpx
import psutil
import pytest

from cnnray.client import Client
from cnnray.config import ServeConfig
from cnnray.errors import OptionError
from cnnray.serve.app import ENVIRONMENT, up
from cnnray.serve.haproxy import prepare
from tests.serving import Service


@pytest.fixture(scope="module")
def haproxied(checkpoint, tmp_path_factory):
    words = ("--classifier", checkpoint, "--proxy", "haproxy", "--max-body-mb", "1")
    service = Service(tmp_path_factory.mktemp("haproxy"), *words).start()
    yield service
    service.stop()


def haproxies(service):
    tree = psutil.Process(service.process.pid).children(recursive=True)
    return [process for process in tree if process.name() == "haproxy"]


def test_answers_are_the_same_and_errors_are_problems(haproxied, photos):
    with Client(haproxied.url) as client:
        labels = [client.classify(photo).label for photo in photos]
        assert len(set(labels)) > 1
    for content, status, code in ((b"what", 422, "not_an_image"), (bytes(2**21), 413, "body_too_large")):
        headers = {"x-request-id": "mine", "content-type": "application/octet-stream"}
        answer = httpx.post(f"{haproxied.url}/v1/classify", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["x-request-id"] == "mine" and answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("deployment", ["Classifier", "Ingress"])
def test_replicas_have_the_environment_that_models_side_by_side_need(haproxied, deployment):
    (replica,) = haproxied.replicas(deployment)
    assert psutil.Process(replica).environ().items() >= ENVIRONMENT.items()


def test_it_listens_on_loopback_only(haproxied):
    (haproxy,) = haproxies(haproxied)
    listening = [at.laddr for at in haproxy.net_connections() if at.status == psutil.CONN_LISTEN]
    assert len(listening) == 3  # the service, statistics, metrics
    assert {at.ip for at in listening} == {"127.0.0.1"}


def test_it_runs_with_the_rules_for_what_the_door_has_no_room_for(haproxied):
    (haproxy,) = haproxies(haproxied)
    words = haproxy.cmdline()
    config = Path(words[words.index("-f") + 1]).read_text()
    frontend = config.partition("frontend http_frontend\n")[2].partition("\nbackend ")[0]
    assert "http-request return status 503 content-type application/problem+json" in frontend
    assert config.count("backend cnnray_refused\n") == 1


def test_a_replica_that_dies_costs_the_client_no_answer(haproxied, photos):
    tree = psutil.Process(haproxied.process.pid).children(recursive=True)
    (ingress,) = [process for process in tree if "Ingress" in process.name() + " ".join(process.cmdline())]
    with Client(haproxied.url, patience=60) as client:
        expected = client.classify(photos[0])
        ingress.kill()
        answer = client.classify(photos[0])
    assert (answer.label, answer.model) == (expected.label, expected.model)


def test_it_ends_in_seconds_and_leaves_nothing(checkpoint, tmp_path):
    service = Service(tmp_path, "--classifier", checkpoint, "--proxy", "haproxy").start()
    started = haproxies(service)
    began = time.monotonic()
    service.stop()
    assert time.monotonic() - began < 30
    assert started and not any(process.is_running() for process in started)


def test_it_must_be_chosen_in_time(checkpoint):
    with pytest.raises(OptionError, match="before ray.serve is imported"):
        prepare()
    with pytest.raises(OptionError, match="before ray.serve is imported"):
        up(ServeConfig(classifier=checkpoint, proxy="haproxy"))
    with pytest.raises(OptionError, match="its nodes' environment decides"):
        up(ServeConfig(classifier=checkpoint, proxy="haproxy"), "127.0.0.1:1")
