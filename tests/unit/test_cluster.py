"""What `connect` says when there is no cluster (starting one is an error in this tier)."""

import time

import pytest

from cnnray.cluster import MAX_STORE_BYTES, connect, store_bytes
from cnnray.errors import OptionError


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nobody_listens_is_told_in_seconds(free_port, form):
    address = form.format(free_port)
    began = time.monotonic()
    with pytest.raises(OptionError, match=f"expected a Ray cluster at {address}, but nothing answers there"):
        connect(address)
    assert time.monotonic() - began < 6


def test_the_environment_names_the_address(free_port, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    with pytest.raises(OptionError, match="nothing answers there"):
        connect()


@pytest.mark.parametrize("address", ["host:port", "1.2.3.4:99999", "ray://[::1"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(OptionError, match="expected a Ray address HOST:PORT or ray://HOST:PORT"):
        connect(address)


def test_the_object_store_stays_small():
    assert 0 < store_bytes() <= MAX_STORE_BYTES
