"""One real service for this folder, whose files `tests.conftest` gives to one worker: it takes a minute to start."""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cnnray.client import Client
from cnnray.config import ServeConfig
from cnnray.serve.app import down, up


@dataclass(frozen=True)
class Service:
    """The running service, its options, and what starting it wrote to this process's stdout and stderr."""

    url: str
    config: ServeConfig
    stdout: str
    stderr: str


@pytest.fixture(scope="package")
def service(cluster, checkpoint, detector, segmenter, painter, tmp_path_factory):
    config = ServeConfig(
        classifier=checkpoint,
        detector=detector,
        segmenter=segmenter,
        painter=painter,
        stylize_jobs=str(tmp_path_factory.mktemp("stylize_jobs")),
        faces="dlib_resnet",
        port=0,
        max_batch_size=4,
        batch_wait_ms=30,
        max_ongoing=6,
        max_queued=6,
        max_body_mb=5,
        timeout_s=15,  # the first explanation loads a second copy of the network, on a busy machine too
    )
    with written_to(1, tmp_path_factory) as out, written_to(2, tmp_path_factory) as err:
        url = up(config)
    yield Service(url, config, out.read_text(), err.read_text())
    down()


@pytest.fixture
def client(service):
    with Client(service.url) as client:
        yield client


@contextlib.contextmanager
def written_to(descriptor, tmp_path_factory):
    """What the process and its children write to a file descriptor, in a file."""
    path = Path(tmp_path_factory.mktemp("written")) / str(descriptor)
    kept = os.dup(descriptor)
    with open(path, "wb") as file:
        os.dup2(file.fileno(), descriptor)
        try:
            yield path
        finally:
            (sys.stdout if descriptor == 1 else sys.stderr).flush()
            os.dup2(kept, descriptor)
            os.close(kept)
