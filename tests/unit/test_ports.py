"""Ports for servers that start later: no connection gets them meanwhile."""

import socket
from pathlib import Path

import pytest

from cnnray.errors import OptionError
from cnnray.serve import ports
from cnnray.serve.ports import free_port, free_ports


def test_a_port_is_not_one_that_outgoing_connections_get():
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = set(free_ports(200))
    assert len(found) == 200
    assert not any(first <= port <= last for port in found)


def test_a_server_can_listen_there():
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_an_address_of_another_machine_is_told_at_once():
    with pytest.raises(OptionError, match=r"cannot listen on 192\.0\.2\.1: Cannot assign requested address"):
        free_port("192.0.2.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_taken_port_is_passed_over_and_none_left_is_told(host, monkeypatch):
    start = free_port()
    monkeypatch.setattr(ports, "PORTS", range(start, start + 2))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, start), family=family):
        assert {free_port(host) for _ in range(10)} == {start + 1}
        monkeypatch.setattr(ports, "PORTS", range(start, start + 1))
        with pytest.raises(OptionError, match=rf"free port of {host} from {start} to {start}, found none"):
            free_port(host)
