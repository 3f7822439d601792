"""Shared by all tiers: where the real data is, and a small synthetic photo folder."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

if "PYTEST_XDIST_WORKER" in os.environ:  # beside other tests: what these start has a core, as `one_thread` below
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray ends workers that are idle for a second, beyond one for each free core: where one cluster serves many tests, each
# would start again what the one before it started.
os.environ.setdefault("RAY_num_workers_soft_limit", "4")
ROOT = Path(__file__).resolve().parent.parent
ONE_SERVICE = "tests/serve/shared"


class _ByFileOrService(LoadFileScheduling):
    """Tests of a file run in one worker, those of the folder that shares a service, too."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return ONE_SERVICE if file.startswith(f"{ONE_SERVICE}/") else file


def pytest_xdist_make_scheduler(config, log):
    return _ByFileOrService(config, log)


@pytest.fixture(scope="session")
def data_dir():
    """The shared real data: CNNRAY_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set CNNRAY_DATA")
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """As in a Ray worker with one CPU: sums of the same order, so the same bits. And two tests at a time have a core
    each: threads of both would wait for each other, small products ten times as long."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def free_port():
    """On loopback, where nobody listens now."""
    from cnnray.serve.ports import free_port

    return free_port()


@pytest.fixture
def small_disk(request, tmp_path):
    """A disk of 100 KiB, or of what the test asks for, grown by calling it; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    size = getattr(request, "param", "100k")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True).returncode:
        pytest.skip("not allowed to mount a small disk here")
    yield place, lambda: subprocess.run(["mount", "-o", "remount,size=50m", place], check=True)
    subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server, see `tests.postgres.Server`."""
    from tests.postgres import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def record_url(request, tmp_path):
    """An empty database for a record, once of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "galleries.db")
    return request.getfixturevalue("postgres").create(f"test_{uuid.uuid4().hex[:12]}")


@pytest.fixture
def record(record_url):
    """An empty record, once of each kind; closed afterwards."""
    from cnnray.infer.gallery.record import Record

    opened = Record(record_url)
    yield opened
    opened.close()
