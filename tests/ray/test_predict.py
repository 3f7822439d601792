"""Batch prediction and evaluation of a folder by a checkpoint."""

import numpy as np
import pytest

from cnnray import files
from cnnray.config import PredictConfig
from cnnray.data.predict import evaluate_classify, predict_classify, read_predictions
from cnnray.errors import CheckpointError, DataError, QuarantineError, RunFolderError
from cnnray.infer.classify import Classifier
from tests.classifiers import CLASSES, save_classifier
from tests.ray.test_features import make_photos

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_classifier(str(tmp_path_factory.mktemp("checkpoint")))


def test_predictions_are_those_of_the_classifier_in_a_table(checkpoint, tmp_path):
    src = make_photos(tmp_path / "src", 20, CLASSES)
    manifest = predict_classify(checkpoint, str(src), str(tmp_path / "out"), PredictConfig())
    assert (manifest["predictions"], manifest["quarantined"]) == (20, 0)
    rows = read_predictions(str(tmp_path / "out")).to_pylist()
    direct = Classifier.load(checkpoint).predict([(src / row["id"]).read_bytes() for row in rows], top_k=3)
    for row, answer in zip(rows, direct, strict=True):
        assert row["predicted"] == answer.label and row["label"] == row["id"].split("/")[0]
        assert row["top_labels"] == [name for name, _ in answer.top]
        np.testing.assert_allclose(row["top_probabilities"], [p for _, p in answer.top], rtol=1e-5)
        by_class = dict(answer.top)
        np.testing.assert_allclose(row["probabilities"], [by_class[name] for name in CLASSES], rtol=1e-5)


def test_bad_images_are_quarantined_and_a_finished_run_is_refused(checkpoint, tmp_path):
    src = make_photos(tmp_path / "src", 6, CLASSES)
    (src / "apple" / "000.jpg").write_bytes(b"rubbish")
    with pytest.raises(QuarantineError, match="1 of 6"):
        predict_classify(checkpoint, str(src), str(tmp_path / "out"), PredictConfig())
    assert len(read_predictions(str(tmp_path / "out"))) == 5
    with pytest.raises(RunFolderError, match="finished"):
        predict_classify(checkpoint, str(src), str(tmp_path / "out"), PredictConfig())


def test_evaluation_counts_what_is_right(checkpoint, tmp_path):
    src = make_photos(tmp_path / "src", 15, CLASSES)
    metrics = evaluate_classify(checkpoint, str(src), str(tmp_path / "out"), PredictConfig())
    rows = read_predictions(str(tmp_path / "out")).to_pylist()
    assert metrics["accuracy"] == pytest.approx(np.mean([row["predicted"] == row["label"] for row in rows]))
    assert metrics["images"] == 15
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Confusion matrix" in page


def test_an_evaluation_with_bad_images_is_written_before_it_says_so(checkpoint, tmp_path):
    src = make_photos(tmp_path / "src", 6, CLASSES)
    (src / "apple" / "000.jpg").write_bytes(b"rubbish")
    with pytest.raises(QuarantineError, match="1 of 6"):
        evaluate_classify(checkpoint, str(src), str(tmp_path / "out"), PredictConfig())
    assert files.read_json(str(tmp_path / "out" / "metrics.json"))["quarantined"] == 1
    for path in src.rglob("*.jpg"):
        path.write_bytes(b"rubbish")
    with pytest.raises(DataError, match="all 6 are bad: 6 not_an_image"):
        evaluate_classify(checkpoint, str(src), str(tmp_path / "none"), PredictConfig())


def test_labels_that_the_classifier_does_not_know_are_named(checkpoint, tmp_path):
    src = make_photos(tmp_path / "src", 4, ["apple", "durian"])
    with pytest.raises(DataError, match="'durian'"):
        evaluate_classify(checkpoint, str(src), str(tmp_path / "out"), PredictConfig())


def test_a_damaged_checkpoint_is_refused_before_anything_starts(checkpoint, tmp_path):
    with pytest.raises(CheckpointError):
        predict_classify(str(tmp_path / "none"), str(tmp_path), str(tmp_path / "out"), PredictConfig())
    assert not (tmp_path / "out").exists()
