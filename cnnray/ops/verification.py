"""Figures of verification (1:1): are two faces one person's?

Labeled Faces in the Wild, Huang et al. 2007, section 4: accuracy over ten folds
ISO/IEC 19795-1 and NIST's FRTE: false accept rate (FAR, there FMR), true accept rate (TAR, there 1 - FNMR)
Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference: intervals of shares

A score is a similarity, larger for more alike; distances are negated. A pair is taken as the same person's where its
score >= threshold. -inf is the score of a pair in which a face was not found: no threshold takes it as the same.

Legend: N pairs, F folds, T thresholds; `scores_N` float without NaN; `same_N` bool, the truth; `folds_N` int.
A rate without anything to measure it on is NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]
FARS = (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy over folds.

    Attributes:
        mean: of the folds' accuracies, 0..1.
        std: their deviation, with F - 1 in the denominator.
        standard_error: std / sqrt(F), which LFW reports after its +-.
        thresholds_F: of each fold, found on the others.
        accuracies_F: of each fold at its threshold.
    """

    mean: float
    std: float
    standard_error: float
    thresholds_F: NDArray[np.float64]
    accuracies_F: NDArray[np.float64]


def ten_folds(scores_N: Floats, same_N: Bools, folds_N: Ints) -> FoldAccuracy:
    """LFW's protocol for any number of folds from 2: each is judged by the threshold that is best on all others.

    Args:
        scores_N, same_N: see above.
        folds_N: number of each pair's fold; results are in the order of these numbers.
    """
    _check(scores_N, same_N)
    numbers = np.unique(folds_N)
    assert len(numbers) > 1, f"expected two folds or more, got {len(numbers)}"
    thresholds, accuracies = np.zeros(len(numbers)), np.zeros(len(numbers))
    for at, number in enumerate(numbers):
        own_N = folds_N == number
        thresholds[at] = best_threshold(scores_N[~own_N], same_N[~own_N])
        accuracies[at] = np.mean((scores_N[own_N] >= thresholds[at]) == same_N[own_N])
    std = float(accuracies.std(ddof=1))
    return FoldAccuracy(float(accuracies.mean()), std, std / math.sqrt(len(numbers)), thresholds, accuracies)


def best_threshold(scores_N: Floats, same_N: Bools) -> float:
    """The threshold of the best accuracy, halfway between two neighbouring scores.

    It is the smallest score where all that were found are taken as the same, and just above the largest (or inf
    without any) where none is. Of several places between scores that are equally good, the middle one is taken, of two
    middle ones the lower.
    """
    _check(scores_N, same_N)
    values_T, place_N = np.unique(scores_N.astype(np.float64), return_inverse=True)
    gains_T = np.bincount(place_N, weights=np.where(same_N, 1.0, -1.0), minlength=len(values_T))
    gains = np.append(gains_T[::-1].cumsum()[::-1], 0.0)  # of saying "same" from value number 0, 1 .. T on
    if len(values_T) and values_T[0] == -np.inf:
        gains[0] = -np.inf
    best = np.flatnonzero(gains == gains.max())
    cut, values = int(best[(len(best) - 1) // 2]), values_T.tolist()
    if cut == len(values):
        return math.nextafter(values[-1], math.inf) if values and values[-1] > -math.inf else math.inf
    if cut == 0:
        return float(values[0])
    low, high = values[cut - 1], values[cut]
    middle = low + (high - low) / 2
    return float(middle if low < middle else high)  # else: no number between, or low is -inf


class AcceptRate(NamedTuple):
    """TAR at a FAR.

    Attributes:
        tar: true accept rate, 0..1.
        low, high: its 95 % interval, Wilson's, by the number of same pairs.
        threshold: a score that is taken as the same, and the lowest such; inf where even the largest is too low.
        far: that is reached; at most what was asked for.
    """

    tar: float
    low: float
    high: float
    threshold: float
    far: float


@dataclass(frozen=True)
class Roc:
    """What thresholds let through.

    Attributes:
        far_T: share of the different pairs that are taken as the same; from 0 up to 1.
        tar_T: share of the same pairs that are; from 0 up to 1.
        thresholds_T: inf, then every distinct score from the largest on. With pairs that were not found the last is
            -inf, which closes the curve, but is nothing to work with.
        num_same, num_different: pairs.
    """

    far_T: NDArray[np.float64]
    tar_T: NDArray[np.float64]
    thresholds_T: NDArray[np.float64]
    num_same: int
    num_different: int

    @property
    def auc(self) -> float:
        """Area under TAR over FAR: how often a same pair scores above a different one, ties by half."""
        return float(np.trapezoid(self.tar_T, self.far_T)) if self.num_same and self.num_different else math.nan

    @property
    def equal_error_rate(self) -> float:
        """Where FAR = 1 - TAR, on the straight line between the two points around it."""
        excess_T = self.far_T - (1 - self.tar_T)  # rises from -1 to 1
        if np.isnan(excess_T).any():
            return math.nan
        after = int(np.argmax(excess_T >= 0))
        (x0, x1), (e0, e1) = self.far_T[after - 1 : after + 1], excess_T[after - 1 : after + 1]
        return float(x0 + (x1 - x0) * -e0 / (e1 - e0))

    def tar_at_far(self, far: float) -> AcceptRate:
        """The largest TAR of the thresholds whose FAR is at most `far`; nothing is interpolated.

        With n different pairs no FAR below 1 / n can be measured: all is NaN then, and without same pairs.
        """
        allowed = math.floor(far * self.num_different + 1e-9)
        if allowed < 1 or not self.num_same:
            return AcceptRate(*[math.nan] * 5)
        usable_T = (np.rint(self.far_T * self.num_different) <= allowed) & (self.thresholds_T > -np.inf)
        at = int(np.flatnonzero(usable_T)[-1])
        tar = float(self.tar_T[at])
        interval = wilson(round(tar * self.num_same), self.num_same)
        return AcceptRate(tar, *interval, float(self.thresholds_T[at]), float(self.far_T[at]))


def roc(scores_N: Floats, same_N: Bools) -> Roc:
    """One point for each distinct score, after one that takes nothing as the same; see `Roc`."""
    _check(scores_N, same_N)
    negated_T, place_N = np.unique(-scores_N.astype(np.float64), return_inverse=True)
    counts_2T = [np.bincount(place_N[which_N], minlength=len(negated_T)) for which_N in (~same_N, same_N)]
    totals = [int(counts_T.sum()) for counts_T in counts_2T]
    far_T, tar_T = (
        np.append(0, counts_T.cumsum()) / (total or math.nan) for counts_T, total in zip(counts_2T, totals, strict=True)
    )
    return Roc(far_T, tar_T, np.append(np.inf, -negated_T), num_same=totals[1], num_different=totals[0])


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share; z is the normal distribution's, 1.96 for 95 %. (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share, scale = successes / trials, 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # at the ends rounding would leave 1e-17
    return (0.0 if not successes else middle - half), (1.0 if successes == trials else middle + half)


def summary_pairs(
    scores_N: Floats, same_N: Bools, folds_N: Ints, fars: Sequence[float] = FARS
) -> dict[str, float | None]:
    """The numbers that stand in a report; None where there is nothing to measure.

    Returns:
        accuracy, accuracy_std and accuracy_standard_error (see `FoldAccuracy`), threshold (the best on all pairs), auc,
        equal_error_rate; for each of `fars` tar_at_far_F with _low, _high and _threshold; num_pairs, num_same,
        num_different and num_not_found (pairs).
    """
    folds, curve = ten_folds(scores_N, same_N, folds_N), roc(scores_N, same_N)
    figures = {
        "accuracy": folds.mean,
        "accuracy_std": folds.std,
        "accuracy_standard_error": folds.standard_error,
        "threshold": best_threshold(scores_N, same_N),
        "auc": curve.auc,
        "equal_error_rate": curve.equal_error_rate,
    }
    for far in fars:
        rate, name = curve.tar_at_far(far), f"tar_at_far_{far:g}"
        figures |= {name: rate.tar, f"{name}_low": rate.low, f"{name}_high": rate.high}
        figures[f"{name}_threshold"] = rate.threshold
    counts = {"num_pairs": len(scores_N), "num_same": curve.num_same, "num_different": curve.num_different}
    return known(figures | counts | {"num_not_found": int(np.isneginf(scores_N).sum())})


def known(figures: dict[str, float]) -> dict[str, float | None]:
    """None in place of NaN and infinity, which JSON does not have."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _check(scores_N: Floats, same_N: Bools) -> None:
    assert len(scores_N) == len(same_N), f"{len(scores_N)} scores for {len(same_N)} pairs"
    assert same_N.dtype == np.bool_, f"same is {same_N.dtype}, not bool"
    assert bool(np.all(scores_N < np.inf)), "a score is NaN or infinite"
