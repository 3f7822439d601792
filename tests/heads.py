"""A head node of a Ray cluster, as a person starts one, and what a submitter to it needs."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util import get_node_ip_address

from cnnray.serve.ports import free_port
from tests.killing import kill_all

BIN = Path(sys.executable).parent
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"  # its own type lacks a file


@contextlib.contextmanager
def head_node(cpus=2, path=BIN, node_types=None, port=None):
    """A head node that asks for a token, its dashboard on loopback; gives the environment that a submitter needs.

    Its jobs find programs in `path` first; drivers join it at `port`. With `node_types`, as in a file for `ray up`, it
    starts nodes of these types when work asks for them, on this machine, and ends them when they are idle for six
    seconds.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    dashboard, port = free_port(), port or free_port()
    token = Path(folder) / "token"
    token.write_text("only-for-this-test-0123456789abcdef")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{path}:{env['PATH']}"
    words = ["start", "--head", "--block", f"--num-cpus={cpus}", f"--port={port}", f"--dashboard-port={dashboard}"]
    # the agent, which takes the jobs, has one fixed port by default: another cluster of this machine may hold it
    words += [f"--dashboard-agent-listen-port={free_port()}"]
    words += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}/r", f"--object-store-memory={150 * 1024**2}"]
    if node_types:
        words.append(f"--autoscaling-config={write_scaling(folder, cpus, node_types, port)}")
        env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
        env |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    with open(Path(folder) / "log", "wb") as log:
        process = subprocess.Popen([BIN / "ray", *words], env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(address, process, token.read_text())
        yield env | {"RAY_API_SERVER_ADDRESS": address}
    finally:
        kill_all(process)  # asked to end, it would drain for half a minute
        shutil.rmtree(folder, ignore_errors=True)


def write_scaling(folder, cpus, node_types, port):
    """A file for Ray's autoscaler, whose machines are processes of this one."""
    nothing = {name: {} for name in ("auth", "docker", "file_mounts")}
    nothing |= {name: [] for name in ("initialization_commands", "setup_commands", "cluster_synced_files")}
    nothing |= {
        f"{kind}_{name}": [] for kind in ("head", "worker") for name in ("setup_commands", "start_ray_commands")
    }
    switches = ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check", "launch_multiple")
    head = {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0}
    provider = {"type": "external", "module": PROVIDER, "head_node_id": FAKE_HEAD_NODE_ID}
    provider["gcs_address"] = f"{get_node_ip_address()}:{port}"
    content = nothing | {
        "cluster_name": "fake",
        "max_workers": 8,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": provider | dict.fromkeys(switches, True),
        "available_node_types": node_types | {"ray.head.default": head},
        "head_node_type": "ray.head.default",
    }
    place = Path(folder) / "scaling.json"
    place.write_text(json.dumps(content))
    return place


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
