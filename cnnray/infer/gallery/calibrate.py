"""The threshold of a gallery: who is it, or nobody, at a given rate of strangers who are taken for somebody.

    impostor probes   one face of an identity among all other identities, or faces of a cohort that is not enrolled
    mated probes      one face of an identity that has several, among the rest
    threshold         at the FPIR that was asked for, for the present number of identities
    curve             FNIR at several FPIRs, for smaller galleries too

Face Recognition Technology Evaluation, part 2: Identification, Grother et al., NIST IR 8271: FPIR and FNIR; its FNIR(N,
R, T) misses a mate below the threshold T or not within rank R. Here R is 1, as a gallery answers with the first.
Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference: intervals of shares. Turned round, it
is the interval of a quantile between two order statistics (David and Nagaraja, Order Statistics, section 7.1).
Weissman 1978, Estimation of Parameters and Large Quantiles Based on the k Largest Observations: exponential tails

A gallery spoils its own calibration where a person is in it twice: both entries are impostor probes that score like
one person. Measured on 2,000 directions of 64 dimensions and FPIR 0.01: with 0.5 % of people entered twice the
threshold rose from 0.520 to 0.579 (FPIR 0.0006 of fresh strangers), with 1 % to 0.846, which misses most people.
Doubtful probes, those that score above all that the others let expect, are therefore counted, and `threshold_without`
is the threshold without them: 0.522 and FPIR 0.0094 with up to 2 % entered twice; from 5 % on it is spoiled too. The
threshold keeps them all the same. On faces of LFW, where one person's scores and the best of others' overlap, doubtful
probes were seldom told, and people who really look alike would be taken out with them: such a threshold is too low, and
nobody would notice, while one that is too high is seen by the people it misses. What helps is to join entries that
`suspects` shows, and to calibrate again.

Legend: N faces, D numbers of an embedding, I identities, P probes, B bins of the score, C faces of a cohort.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import DataError, OptionError
from cnnray.infer.gallery.calibration import Calibration, CurveRow, Share, Suspect, Tail, hit_rate, threshold_for
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.probe_scores import (
    NOBODY,
    FaceGroups,
    Float32s,
    Int64s,
    ProbeScores,
    group_faces,
    own_scores,
    score_probes,
)
from cnnray.ops.verification import wilson

__all__ = ["Calibration", "CalibrationPlan", "Cohort", "Suspect", "calibrate", "suspects", "threshold_for"]
FPIRS = (0.1, 0.03, 0.01, 0.003, 0.001)
_Z = 1.96  # of 95 %
_SCORES = 15 * 10**8  # of the probes of a kind against identities: half a minute on two cores
_FEWEST = 200  # probes, however large the gallery
_TAIL = 20  # probes above its start, at least: the scale is good to 1 / sqrt(20)
_KNOWN = 20  # independent probes, from which on an interval is told
_DOUBTFUL = 0.05  # expected probes: one calibration in twenty has a doubtful one by chance
_SHARES, _SUSPECTS = 80, 50
_APART = 1.2  # times: a subset of nearly all says nothing new


class _Impostors(NamedTuple):
    """Impostor probes, and how many people they are of."""

    scores: ProbeScores
    num_people: int


class _Mated(NamedTuple):
    """Mated probes: score of their own identity, others that score as much or more, and how many people they are of."""

    own_P: Float32s
    ahead_P: Int64s
    num_people: int


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """How to calibrate.

    Attributes:
        fpir: false positive identification rate to hold, above 0 and below 1.
        num_probes: of each kind at most; fewer with more than 750,000 identities.
        every_face: all faces of a sampled person are probes; else one of them.
        seed: of the choice of probes.
    """

    fpir: float = 0.01
    num_probes: int = 2000
    every_face: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fpir < 1:
            raise OptionError(f"expected a false positive rate above 0 and below 1, got {self.fpir}")
        if self.num_probes < 1:
            raise OptionError(f"expected one probe or more, got {self.num_probes}")


class Cohort(NamedTuple):
    """People who are not enrolled: embeddings [C, D] of length 1, and whose they are; None: each is another's."""

    embeddings_CD: Float32s
    labels_C: Int64s | None = None


def calibrate(
    embeddings_ND: Float32s,
    identity_ids_N: Int64s,
    plan: CalibrationPlan,
    *,
    at: str,
    cohort: Cohort | None = None,
) -> Calibration:
    """Find the threshold for a gallery.

    Args:
        embeddings_ND: float32 of length 1.
        identity_ids_N: whose they are.
        plan: see there.
        at: the time, which goes into the result.
        cohort: strangers; None makes them of the gallery. Each is then looked for among one identity less.

    Raises:
        DataError: nothing to compare, NaN, embeddings of another length.
    """
    groups = group_faces(embeddings_ND, identity_ids_N)
    points_ID = mean_embeddings(identity_ids_N, embeddings_ND)[1]
    if cohort is None:
        impostors = _from_gallery(groups, points_ID, plan)
    else:
        impostors = _from_cohort(points_ID, cohort, plan)
    mated, num_identities = _mated(groups, points_ID, plan), len(groups.ids_I)
    best_P, worth = impostors.scores.best_P, _worth(impostors)
    tail, clean_P = fit_tail(best_P), best_P[_expected(best_P, best_P) >= _DOUBTFUL]
    threshold, low, high = threshold_interval(best_P, plan.fpir, worth, tail)
    without = threshold_interval(clean_P, plan.fpir, worth, fit_tail(clean_P))[0]
    targets = [target for target in sorted({*FPIRS, plan.fpir}, reverse=True) if target * worth >= 1]
    reached = _share(best_P, threshold, worth)
    return Calibration(
        fpir=plan.fpir,
        threshold=threshold,
        low=low,
        high=high,
        reached=reached.fpir,
        reached_low=reached.low,
        reached_high=reached.high,
        num_identities=num_identities,
        num_faces=len(embeddings_ND),
        num_probes=len(best_P),
        num_independent=worth,
        num_mated=len(mated.own_P),
        source="gallery" if cohort is None else "cohort",
        extrapolated=plan.fpir * worth < 1,
        tail=tail,
        num_doubtful=len(best_P) - len(clean_P),
        threshold_without=without,
        at=at,
        shares=_shares(best_P, worth),
        curve=(
            *_subset_rows(impostors.scores, mated, num_identities, targets),
            *_whole_rows(best_P, mated, num_identities, dict.fromkeys(targets) | {plan.fpir: threshold}),
        ),
        suspects=_pairs(impostors.scores, groups.ids_I, threshold) if cohort is None else (),
    )


def suspects(
    embeddings_ND: Float32s, identity_ids_N: Int64s, threshold: float, plan: CalibrationPlan
) -> tuple[Suspect, ...]:
    """Pairs of identities that score `threshold` or more, highest first, 50 at most.

    Of each sampled identity its best other one is seen: all pairs that are each other's best in a gallery of up to
    `plan.num_probes` identities, a sample of them in a larger one. Args and errors as of `calibrate`.
    """
    groups = group_faces(embeddings_ND, identity_ids_N)
    points_ID = mean_embeddings(identity_ids_N, embeddings_ND)[1]
    return _pairs(_from_gallery(groups, points_ID, plan).scores, groups.ids_I, threshold)


# ---- statistics of best scores


def threshold_interval(best_P: Float32s, fpir: float, worth: int, tail: Tail) -> tuple[float, float, float]:
    """The smallest threshold whose share of probes is at most `fpir`, and its 95 % interval.

    The interval holds the thresholds at which `fpir` lies in Wilson's interval of the share: those between two order
    statistics, with `worth` independent probes. Where no score is high enough for the upper end, or for the threshold,
    it is Weissman's, of the tail: his estimate has the variance scale² (1 + log²(hits / hits that were asked)) / count.
    """
    falling_P, num = np.sort(best_P)[::-1], len(best_P)
    half = _Z * math.sqrt(fpir * (1 - fpir) / worth)
    threshold = _above(falling_P, math.floor(fpir * num + 1e-9))
    beyond = _Z * tail.scale * math.sqrt((1 + math.log(tail.rate / hit_rate(fpir)) ** 2) * num / worth / tail.count)
    if fpir * worth < 1:
        threshold = max(threshold, tail.threshold(fpir))
        low, high = threshold - beyond, threshold + beyond
    else:
        at = math.floor((fpir - half) * num + 1e-9)
        low = _above(falling_P, math.ceil((fpir + half) * num))
        high = float(falling_P[at - 1]) if at > 0 else max(threshold, tail.threshold(fpir)) + beyond
    return (threshold, min(low, threshold), max(high, threshold)) if worth >= _KNOWN else (threshold, -1.0, 1.0)


def fit_tail(best_P: Float32s) -> Tail:
    """The exponential tail of the highest tenth of scores, or of 20, or of half of them where there are few.

    The scale is the mean excess over the start, Weissman's estimate.
    """
    falling_P, num = np.sort(best_P)[::-1].astype(np.float64), len(best_P)
    count = max(1, min(max(_TAIL, num // 10), num // 2))
    start = float(falling_P[min(count, num - 1)])
    scale = float(falling_P[:count].mean()) - start
    return Tail(start, scale, hit_rate(count / (num + 1)), count)


def subset_share(above_P: NDArray[np.integer], total: int, size: int) -> float:
    """Expected share of probes that are taken for somebody in a random subset of the identities.

    Of a probe with m hits among all n identities a subset of k holds none with the chance C(n - m, k) / C(n, k), which
    is the product of (n - k - i) / (n - i) for i from 0 to m - 1.

    Args:
        above_P: hits of each probe.
        total, size: identities of all and of the subset.
    """
    return float(-np.expm1(_log_none(total, size)[above_P]).mean())


def _log_none(total: int, size: int) -> NDArray[np.float64]:
    """Logarithm of the chance that a subset holds none of m, for m from 0 to `total`; -inf where it must hold one."""
    table = np.full(total + 1, -np.inf)
    place = np.arange(total - size)
    table[0], table[1 : total - size + 1] = 0.0, np.cumsum(np.log1p(-size / (total - place)))
    return table


def _above(falling_P: Float32s, allowed: int) -> float:
    """The smallest threshold, in float32 as scores are, that `allowed` scores reach at most; -1 where all may."""
    return float(np.nextafter(falling_P[allowed], np.float32(2))) if allowed < len(falling_P) else -1.0


def _share(best_P: Float32s, threshold: float, worth: int) -> Share:
    share = float((best_P >= np.float32(threshold)).mean())
    return Share(threshold, share, *wilson(round(share * worth), worth))


def _shares(best_P: Float32s, worth: int) -> tuple[Share, ...]:
    """At thresholds from which on 1, 2 .. all probes are accepted, evenly on a logarithmic axis."""
    rising_P = np.sort(best_P)
    counts = np.unique(np.geomspace(1, len(best_P), _SHARES).astype(np.int64))
    return tuple(_share(best_P, float(threshold), worth) for threshold in np.unique(rising_P[-counts]))


def _expected(scores_S: Float32s, best_P: Float32s) -> NDArray[np.float64]:
    """How many probes are expected to score so high, by what median and upper quartile say: double entries move these
    little, and a tail that is exponential from there on is rather too long."""
    if len(best_P) < _KNOWN:
        return np.full(len(scores_S), float(len(best_P)))
    median, quartile = np.quantile(best_P.astype(np.float64), (0.5, 0.75))
    scale = max((quartile - median) / math.log(hit_rate(0.5) / hit_rate(0.25)), 1e-6)
    hits_S = hit_rate(0.25) * np.exp(np.minimum((quartile - scores_S) / scale, 50))
    expected_S: NDArray[np.float64] = len(best_P) * -np.expm1(-hits_S)
    return expected_S


def _worth(impostors: _Impostors) -> int:
    """Independent probes: people, less for the share of the tail's probes whose best is a probe whose best they are."""
    scores, count = impostors.scores, fit_tail(impostors.scores.best_P).count
    pairs_P = list(zip(scores.own_P.tolist(), scores.identity_P.tolist(), strict=True))
    pairs, top = set(pairs_P), np.argsort(-scores.best_P, kind="stable")[:count]
    mutual = sum(pairs_P[at][::-1] in pairs for at in top) / count
    return max(1, round(impostors.num_people / (1 + mutual)))


# ---- probes


def _from_gallery(groups: FaceGroups, points_ID: Float32s, plan: CalibrationPlan) -> _Impostors:
    if len(groups.ids_I) < 2:
        raise DataError(f"expected two identities or more in the gallery, or a cohort; got {len(groups.ids_I)}")
    most = _num_probes(points_ID, plan)
    faces_P, own_P = _sample(groups, np.arange(len(groups.ids_I)), most, plan)
    return _Impostors(score_probes(groups.embeddings_ND[faces_P], own_P, points_ID), len(np.unique(own_P)))


def _from_cohort(points_ID: Float32s, cohort: Cohort, plan: CalibrationPlan) -> _Impostors:
    embeddings_CD, labels_C = cohort
    labels_C = np.arange(len(embeddings_CD)) if labels_C is None else labels_C
    people = group_faces(embeddings_CD, labels_C, "the cohort")
    if not len(points_ID) or not len(people.ids_I):
        raise DataError(f"expected people, got {len(points_ID)} in the gallery and {len(people.ids_I)} in the cohort")
    faces_P, who_P = _sample(people, np.arange(len(people.ids_I)), _num_probes(points_ID, plan), plan)
    scores = score_probes(embeddings_CD[faces_P], np.full(len(faces_P), NOBODY), points_ID)
    return _Impostors(scores, len(np.unique(who_P)))


def _mated(groups: FaceGroups, points_ID: Float32s, plan: CalibrationPlan) -> _Mated:
    several = np.flatnonzero(np.diff(groups.starts_I) > 1)
    faces_P, own_P = _sample(groups, several, _num_probes(points_ID, plan), plan)
    scores_P = own_scores(faces_P, own_P, groups)
    ahead_P = score_probes(groups.embeddings_ND[faces_P], own_P, points_ID, scores_P).ahead_P
    return _Mated(scores_P, ahead_P, len(np.unique(own_P)))


def _num_probes(points_ID: Float32s, plan: CalibrationPlan) -> int:
    return min(plan.num_probes, max(_FEWEST, _SCORES // max(1, len(points_ID))))


def _sample(groups: FaceGroups, identities: Int64s, most: int, plan: CalibrationPlan) -> tuple[Int64s, Int64s]:
    """Faces of up to `most` of the identities, and whose they are; `most` faces where every face of one is taken."""
    rng = np.random.default_rng(plan.seed)
    chosen = rng.permutation(identities)[:most]
    if plan.every_face:
        faces = [groups.faces(identity) for identity in chosen]
    else:
        faces = [rng.choice(groups.faces(identity), 1) for identity in chosen]
    own_P = np.repeat(chosen, [len(some) for some in faces])[:most]
    return np.concatenate([np.zeros(0, np.int64), *faces])[:most], own_P


# ---- results


def _subset_rows(
    scores: ProbeScores, mated: _Mated, num_identities: int, targets: Sequence[float]
) -> Iterator[CurveRow]:
    """Of 10, 30, 100 .. identities, drawn of those that an impostor was looked for among."""
    total = int(scores.above_PB[0, 0])
    powers = range(1, len(str(num_identities)) + 1)
    for size in (digit * 10**power for power in powers for digit in (1, 3)):
        if size > total or size * _APART > num_identities:
            return
        log_none, first_M = _log_none(total, size), np.exp(_log_none(num_identities - 1, size - 1))
        for target in targets:
            threshold, fpir = _subset_threshold(scores, log_none, target)
            yield CurveRow(size, target, threshold, fpir, *_missed(mated, first_M, threshold))


def _whole_rows(
    best_P: Float32s, mated: _Mated, num_identities: int, thresholds: Mapping[float, float | None]
) -> Iterator[CurveRow]:
    """Of all identities, by target; at the threshold that is given, or the one that follows from the probes."""
    falling_P, first_M = np.sort(best_P)[::-1], np.zeros(num_identities)
    first_M[0] = 1
    for target in sorted(thresholds, reverse=True):
        known = thresholds[target]
        threshold = _above(falling_P, math.floor(target * len(best_P) + 1e-9)) if known is None else known
        fpir = float((best_P >= np.float32(threshold)).mean())
        yield CurveRow(num_identities, target, threshold, fpir, *_missed(mated, first_M, threshold))


def _subset_threshold(scores: ProbeScores, log_none: NDArray[np.float64], target: float) -> tuple[float, float]:
    """The lowest end of a bin whose FPIR is at most `target`, and that FPIR, which falls from bin to bin; above the
    highest score where there is none."""
    low, high = 0, len(scores.edges_B)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _mean_share(scores, log_none, middle) <= target else (middle + 1, high)
    if low == len(scores.edges_B):
        return float(np.nextafter(scores.best_P.max(), np.float32(2))), 0.0
    return float(scores.edges_B[low]), _mean_share(scores, log_none, low)


def _mean_share(scores: ProbeScores, log_none: NDArray[np.float64], place: int) -> float:
    return float(-np.expm1(log_none[scores.above_PB[:, place]]).mean())


def _missed(
    mated: _Mated, first_M: NDArray[np.float64], threshold: float
) -> tuple[float | None, float | None, float | None, float | None]:
    """FNIR, its interval, and the share below the threshold; `first_M` is the chance to be first before m others."""
    num = len(mated.own_P)
    if not num:
        return None, None, None, None
    passed_P = mated.own_P >= np.float32(threshold)
    fnir = 1 - float((passed_P * first_M[mated.ahead_P]).mean())
    people = mated.num_people
    return fnir, *wilson(round(fnir * people), people), 1 - float(passed_P.mean())


def _pairs(scores: ProbeScores, ids_I: Int64s, threshold: float) -> tuple[Suspect, ...]:
    """Of probes of the gallery and their best others."""
    expected_P, found = _expected(scores.best_P, scores.best_P), dict[tuple[int, int], Suspect]()
    for at in np.argsort(scores.best_P, kind="stable"):  # rising: the best score of a pair stays
        if scores.best_P[at] >= np.float32(threshold):
            a, b = sorted((int(ids_I[scores.own_P[at]]), int(ids_I[scores.identity_P[at]])))
            found[a, b] = Suspect(a, b, float(scores.best_P[at]), float(expected_P[at]))
    return tuple(sorted(found.values(), key=lambda pair: -pair.score)[:_SUSPECTS])
