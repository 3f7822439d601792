"""Fine-tuning without Ray: what learns when, what stays as it is, and training from stored activations."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cnnray.config import FinetuneConfig
from cnnray.data.feature_store import FeatureTable
from cnnray.data.stream import stream_here
from cnnray.errors import DataError, OptionError
from cnnray.nn.backbones import build_backbone, find_spec
from cnnray.nn.finetune import FinetuneNet, check_unfreeze, default_unfreeze
from cnnray.train.finetune_task import FinetuneTask, build_activation_data, plan_task
from cnnray.train.image_data import build_image_data
from cnnray.train.loop import Worker, run
from cnnray.train.state import load_state

NETWORK, TAP = "efficientnet_lite0:size=64", "stage6"
CONFIG = FinetuneConfig(
    backbone=NETWORK, batch_size=8, epochs=3, lr=0.01, views=1, unfreeze=2, precision="float32", monitor="loss"
)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Two classes of pictures: stripes that lie and stripes that stand."""
    folder, rows = tmp_path_factory.mktemp("stripes"), []
    for label, name in enumerate(("lying", "standing")):
        for number in range(10):
            image = np.random.default_rng([label, number]).integers(0, 120, (72, 72, 3), dtype=np.uint8)
            stripes = image if label == 0 else image.transpose(1, 0, 2)
            stripes[number % 4 :: 8] += 120
            path = folder / f"{name}{number}.png"
            Image.fromarray(image).save(path)
            rows.append({"id": path.name, "path": str(path), "label": name, "split": "val" if number > 7 else "train"})
    return pa.Table.from_pylist(rows)


def train(task, data, folder, config):
    run(task, data, config, str(folder / "last.state"), "x", Worker())
    return load_state(str(folder / "last.state"), "x")


def on_images(index, folder, config=CONFIG):
    data = build_image_data(index, find_spec(config.network), config, stream_here)
    return train(plan_task(config, 16, 2), data, folder, config)


def test_more_images_unfreeze_more():
    counts = [default_unfreeze(n, 9) for n in (0, 50, 100, 300, 1000, 3000, 10_000, 20_000, 10**6)]
    assert counts == sorted(counts) and counts[0] == counts[2] == 0 and counts[-1] == counts[-2] == 9
    assert len(set(counts)) >= 5


def test_stages_that_are_not_there_are_refused():
    taps = find_spec(NETWORK).taps[:-1]
    check_unfreeze(len(taps), taps)
    with pytest.raises(OptionError, match="at most 9, the number of stages in the network"):
        check_unfreeze(10, taps)
    with pytest.raises(
        OptionError, match=r"at most 2.*above the stored activations of 'stage6' \(stage7, head\), got 3"
    ):
        plan_task(dataclasses.replace(CONFIG, unfreeze=3), 100, 2, TAP)


def test_the_schedule_goes_down_from_the_top():
    config = dataclasses.replace(CONFIG, head_epochs=2, stage_epochs=3, backbone_lr=0.5, lr_decay=0.1, norm="frozen")
    task = plan_task(config, 10, 2)
    net = task.build()
    head, first, second = task.groups(net)
    assert (head.modules, head.lr_scale, head.first_epoch) == ((net.head,), 1.0, 0)
    assert (first.modules, first.lr_scale, first.first_epoch) == ((net.backbone.lower.head,), 0.5, 2)
    assert (second.modules, second.first_epoch) == ((net.backbone.lower.stage7,), 5)
    assert second.lr_scale == pytest.approx(0.05) and second.frozen_norms


def test_from_scratch_everything_learns_from_the_start():
    config = FinetuneConfig(backbone="mobilenet_v1:size=32,width=0.25", weights="none", unfreeze=2)
    task = plan_task(config, 10, 2)
    (group,) = task.groups(task.build())
    assert group.first_epoch == 0 and group.lr_scale == 1.0 and task.unfreeze == 14


@pytest.mark.parametrize("norm", ["train", "frozen"])
def test_what_is_frozen_keeps_every_bit_with_its_statistics(tmp_path, index, norm):
    config = dataclasses.replace(CONFIG, norm=norm, epochs=2)
    state = on_images(index, tmp_path, config)
    start = plan_task(config, 16, 2).build().state_dict()
    changed = {name for name, tensor in state.model.items() if not torch.equal(tensor, start[name])}
    learned = ("backbone.lower.stage7.", "backbone.lower.head.", "head.")
    assert changed and all(name.startswith(learned) for name in changed)
    assert any(name.startswith("backbone.lower.stage7.") for name in changed)
    statistics = {name for name in changed if "running" in name or "num_batches" in name}
    assert bool(statistics) is (norm == "train")


def test_stages_wait_for_their_epoch(tmp_path, index):
    config = dataclasses.replace(CONFIG, head_epochs=1, stage_epochs=1, epochs=2)
    state = on_images(index, tmp_path, config)
    start = plan_task(config, 16, 2).build().state_dict()
    changed = {name for name, tensor in state.model.items() if not torch.equal(tensor, start[name])}
    assert any(name.startswith("backbone.lower.head.") for name in changed)  # from epoch 1
    assert not any(name.startswith("backbone.lower.stage7.") for name in changed)  # would begin in epoch 2


def test_a_network_cut_open_gives_what_the_whole_one_gives():
    task = plan_task(CONFIG, 10, 3)
    whole = task.build().eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.nn.init.normal_(whole.head.body[-1].weight)
        cut = FinetuneNet(whole.backbone, whole.head, below=7).eval()
        lower = torch.nn.Sequential(*whole.stages[:7])
        inside = lower((images - whole.backbone.mean) / whole.backbone.std)
        torch.testing.assert_close(cut(inside), whole(images))


def stored(index, config):
    """The activations that `features build --pool none --dtype float32` stores: views 0 and 1 of training images."""
    backbone = build_backbone(config.network)
    spec = backbone.spec
    lower, _ = backbone.split(TAP)
    data = build_image_data(index, spec, config, stream_here)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std))
    rows = []
    for row in index.sort_by("id").to_pylist():
        for view in range(2 if row["split"] == "train" else 1):
            image = data.maker._view(row["id"], row["path"], view)[None] / 255
            with torch.no_grad():
                rows.append(row | {"view": view, "map": lower((image - mean) / std)[0].numpy()})
    text = {name: np.array([row[name] for row in rows], dtype=object) for name in ("id", "label", "split")}
    return FeatureTable(
        ids=text["id"],
        labels=text["label"],
        splits=text["split"],
        views=np.array([row["view"] for row in rows], np.int32),
        labels_b=np.full(len(rows), None, dtype=object),
        lams=np.ones(len(rows), np.float32),
        features=np.stack([row["map"] for row in rows]),
        manifest={"content_sha256": "x"},
    )


def test_training_from_stored_activations_gives_the_weights_of_training_on_images(tmp_path, index):
    # not Adam, which divides a gradient by its own size: where that is all rounding, so is the step
    config = dataclasses.replace(CONFIG, optimizer="sgd")
    (tmp_path / "a").mkdir()
    online = on_images(index, tmp_path / "a", config)
    table = stored(index, config)
    task = plan_task(config, 16, 2, TAP)
    assert task == FinetuneTask(config, 2, 2, below=7)
    offline = train(task, build_activation_data(table, config), tmp_path, config)
    for ours, theirs in zip(offline.history, online.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-4)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-4)
    for name, tensor in online.model.items():
        # single images against batches below the tap: the last bits of their sums differ
        torch.testing.assert_close(offline.model[name], tensor, rtol=1e-3, atol=2e-4)


def test_vectors_cannot_be_fine_tuned(index):
    table = stored(index, CONFIG)
    flat = dataclasses.replace(table, features=table.features.mean((2, 3)))
    with pytest.raises(
        DataError, match=r"expected stored maps \[n, C, H, W\].*got vectors of 192 numbers.*--pool none"
    ):
        build_activation_data(flat, CONFIG)
