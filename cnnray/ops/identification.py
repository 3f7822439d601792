"""Figures of identification (1:N): who of a gallery is it, or nobody of it?

Face Recognition Technology Evaluation, part 2: Identification, Grother et al., NIST IR 8271: rank-k accuracy, false
positive and false negative identification rates (FPIR, FNIR)

A score is a similarity, larger for more alike; -inf, of a face that was not found, never identifies anybody. An
identity of the gallery scores by the best of its faces. A probe is mated if its label is in the gallery, and an
impostor otherwise.

Legend: P probes, G faces of the gallery, I its identities, D numbers of an embedding, T thresholds. Labels are int or
str. A rate without anything to measure it on is NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnray.ops.verification import known, wilson

Floats = NDArray[np.floating]
Float64s = NDArray[np.float64]
Labels = NDArray[Any]
RANKS, FPIRS = (1, 5), (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Probes:
    """What became of each probe.

    Attributes:
        own_P: score of its own identity, -inf where that was not found, or is not in the gallery.
        other_P: best score of any other identity.
        rank_P: place of its own identity, from 1; ties count against it. num_identities + 1 where own_P is -inf.
        mated_P: bool, whether its label is in the gallery.
        num_identities: of the gallery, I.
    """

    own_P: Float64s
    other_P: Float64s
    rank_P: NDArray[np.int64]
    mated_P: NDArray[np.bool_]
    num_identities: int


def compare_probes(similarities_PG: Floats, probe_labels_P: Labels, gallery_labels_G: Labels) -> Probes:
    """Summarise a matrix of scores, which holds no NaN."""
    assert not np.isnan(similarities_PG).any(), "a score is NaN"
    names, identity_G = np.unique(gallery_labels_G, return_inverse=True)
    best_PI = best_by_identity(similarities_PG, identity_G, len(names))
    return _ranked(best_PI, *_places(probe_labels_P, names))


def summarise_probes(
    probes_PD: Floats, probe_labels_P: Labels, gallery_GD: Floats, gallery_labels_G: Labels, *, block: int = 2**21
) -> Probes:
    """Compare by Euclidean distance, some probes at a time; a score is the negative distance.

    Args:
        probes_PD, gallery_GD: embeddings; NaN where no face was found.
        probe_labels_P, gallery_labels_G: who it is.
        block: distances that are held in memory at once, 8 bytes each, a few times over.
    """
    names, identity_G = np.unique(gallery_labels_G, return_inverse=True)
    places_P, mated_P = _places(probe_labels_P, names)
    rows = max(1, block // max(1, len(gallery_GD)))
    parts, gallery_GD = [], gallery_GD.astype(np.float64, copy=False)
    for start in range(0, max(1, len(probes_PD)), rows):
        some = slice(start, start + rows)
        best_PI = best_by_identity(_similarities(probes_PD[some], gallery_GD), identity_G, len(names))
        parts.append(_ranked(best_PI, places_P[some], mated_P[some]))
    return Probes(
        own_P=np.concatenate([part.own_P for part in parts]),
        other_P=np.concatenate([part.other_P for part in parts]),
        rank_P=np.concatenate([part.rank_P for part in parts]),
        mated_P=mated_P,
        num_identities=len(names),
    )


def best_by_identity(similarities_PG: Floats, identity_G: NDArray[np.integer], num_identities: int) -> Float64s:
    """Scores [P, I] of identities, each by the best of its faces; -inf of one without faces.

    Args:
        similarities_PG: scores of faces.
        identity_G: whose they are, from 0 to num_identities - 1.
        num_identities: I.
    """
    order_G = np.argsort(identity_G, kind="stable")
    present, starts = np.unique(identity_G[order_G], return_index=True)
    best_PI = np.full((len(similarities_PG), num_identities), -np.inf)
    if len(present):
        best_PI[:, present] = np.maximum.reduceat(similarities_PG[:, order_G], starts, axis=1)
    return best_PI


def identification(probes: Probes, *, ranks: Sequence[int] = RANKS) -> dict[int, float]:
    """Closed-set accuracy at each rank k: the share of mated probes whose own identity is among the k best."""
    num_mated = int(probes.mated_P.sum())
    return {k: _num_within(probes, k) / num_mated if num_mated else math.nan for k in ranks}


def _num_within(probes: Probes, k: int) -> int:
    """Mated probes whose own identity is among the k best; never one that was not found, however small the gallery."""
    return int((probes.mated_P & (probes.own_P > -np.inf) & (probes.rank_P <= k)).sum())


@dataclass(frozen=True)
class OpenSet:
    """FNIR at a FPIR.

    Attributes:
        threshold: the lowest score at which the FPIR is what was asked for, or less.
        fpir: that is reached.
        fnir: see `OpenSetCurve`.
        fnir_low, fnir_high: its 95 % interval, Wilson's.
        num_mated, num_impostors: probes.
    """

    threshold: float
    fpir: float
    fnir: float
    fnir_low: float
    fnir_high: float
    num_mated: int
    num_impostors: int


@dataclass(frozen=True)
class OpenSetCurve:
    """FNIR over FPIR.

    Attributes:
        fpir_T: share of impostors with a score >= threshold, rising; no two are equal. The first is 0, the last
            the share of impostors whose face was found.
        fnir_T: share of mated probes whose own identity is not the first, or scores below the threshold; falling.
        thresholds_T: the lowest of each FPIR, falling; the last is -inf.
        num_mated, num_impostors: probes.
    """

    fpir_T: Float64s
    fnir_T: Float64s
    thresholds_T: Float64s
    num_mated: int
    num_impostors: int

    def fnir_at_fpir(self, fpir: float) -> OpenSet:
        """FNIR at the lowest threshold whose FPIR is at most `fpir`; nothing is interpolated.

        With n impostors no FPIR below 1 / n can be measured: threshold and rates are NaN then, and without mated
        probes.
        """
        counts = (self.num_mated, self.num_impostors)
        allowed = math.floor(fpir * self.num_impostors + 1e-9)
        if allowed < 1 or not self.num_mated:
            return OpenSet(math.nan, math.nan, math.nan, math.nan, math.nan, *counts)
        at = int(np.flatnonzero(np.rint(self.fpir_T * self.num_impostors) <= allowed)[-1])
        fnir = float(self.fnir_T[at])
        interval = wilson(round(fnir * self.num_mated), self.num_mated)
        return OpenSet(float(self.thresholds_T[at]), float(self.fpir_T[at]), fnir, *interval, *counts)


def open_set_curve(probes: Probes) -> OpenSetCurve:
    """One point for each FPIR that a threshold can have."""
    mated_P = probes.mated_P
    num_mated, num_impostors = int(mated_P.sum()), int((~mated_P).sum())
    false_P = np.sort(probes.other_P[~mated_P & (probes.other_P > -np.inf)])
    hits_P = np.sort(probes.own_P[mated_P & (probes.rank_P == 1)])
    thresholds_T = np.append(np.nextafter(np.unique(false_P), np.inf)[::-1], -np.inf)
    accepted_T = len(false_P) - np.searchsorted(false_P, thresholds_T)
    found_T = len(hits_P) - np.searchsorted(hits_P, thresholds_T)
    fpir_T, fnir_T = accepted_T / (num_impostors or math.nan), 1 - found_T / (num_mated or math.nan)
    return OpenSetCurve(fpir_T, fnir_T, thresholds_T, num_mated, num_impostors)


def open_set(probes: Probes, *, fpir: float = 0.01) -> OpenSet:
    """See `OpenSetCurve.fnir_at_fpir`."""
    return open_set_curve(probes).fnir_at_fpir(fpir)


def summary_identification(
    probes: Probes, *, ranks: Sequence[int] = RANKS, fpirs: Sequence[float] = FPIRS
) -> dict[str, float | None]:
    """The numbers that stand in a report; None where there is nothing to measure.

    Returns:
        rank_K with _low and _high (Wilson's 95 % interval) for each of `ranks`; fnir_at_fpir_F with _low, _high and
        _threshold for each of `fpirs`; num_mated, num_impostors, num_identities and num_not_found (probes).
    """
    figures: dict[str, float] = {}
    num_mated = int(probes.mated_P.sum())
    for k, share in identification(probes, ranks=ranks).items():
        low, high = wilson(_num_within(probes, k), num_mated)
        figures |= {f"rank_{k}": share, f"rank_{k}_low": low, f"rank_{k}_high": high}
    curve = open_set_curve(probes)
    for fpir in fpirs:
        found, name = curve.fnir_at_fpir(fpir), f"fnir_at_fpir_{fpir:g}"
        figures |= {name: found.fnir, f"{name}_low": found.fnir_low, f"{name}_high": found.fnir_high}
        figures[f"{name}_threshold"] = found.threshold
    best_P = np.maximum(probes.own_P, probes.other_P)
    figures |= {"num_mated": num_mated, "num_impostors": len(best_P) - num_mated}
    return known(figures | {"num_identities": probes.num_identities, "num_not_found": int(np.isneginf(best_P).sum())})


def _places(labels_P: Labels, names_I: Labels) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where labels stand among the sorted names (anywhere for one that does not), and whether they do."""
    if not len(names_I):
        return np.zeros(len(labels_P), np.int64), np.zeros(len(labels_P), np.bool_)
    places_P = np.searchsorted(names_I, labels_P).clip(max=len(names_I) - 1)
    return places_P, names_I[places_P] == labels_P


def _ranked(best_PI: Float64s, places_P: NDArray[np.int64], mated_P: NDArray[np.bool_]) -> Probes:
    """Overwrites own scores in `best_PI`."""
    count, num_identities = best_PI.shape
    own_P, mated = np.full(count, -np.inf), np.flatnonzero(mated_P)
    own_P[mated] = best_PI[mated, places_P[mated]]
    best_PI[mated, places_P[mated]] = -np.inf
    rank_P = 1 + (best_PI >= own_P[:, None]).sum(axis=1)
    rank_P = np.where(own_P > -np.inf, rank_P, num_identities + 1)
    return Probes(own_P, best_PI.max(axis=1, initial=-np.inf), rank_P, mated_P, num_identities)


def _similarities(a_ND: Floats, b_GD: Floats) -> Float64s:
    """Negative Euclidean distances [N, G]; -inf to and from NaN. In float64: |a|² - 2ab + |b|² cancels near 0."""
    a, b = a_ND.astype(np.float64, copy=False), b_GD.astype(np.float64, copy=False)
    squares = (a**2).sum(1)[:, None] - 2 * (a @ b.T) + (b**2).sum(1)
    scores: Float64s = -np.sqrt(np.maximum(squares, 0))  # maximum keeps NaN
    return np.where(np.isnan(scores), -np.inf, scores)
