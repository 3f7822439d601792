"""`train finetune` for real: images streamed by Ray Data to Ray Train workers, faults, and stored activations."""

import dataclasses
import functools
import os
import resource
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from cnnray.config import FeaturesConfig, FinetuneConfig, PredictConfig
from cnnray.data.features import build_features
from cnnray.data.predict import evaluate_classify
from cnnray.data.runs import read_manifest
from cnnray.data.stream import stream_here
from cnnray.errors import OptionError, QuarantineError, RunFolderError
from cnnray.infer.classify import Classifier
from cnnray.nn.backbones import find_spec
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.nn.device import num_cores
from cnnray.train.finetune import train_finetune
from cnnray.train.finetune_task import build_image_parts, plan_task
from cnnray.train.launch import launch
from cnnray.train.loop import DivergedError, Worker, run
from cnnray.train.state import load_history, load_state
from tests.ray.test_train_classify import kill_workers_when

pytestmark = pytest.mark.usefixtures("ray_cluster")

GOLDEN = Path(__file__).parent.parent / "golden" / "finetune.txt"
# the smallest of images, all in float32: tolerances are those of the order of additions
SMALL = FinetuneConfig(
    backbone="efficientnet_lite0:size=64",
    batch_size=16,
    lr=0.01,
    views=1,
    unfreeze=2,
    precision="float32",
    optimizer="sgd",
    warmup=0,
)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Class folders in train and val: stripes that lie, stripes that stand."""
    return write_stripes(tmp_path_factory.mktemp("stripes"), 16)


def write_stripes(root, count):
    """So many training images of each class, and 4 to validate on."""
    for label, name in enumerate(("lying", "standing")):
        for number in range(count + 4):
            image = np.random.default_rng([label, number]).integers(0, 120, (72, 72, 3), dtype=np.uint8)
            (image if label == 0 else image.transpose(1, 0, 2))[number % 4 :: 8] += 120
            folder = root / ("val" if number >= count else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:02d}.png")
    return str(root)


def trained(source, out, **changes):
    return train_finetune(source, str(out), dataclasses.replace(SMALL, **changes))


def test_from_images_to_a_classifier_that_is_evaluated_and_predicts(stripes, tmp_path):
    manifest = trained(stripes, tmp_path / "run", epochs=6, optimizer="adamw", head_epochs=1, dropout=0.0, ema=0.5)
    assert manifest["counts"] == {"train": 32, "val": 8, "classes": 2}
    assert manifest["trained_stages"] == ["head", "stage7"]
    assert manifest["metrics"]["accuracy"] >= 0.9
    for name in ("checkpoint", "last"):
        classifier = Classifier.load(str(tmp_path / "run" / name))
        assert classifier.classes == ("lying", "standing") and classifier.card.input["size"] == 64
    figures = evaluate_classify(
        manifest["checkpoint"], f"{stripes}/val", str(tmp_path / "evaluation"), PredictConfig(workers=1)
    )
    assert figures["accuracy"] == manifest["metrics"]["accuracy"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "efficientnet_lite0:size=64, 2 stages fine-tuned, on 32 training images" in page
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))
    with pytest.raises(RunFolderError, match="is finished"):
        trained(stripes, tmp_path / "run", epochs=6)


def alone(out, num_train, **changes):
    """The training of the run `out` once more, by one worker in this process, with as many threads; its state."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", num_cores())))
    config = dataclasses.replace(SMALL, **changes)
    parts = build_image_parts(str(out / "images.parquet"), plan_task(config, num_train, 2), stream_here)
    run(*parts, config, str(out / "alone.state"), "x", Worker())
    return load_state(str(out / "alone.state"), "x")


def curve(history):
    return [loss for row in history for loss in row["step_losses"]]


def test_two_workers_at_half_the_batch_follow_the_golden_curve_of_one(tmp_path):
    """20 steps with batch norms that learn, mixup and fresh views; a worker's batch is 16, then two workers' 8 each."""
    stripes, out = write_stripes(tmp_path / "stripes", 80), tmp_path / "two"
    config = {"epochs": 2, "mixup_alpha": 0.2, "views": 0, "head_epochs": 0, "dropout": 0.0}
    trained(stripes, out, workers=2, **config)
    one = alone(out, 160, **config)
    golden = np.loadtxt(GOLDEN)[:, 1]
    assert len(golden) == 20
    for history in (one.history, load_history(str(out / "state" / "last.state"))):
        np.testing.assert_allclose(curve(history), golden, rtol=0, atol=1e-4)
    for name, tensor in load_checkpoint(str(out / "last"))[0].items():
        torch.testing.assert_close(tensor, one.model[name], rtol=1e-3, atol=1e-3)


def test_stored_activations_and_images_end_with_the_same_weights(stripes, tmp_path):
    features = str(tmp_path / "features")
    exact = {"dtype": "float32", "precision": "float32", "compile": False, "workers": 1}
    build_features(
        stripes,
        features,
        FeaturesConfig(backbone=SMALL.backbone, tap="stage6", pool="none", views=1, reuse="none", **exact),
    )
    config = {"epochs": 3, "head_epochs": 1}
    stored = trained(features, tmp_path / "stored", **config)
    online = trained(stripes, tmp_path / "online", **config)
    assert stored["trained_stages"] == online["trained_stages"] and stored["counts"] == online["counts"]
    ours, theirs = (load_checkpoint(manifest["checkpoint"])[0] for manifest in (stored, online))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=2e-4)
    assert stored["metrics"]["log_loss"] == pytest.approx(online["metrics"]["log_loss"], abs=0.02)  # served in bfloat16


def test_killed_workers_lose_an_epoch_at_most_and_end_with_the_same_bits(stripes, tmp_path):
    config = {"epochs": 8, "ema": 0.9, "cutmix_alpha": 1.0, "views": 0}
    out, killed = tmp_path / "killed", []
    state_uri = str(out / "state" / "last.state")
    killer = threading.Thread(target=kill_workers_when, args=(state_uri, (2, 5), killed), daemon=True)
    killer.start()
    manifest = trained(stripes, out, **config)
    killer.join(10)
    assert len(set(killed)) >= 2
    last, whole = load_checkpoint(str(out / "last"))[0], alone(out, 32, **config)
    assert all(torch.equal(tensor, whole.average[name]) for name, tensor in last.items())
    assert manifest["epochs"] == 8


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(stripes, tmp_path):
    # the head learns for an epoch, then a stage is unfrozen at a rate that no network survives
    with pytest.raises(DivergedError, match=r"got (nan|inf).*in step \d of epoch \d, whose batch is .*png") as caught:
        trained(stripes, tmp_path / "run", epochs=6, lr=1e18, head_epochs=1, clip=0.0)
    if "no epoch was finished" not in str(caught.value):
        assert f"the best checkpoint so far is in {tmp_path}/run/checkpoint" in str(caught.value)
        card = load_checkpoint(str(tmp_path / "run" / "checkpoint"))[1]
        assert card.metrics["epoch"] >= 1 and np.isfinite(card.metrics["val_loss"])


def test_bad_images_are_quarantined_before_training_and_too_many_refused(stripes, tmp_path):
    root = tmp_path / "photos"
    for path in Path(stripes).rglob("*.png"):
        copy = root / path.relative_to(stripes)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes()[:90] if path.name == "03.png" else path.read_bytes())
    with pytest.raises(
        QuarantineError, match=r"2 of 40 images \(5.0%\) were bad, more than --max-bad 1.0%: 2 truncated"
    ):
        trained(str(root), tmp_path / "strict", epochs=1)
    manifest = trained(str(root), tmp_path / "out", epochs=1, max_bad=0.1, unfreeze=0)
    assert manifest["counts"] == {"train": 30, "val": 8, "classes": 2} and manifest["trained_stages"] == []


def test_networks_are_trained_from_scratch(stripes, tmp_path):
    manifest = trained(
        stripes,
        tmp_path / "run",
        backbone="residual:size=32,width=0.25",
        weights="none",
        epochs=8,
        optimizer="adamw",
        lr=3e-3,
        dropout=0.0,
    )
    assert manifest["metrics"]["accuracy"] >= 0.75
    assert Classifier.load(manifest["checkpoint"]).name.startswith("residual:size=32,width=0.25@")


def test_a_file_of_weights_beside_the_user_is_found_by_workers_elsewhere(stripes, tmp_path, monkeypatch):
    """Ray Train's workers leave the folder that the command was given in."""
    monkeypatch.chdir(tmp_path)
    small = {"backbone": "residual:size=32,width=0.25", "weights": "w.pth"}
    torch.save(find_spec(small["backbone"]).build().state_dict(), "w.pth")
    manifest = trained(stripes, tmp_path / "run", **small, epochs=1, optimizer="adamw", dropout=0.0)
    assert manifest["counts"]["train"] == 32
    build_features(stripes, "maps", FeaturesConfig(**small, batch_size=8))
    assert read_manifest("maps")["backbone"]["weights"] == str(tmp_path / "w.pth")


class Hungry:
    """A task that needs more memory than its process may have."""

    def build(self):
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**28,) * 2)
        return torch.nn.Linear(2**16, 2**14)  # 4 GiB


def test_a_worker_out_of_memory_says_what_would_help(tmp_path):
    with pytest.raises(OptionError, match="ran out of memory.*smaller --batch-size, --accumulate"):
        launch(functools.partial(make_hungry), SMALL, str(tmp_path / "state"), "x")


def make_hungry():
    return Hungry(), None


def test_more_workers_than_cpus_are_refused(stripes, tmp_path):
    with pytest.raises(OptionError, match="3 training workers need 3 CPUs, but the cluster has 2"):
        trained(stripes, tmp_path / "run", workers=3)
    with pytest.raises(OptionError, match="workers must be a number from 1 or MIN:MAX"):
        FinetuneConfig(workers="3:2")
    with pytest.raises(
        OptionError, match="each of 2 workers has an image, but 32 images in batches of 1 make some of 1"
    ):
        trained(stripes, tmp_path / "small", workers="1:2", batch_size=1)
