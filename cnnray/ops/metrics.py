"""Metrics of classifiers, of images or of pixels, in numpy.

Legend: N examples, K classes; `labels_N` and `predicted_N` are class numbers 0..K-1; `probabilities_NK` are float and
each row sums to 1.
A ratio whose denominator is 0 (a class that was never predicted, or has no examples) is 0, and its support says why.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class PerClass:
    """Precision, recall and F1 of each class, float64 [K] in 0..1, and its number of examples, int64 [K]."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


def accuracy(predicted_N: Ints, labels_N: Ints) -> float:
    """The fraction of examples whose class is right; 0 without examples."""
    _same_length(predicted_N, labels_N)
    return float(np.mean(predicted_N == labels_N)) if len(labels_N) else 0.0


def top_k_accuracy(scores_NK: Floats, labels_N: Ints, k: int) -> float:
    """The fraction of examples whose class is among the k highest scores; 1 where k >= K, 0 without examples.

    Among equal scores the lower class number goes first, as in argmax: top_k_accuracy(k=1) is the accuracy of argmax.
    """
    _same_length(scores_NK, labels_N)
    if not len(labels_N):
        return 0.0
    own_N1 = np.take_along_axis(scores_NK, labels_N[:, None], axis=1)
    earlier_NK = np.arange(scores_NK.shape[1])[None, :] < labels_N[:, None]
    ahead_N = ((scores_NK > own_N1) | ((scores_NK == own_N1) & earlier_NK)).sum(axis=1)
    return float(np.mean(ahead_N < k))


def confusion_matrix(predicted_N: Ints, labels_N: Ints, num_classes: int) -> NDArray[np.int64]:
    """Counts [K, K]: row is the true class, column the predicted one."""
    _same_length(predicted_N, labels_N)
    cells = labels_N.astype(np.int64) * num_classes + predicted_N.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(matrix_KK: NDArray[np.int64]) -> PerClass:
    """Precision, recall, F1 and support of each class, from `confusion_matrix`."""
    hits = np.diagonal(matrix_KK).astype(np.float64)
    predicted, support = matrix_KK.sum(axis=0), matrix_KK.sum(axis=1)
    return PerClass(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, predicted + support),
        support=support,
    )


def log_loss(probabilities_NK: Floats, labels_N: Ints) -> float:
    """Mean -log p of the true class in nats; p is held above 1e-12, so that one sure mistake stays finite."""
    _same_length(probabilities_NK, labels_N)
    own_N = np.take_along_axis(probabilities_NK, labels_N[:, None], axis=1)[:, 0].astype(np.float64)
    return float(-np.mean(np.log(np.maximum(own_N, 1e-12)))) if len(labels_N) else 0.0


def expected_calibration_error(probabilities_NK: Floats, labels_N: Ints, num_bins: int = 15) -> float:
    """How far confidence is from accuracy: the mean over examples of |accuracy - confidence| of their bin.

    Bins are (i/B, (i+1)/B] of the highest probability, as in Guo et al., On Calibration of Modern Neural
    Networks, 2017, equation 3. 0 is perfect.
    """
    _same_length(probabilities_NK, labels_N)
    if not len(labels_N):
        return 0.0
    confidence_N = probabilities_NK.max(axis=1).astype(np.float64)
    right_N = (probabilities_NK.argmax(axis=1) == labels_N).astype(np.float64)
    bin_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap_B = np.bincount(bin_N, weights=right_N - confidence_N, minlength=num_bins)
    return float(np.abs(gap_B).sum() / len(labels_N))


def summary(probabilities_NK: Floats, labels_N: Ints) -> dict[str, float]:
    """The numbers that stand in a report and a checkpoint's card.

    Returns:
        accuracy, top5_accuracy, macro_f1, macro_recall (both over the classes that have examples), log_loss, ece
        and num_images.
    """
    predicted_N = probabilities_NK.argmax(axis=1)
    table = per_class(confusion_matrix(predicted_N, labels_N, probabilities_NK.shape[1]))
    present = table.support > 0
    return {
        "accuracy": accuracy(predicted_N, labels_N),
        "top5_accuracy": top_k_accuracy(probabilities_NK, labels_N, 5),
        "macro_f1": float(table.f1[present].mean()) if present.any() else 0.0,
        "macro_recall": float(table.recall[present].mean()) if present.any() else 0.0,
        "log_loss": log_loss(probabilities_NK, labels_N),
        "ece": expected_calibration_error(probabilities_NK, labels_N),
        "num_images": len(labels_N),
    }


@dataclass(frozen=True)
class Overlaps:
    """IoU and Dice of each class, float64 [K] in 0..1, NaN of a class that is in neither masks nor answers."""

    iou: NDArray[np.float64]
    dice: NDArray[np.float64]


def pixel_confusion(answer_HW: Ints, truth_HW: Ints, num_classes: int, ignore: int) -> NDArray[np.int64]:
    """Counts [K, K] of pixels: row is the true class, column the answer; where truth is `ignore` nothing is counted."""
    counted = truth_HW != ignore
    return confusion_matrix(answer_HW[counted], truth_HW[counted], num_classes)


def overlaps(matrix_KK: NDArray[np.int64]) -> Overlaps:
    """Intersection over union (Jaccard), and Dice, of each class over all pixels of `pixel_confusion`."""
    shared = np.diagonal(matrix_KK).astype(np.float64)
    both = (matrix_KK.sum(axis=0) + matrix_KK.sum(axis=1)).astype(np.float64)
    there = both > 0
    nan = np.full(len(shared), np.nan)
    iou = np.divide(shared, both - shared, out=nan.copy(), where=there)
    return Overlaps(iou=iou, dice=np.divide(2 * shared, both, out=nan, where=there))


def segmentation_summary(matrix_KK: NDArray[np.int64]) -> dict[str, float]:
    """The numbers that stand in a report and a checkpoint's card, from `pixel_confusion` over all pixels.

    Returns:
        mean_iou and mean_dice (over the classes that are there), foreground_iou and foreground_dice (the same without
        class 0, the background), pixel_accuracy; 0 where no class is there.
    """
    found = overlaps(matrix_KK)
    return {
        "mean_iou": _mean(found.iou),
        "foreground_iou": _mean(found.iou[1:]),
        "mean_dice": _mean(found.dice),
        "foreground_dice": _mean(found.dice[1:]),
        "pixel_accuracy": float(np.trace(matrix_KK) / max(matrix_KK.sum(), 1)),
    }


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _same_length(ours: NDArray[np.generic], labels_N: Ints) -> None:
    assert len(ours) == len(labels_N), f"{len(ours)} predictions for {len(labels_N)} labels"
