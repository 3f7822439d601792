"""A cluster at rest, whose head does no work, starts the machines that a job needs and ends them afterwards."""

import subprocess
import time

from cnnray.data.runs import read_manifest
from tests.heads import BIN, head_node
from tests.ray.test_cli_jobs import submit
from tests.ray.test_features import make_photos

WORKER = {"resources": {"CPU": 1, "object_store_memory": 100 * 1024**2}, "node_config": {}, "max_workers": 2}


def workers(env):
    words = [BIN / "ray", "list", "nodes", "--filter", "state=ALIVE", "--format", "json"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    return done.stdout.count('"is_head_node": false')


def test_a_job_on_a_cluster_at_rest_brings_its_machines(tmp_path):
    photos = make_photos(tmp_path / "photos", 40)
    with head_node(cpus=0, node_types={"worker": WORKER}) as env:
        assert workers(env) == 0
        done = submit(env, "features", "build", photos, "--out", tmp_path / "run", "--no-compile")
        assert done.returncode == 0, done.stderr
        assert read_manifest(str(tmp_path / "run"))["features"] == 40
        deadline = time.monotonic() + 60
        while workers(env):
            assert time.monotonic() < deadline, "idle machines stay"
            time.sleep(1)
