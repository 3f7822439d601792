"""A model whose last replica ends when nobody asks it, and that answers again when somebody does."""

import threading
import time

import pytest

from cnnray.client import Client
from tests.serving import Service


@pytest.fixture(scope="module")
def sleepy(checkpoint, detector, tmp_path_factory):
    words = ("--classifier", checkpoint, "--detector", detector, "--timeout-s", "60", "--max-wait-s", "60")
    asleep = ("--replicas-of.classifier", "0:1", "--scale-down-s", "0.2")
    service = Service(tmp_path_factory.mktemp("asleep"), *words, *asleep).start()
    yield service
    service.stop()


def wait_asleep(service):
    deadline = time.monotonic() + 120
    while service.replicas("Classifier"):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_model_that_nobody_asks_goes_and_comes_back_without_a_failed_request(sleepy, photos):
    with Client(sleepy.url) as client:
        before = client.classify(photos[0])
        wait_asleep(sleepy)
        (awake,) = sleepy.replicas("Detector")
        client.wait_ready(10)  # which wakes nobody
        assert not sleepy.replicas("Classifier")
        assert {model.task for model in client.models()} >= {"detect"}
        assert client.detect(photos[0]).model
        answers = []
        askers = [threading.Thread(target=lambda p=p: answers.append(client.classify(p))) for p in [photos[0]] * 4]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(120)
    assert [(one.label, one.model) for one in answers] == 4 * [(before.label, before.model)]
    assert sleepy.replicas("Detector") == [awake]
