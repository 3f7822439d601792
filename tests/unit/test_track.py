"""TensorBoard's files and a real MLflow store, as others read them."""

import logging

import pytest
from mlflow.tracking import MlflowClient
from tensorboardX.proto import event_pb2

from cnnray.config import FinetuneConfig
from cnnray.errors import ServiceError
from cnnray.train.track import EXPERIMENT, TAG, TensorBoard, Trackers

CONFIG = FinetuneConfig(epochs=7)


def row(epoch):
    figures = {"train_loss": 1 / (epoch + 1), "val_loss": 0.5, "train_score": 0.1 * epoch, "val_score": 0.2, "lr": 0.01}
    return {"epoch": epoch, "seconds": 1.5, "step_losses": [0.9, 0.8, 0.7], **figures}


def scalars(folder):
    """(tag, step) -> value of all event files in a folder; a record is length, checksum, content, checksum."""
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            at += 16 + size
    return found


def test_tensorboard_gets_every_epoch_once_also_after_a_kill(tmp_path):
    first = TensorBoard(str(tmp_path / "tensorboard"))
    for epoch in range(3):
        first.log(row(epoch))
    del first  # killed: never closed
    trackers = Trackers(str(tmp_path), CONFIG)
    trackers.update([row(0), row(1)])
    trackers.update([row(0), row(1), row(2)])
    trackers.close()
    found = scalars(tmp_path / "tensorboard")
    assert {step for tag, step in found if tag == "loss/val"} == {1, 2, 3}
    assert found["loss/train", 2] == 0.5 and found["score/train", 3] == pytest.approx(0.2)
    assert [found["loss/step", step] for step in range(1, 10)] == pytest.approx([0.9, 0.8, 0.7] * 3)
    assert ("lr", 1) in found and ("seconds", 3) in found


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path}/mlflow"


def test_mlflow_gets_settings_and_figures_and_a_resumed_run_goes_on(tmp_path, store):
    config = FinetuneConfig(epochs=7, mlflow=store)
    Trackers(str(tmp_path / "run"), config).update([row(0), row(1)])  # then killed
    trackers = Trackers(str(tmp_path / "run"), config)
    trackers.update([row(0), row(1), row(2)])
    trackers.close()
    client = MlflowClient(tracking_uri=store)
    (found,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert found.data.tags[TAG] == str(tmp_path / "run") and found.info.status == "FINISHED"
    assert found.data.params["epochs"] == "7" and found.data.params["backbone"] == "efficientnet_lite0"
    history = client.get_metric_history(found.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_a_server_that_is_not_there_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match="expected an MLflow store at http://127.0.0.1:9, but"):
        Trackers(str(tmp_path), FinetuneConfig(mlflow="http://127.0.0.1:9"))


def test_a_tracker_that_fails_while_training_goes_on_is_left_out(tmp_path, store, caplog, monkeypatch):
    trackers = Trackers(str(tmp_path), FinetuneConfig(mlflow=store))
    trackers.update([row(0)])
    mlflow = trackers._all[0]
    monkeypatch.setattr(mlflow, "_run", "0" * 32)  # as if somebody had removed the run
    with caplog.at_level(logging.WARNING):
        trackers.update([row(0), row(1)])
    assert "MLflow gets no more figures" in caplog.text
    trackers.update([row(0), row(1), row(2)])
    trackers.close()
    assert {step for tag, step in scalars(tmp_path / "tensorboard") if tag == "loss/val"} == {1, 2, 3}
