"""Shared by all tiers: where the real data is, and a small synthetic photo folder."""

import os
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir():
    """The shared real data: CNNRAY_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set CNNRAY_DATA")
    return folder


@pytest.fixture
def one_thread():
    """As in a Ray worker with one CPU: sums of the same order, so the same bits. Afterwards as many as before."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
