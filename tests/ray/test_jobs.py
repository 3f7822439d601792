"""The recipes of jobs/, submitted for real to a head node that the test starts and ends by its pid."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cnnray.config import RecordConfig
from cnnray.data.runs import read_manifest
from cnnray.infer.gallery.gallery import Gallery
from cnnray.infer.gallery.record import Record
from tests.detectors import write_shapes
from tests.heads import BIN, head_node
from tests.painters import write_pictures
from tests.people import link_people
from tests.ray.test_features import make_photos
from tests.ray.test_train_faces import link_orl

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def head():
    with head_node() as env:
        yield env


def submit(env, job, *words, **variables):
    command = [BIN / "ray", "job", "submit", "--working-dir", ".", "--entrypoint-num-cpus=0.1"]
    command += ["--runtime-env-json", json.dumps({"env_vars": variables}), "--"]
    command += [sys.executable, f"jobs/{job}.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)


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


def test_every_recipe_has_a_docstring_with_its_command():
    for path in sorted((ROOT / "jobs").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert f"python jobs/{path.name} " in text and "ray job submit --working-dir . " in text, path
        assert "Hardware: " in text, path


NET = ["--backbone", "residual:size=32,width=0.25", "--weights", "none"]
TINY = ["--epochs", "2", "--batch-size", "8"]


def test_networks_are_trained_measured_and_looked_into_as_cluster_jobs(head, tmp_path):
    photos, trained, measured = make_photos(tmp_path / "photos", 24), tmp_path / "trained", tmp_path / "measured"
    done = submit(head, "finetune_classifier", photos, "--out", trained, *NET, *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    done = submit(head, "evaluate", "classify", trained / "checkpoint", photos, "--out", measured)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 0 <= json.loads((measured / "metrics.json").read_text())["accuracy"] <= 1
    words = [*NET, "--layers", "stem", "--filters", "2"]
    done = submit(head, "visualize_filters", photos, "--out", tmp_path / "atlas", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "atlas" / "index.html").exists()


def test_a_detector_and_an_embedder_are_trained_as_cluster_jobs(head, data_dir, tmp_path):
    boxes, people = write_shapes(tmp_path / "boxes", 8), link_orl(data_dir, tmp_path / "people", people=6)
    words = ["--backbone", "residual:width=0.25", "--weights", "none", "--size", "96", "--width", "16", *TINY]
    done = submit(head, "train_detector", boxes, "--out", tmp_path / "detector", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "detector" / "checkpoint" / "card.json").exists()
    words = ["--start", "residual:size=64,width=0.25", "--weights", "none", "--num-features", "16", "--epochs", "1"]
    words += ["--batch-size", "6", "--images-per-person", "3", "--val-people", "0.4"]
    done = submit(head, "train_faces", people, "--out", tmp_path / "embedder", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "embedder" / "checkpoint" / "card.json").exists()


def test_a_folder_is_painted_as_a_cluster_job(head, tmp_path):
    photos, _ = write_pictures(tmp_path / "pictures", 4)
    done = submit(head, "stylize_folder", photos, "--style", "stained_glass", "--out", tmp_path / "painted")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "painted" / "painted").iterdir())) == 4
