"""The recipes of jobs/, submitted for real to a head node that the test starts and ends by its pid."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import requests

from cnnray.config import RecordConfig
from cnnray.data.runs import read_manifest
from cnnray.infer.gallery.gallery import Gallery
from cnnray.infer.gallery.record import Record
from tests.people import link_people
from tests.ray.test_features import kill_all, make_photos

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """A head node with two CPUs, its dashboard on loopback; gives the environment that a submitter needs."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    dashboard = free_port()
    token = Path(folder) / "token"
    token.write_text("only-for-this-test-0123456789abcdef")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    words = ["start", "--head", "--block", "--num-cpus=2", "--port=0", f"--dashboard-port={dashboard}"]
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


def submit(env, job, *words, **variables):
    command = [BIN / "ray", "job", "submit", "--working-dir", ".", "--entrypoint-num-cpus=0.1"]
    command += ["--runtime-env-json", json.dumps({"env_vars": variables}), "--"]
    command += [sys.executable, f"jobs/{job}.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)


def test_features_and_head_as_cluster_jobs(head, tmp_path):
    src = make_photos(tmp_path / "src", 40)
    features, trained = tmp_path / "features", tmp_path / "trained"
    done = submit(head, "precompute_features", src, "--out", features, "--split", "train=0.7,val=0.3", "--no-compile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_manifest(str(features))["features"] == 40
    assert "features: 40 of 40" in done.stdout
    done = submit(head, "train_classifier", features, "--out", trained, "--epochs", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (trained / "checkpoint" / "card.json").exists()
    refused = submit(head, "precompute_features", src, "--out", features)
    assert refused.returncode != 0
    assert "is finished; choose another --out" in refused.stdout


def test_enrolment_into_postgresql_as_a_cluster_job(head, postgres, data_dir, tmp_path):
    people = link_people(data_dir, tmp_path / "people", people=2, images=2)
    url = postgres.create("job")
    words = [people, "--gallery", "staff", "--out", tmp_path / "out"]
    refused = submit(head, "enroll_faces", *words)
    assert refused.returncode != 0 and "expected CNNRAY_RECORD or --record" in refused.stdout
    done = submit(head, "enroll_faces", *words, CNNRAY_RECORD=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 faces of 2 people enrolled in staff" in done.stdout
    record = Record(url)
    assert Gallery.open(record, "staff", RecordConfig(record=url)).describe()["identities"] == 2
    record.close()
