"""`train faces` for real on a few people of ORL: what it leaves behind, workers, kills, and what it refuses."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnray import files
from cnnray.config import EmbedderConfig, FacesConfig
from cnnray.data.face_crops import SCHEMA
from cnnray.data.feature_store import read_parquet, read_quarantine
from cnnray.data.measure_faces import measure_faces
from cnnray.data.predict import read_predictions
from cnnray.data.stream import stream_here
from cnnray.errors import QuarantineError, RunFolderError
from cnnray.infer.faces import FacePipeline
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.ops.decode import decode
from cnnray.ops.face_views import STORED, cut_view, stored_size
from cnnray.train import faces
from cnnray.train.face_data import build_parts
from cnnray.train.faces import train_faces
from cnnray.train.faces_task import FacesTask
from cnnray.train.loop import Worker, run
from cnnray.train.state import load_history, load_state
from tests.commands import option_words
from tests.killing import kill_all, start_command, wait_for_epochs
from tests.people import nobody

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = FacesConfig(
    start="residual:size=64,width=0.25",
    weights="none",
    num_features=32,
    batch_size=15,
    images_per_person=3,
    val_people=0.4,
    epochs=4,
    workers=2,
    precision="float32",
    augment="light",
)


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


def link_orl(data_dir, folder, people=8, images=6):
    """Some people of ORL with some of their photos each, as links."""
    for number in range(1, people + 1):
        (folder / f"s{number}").mkdir(parents=True)
        for photo in range(1, images + 1):
            (folder / f"s{number}" / f"{photo}.pgm").symlink_to(data_dir / "orl" / f"s{number}" / f"{photo}.pgm")
    return folder


def alone(out, config, state):
    """The same training by one worker in this process, with one thread as each of two workers; its state."""
    task = FacesTask(config, str(out / "start"), read_parquet(str(out / "train.parquet")).num_rows)
    tables = [str(out / f"{side}.parquet") for side in ("train", "val")]
    run(*build_parts(*tables, task, stream_here), config, str(state), "x", Worker())
    return load_state(str(state), "x")


def assert_alike(one, two):
    """Two histories of one training, as far as it does not depend on the last bits of sums.

    A change of 1e-7 in the weights of this tiny network with norms over seven faces becomes 3 % of the loss after four
    steps, however many workers there are; gradients of workers are compared one step at a time in test_gather.
    """
    first, second = zip(*([row["train_loss"] for row in history[:2]] for history in (one, two)), strict=True)
    assert first[0] == pytest.approx(first[1], rel=1e-3) and second[0] == pytest.approx(second[1], rel=0.15)


@pytest.fixture(scope="module")
def source(data_dir, tmp_path_factory):
    """Eight people; in the folder of one a photo of nobody and a broken file besides."""
    folder = link_orl(data_dir, tmp_path_factory.mktemp("orl") / "people")
    (folder / "s3" / "nobody.jpg").write_bytes(nobody())
    (folder / "s3" / "broken.pgm").write_bytes(b"P5 92 112 255\n")
    return folder


@pytest.fixture(scope="module")
def trained(ray_cluster, source, tmp_path_factory):
    """Folder and manifest of a run by two workers."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, train_faces(str(source), str(out), SMALL)


# ---- what a run leaves behind ----------------------------------------------------------------------------------------


def test_a_run_has_a_manifest_metrics_and_a_page(trained, source):
    out, manifest = trained
    assert manifest["counts"] == {
        "train": 30,
        "val": 18,
        "train_people": 5,
        "val_people": 3,
        "people_with_one_face": 0,
        "quarantined": 2,
    }
    assert json.loads((out / "manifest.json").read_text())["metrics"] == manifest["metrics"]
    written = json.loads((out / "metrics.json").read_text())
    assert written["validation"] == manifest["metrics"] and len(written["history"]) == manifest["epochs"] == 4
    best = written["history"][manifest["best_epoch"]]
    assert best["val_score"] == max(row["val_score"] for row in written["history"])
    # by chance 5 of 17 others are the same person's
    assert best["val_score"] > 0.6 and manifest["metrics"]["rank_1"] > 0.5 and manifest["metrics"]["auc"] > 0.65
    page = (out / "report.html").read_text()
    assert "5 people to learn from, checked on 18 faces of 3 others" in page and page.count("data:image") >= 3
    with pytest.raises(RunFolderError, match="is finished"):
        train_faces(str(source), str(out), SMALL)


def test_nobody_is_on_both_sides_and_crops_are_aligned_faces(trained):
    out, _ = trained
    sides = [read_parquet(str(out / f"{side}.parquet")) for side in ("train", "val")]
    people = [set(side["label"].to_pylist()) for side in sides]
    assert not people[0] & people[1] and people[0] | people[1] == {f"s{number}" for number in range(1, 9)}
    rows = read_predictions(str(out), SCHEMA).to_pylist()
    assert len(rows) == 48 and all(20 < row["width"] < 100 for row in rows)
    size = stored_size(64, 0.25)
    assert all(decode(Path(row["crop"]).read_bytes()).shape == (size, size, 3) for row in rows)
    assert len({row["crop"] for row in rows}) == 48


def test_what_shows_no_face_is_in_quarantine(trained):
    rows = {row["id"]: row for row in read_quarantine(str(trained[0])).to_pylist()}
    assert set(rows) == {"s3/broken.pgm", "s3/nobody.jpg"}
    assert rows["s3/nobody.jpg"]["code"] == "no_face" and rows["s3/broken.pgm"]["code"] != "no_face"


def test_the_checkpoint_is_an_embedder_with_the_measured_threshold(trained, data_dir):
    out, manifest = trained
    pipeline = FacePipeline.load(EmbedderConfig(embedder=manifest["checkpoint"]))
    threshold = json.loads((out / "metrics.json").read_text())["threshold"]
    assert pipeline.spec.threshold == threshold and 0 < threshold < 2
    assert (
        pipeline.spec.metrics == manifest["metrics"] and pipeline.embedder.weights_sha256 == manifest["weights_sha256"]
    )
    measured = measure_faces(manifest["checkpoint"], read_parquet(str(out / "val.parquet")), stored_size(64, 0.25), 0)
    assert -measured.pairs.threshold == pytest.approx(threshold, abs=1e-6)
    scores, same = measured.pairs.scores_Q, measured.pairs.same_Q
    shares = [((scores >= score) == same).mean() for score in scores]
    assert len(scores) == 18 * 17 / 2 and ((scores >= -threshold - 1e-9) == same).mean() == max(shares)
    photos = [(data_dir / "orl" / "s1" / f"{number}.pgm").read_bytes() for number in (1, 2)]
    answer = pipeline.verify((photos[0], photos[1])).answer
    assert answer.probability is None and answer.threshold == threshold
    assert answer.same == (answer.distance <= threshold)


def test_a_face_of_the_run_is_embedded_as_one_in_its_photo(trained):
    """The stored crop, cut again, is nearly what the pipeline aligns by itself."""
    out, manifest = trained
    pipeline = FacePipeline.load(EmbedderConfig(embedder=manifest["checkpoint"]))
    table = read_parquet(str(out / "val.parquet"))
    stored = measure_faces(manifest["checkpoint"], table, stored_size(64, 0.25), 0).faces.embeddings_ND
    found = pipeline.predict([Path(path).read_bytes() for path in table["path"].to_pylist()])
    fresh = np.stack([photo.faces[0].embedding_D for photo in found])
    away = np.linalg.norm(stored - fresh, axis=1)
    others = np.linalg.norm(stored - np.roll(fresh, 9, axis=0), axis=1)
    assert np.median(away) < 0.5 * np.median(others)  # small photos, enlarged twice


def test_two_workers_learn_what_one_learns(trained, tmp_path):
    out, _ = trained
    one = alone(out, small(workers=1), tmp_path / "one.state").history
    two = json.loads((out / "metrics.json").read_text())["history"]
    assert_alike(one, two)


# ---- other settings --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned(trained, tmp_path_factory):
    """The aligned faces of that run as pictures in identity folders."""
    folder = tmp_path_factory.mktemp("aligned")
    for row in read_predictions(str(trained[0]), SCHEMA).to_pylist():
        crop = torch.from_numpy(decode(Path(row["crop"]).read_bytes()).copy()).permute(2, 0, 1)
        target = folder / row["id"].replace(".pgm", ".png")
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(cut_view(crop, 112, 0.25).permute(1, 2, 0).numpy()).save(target)
    return folder


def test_a_logistic_unit_verifies_and_aligned_faces_need_no_detector(aligned, trained, data_dir, tmp_path):
    out = tmp_path / "out"
    manifest = train_faces(str(aligned), str(out), small(loss="binary", aligned=True, epochs=2))
    assert manifest["counts"]["quarantined"] == 0 and manifest["counts"]["val"] == 18
    ours, theirs = (
        {row["id"].split(".")[0]: row for row in read_predictions(str(folder), SCHEMA).to_pylist()}
        for folder in (out, trained[0])
    )
    state = alone(out, small(loss="binary", aligned=True, epochs=2, workers=1), tmp_path / "one.state")
    assert_alike(state.history, json.loads((out / "metrics.json").read_text())["history"])
    tensors, card = load_checkpoint(str(out / "last"), "faces")
    start, _ = load_checkpoint(str(out / "start"), "faces")
    assert not torch.equal(tensors["head.unit.weight"], start["head.unit.weight"])
    size = stored_size(64, 0.25)
    edge = round(size * (1 - 1.5 / (1 + 2 * STORED)) / 2) + 2
    inner = slice(edge, size - edge)
    for name in list(ours)[::10]:  # the same faces at the same places, with a black margin
        here, there = (decode(Path(rows[name]["crop"]).read_bytes()).astype(float) for rows in (ours, theirs))
        assert np.abs(here[inner, inner] - there[inner, inner]).mean() < 12 and here[0].max() < 20
    assert card.arch["head"] == "logistic"
    pipeline = FacePipeline.load(EmbedderConfig(embedder=manifest["checkpoint"]))
    photos = {name: (data_dir / "orl" / f"{name}.pgm").read_bytes() for name in ("s1/1", "s1/2", "s5/1")}
    same = pipeline.verify((photos["s1/1"], photos["s1/1"])).answer
    other = pipeline.verify((photos["s1/1"], photos["s5/1"])).answer
    assert 0 < other.probability < same.probability < 1
    assert same.threshold == json.loads((out / "metrics.json").read_text())["threshold"]
    assert 0 < same.threshold < 1 and same.same
    assert "probability" in (out / "report.html").read_text()


def test_a_network_that_knows_faces_learns_and_people_may_be_the_same(aligned, tmp_path):
    """Somebody has two names; pairs that contradict each other."""
    folder = tmp_path / "people"
    folder.mkdir()
    for person in sorted(aligned.iterdir())[:4]:
        (folder / person.name).symlink_to(person)
        (folder / f"{person.name}-again").symlink_to(person)
    config = small(start="dlib_resnet", weights="default", loss="siamese", aligned=True, epochs=1, lr=1e-4)
    manifest = train_faces(str(folder), str(tmp_path / "out"), config)
    assert manifest["counts"]["train"] + manifest["counts"]["val"] == 48
    assert not (tmp_path / "out" / "start").exists()
    tensors, card = load_checkpoint(manifest["checkpoint"], "faces")
    assert card.arch == {"model": "dlib_resnet", "head": ""} and card.input["size"] == 150
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert (tmp_path / "out" / "report.html").exists()


def test_too_many_photos_without_a_face_are_refused(data_dir, tmp_path):
    folder = link_orl(data_dir, tmp_path / "people", people=2, images=2)
    for person in ("s1", "s2"):
        (folder / person / "nobody.jpg").write_bytes(nobody())
    out = tmp_path / "out"
    with pytest.raises(QuarantineError, match="2 of 6 images"):
        train_faces(str(folder), str(out), SMALL)
    assert read_quarantine(str(out)).num_rows == 2 and not (out / "manifest.json").exists()


# ---- kills -----------------------------------------------------------------------------------------------------------


def stamps(folder):
    return {path: os.stat(path).st_mtime_ns for path in files.list_files(str(folder))}


def test_a_killed_command_goes_on_and_ends_with_the_same_weights(trained, source, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    driver = start_command("train", "faces", source, "--out", out, *option_words(SMALL))
    try:
        wait_for_epochs(str(out / "state" / "last.state"), 2, driver)
    finally:
        kill_all(driver)
    done = len(load_history(str(out / "state" / "last.state")))
    assert 2 <= done < SMALL.epochs and not (out / "manifest.json").exists()
    before = {name: stamps(out / name) for name in ("start", "crops", "predictions", "quarantine")}
    assert all(before.values())

    def refuse(*args):
        raise AssertionError("the start was prepared already")

    monkeypatch.setattr(faces, "prepare_start", refuse)
    manifest = train_faces(str(source), str(out), SMALL)
    assert before == {name: stamps(out / name) for name in before}
    undisturbed, whole = trained
    for name in ("epochs", "best_epoch", "metrics", "weights_sha256", "content_sha256"):
        assert manifest[name] == whole[name], name
    last, expected = (load_checkpoint(str(folder / "last"), "faces")[0] for folder in (out, undisturbed))
    assert all(torch.equal(last[name], tensor) for name, tensor in expected.items())
