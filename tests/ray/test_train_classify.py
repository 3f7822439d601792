"""`train classify` for real: Ray Train workers, killed workers and drivers, and what is refused."""

import dataclasses
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray
import torch
from PIL import Image

from cnnray.config import ClassifyConfig, FeaturesConfig
from cnnray.data.feature_store import FEATURES, feature_column, feature_schema, write_part
from cnnray.data.runs import RunFolder, read_manifest
from cnnray.errors import CnnrayError, DataError, OptionError, RunFolderError
from cnnray.infer.classify import Classifier
from cnnray.nn.backbones import build_backbone, build_extractor
from cnnray.ops.augment import plain_view
from cnnray.train.classify import train_classify
from cnnray.train.head import build_parts
from cnnray.train.launch import launch
from cnnray.train.loop import Worker, run
from cnnray.train.state import load_history, load_state
from tests.feature_tables import make_table

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "classify_head.txt"
QUICK = ClassifyConfig(epochs=8, batch_size=16, patience=0)
LONG = ClassifyConfig(epochs=60, batch_size=4, patience=0, mixup_alpha=0.2)


def write_run(folder, table, paths=None, manifest=()):
    """`table` as a finished features run."""
    opened = RunFolder.open(str(folder), FeaturesConfig(), "features")
    text = {"id": table.ids, "path": table.ids if paths is None else paths, "label": table.labels}
    text |= {"split": table.splits, "label_b": table.labels_b}
    columns = {name: pa.array(values.tolist(), pa.string()) for name, values in text.items()}
    columns |= {"view": pa.array(table.views), "lam": pa.array(table.lams)}
    columns["key"] = pa.array([b"k" * 32] * len(table.ids), pa.binary(32))
    columns["feature"] = feature_column(table.features, str(table.features.dtype))
    schema = feature_schema(table.features.shape[1:], str(table.features.dtype))
    write_part(opened.path(FEATURES), pa.table([columns[name] for name in schema.names], schema=schema))
    opened.finish({**table.manifest, **dict(manifest)})
    return str(folder)


def draw(label, number):
    """A picture of stripes, lying, standing or none."""
    rng = np.random.default_rng([label, number])
    image = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
    bright = rng.integers(120, 176, 3, dtype=np.uint8)
    if label == 0:
        image[number % 5 :: 8] += bright
    if label == 1:
        image[:, number % 5 :: 8] += bright
    return image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A features run of 3 classes x 16 pictures, computed with the default network, and the pictures' folder."""
    folder = tmp_path_factory.mktemp("photos")
    backbone = build_backbone("efficientnet_lite0")
    spec, extractor = backbone.spec, build_extractor(backbone)
    names, images = [], []
    for label, name in enumerate(("lying", "standing", "noise")):
        for number in range(16):
            names.append(f"{name}/{number:02d}.png")
            images.append(draw(label, number))
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(images[-1]).save(folder / names[-1])
    sizes = {"size": spec.input_size, "resize": spec.resize, "interpolation": spec.interpolation}
    with torch.inference_mode():
        features = extractor(torch.stack([plain_view(image, **sizes) for image in images])).numpy()
    ids = np.array(names, dtype=object)
    order = np.argsort(ids)
    plain = make_table((16, 16, 16))
    table = dataclasses.replace(
        plain,
        ids=ids[order],
        labels=np.array([name.split("/")[0] for name in ids[order]], dtype=object),
        features=features[order].astype(np.float16),
    )
    network = {"name": "efficientnet_lite0", "weights": "default", "weights_sha256": backbone.weights_sha256}
    network |= {"tap": spec.default_tap, "pool": "avg", "num_features": extractor.num_features}
    paths = np.array([str(folder / name) for name in ids[order]], dtype=object)
    manifest = {"backbone": network, "input": sizes, "content_sha256": "photos"}
    return write_run(folder / "run", table, paths, manifest), folder


def assert_same_bits(ours, theirs):
    for group in ("model", "best", "optimizer"):
        left, right = getattr(ours, group), getattr(theirs, group)
        assert left.keys() == right.keys()
        assert all(torch.equal(tensor, right[name]) for name, tensor in left.items()), group
    assert [row["val_loss"] for row in ours.history] == [row["val_loss"] for row in theirs.history]


def test_photos_become_a_classifier_that_answers(photos, tmp_path, monkeypatch):
    features, folder = photos
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    manifest = train_classify(os.path.relpath(features), "out", ClassifyConfig(epochs=40, batch_size=16))
    assert signal.getsignal(signal.SIGINT) is before
    assert "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S" not in os.environ
    assert manifest == read_manifest("out")
    assert manifest["counts"] == {"train": 42, "val": 6, "classes": 3}
    assert manifest["metrics"]["accuracy"] >= 5 / 6
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [row["epoch"] for row in stored["history"]] == list(range(manifest["epochs"]))
    assert np.sum(stored["confusion"]) == 6 and stored["classes"] == ["lying", "noise", "standing"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 and "http" not in page
    assert not (tmp_path / "out" / "state" / "ray").exists()

    classifier = Classifier.load(manifest["checkpoint"])
    assert classifier.card.metrics == manifest["metrics"]
    for label, name in ((0, "lying"), (1, "standing"), (2, "noise")):
        sink = io.BytesIO()
        Image.fromarray(draw(label, 1000)).save(sink, "PNG")
        assert classifier.predict([sink.getvalue()])[0].label == name

    with pytest.raises(RunFolderError, match="is finished"):
        train_classify(features, "out", ClassifyConfig(epochs=40, batch_size=16))


def test_two_workers_follow_the_golden_curve_of_one(tmp_path):
    config = ClassifyConfig(
        epochs=20, batch_size=64, lr=0.01, warmup=2, patience=0, mixup_alpha=0.2, dropout=0.2, workers=2
    )
    features = write_run(tmp_path / "run", make_table((24, 15, 9), dim=32, views=2, val_per_class=4))
    state = launch(functools.partial(build_parts, features, config), config, str(tmp_path / "state"), "golden")
    golden = np.loadtxt(GOLDEN)
    np.testing.assert_allclose([row["train_loss"] for row in state.history], golden[:, 1], rtol=0, atol=1e-4)


def test_two_workers_agree_with_one_where_batches_do_not_divide(tmp_path):
    config = ClassifyConfig(
        epochs=4, batch_size=9, lr=0.01, patience=2, mixup_alpha=0.2, label_smoothing=0.1, workers=2
    )
    features = write_run(tmp_path / "run", make_table((11, 5, 3), val_per_class=1))  # 19 images: the last batch has 1
    make = functools.partial(build_parts, features, config)
    both = launch(make, config, str(tmp_path / "two"), "x")
    run(*make(), config, str(tmp_path / "one"), "x", Worker())
    one = load_state(str(tmp_path / "one"), "x")
    for name, tensor in one.model.items():
        torch.testing.assert_close(both.model[name], tensor, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(both.history, one.history, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-4)
        assert ours["train_score"] == theirs["train_score"]


def workers_of_training():
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in "".join(p.cmdline()[:1])]


def kill_workers_when(state_uri, epochs, killed):
    """Kill -9 every training worker once as many epochs are stored as each number of `epochs` says."""
    for epoch in epochs:
        while len(load_history(state_uri)) < epoch:
            time.sleep(0.005)
        for process in workers_of_training():
            process.kill()
            killed.append(process.pid)


def test_killed_workers_are_replaced_and_end_with_the_same_bits(tmp_path):
    features = write_run(tmp_path / "run", make_table((60, 50, 40), dim=64, views=1, val_per_class=8))
    make = functools.partial(build_parts, features, LONG)
    run(*make(), LONG, str(tmp_path / "whole"), "x", Worker())
    killed = []
    state_uri = str(tmp_path / "state" / "last.state")
    killer = threading.Thread(target=kill_workers_when, args=(state_uri, (10, 30), killed), daemon=True)
    killer.start()
    state = launch(make, LONG, str(tmp_path / "state"), "x")
    killer.join(10)
    assert len(set(killed)) >= 2, "the run was over before it could be killed twice"
    assert_same_bits(state, load_state(str(tmp_path / "whole"), "x"))
    assert [row["epoch"] for row in state.history] == list(range(LONG.epochs))


def test_a_killed_driver_is_resumed_by_the_same_command(photos, tmp_path):
    features, _ = photos
    out, config = str(tmp_path / "out"), dataclasses.replace(LONG, batch_size=2)
    options = ["--epochs", "60", "--batch-size", "2", "--patience", "0", "--mixup-alpha", "0.2"]
    command = [sys.executable, "-m", "cnnray", "train", "classify", features, "--out", out, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    state_uri = f"{out}/state/last.state"
    deadline = time.monotonic() + 120
    while len(load_history(state_uri)) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    said = process.communicate()[1].decode()
    assert 5 <= len(load_history(state_uri)) < config.epochs, said

    with pytest.raises(RunFolderError, match="batch_size|made with others"):
        train_classify(features, out, dataclasses.replace(config, batch_size=4))
    manifest = train_classify(features, out, config)
    run(*build_parts(features, config), config, str(tmp_path / "whole"), "x", Worker())
    whole = load_state(str(tmp_path / "whole"), "x")
    head = Classifier.load(manifest["checkpoint"])._head.state_dict()
    assert all(torch.equal(tensor, head[name]) for name, tensor in whole.best.items())
    assert manifest["epochs"] == config.epochs


def test_a_users_fault_inside_a_worker_is_raised_as_it_is_and_once(tmp_path):
    config = dataclasses.replace(QUICK, lr=1e38)
    features = write_run(tmp_path / "run", make_table(val_per_class=2))
    with pytest.raises(DataError, match="expected a finite loss, got nan in step"):
        launch(functools.partial(build_parts, features, config), config, str(tmp_path / "state"), "x")


def die():
    """A little later: a worker that is gone before Ray Train has called it started ends the run at once."""
    time.sleep(1)
    os._exit(3)


def test_workers_that_die_again_and_again_end_the_run_with_one_line(tmp_path):
    with pytest.raises(CnnrayError, match="training ended after 4 failed attempts.*the same command goes on") as caught:
        launch(die, QUICK, str(tmp_path / "state"), "x")
    assert "\n" not in str(caught.value)


def test_a_worker_that_dies_as_it_starts_keeps_no_place(tmp_path):
    with pytest.raises(CnnrayError, match="training ended"):
        launch(functools.partial(os._exit, 3), QUICK, str(tmp_path / "state"), "x")
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


def tell_of_actors():
    """In a worker: which actors run beside it, and which of the training's have imported torchvision."""
    # a process that gives itself a name fills the rest of its words with blanks
    beside = {process: " ".join(process.cmdline()).strip() for process in psutil.Process().parent().children()}
    trains = {process: name for process, name in beside.items() if "TrainController" in name or "TrainWorker" in name}
    imported = [name for process, name in trains.items() if "torchvision" in str(process.memory_maps())]
    raise OptionError(f"{' '.join(beside.values())}; torchvision: {' '.join(imported)}")


def test_nothing_is_started_that_the_end_of_a_run_would_wait_for(tmp_path):
    """Ray's cleaner of places asks a dashboard, which a cluster inside one machine does not have, for up to 12 s."""
    with pytest.raises(OptionError, match=r"ray::TrainController") as told:
        launch(tell_of_actors, QUICK, str(tmp_path / "state"), "x")
    assert not re.search("Cleaner|Preemption|DatasetManager", str(told.value))


def test_only_workers_import_what_they_train_with(tmp_path):
    """This file's functions come with their module, and it imports torchvision as recipes do."""
    with pytest.raises(OptionError, match=r"torchvision: ray::RayTrainWorker[^ ]*$"):
        launch(tell_of_actors, QUICK, str(tmp_path / "state"), "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 3}, "3 training workers need 3 CPUs, but the cluster has 2; use fewer --workers"),
        ({"gpu": True}, "1 training workers need 1 GPUs, but the cluster has 0; leave out --gpu"),
    ],
)
def test_more_than_the_cluster_has_is_refused_at_once(photos, tmp_path, changes, message):
    started = time.monotonic()
    with pytest.raises(OptionError, match=message):
        train_classify(photos[0], str(tmp_path / "out"), dataclasses.replace(QUICK, **changes))
    assert time.monotonic() - started < 20


def test_features_that_are_not_finished_are_refused(tmp_path):
    RunFolder.open(str(tmp_path / "run"), FeaturesConfig(), "features")
    with pytest.raises(RunFolderError, match="its run is not finished"):
        train_classify(str(tmp_path / "run"), str(tmp_path / "out"), QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "0" * 64}, r"expected the weights 000000000000 of efficientnet_lite0.*build the features"),
        ({"weights": "none"}, "its weights were random"),
    ],
)
def test_features_of_other_weights_are_refused_before_training(photos, tmp_path, changes, message):
    network = {**read_manifest(photos[0])["backbone"], **changes}
    features = write_run(tmp_path / "run", make_table(val_per_class=2), manifest={"backbone": network})
    with pytest.raises(DataError, match=message):
        train_classify(features, str(tmp_path / "out"), QUICK)
    assert not (tmp_path / "out").exists()
