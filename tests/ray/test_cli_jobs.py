"""`--address http://...`: commands as jobs on a head node that the test starts and ends by its pid."""

import json
import os
import signal
import subprocess
import time

import pytest

from cnnray import __version__
from cnnray.data.runs import read_manifest
from tests.heads import BIN, head_node
from tests.ray.test_features import make_photos


@pytest.fixture(scope="module")
def head():
    with head_node() as env:
        yield env


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos") / "src", 40)


def words(env, *command):
    return [BIN / "cnnray", *map(str, command), "--address", env["RAY_API_SERVER_ADDRESS"]]


def submitter(env):
    """What a person's shell has: the token, but not whether one is asked for."""
    return {name: value for name, value in env.items() if name not in ("RAY_AUTH_MODE", "RAY_API_SERVER_ADDRESS")}


def submit(env, *command, cwd=None, **variables):
    return subprocess.run(
        words(env, *command), env=submitter(env) | variables, cwd=cwd, capture_output=True, text=True, timeout=500
    )


def test_a_command_runs_as_a_job_with_the_options_of_this_machine(head, photos, tmp_path):
    config = tmp_path / "small.toml"
    # the address, too: the job must not take it for its own, and submit itself again
    address = head["RAY_API_SERVER_ADDRESS"]
    config.write_text(f'batch_size = 8\nsplit = "train=0.7,val=0.3"\naddress = "{address}"\n')
    build = ["features", "build", photos, "--out", tmp_path / "run"]
    done = submit(head, *build, "--config", config, "--json", CNNRAY_COMPILE="false")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["features"] == 40 and manifest == read_manifest(str(tmp_path / "run"))
    assert manifest["config"]["batch_size"] == 8 and manifest["config"]["compile"] is False
    assert "features: 40 of 40" in done.stderr
    again = submit(head, *build)
    assert again.returncode == 2 and again.stdout == ""
    assert "is finished; choose another --out" in again.stderr


def test_a_stopped_job_is_resumed_by_the_same_command(head, tmp_path):
    photos, out = make_photos(tmp_path / "many", 300), tmp_path / "run"
    build = ["features", "build", photos, "--out", out, "--views", "2", "--no-compile"]
    first = subprocess.Popen(words(head, *build), env=submitter(head), stderr=subprocess.PIPE, text=True)
    job = first.stderr.readline().split()[1]
    while not list(out.glob("features/*")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    subprocess.run([BIN / "ray", "job", "stop", job], env=head, check=True, capture_output=True)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1 and f"job {job} was stopped; the same command resumes" in said
    assert not (out / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("features/*")}
    done = submit(head, *build)
    assert done.returncode == 0, done.stderr
    assert read_manifest(str(out))["features"] == 900
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())


def test_an_interrupt_leaves_the_job_running_and_says_how_to_follow_it(head, photos, tmp_path):
    build = ["features", "build", photos, "--out", tmp_path / "run", "--no-compile"]
    command = subprocess.Popen(words(head, *build), env=submitter(head), stderr=subprocess.PIPE, text=True)
    job = command.stderr.readline().split()[1]
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 130 and f"the job goes on; follow it: ray job logs --follow {job}" in said
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "manifest.json").exists():
        assert time.monotonic() < deadline, "the job did not go on"
        time.sleep(0.2)


def test_what_stands_in_the_way_of_a_job_is_told_before_it_starts(head, photos, tmp_path):
    out = tmp_path / "run"
    expected = {
        "expected an absolute path or a URI (s3://, gs://) as source that the whole cluster reaches; got 'src'": (
            ["features", "build", "src", "--out", out],
            {},
        ),
        "as out that the whole cluster reaches; got 'run'": (["features", "build", photos, "--out", "run"], {}),
        "Unknown option: --vews": (["features", "build", photos, "--out", out, "--vews", "2"], {}),
        "a job ends, a service stays: cnnray serve deploy": (["serve", "up", "--classifier", out], {}),
        "asks for its token and refuses what was sent; expected it in RAY_AUTH_TOKEN": (
            ["features", "build", photos, "--out", out],
            {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "x" * 36},
        ),
    }
    for sentence, (command, variables) in expected.items():
        done = submit(head, *command, cwd=photos.parent, **variables)
        assert done.returncode == 2 and sentence in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    nowhere = submit(
        {**head, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}, "features", "build", photos, "--out", out
    )
    assert nowhere.returncode == 2 and "none answers: Failed to connect" in nowhere.stderr
    assert not out.exists()


def test_another_version_of_cnnray_on_the_cluster_is_named(head, photos, tmp_path):
    done = subprocess.run(
        [BIN / "cnnray", "features", "build", photos, "--out", tmp_path / "run"],
        env=os.environ | {"CNNRAY_ASKED_BY": "99.0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"expected cnnray 99.0, which this job was submitted with, but the cluster has {__version__}" in done.stderr


def test_a_cluster_without_cnnray_is_named(photos, tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "python"
    program.write_text(f'#!/bin/sh\nexec {BIN}/python -S "$@"\n')  # without the packages of the environment
    program.chmod(0o755)
    with head_node(path=tmp_path / "bin") as env:
        done = submit(env, "features", "build", photos, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "the python on the PATH of the cluster's head lacks cnnray" in done.stderr
