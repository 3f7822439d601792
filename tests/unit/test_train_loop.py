"""The training loop in one process, without Ray: golden curve, resume, schedule, stopping, state."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cnnray.config import ClassifyConfig
from cnnray.errors import CheckpointError, DataError, RunFolderError, StorageError
from cnnray.ops import metrics
from cnnray.train import loop
from cnnray.train.head import build_head_data, build_task, predict_val
from cnnray.train.loop import Worker, best_epoch, is_done, run, thinned
from cnnray.train.optim import (
    Group,
    build_optimizer,
    learning_rate,
    set_learning_rate,
    set_trainable,
    start_average,
    update_average,
)
from cnnray.train.state import State, load_history, load_state, save_state
from tests.feature_tables import make_table

GOLDEN = Path(__file__).parent.parent / "golden" / "classify_head.txt"
# one step an epoch, so that the history holds the loss of every step
GOLDEN_CONFIG = ClassifyConfig(epochs=20, batch_size=64, lr=0.01, warmup=2, patience=0, mixup_alpha=0.2, dropout=0.2)
SMALL = ClassifyConfig(epochs=6, batch_size=8, lr=0.01, warmup=1, patience=0)


def golden_table():
    return make_table((24, 15, 9), dim=32, views=2, val_per_class=4)


def train(folder, config=SMALL, table=None):
    """Final state of a run in `folder`, which goes on where an earlier one in it was killed."""
    data = build_head_data(make_table(val_per_class=3, views=1) if table is None else table, config)
    uri = str(folder / "last.state")
    run(build_task(data, config), data, config, uri, "fingerprint", Worker())
    return load_state(uri, "fingerprint")


def without_times(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_the_curve_is_the_golden_one(tmp_path):
    history = train(tmp_path, GOLDEN_CONFIG, golden_table()).history
    golden = np.loadtxt(GOLDEN)
    assert [row["epoch"] for row in history] == golden[:, 0].tolist()
    # the file has 6 decimals; summation order differs between processors
    np.testing.assert_allclose([row["train_loss"] for row in history], golden[:, 1], rtol=0, atol=1e-4)
    assert golden[-3:, 1].mean() < 0.6 * golden[0, 1]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize(
    "changes",
    [{}, {"head": "mlp", "hidden": 8}, {"ema": 0.9}, {"optimizer": "sgd", "clip": 0.5}, {"precision": "float16"}],
    ids=str,
)
@pytest.mark.parametrize("saves", [1, 3, 5])
def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path, monkeypatch, changes, saves):
    config = dataclasses.replace(SMALL, mixup_alpha=0.3, **changes)
    undisturbed = train(tmp_path / "whole", config)
    left = [saves]

    def save_or_die(uri, state, fingerprint):
        if not left[0]:
            raise Killed
        left[0] -= 1
        save_state(uri, state, fingerprint)

    monkeypatch.setattr(loop, "save_state", save_or_die)
    with pytest.raises(Killed):
        train(tmp_path / "killed", config)
    monkeypatch.undo()
    torch.manual_seed(99)  # whatever other code did to the global generator
    resumed = train(tmp_path / "killed", config)
    for group in ("model", "best", "optimizer"):
        assert_same_bits(getattr(resumed, group), getattr(undisturbed, group))
    assert without_times(resumed.history) == without_times(undisturbed.history)
    assert [row["epoch"] for row in resumed.history] == list(range(6))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(tmp_path)
    assert_same_bits(train(tmp_path).model, first.model)


def test_it_stops_early_and_keeps_the_weights_of_the_lowest_validation_loss(tmp_path):
    table = make_table((20, 20, 20), val_per_class=9, spread=0.3)  # blobs overlap: it will overfit
    config = dataclasses.replace(SMALL, lr=0.1, epochs=40, dropout=0.0, patience=3)
    state = train(tmp_path, config, table)
    best = best_epoch(state.history)
    assert len(state.history) == best + 4 < 40
    data = build_head_data(table, config)
    head = build_task(data, config).build()
    head.load_state_dict(state.best)
    probabilities, labels = predict_val(head, data), data.labels[data.val].numpy()
    assert metrics.log_loss(probabilities, labels) == pytest.approx(state.history[best]["val_loss"], rel=1e-5)
    assert metrics.accuracy(probabilities.argmax(1), labels) == pytest.approx(state.history[best]["val_score"])


def test_it_reaches_what_logistic_regression_reaches(tmp_path):
    pixels, digits = load_digits(return_X_y=True)
    table = make_table((2, 2))
    order = np.argsort([f"{i:04d}" for i in range(len(digits))])
    table = dataclasses.replace(
        table,
        ids=np.array([f"{i:04d}" for i in order], dtype=object),
        labels=digits.astype(str).astype(object),
        labels_b=np.full(len(digits), None, dtype=object),
        splits=np.array(["train" if i % 4 else "val" for i in order], dtype=object),
        views=np.zeros(len(digits), np.int32),
        lams=np.ones(len(digits), np.float32),
        features=(pixels / 16).astype(np.float32),
    )
    state = train(tmp_path, ClassifyConfig(epochs=40, lr=0.01, dropout=0.0), table)
    training = table.splits == "train"
    oracle = LogisticRegression(C=1.0, max_iter=1000).fit(table.features[training], digits[training])
    expected = oracle.score(table.features[~training], digits[~training])
    # 450 validation digits: one is 0.0022
    assert state.history[best_epoch(state.history)]["val_score"] >= expected - 0.01


def test_learning_rate_rises_then_falls_to_zero():
    config = ClassifyConfig(epochs=10, warmup=2, lr=1.0)
    rates = [learning_rate(step, 5, config) for step in range(50)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)  # half way down the cosine
    assert rates[49] < 0.01 and learning_rate(50, 5, config) == 0.0
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_warm_up_longer_than_the_run_only_rises():
    config = ClassifyConfig(epochs=2, warmup=9, lr=1.0)
    assert [learning_rate(step, 2, config) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("losses", "patience", "done"),
    [([], 2, False), ([3, 2, 1], 2, False), ([1, 2], 2, False), ([1, 2, 2], 2, True), ([1, 1, 1], 2, True),
     ([2, 3, 1, 4], 2, False), ([1, 2, 3, 4], 0, False), ([5, 4, 3, 2, 1], 2, True)],
)  # fmt: skip
def test_it_stops_after_epochs_without_a_lower_loss(losses, patience, done):
    history = [{"val_loss": loss} for loss in losses]
    assert is_done(history, ClassifyConfig(epochs=5, patience=patience)) is done


def test_biases_are_not_decayed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    decay = {
        p.ndim: g["weight_decay"] for g in build_optimizer([Group((model,))], SMALL).param_groups for p in g["params"]
    }
    assert decay == {2: SMALL.weight_decay, 1: 0.0}


def test_layers_are_frozen_until_their_epoch_with_their_statistics():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4))
    groups = [Group((model[2],)), Group((model[1],), first_epoch=2, frozen_norms=True)]
    assert set_trainable(model, groups, 1) == (0,)
    assert [part.training for part in model] == [False, False, True]
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    assert set_trainable(model, groups, 2) == (0, 1)
    assert [part.training for part in model] == [False, False, True]  # the second learns, but not its statistics
    assert [p.requires_grad for p in model.parameters()] == [False] * 2 + [True] * 4


def test_a_loss_that_is_no_number_is_an_error(tmp_path):
    message = r"expected a finite loss, got nan in step 2 of epoch 1, whose batch is c0/005.png, c1/.*lower --lr"
    with pytest.raises(DataError, match=message):
        train(tmp_path, dataclasses.replace(SMALL, lr=1e38))


def saved(tmp_path):
    state = State({"w": torch.arange(6.0).reshape(2, 3)}, {"w": torch.ones(2, 3)}, {"0.step": torch.tensor(4.0)},
                  [{"epoch": 0, "val_loss": 0.1}])  # fmt: skip
    uri = str(tmp_path / "last.state")
    save_state(uri, state, "abc")
    return uri, state


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    uri, state = saved(tmp_path)
    found = load_state(uri, "abc")
    for group in ("model", "best", "optimizer"):
        assert_same_bits(getattr(found, group), getattr(state, group))
    assert found.history == state.history == load_history(uri)


def test_best_weights_that_are_the_last_ones_are_stored_once(tmp_path):
    uri, state = saved(tmp_path)
    size = Path(uri).stat().st_size
    save_state(uri, dataclasses.replace(state, best=state.model), "abc")
    assert Path(uri).stat().st_size < size
    assert_same_bits(load_state(uri, "abc").best, state.model)


def test_no_state_yet_is_none(tmp_path):
    assert load_state(str(tmp_path / "none"), "abc") is None
    assert load_history(str(tmp_path / "none")) == []


def test_every_changed_bit_and_every_cut_of_a_state_is_seen(tmp_path):
    uri, _ = saved(tmp_path)
    content = Path(uri).read_bytes()
    for place in range(0, len(content), 7):
        Path(uri).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match="cut short or changed"):
            load_state(uri, "abc")
        Path(uri).write_bytes(content[:place])
        with pytest.raises(CheckpointError, match="cut short or changed"):
            load_state(uri, "abc")


def test_a_state_of_other_settings_is_refused(tmp_path):
    uri, _ = saved(tmp_path)
    with pytest.raises(RunFolderError, match="made with others"):
        load_state(uri, "xyz")


def test_a_disk_that_refuses_the_state_is_a_storage_error(tmp_path):
    (tmp_path / "last.state").mkdir()
    with pytest.raises(StorageError, match=r"last\.state"):
        save_state(str(tmp_path / "last.state"), saved(tmp_path / "other")[1], "abc")


def test_a_batch_in_parts_gives_the_same_gradients(tmp_path):
    whole = train(tmp_path / "whole", dataclasses.replace(SMALL, optimizer="sgd"))
    parts = train(tmp_path / "parts", dataclasses.replace(SMALL, optimizer="sgd", accumulate=3))
    for name, tensor in whole.model.items():
        torch.testing.assert_close(parts.model[name], tensor, rtol=1e-5, atol=1e-6)


def test_sgd_is_pytorchs_with_nesterov_momentum():
    layer = torch.nn.Linear(4, 3)
    optimizer = build_optimizer([Group((layer,), lr_scale=0.1)], dataclasses.replace(SMALL, optimizer="sgd"))
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, True)}
    set_learning_rate(optimizer, 2.0)
    assert {g["lr"] for g in optimizer.param_groups} == {0.2}


def test_clipping_bounds_the_first_step(tmp_path):
    """The first step of SGD with Nesterov momentum m moves by lr * (1 + m) * gradient."""
    config = dataclasses.replace(SMALL, optimizer="sgd", weight_decay=0.0, warmup=0, epochs=1, batch_size=999)
    start = build_task(build_head_data(make_table(val_per_class=3, views=1), config), config).build().state_dict()

    def length(folder, **changes):
        state = train(tmp_path / folder, dataclasses.replace(config, **changes))
        return float(sum((state.model[n] - t).square().sum() for n, t in start.items())) ** 0.5

    free = length("free") / (config.lr * 1.9)
    assert length("tight", clip=free / 3) == pytest.approx(config.lr * 1.9 * free / 3, rel=1e-3)
    assert length("wide", clip=free * 3) == pytest.approx(config.lr * 1.9 * free, rel=1e-3)


def test_the_moving_average_follows_its_formula():
    model, history = torch.nn.Linear(2, 2), []
    average = start_average(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.weight.add_(0.1)
        update_average(average, model, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        history.append(decay)
    torch.testing.assert_close(average.weight, expected)
    assert history[0] == 0.1 and history[-1] < 0.9
    assert start_average(model, 0.0) is None


def test_the_average_is_what_is_validated_and_kept(tmp_path):
    config = dataclasses.replace(SMALL, ema=0.99, epochs=3, class_weights="none")
    state = train(tmp_path, config)
    assert state.average and not torch.equal(state.average["body.1.weight"], state.model["body.1.weight"])
    data = build_head_data(make_table(val_per_class=3, views=1), config)
    head = build_task(data, config).build()
    head.load_state_dict(state.average)
    loss = metrics.log_loss(predict_val(head, data), data.labels[data.val].numpy())
    assert loss == pytest.approx(state.history[-1]["val_loss"], rel=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_follows_float32(tmp_path, precision):
    full = train(tmp_path / "full", SMALL)
    low = train(tmp_path / "low", dataclasses.replace(SMALL, precision=precision))
    losses = [[row["train_loss"] for row in state.history] for state in (full, low)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)
    assert low.model["body.1.weight"].dtype == torch.float32
    assert any(name.startswith("scaler.") for name in low.optimizer) is (precision == "float16")


def test_the_best_epoch_is_that_of_what_is_monitored():
    history = [{"val_loss": 0.5, "val_score": 0.7}, {"val_loss": 0.6, "val_score": 0.9},
               {"val_loss": 0.7, "val_score": 0.9}]  # fmt: skip
    assert best_epoch(history) == 0
    assert best_epoch(history, "score") == 1
    assert is_done(history, ClassifyConfig(epochs=9, patience=2))
    assert not is_done(history, ClassifyConfig(epochs=9, patience=2, monitor="score"))


def test_the_losses_of_the_steps_are_kept(tmp_path):
    state = train(tmp_path)
    data = build_head_data(make_table(val_per_class=3, views=1), SMALL)
    assert all(len(row["step_losses"]) == data.num_steps for row in state.history)
    assert thinned(torch.arange(1000.0)) == [float(10 * k + 4.5) for k in range(100)]
