"""The recipes of jobs/, submitted for real to a head node that the test starts and ends by its pid."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cnnray.config import RecordConfig
from cnnray.data.runs import read_manifest
from cnnray.infer.gallery.gallery import Gallery
from cnnray.infer.gallery.record import Record
from tests.heads import BIN, head_node
from tests.people import link_people
from tests.ray.test_features import make_photos

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def head():
    with head_node() as env:
        yield env


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
