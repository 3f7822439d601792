"""A head node of a Ray cluster, as a person starts one, and what a submitter to it needs."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from tests.killing import kill_all
from tests.serving import free_port

BIN = Path(sys.executable).parent


@contextlib.contextmanager
def head_node(cpus=2, path=BIN):
    """A head node that asks for a token, its dashboard on loopback; gives the environment that a submitter needs.

    Its jobs find programs in `path` first.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    dashboard = free_port()
    token = Path(folder) / "token"
    token.write_text("only-for-this-test-0123456789abcdef")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{path}:{env['PATH']}"
    words = ["start", "--head", "--block", f"--num-cpus={cpus}", "--port=0", f"--dashboard-port={dashboard}"]
    # the agent, which takes the jobs, has one fixed port by default: another cluster of this machine may hold it
    words += [f"--dashboard-agent-listen-port={free_port()}"]
    words += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}/r", f"--object-store-memory={150 * 1024**2}"]
    with open(Path(folder) / "log", "wb") as log:
        process = subprocess.Popen([BIN / "ray", *words], env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(address, process, token.read_text())
        yield env | {"RAY_API_SERVER_ADDRESS": address}
    finally:
        kill_all(process)  # asked to end, it would drain for half a minute
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(address, process, token):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, "the head node ended"
        try:
            if requests.get(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}, timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.3)
    raise AssertionError("the head node did not come up")
