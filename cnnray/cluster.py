"""The one way into Ray: join a cluster, or start a quiet one on this machine.

Nothing of Ray reaches stdout (it belongs to answers, `--json` above all) and nothing is sent out of the machine.
"""

import contextlib
import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private.utils import get_num_cpus

from cnnray.errors import CnnrayError, OptionError, StorageError

MAX_STORE_BYTES = 2 * 1024**3
MAX_STORE_SHARE = 0.2
PROBE_SECONDS = 5.0


def connect(address: str | None = None, *, cpus: int = 0) -> None:
    """Connect this process to Ray; when it already is connected, nothing happens.

    Args:
        address: of a running cluster, "HOST:PORT", "ray://HOST:PORT" or "auto" (the one on this machine). None takes
            RAY_ADDRESS from the environment (a submitted job has it), else starts a cluster inside this machine, as
            "local" does: no dashboard, no usage statistics, ended together with this process.
        cpus: that a cluster inside this machine has at least, for parts that share its cores where it has fewer.

    Raises:
        OptionError: no Ray cluster answers at the address.
        StorageError: the local cluster could not be started, for example because the disk is full.
        CnnrayError: it could not for another reason, such as a machine that is too busy.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _start(cpus)
    else:
        _join(address)


def dashboard_url() -> str:
    """Of the cluster that this process has joined; "" where it has none, or Ray does not say (ray:// addresses)."""
    node = ray._private.worker._global_node
    return f"http://{node.webui_url}" if node is not None and node.webui_url else ""


def store_bytes() -> int:
    """Size of a local cluster's object store: 20 % of this machine's memory, at most 2 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(int(total * MAX_STORE_SHARE), MAX_STORE_BYTES)


def _join(address: str) -> None:
    _probe(address)
    try:
        _init(address=address)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        if said[0].startswith("Version mismatch"):  # the lines below it tell of which
            both = " ".join(" ".join(said[1:]).split())
            raise OptionError(
                f"expected the versions of the Ray cluster at {address} here, but it was started with {both}; "
                "install its versions here, or submit the command as a job"
            ) from error
        raise OptionError(f"expected a Ray cluster at {address}, but could not join it: {said[0]}") from error


def _probe(address: str) -> None:
    """Fail in seconds where nobody listens; Ray itself would try for minutes."""
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise OptionError(f"expected a Ray address HOST:PORT or ray://HOST:PORT, got {address!r}") from error
    if host is None or port is None:  # "auto": Ray looks for a cluster on this machine
        return
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise OptionError(f"expected a Ray cluster at {address}, but nothing answers there: {error}") from error


def _start(cpus: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The behaviour that Ray announces as its next default: leave CUDA_VISIBLE_DEVICES alone where num_gpus is 0.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's C++ side writes internal errors that it recovers from to this process's stderr.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A local cluster asks for a token (~/.ray/auth_token), and says so as a warning on every start.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    try:
        _init(
            address="local",
            num_cpus=max(cpus, get_num_cpus()),
            include_dashboard=False,
            object_store_memory=store_bytes(),
        )
    except OSError as error:
        raise StorageError(f"could not start Ray on this machine: {error}") from error
    except Exception as error:  # Ray has no kind of its own for it
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise CnnrayError(f"could not start Ray on this machine, which may be overloaded: {said[0]}") from error


@contextlib.contextmanager
def _held_stderr() -> Iterator[None]:
    """Drop what Ray's C++ side writes to stderr while it starts; where the start fails, it is written out after all."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _init(**options: Any) -> None:
    # Warnings of Ray's start-up are about its own internals: neither the user's nor ours to mend.
    with warnings.catch_warnings(action="ignore"), _held_stderr():
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **options)
