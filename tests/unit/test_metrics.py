"""Metrics against scikit-learn, slow references and cases counted by hand."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from cnnray.ops import metrics


def random_case(seed, n=200, k=7):
    rng = np.random.default_rng(seed)
    scores = rng.gamma(0.3, size=(n, k)).astype(np.float64) + 1e-9
    return scores / scores.sum(axis=1, keepdims=True), rng.integers(0, k - 1, n)  # the last class has no examples


@pytest.mark.parametrize("seed", range(5))
def test_all_agree_with_scikit_learn(seed):
    probabilities, labels = random_case(seed)
    predicted, classes = probabilities.argmax(axis=1), np.arange(7)
    matrix = metrics.confusion_matrix(predicted, labels, 7)
    np.testing.assert_array_equal(matrix, oracle.confusion_matrix(labels, predicted, labels=classes))
    table = metrics.per_class(matrix)
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    for ours, theirs in zip((table.precision, table.recall, table.f1, table.support), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert metrics.accuracy(predicted, labels) == oracle.accuracy_score(labels, predicted)
    assert metrics.log_loss(probabilities, labels) == pytest.approx(
        oracle.log_loss(labels, probabilities, labels=classes)
    )
    for k in (1, 2, 5):
        expected_k = oracle.top_k_accuracy_score(labels, probabilities, k=k, labels=classes)
        assert metrics.top_k_accuracy(probabilities, labels, k) == pytest.approx(expected_k)


def slow_calibration_error(probabilities, labels, num_bins):
    """Guo et al. 2017, equation 3, bin by bin."""
    total = 0.0
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    for i in range(num_bins):
        inside = (confidence > i / num_bins) & (confidence <= (i + 1) / num_bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_is_the_papers_equation(num_bins):
    probabilities, labels = random_case(9)
    ours = metrics.expected_calibration_error(probabilities, labels, num_bins)
    assert ours == pytest.approx(slow_calibration_error(probabilities, labels, num_bins), abs=1e-12)


def test_calibration_error_counted_by_hand():
    # two examples at 0.8 confidence of which one is right: |0.5 - 0.8| = 0.3; one sure and right: 0
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.0, 1.0]])
    assert metrics.expected_calibration_error(probabilities, np.array([0, 1, 1])) == pytest.approx(2 / 3 * 0.3)


def test_confusion_and_table_counted_by_hand():
    labels, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 0])
    matrix = metrics.confusion_matrix(predicted, labels, 3)
    assert matrix.tolist() == [[1, 1, 0], [1, 2, 0], [1, 0, 0]]
    table = metrics.per_class(matrix)
    assert table.precision.tolist() == [1 / 3, 2 / 3, 0.0]
    assert table.recall.tolist() == [1 / 2, 2 / 3, 0.0]
    assert table.support.tolist() == [2, 3, 1]


def test_a_tie_goes_to_the_lower_class_as_in_argmax():
    scores = np.array([[0.5, 0.5, 0.0]])
    assert metrics.top_k_accuracy(scores, np.array([0]), 1) == 1.0
    assert metrics.top_k_accuracy(scores, np.array([1]), 1) == 0.0
    assert metrics.top_k_accuracy(scores, np.array([1]), 2) == 1.0
    assert metrics.top_k_accuracy(scores, np.array([2]), 5) == 1.0


def test_nothing_gives_zeros_and_finite_numbers():
    probabilities, labels = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    assert set(metrics.summary(probabilities, labels).values()) == {0.0}


def test_a_sure_mistake_stays_finite():
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_macro_figures_leave_out_classes_without_examples():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    found = metrics.summary(probabilities, np.array([0, 1]))
    assert found["macro_f1"] == found["macro_recall"] == found["accuracy"] == 1.0
    assert found["num_images"] == 2


# --- pixels -------------------------------------------------------------------------------------------------------


def test_overlaps_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, answer = rng.integers(0, 4, (2, 30, 40))
    answer = np.where(rng.random(truth.shape) < 0.7, truth, answer)
    truth[:3] = 255
    matrix = metrics.pixel_confusion(answer, truth, 5, ignore=255)
    counted = truth != 255
    assert matrix.sum() == counted.sum()
    found = metrics.overlaps(matrix)
    np.testing.assert_allclose(found.iou[:4], oracle.jaccard_score(truth[counted], answer[counted], average=None))
    np.testing.assert_allclose(found.dice[:4], oracle.f1_score(truth[counted], answer[counted], average=None))
    assert np.isnan(found.iou[4]) and np.isnan(found.dice[4])  # a class that is nowhere
    figures = metrics.segmentation_summary(matrix)
    assert figures["mean_iou"] == pytest.approx(found.iou[:4].mean())
    assert figures["foreground_iou"] == pytest.approx(found.iou[1:4].mean())
    assert figures["pixel_accuracy"] == pytest.approx((truth == answer)[counted].mean())


def test_nothing_to_see_is_no_success():
    assert metrics.segmentation_summary(np.zeros((3, 3), np.int64))["mean_iou"] == 0
