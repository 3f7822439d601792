"""Figures of verification and identification against libraries, slow loops and cases counted by hand."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest, norm
from sklearn import metrics as oracle

from cnnray.data.face_report import open_set_picture, roc_picture, score_picture
from cnnray.ops.identification import (
    best_by_identity,
    compare_probes,
    identification,
    open_set,
    open_set_curve,
    summarise_probes,
    summary_identification,
)
from cnnray.ops.verification import FARS, best_threshold, roc, summary_pairs, ten_folds, wilson

INF, NAN = math.inf, math.nan


def random_pairs(seed, n=400, lost=0, decimals=2):
    """Scores with ties, and `lost` of -inf."""
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.5
    scores = np.round(rng.normal(same * 1.5, 1), decimals)
    scores[rng.permutation(n)[:lost]] = -INF
    return scores, same


def right(scores, same, threshold):
    return sum((score >= threshold) == bool(truth) for score, truth in zip(scores, same, strict=True))


# --- verification -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_and_its_area_are_scikit_learns(seed):
    scores, same = random_pairs(seed)
    curve = roc(scores.astype(np.float32), same)
    far, tar, thresholds = oracle.roc_curve(same, scores.astype(np.float32), drop_intermediate=False)
    np.testing.assert_allclose(curve.far_T, far, atol=1e-12)
    np.testing.assert_allclose(curve.tar_T, tar, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds_T, thresholds)
    assert curve.auc == pytest.approx(oracle.roc_auc_score(same, scores), abs=1e-12)
    assert (curve.num_same, curve.num_different) == (same.sum(), (~same).sum())


@pytest.mark.parametrize("lost", [0, 60])
def test_rates_are_those_of_a_slow_loop(lost):
    scores, same = random_pairs(7, lost=lost)
    curve = roc(scores, same)
    for far in (0.004, 0.005, 0.01, 0.1, 0.5, 1.0):
        allowed = [t for t in [*scores[scores > -INF], INF] if np.mean(scores[~same] >= t) <= far]
        found = curve.tar_at_far(far)
        if far * (~same).sum() < 1:
            assert all(math.isnan(value) for value in found)
            continue
        assert found.threshold == min(allowed)
        assert found.tar == pytest.approx(max(np.mean(scores[same] >= t) for t in allowed))
        assert found.far == pytest.approx(np.mean(scores[~same] >= found.threshold))
        assert found.low < found.tar <= found.high
    # an area is the chance that a same pair scores above a different one, also where -inf meets -inf
    above = np.mean(
        [(a > b) + 0.5 * (a == b) for a in scores[same].tolist() for b in scores[~same].tolist()], dtype=np.float64
    )
    assert curve.auc == pytest.approx(above)


@pytest.mark.parametrize("seed", range(5))
def test_the_equal_error_rate_is_where_the_curve_crosses_the_diagonal(seed):
    scores, same = random_pairs(seed, lost=20 * seed, decimals=seed % 3 + 1)
    curve = roc(scores, same)
    rate = curve.equal_error_rate
    after = next(at for at in range(len(curve.far_T)) if curve.far_T[at] >= 1 - curve.tar_T[at])
    assert curve.far_T[after - 1] <= rate <= curve.far_T[after]
    share = np.linspace(0, 1, 100001)  # along the straight piece
    far = curve.far_T[after - 1] + share * (curve.far_T[after] - curve.far_T[after - 1])
    missed = 1 - curve.tar_T[after - 1] - share * (curve.tar_T[after] - curve.tar_T[after - 1])
    assert rate == pytest.approx(far[np.argmin(np.abs(far - missed))], abs=1e-5)


def test_a_curve_counted_by_hand():
    scores = np.array([0.9, 0.8, 0.8, 0.5, 0.4, -INF])
    same = np.array([True, True, False, True, False, True])
    curve = roc(scores, same)
    assert curve.thresholds_T.tolist() == [INF, 0.9, 0.8, 0.5, 0.4, -INF]
    assert curve.far_T.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert curve.tar_T.tolist() == [0, 0.25, 0.5, 0.75, 0.75, 1]
    assert curve.tar_at_far(0.5)[::3] == (0.75, 0.5)  # exactly at the FAR asked for
    assert curve.tar_at_far(1)[::3] == (0.75, 0.4)  # what was not found is nowhere taken as the same
    assert math.isnan(curve.tar_at_far(0.49).tar)  # of two different pairs none of these can be measured
    # between (0.5, 0.75) and (1, 0.75): FAR = 1 - TAR lies before, between (0.5, 0.5) and (0.5, 0.75)
    assert curve.equal_error_rate == 0.5
    assert roc(np.array([2.0, 1.0]), np.array([True, False])).equal_error_rate == 0
    assert roc(np.array([1.0, 1.0]), np.array([True, False])).equal_error_rate == 0.5
    assert roc(np.array([1.0, 2.0]), np.array([True, False])).equal_error_rate == 1


def test_a_curve_where_the_largest_score_is_a_different_pairs():
    scores, same = np.array([3.0, 2.0, 2.0, 1.0] * 50), np.array([False, True, True, False] * 50)
    found = roc(scores, same).tar_at_far(0.01)
    assert (found.tar, found.threshold, found.far) == (0, INF, 0)


@pytest.mark.parametrize("same", [True, False])
def test_only_one_kind_of_pairs_has_no_curve(same):
    curve = roc(np.array([1.0, 2.0]), np.array([same, same]))
    assert math.isnan(curve.auc) and math.isnan(curve.equal_error_rate)
    assert math.isnan(curve.tar_at_far(0.5).tar)
    assert best_threshold(np.array([1.0, 2.0]), np.array([same, same])) == (1.0 if same else np.nextafter(2, 3))


def test_nothing_at_all():
    nothing = np.array([]), np.array([], np.bool_)
    assert best_threshold(*nothing) == INF
    assert math.isnan(roc(*nothing).auc)


def test_nan_is_refused():
    with pytest.raises(AssertionError, match="NaN"):
        roc(np.array([NAN, 1]), np.array([True, False]))


@pytest.mark.parametrize(("seed", "lost"), [(0, 0), (1, 0), (2, 30), (3, 390), (4, 400)])
def test_no_threshold_is_better_than_the_best(seed, lost):
    scores, same = random_pairs(seed, lost=lost, decimals=1)
    best = best_threshold(scores, same)
    found = np.unique(scores[scores > -INF])
    places = [*found, *(found[:-1] + found[1:]) / 2, INF]
    assert right(scores, same, best) == max(right(scores, same, t) for t in places)
    assert best not in found[1:]


def test_best_thresholds_found_by_hand():
    def best(scores, same):
        return best_threshold(np.array(scores, np.float64), np.array(same, np.bool_))

    assert best([1, 2, 4, 5], [0, 0, 1, 1]) == 3
    assert best([1, 2], [1, 1]) == 1
    assert best([1, 2], [0, 0]) == np.nextafter(2, 3)
    assert best([-INF, 2], [0, 1]) == 2  # no number lies halfway
    assert best([-INF, -INF], [1, 0]) == INF
    # before 1, between 2 and 3, and after 4 are equally good: the middle one
    assert best([1, 2, 3, 4], [1, 0, 1, 0]) == 2.5
    assert best([1, 2], [1, 0]) == 1  # of two the lower
    low = 0.1
    assert best([low, np.nextafter(low, 1)], [0, 1]) == np.nextafter(low, 1)  # no number is between


def test_ten_folds_are_those_of_a_slow_loop():
    scores, same = random_pairs(11, lost=10)
    folds = np.arange(len(scores)) % 10 * 3
    result = ten_folds(scores, same, folds)
    accuracies = []
    for fold in range(0, 30, 3):
        threshold = best_threshold(scores[folds != fold], same[folds != fold])
        accuracies.append(right(scores[folds == fold], same[folds == fold], threshold) / (folds == fold).sum())
        assert result.thresholds_F[fold // 3] == threshold
    np.testing.assert_allclose(result.accuracies_F, accuracies)
    mean = sum(accuracies) / 10
    deviation = math.sqrt(sum((accuracy - mean) ** 2 for accuracy in accuracies) / 9)
    assert (result.mean, result.std) == (pytest.approx(mean), pytest.approx(deviation))
    assert result.standard_error == pytest.approx(deviation / math.sqrt(10))


def test_a_folds_own_pairs_do_not_move_its_threshold():
    scores, same = np.array([1.0, 3, 1, 3, 0, 9]), np.array([0, 1, 0, 1, 1, 0], np.bool_)
    result = ten_folds(scores, same, np.array([0, 0, 1, 1, 2, 2]))
    assert result.thresholds_F[2] == 2 and result.accuracies_F[2] == 0


def test_a_score_at_the_threshold_is_the_same_person():
    scores, same = np.array([0.0, 2, 1, 1]), np.array([0, 1, 1, 0], np.bool_)  # the first fold's threshold is 1
    result = ten_folds(scores, same, np.array([0, 0, 1, 1]))
    assert result.thresholds_F[1] == 1 and result.accuracies_F[1] == 0.5


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 30), (1, 1), (7, 30), (30, 30), (2993, 3000)])
def test_wilsons_interval_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials, z=float(norm.ppf(0.975))) == pytest.approx(tuple(expected), abs=1e-12)
    assert wilson(successes, trials) == pytest.approx(tuple(expected), abs=1e-4)
    assert wilson(0, 0) == (0, 1)


def test_a_summary_is_json():
    scores, same = random_pairs(3, lost=5)
    figures = summary_pairs(scores, same, np.arange(len(scores)) % 10)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["tar_at_far_0.001"] is None and 0 < figures["tar_at_far_0.01"] < figures["tar_at_far_0.1"] < 1
    assert figures["tar_at_far_0.1_low"] < figures["tar_at_far_0.1"] < figures["tar_at_far_0.1_high"]
    assert (figures["num_pairs"], figures["num_not_found"]) == (400, 5)
    assert figures["num_same"] + figures["num_different"] == 400


# --- identification ---------------------------------------------------------------------------------------------------


def people(seed, probes=60, identities=12, faces=20, strangers=6, size=8):
    """Embeddings and labels of probes and gallery; some were not found, some lie exactly on another."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(identities + strangers, size))
    gallery_labels = np.concatenate([np.arange(identities), rng.integers(0, identities, faces - identities)])
    probe_labels = rng.integers(0, identities + strangers, probes)
    gallery = centres[gallery_labels] + rng.normal(size=(faces, size))
    embeddings = centres[probe_labels] + rng.normal(size=(probes, size))
    embeddings[3], gallery[5], gallery[6] = NAN, NAN, gallery[7]
    return embeddings, probe_labels, gallery, gallery_labels


def slow_summary(embeddings, probe_labels, gallery, gallery_labels):
    rows = []
    for embedding, label in zip(embeddings, probe_labels, strict=True):
        best = {}
        for face, name in zip(gallery, gallery_labels, strict=True):
            score = -math.dist(embedding, face)
            best[name] = max(best.get(name, -INF), -INF if math.isnan(score) else score)
        own = best.pop(label, -INF)
        rank = 1 + sum(score >= own for score in best.values())
        identities = len(set(gallery_labels.tolist()))
        rows.append((own, max(best.values()), rank if own > -INF else identities + 1, label in gallery_labels))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("block", [1, 100, 2**21])
def test_probes_are_summarised_as_by_a_slow_loop(block):
    case = people(0)
    found = summarise_probes(*case, block=block)
    own, other, rank, mated = slow_summary(*case)
    np.testing.assert_allclose(found.own_P, own, atol=1e-7)
    np.testing.assert_allclose(found.other_P, other, atol=1e-7)
    np.testing.assert_array_equal(found.rank_P, rank)
    np.testing.assert_array_equal(found.mated_P, mated)
    assert found.num_identities == 12


def test_labels_may_be_names():
    embeddings, labels, gallery, gallery_labels = people(1)
    numbers = summarise_probes(embeddings, labels, gallery, gallery_labels)
    # zero-padded: their order is that of the numbers
    names = summarise_probes(
        embeddings, np.array([f"{n:02}" for n in labels]), gallery, np.array([f"{n:02}" for n in gallery_labels])
    )
    np.testing.assert_array_equal(numbers.rank_P, names.rank_P)
    np.testing.assert_array_equal(numbers.mated_P, names.mated_P)


def test_the_best_face_of_an_identity_counts():
    scores = np.array([[1.0, 5, 3, 2], [0, -INF, 7, 8]])
    best = best_by_identity(scores, np.array([2, 0, 2, 0]), 4)
    assert best.tolist() == [[5, -INF, 3, -INF], [8, -INF, 7, -INF]]
    assert scores[0].tolist() == [1, 5, 3, 2]


def test_ranks_counted_by_hand():
    gallery = np.array(["ann", "bob", "cy"])
    scores = np.array(
        [
            [0.9, 0.1, 0.2],  # ann, first
            [0.5, 0.5, 0.1],  # ann, a tie: second
            [0.7, 0.8, 0.6],  # cy, third
            [-INF, -INF, -INF],  # bob, not found: behind the last
            [0.9, 0.9, 0.9],  # dan, whom nobody knows
        ]
    )
    probes = compare_probes(scores, np.array(["ann", "ann", "cy", "bob", "dan"]), gallery)
    assert probes.rank_P.tolist() == [1, 2, 3, 4, 4]
    assert identification(probes, ranks=(1, 2, 3, 5)) == {1: 0.25, 2: 0.5, 3: 0.75, 5: 0.75}
    assert probes.other_P.tolist() == [0.2, 0.5, 0.8, -INF, 0.9]


def test_whoever_is_not_found_is_a_miss_even_in_a_gallery_of_one():
    probes = summarise_probes(np.array([[NAN, 0.0], [0, 1]]), np.array([1, 1]), np.array([[0.0, 1]]), np.array([1]))
    assert identification(probes, ranks=(1,)) == {1: 0.5}
    failed = summarise_probes(np.zeros((1, 2)), np.array([1]), np.array([[NAN, 0], [1, 1]]), np.array([1, 2]))
    assert (failed.rank_P.tolist(), failed.own_P.tolist()) == ([3], [-INF])


@pytest.mark.parametrize("fpir", [0.1, 0.25, 0.5, 1.0])
def test_the_open_set_is_that_of_a_slow_loop(fpir):
    embeddings, labels, gallery, gallery_labels = people(2, probes=200)
    embeddings[10:40] = NAN  # mated and impostors
    probes = summarise_probes(embeddings, labels, gallery, gallery_labels)
    found = open_set(probes, fpir=fpir)
    impostors = probes.other_P[~probes.mated_P]
    assert found.num_impostors == len(impostors) == sum(label >= 12 for label in labels)
    reached = sum(score >= found.threshold and score > -INF for score in impostors) / len(impostors)
    assert found.fpir == pytest.approx(reached) and reached <= fpir
    if found.threshold > -INF:  # the next lower number lets too many through
        assert sum(score >= np.nextafter(found.threshold, -INF) for score in impostors) / len(impostors) > fpir
    mated = [at for at in range(200) if probes.mated_P[at]]
    missed = sum(not (probes.rank_P[at] == 1 and probes.own_P[at] >= found.threshold) for at in mated)
    assert found.fnir == pytest.approx(missed / len(mated)) and found.num_mated == len(mated)
    assert (found.fnir_low, found.fnir_high) == pytest.approx(wilson(missed, len(mated)))


def test_an_open_set_counted_by_hand():
    scores = np.array([[0.9, 0.1], [0.6, 0.2], [0.4, 0.7], [0.7, 0.3], [0.5, 0.6], [0.1, 0.5], [-INF, -INF]])
    labels = np.array(["ann", "ann", "ann", "xi", "yu", "zoe", "no"])  # the third is taken for bob
    probes = compare_probes(scores, labels, np.array(["ann", "bob"]))
    curve = open_set_curve(probes)
    assert curve.fpir_T.tolist() == [0, 0.25, 0.5, 0.75]
    np.testing.assert_allclose(curve.fnir_T, [2 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert curve.thresholds_T.tolist() == [*np.nextafter([0.7, 0.6, 0.5], 1).tolist(), -INF]
    at = open_set(probes, fpir=0.25)  # one stranger of four may pass: the threshold is just above the second's 0.6
    assert (at.threshold, at.fpir, at.fnir) == (np.nextafter(0.6, 1), 0.25, pytest.approx(2 / 3))
    assert open_set(probes, fpir=0.5).fnir == pytest.approx(1 / 3)
    assert math.isnan(open_set(probes, fpir=0.2).fnir)  # not to be measured with four strangers


def test_without_impostors_mated_probes_or_gallery():
    scores, gallery = np.array([[0.9, 0.1], [0.6, 0.2]]), np.array([0, 1])
    mated = compare_probes(scores, np.array([0, 0]), gallery)
    assert math.isnan(open_set(mated).fnir) and identification(mated)[1] == 1
    strangers = compare_probes(scores, np.array([7, 8]), gallery)
    assert math.isnan(open_set(strangers, fpir=1).fnir) and math.isnan(identification(strangers)[1])
    none = summarise_probes(np.zeros((2, 3)), np.array([1, 2]), np.zeros((0, 3)), np.zeros(0, np.int64))
    assert none.other_P.tolist() == [-INF, -INF] and not none.mated_P.any()
    assert len(summarise_probes(np.zeros((0, 3)), np.zeros(0), np.zeros((2, 3)), gallery).own_P) == 0


def test_a_summary_of_identification_is_json():
    figures = summary_identification(summarise_probes(*people(4)), fpirs=(0.01, 0.5))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["rank_1_low"] < figures["rank_1"] <= figures["rank_5"] <= 1
    assert figures["fnir_at_fpir_0.01"] is None and 0 < figures["fnir_at_fpir_0.5"] < 1
    assert figures["num_mated"] + figures["num_impostors"] == 60
    assert (figures["num_identities"], figures["num_not_found"]) == (12, 1)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_are_drawn_with_and_without_anything_to_show():
    scores, same = random_pairs(5, lost=9)
    curve, probes = roc(scores, same), summarise_probes(*people(5))
    one_kind = roc(scores[same], same[same])
    nobody = summarise_probes(*(part[:0] if at < 2 else part for at, part in enumerate(people(5))))
    pictures = [
        roc_picture({"a": curve, "b": one_kind}, FARS),
        score_picture(scores, same, 0.7),
        score_picture(np.array([-INF]), np.array([True]), INF),
        open_set_picture({"a": open_set_curve(probes), "b": open_set_curve(nobody)}, (0.1, 0.5)),
        open_set_picture({"b": open_set_curve(nobody)}),
    ]
    for picture in pictures:
        assert Image.open(io.BytesIO(picture)).size[0] == 840
