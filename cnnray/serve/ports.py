"""Ports for servers that start later."""

import errno
import random
import socket

from cnnray.errors import OptionError

# A port that the system names is one of those that it also gives to connections going out (from 32768 on Linux): until
# the server listens, one of them may get it. Ray's workers have 10002 to 19999, replicas behind HAProxy 30000 to 31000.
PORTS = range(20_000, 30_000)


def claim(host: str, port: int) -> None:
    """Raises OSError where no server can listen on a port of an address (IPv4, IPv6 or a name of the first)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def free_port(host: str = "127.0.0.1") -> int:
    """See `free_ports`."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports, by chance some of `PORTS`, that nothing listens on now and that no outgoing connection gets.

    Raises:
        OptionError: there are not so many, or this machine has no such address.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        try:
            claim(host, port)
            found.append(port)
            if len(found) == count:
                return found
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OptionError(f"cannot listen on {host}: {error.strerror or error}") from error
    raise OptionError(f"expected a free port of {host} from {PORTS[0]} to {PORTS[-1]}, found none")
