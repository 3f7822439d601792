"""Thresholds of galleries: by hand, by brute force over subsets, and on strangers from a known distribution."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from cnnray.errors import DataError, OptionError
from cnnray.infer.gallery import probe_scores
from cnnray.infer.gallery.calibrate import (
    CalibrationPlan,
    Cohort,
    calibrate,
    fit_tail,
    subset_share,
    suspects,
    threshold_interval,
)
from cnnray.infer.gallery.calibration import Calibration, threshold_for
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.probe_scores import group_faces, own_scores, score_probes

ONE = CalibrationPlan()
NUM = 32  # numbers of an embedding


def unit(points):
    return (points / np.linalg.norm(points, axis=-1, keepdims=True)).astype(np.float32)


def directions(rng, count, size=NUM):
    return unit(rng.standard_normal((count, size)))


def on_circle(*degrees):
    radians = np.radians(np.array(degrees, np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def people(rng, count, faces, spread=0.12):
    """Faces around the directions of people."""
    centres = np.repeat(directions(rng, count), faces, axis=0)
    return unit(centres + spread * rng.standard_normal(centres.shape)), np.repeat(np.arange(count), faces)


def rate(threshold, fresh_ND, gallery_GD):
    """Share of strangers that are taken for somebody."""
    parts = np.array_split(fresh_ND, max(1, len(fresh_ND) * len(gallery_GD) // 10**7))
    return float(np.mean(np.concatenate([(part @ gallery_GD.T).max(axis=1) for part in parts]) >= threshold))


# ---- scores of probes


@pytest.mark.parametrize("few", [False, True])
def test_scores_of_probes_are_those_of_a_plain_loop(monkeypatch, few):
    if few:  # several chunks and blocks
        monkeypatch.setattr(probe_scores, "_POINTS", 7)
        monkeypatch.setattr(probe_scores, "_CELLS", 20)
    rng = np.random.default_rng(0)
    faces, ids = directions(rng, 60, 8), rng.integers(0, 20, 60) * 10 - 50
    groups = group_faces(faces, ids)
    rows = rng.permutation(60)[:25]
    own = np.searchsorted(groups.ids_I, ids[rows])
    own[::5] = probe_scores.NOBODY
    limits = rng.uniform(0, 0.8, 25).astype(np.float32)
    points = mean_embeddings(ids, faces)[1]
    found, ahead = score_probes(faces[rows], own, points), score_probes(faces[rows], own, points, limits).ahead_P
    for at, row in enumerate(rows):
        scores = {
            place: unit(faces[ids == name].mean(0)) @ faces[row]
            for place, name in enumerate(groups.ids_I)
            if place != own[at]
        }
        best = max(scores, key=scores.get)
        assert found.identity_P[at] == best and found.best_P[at] == pytest.approx(scores[best], abs=1e-6)
        values = np.array(list(scores.values()))
        assert found.above_PB[at, 0] == len(values)
        for edge in range(1, len(found.edges_B), 97):
            assert found.above_PB[at, edge] == (values >= found.edges_B[edge]).sum()
        assert ahead[at] == (values >= limits[at]).sum()


def test_own_score_leaves_the_face_itself_out():
    groups = group_faces(on_circle(0, 10, 40, 90), np.array([7, 7, 7, 8]))
    np.testing.assert_allclose(
        own_scores(np.array([0, 2]), np.array([0, 0]), groups), np.cos(np.radians([25, 35])), atol=1e-6
    )


def test_means_of_faces():
    rng = np.random.default_rng(4)
    faces, ids = directions(rng, 500), rng.integers(0, 200, 500)
    names, points = mean_embeddings(ids, faces)
    assert names.tolist() == sorted(set(ids.tolist())) and points.dtype == np.float32
    expected = np.stack([unit(faces[ids == name].astype(np.float64).mean(0)) for name in names])
    np.testing.assert_allclose(points, expected, atol=1e-6)
    alone = [mean_embeddings(ids[ids == name], faces[ids == name])[1][0] for name in names]
    assert np.array_equal(points, np.stack(alone))  # bit by bit, whoever else is there
    one = names[[(ids == name).sum() == 1 for name in names]][0]
    assert np.array_equal(points[names == one], faces[ids == one])


def test_faces_that_cancel_out_are_stood_for_by_the_first():
    opposite = on_circle(30, 210, 90)
    names, points = mean_embeddings(np.array([5, 5, 3]), opposite)
    assert names.tolist() == [3, 5] and np.array_equal(points, opposite[[2, 0]])


# ---- statistics


def test_share_of_subsets_is_that_of_all_subsets():
    hits = np.array([0, 1, 2, 5, 7, 8])
    for size in range(1, 9):
        shares = [
            np.mean([any(one < count for one in subset) for subset in itertools.combinations(range(8), size)])
            for count in hits
        ]
        assert subset_share(hits, 8, size) == pytest.approx(np.mean(shares), abs=1e-12)


def test_share_of_subsets_is_hypergeometric():
    for total, size in ((100_000, 3), (100_000, 30_000), (1_000_000, 999_999)):
        for hits in (0, 1, 5, 300):
            expected = stats.hypergeom.sf(0, total, hits, size)
            assert subset_share(np.array([hits]), total, size) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_tail_of_exponential_scores():
    scores = np.random.default_rng(0).exponential(0.02, 50_000).astype(np.float32) + 0.3
    tail = fit_tail(scores)
    assert tail.count == 5000 and tail.scale == pytest.approx(0.02, rel=0.05)
    assert tail.scale == pytest.approx(stats.expon.fit(np.sort(scores)[-5000:], floc=tail.start)[1], rel=1e-3)
    for fpir in (0.05, 0.001, 1e-5):
        exact = 0.3 + 0.02 * math.log(1 / fpir)
        assert tail.threshold(fpir) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("num", "fpir"), [(50, 0.1), (500, 0.1), (500, 0.01), (2000, 0.01), (2000, 0.001)])
def test_interval_of_the_threshold_holds_it_in_95_percent(num, fpir):
    rng, inside, total = np.random.default_rng(1), 0, 600
    exact = stats.norm.isf(fpir)
    for _ in range(total):
        scores = rng.standard_normal(num).astype(np.float32)
        _, low, high = threshold_interval(scores, fpir, num, fit_tail(scores))
        inside += low <= exact <= high
    assert 0.92 <= inside / total <= 0.995


# ---- whole calibrations


def test_two_identities_are_one_pair():
    found = calibrate(on_circle(0, 60), np.array([3, 9]), ONE, at="today")
    assert found.num_probes == 2 and found.num_independent == 1 and found.extrapolated
    assert found.threshold == pytest.approx(0.5, abs=1e-5) and found.threshold > 0.5 - 1e-7
    assert (found.low, found.high) == (-1, 1)  # a single pair says nothing of how sure it is
    assert found.num_mated == 0 and [row.fnir for row in found.curve] == [None]
    assert found.at == "today"


def test_one_identity_needs_a_cohort():
    faces, ids = on_circle(0, 20), np.array([4, 4])
    with pytest.raises(DataError, match="expected two identities or more in the gallery, or a cohort; got 1"):
        calibrate(faces, ids, ONE, at="")
    found = calibrate(faces, ids, CalibrationPlan(fpir=0.5), at="", cohort=Cohort(on_circle(100, 60, 50)))
    assert found.source == "cohort" and found.num_probes == 3 and found.suspects == ()
    assert np.cos(np.radians(50)) < found.threshold <= np.cos(np.radians(40))
    assert found.reached == pytest.approx(1 / 3)


def test_threshold_is_the_smallest_at_that_rate():
    rng = np.random.default_rng(0)
    faces, ids = directions(rng, 400), np.arange(400)
    for fpir in (0.5, 0.1, 0.01):
        found = calibrate(faces, ids, CalibrationPlan(fpir=fpir), at="")
        scores = faces @ faces.T
        np.fill_diagonal(scores, -1)
        best = scores.max(axis=1)
        assert np.mean(best >= found.threshold) <= fpir
        assert np.mean(best >= found.threshold - 1e-6) > fpir - 1e-9  # its pairs come by two


def test_ties_and_the_same_photo_of_all():
    same = calibrate(np.tile(on_circle(30), (30, 1)), np.arange(30), CalibrationPlan(fpir=0.1), at="")
    assert same.threshold > 1 - 1e-6 and same.reached == 0 and same.tail.scale == pytest.approx(0, abs=1e-6)
    assert len(same.suspects) == 0  # nothing reaches such a threshold
    assert all(row.fpir == 0 for row in same.curve)
    tied = calibrate(np.repeat(unit(np.eye(8)), 2, axis=0), np.arange(16), CalibrationPlan(fpir=0.5), at="")
    assert tied.reached == 0 and tied.threshold > 1  # all probes have 1, so all may pass or none


def test_probes_that_are_each_others_best_count_once():
    rng = np.random.default_rng(0)
    found = calibrate(directions(rng, 300), np.arange(300), ONE, at="")
    assert 150 <= found.num_independent < 200 and found.num_probes == 300
    cohort = Cohort(directions(rng, 300), np.repeat(np.arange(100), 3))
    whole = calibrate(directions(rng, 50), np.arange(50), CalibrationPlan(every_face=True), at="", cohort=cohort)
    assert whole.num_probes == 300 and whole.num_independent == 100
    assert calibrate(directions(rng, 50), np.arange(50), ONE, at="", cohort=cohort).num_probes == 100


def test_curve_is_the_mean_over_random_subsets():
    rng = np.random.default_rng(3)
    faces, ids = people(rng, 120, 3, spread=0.2)
    found = calibrate(faces, ids, CalibrationPlan(fpir=0.1, every_face=True), at="")
    best = faces @ mean_embeddings(ids, faces)[1].T
    without = unit(faces.reshape(120, 3, NUM).sum(1).repeat(3, 0) - faces)
    own = (faces * without).sum(1)
    best[np.arange(360), ids] = -1
    rows = [row for row in found.curve if row.target == 0.1]
    assert [row.num_identities for row in rows] == [10, 30, 100, 120]
    for row in rows[:3]:
        false, missed = [], []
        for _ in range(300):
            subset = rng.permuted(np.tile(np.arange(119), (360, 1)), axis=1)
            others = np.where(subset[:, : row.num_identities] >= ids[:, None], 1, 0) + subset[:, : row.num_identities]
            top = np.take_along_axis(best, others, axis=1)
            false.append(np.mean(top.max(axis=1) >= row.threshold))
            missed.append(np.mean((own < row.threshold) | (top[:, 1:].max(axis=1) >= own)))
        assert row.fpir == pytest.approx(np.mean(false), abs=0.004)
        assert row.fnir == pytest.approx(np.mean(missed), abs=0.004)
        assert row.fpir <= 0.1 and row.fnir_low <= row.fnir <= row.fnir_high
        assert row.below == pytest.approx(np.mean(own < row.threshold))
    assert rows[-1].fnir == pytest.approx(np.mean((own < rows[-1].threshold) | (best.max(axis=1) >= own)))


def test_fresh_strangers_reach_the_rate_within_the_interval():
    inside, rates = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gallery, fresh = directions(rng, 400), directions(rng, 4000)
        found = calibrate(gallery, np.arange(400), CalibrationPlan(fpir=0.05), at="")
        exact = np.sort((fresh @ gallery.T).max(axis=1))[-200]  # FPIR 0.05 of this gallery
        inside += found.low <= exact <= found.high
        rates.append(rate(found.threshold, fresh, gallery))
    assert inside >= 54  # 57 are expected
    assert np.mean(rates) == pytest.approx(0.05, abs=0.01)  # of n scores the order statistic is 1 / n too low


def test_cohort_reaches_the_rate_within_the_interval():
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gallery, fresh = directions(rng, 200), directions(rng, 4000)
        plan = CalibrationPlan(fpir=0.05)
        found = calibrate(gallery, np.arange(200), plan, at="", cohort=Cohort(directions(rng, 500)))
        inside += found.low <= np.sort((fresh @ gallery.T).max(axis=1))[-200] <= found.high
    assert inside >= 54


def test_threshold_for_holds_the_rate_in_a_gallery_a_hundred_times_as_large():
    copied, derived = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        small, large, fresh = directions(rng, 1000), directions(rng, 100_000), directions(rng, 300)
        found = calibrate(small, np.arange(1000), CalibrationPlan(fpir=0.05), at="")
        copied.append(rate(found.threshold, fresh, large))
        derived.append(rate(threshold_for(found, 100_000), fresh, large))
    assert min(copied) > 0.9
    assert 0.005 < np.mean(derived) < 0.05 and max(derived) < 0.15  # the scale is known to about 15 %


def test_threshold_for_agrees_with_direct_measurement():
    rng = np.random.default_rng(2)
    faces = directions(rng, 4000)
    found = calibrate(faces[:2000], np.arange(2000), CalibrationPlan(fpir=0.1), at="")
    for size, tolerance in ((20, 0.03), (50, 0.03), (500, 0.015), (1000, 0.015), (4000, 0.015)):
        cohort = Cohort(directions(rng, 2000))
        direct = calibrate(faces[:size], np.arange(size), CalibrationPlan(fpir=0.1), at="", cohort=cohort)
        assert threshold_for(found, size) == pytest.approx(direct.threshold, abs=tolerance)
    sizes = [1, 2, 10, 11, 300, 1999, 2000, 2001, 10**6]
    thresholds = [threshold_for(found, size) for size in sizes]
    assert thresholds == sorted(thresholds) and threshold_for(found, 2000) == found.threshold
    with pytest.raises(DataError, match="expected one identity or more, got 0"):
        threshold_for(found, 0)


def test_too_few_probes_extrapolate():
    inside, rates = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gallery, fresh = directions(rng, 300), directions(rng, 20_000)
        found = calibrate(gallery, np.arange(300), CalibrationPlan(fpir=0.001), at="")
        inside += found.low <= np.sort((fresh @ gallery.T).max(axis=1))[-20] <= found.high
        rates.append(rate(found.threshold, fresh, gallery))
        assert found.extrapolated
        assert min(row.target for row in found.curve[:-1]) == 0.01  # lower rates are not measured
        assert found.curve[-1].target == 0.001 and found.curve[-1].threshold == found.threshold
    assert inside >= 36
    assert np.median(rates) < 0.001 and np.mean(rates) < 0.002


def test_fewer_probes_in_a_large_gallery(monkeypatch):
    monkeypatch.setattr("cnnray.infer.gallery.calibrate._SCORES", 90_000)
    monkeypatch.setattr("cnnray.infer.gallery.calibrate._FEWEST", 10)
    found = calibrate(directions(np.random.default_rng(0), 300), np.arange(300), CalibrationPlan(num_probes=350), at="")
    assert found.num_probes == 300
    monkeypatch.setattr("cnnray.infer.gallery.calibrate._SCORES", 9_000)
    found = calibrate(directions(np.random.default_rng(0), 300), np.arange(300), ONE, at="")
    assert found.num_probes == 30 and found.num_identities == 300


# ---- double entries


def test_double_entries_are_told():
    rng = np.random.default_rng(0)
    faces = directions(rng, 1000)
    clean = calibrate(faces, np.arange(1000), ONE, at="")
    assert clean.num_doubtful == 0 and clean.threshold_without == clean.threshold
    twice = np.concatenate([faces, unit(faces[:15] + 0.05 * rng.standard_normal((15, NUM)))])
    ids = np.concatenate([np.arange(1000), 5000 + np.arange(15)])
    spoiled = calibrate(twice, ids, ONE, at="")
    assert spoiled.num_doubtful == 30
    assert spoiled.threshold > clean.threshold + 0.1
    assert spoiled.threshold_without == pytest.approx(clean.threshold, abs=0.02)
    found = suspects(twice, ids, clean.threshold, ONE)
    assert [(pair.identity_a + 5000, pair.expected < 0.05) for pair in found[:15]] == [
        (pair.identity_b, True) for pair in found[:15]
    ]
    assert [pair.score for pair in found] == sorted((pair.score for pair in found), reverse=True)
    assert all(pair.score >= clean.threshold for pair in found)
    assert set(spoiled.suspects) <= set(found)


# ---- what goes in and out


def test_json_there_and_back():
    faces, ids = people(np.random.default_rng(0), 40, 2)
    found = calibrate(faces, ids, CalibrationPlan(fpir=0.1), at="2026-01-01T00:00:00Z")
    assert Calibration.from_json(found.to_json()) == found
    assert Calibration.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    with pytest.raises(DataError, match="expected the values of a calibration"):
        Calibration.from_json({"fpir": 0.1})
    with pytest.raises(DataError, match="expected the values of a calibration"):
        Calibration.from_json({**found.to_json(), "speed": 3})


def test_same_seed_same_calibration():
    faces, ids = people(np.random.default_rng(0), 100, 3)
    plan = CalibrationPlan(fpir=0.1, num_probes=50)
    assert calibrate(faces, ids, plan, at="") == calibrate(faces, ids, plan, at="")
    other = CalibrationPlan(fpir=0.1, num_probes=50, seed=1)
    assert calibrate(faces, ids, plan, at="") != calibrate(faces, ids, other, at="")


def test_bad_input_is_refused():
    faces = on_circle(0, 10, 20)
    faces[1] = np.nan
    with pytest.raises(DataError, match="length 1 in the gallery, but 1 are not: face 1 has nan"):
        calibrate(faces, np.arange(3), ONE, at="")
    with pytest.raises(DataError, match="but 2 are not: face 0 has 2"):
        calibrate(on_circle(0, 10) * 2, np.arange(2), ONE, at="")
    with pytest.raises(DataError, match="expected an identity for each of 3 faces, got 2"):
        calibrate(on_circle(0, 10, 20), np.arange(2), ONE, at="")
    with pytest.raises(DataError, match="expected rows of embeddings"):
        calibrate(on_circle(0)[0], np.arange(2), ONE, at="")
    with pytest.raises(DataError, match="in the cohort"):
        calibrate(on_circle(0, 10), np.arange(2), ONE, at="", cohort=Cohort(on_circle(0) * 3))
    for bad in (0.0, 1.0, math.nan):
        with pytest.raises(OptionError, match="above 0 and below 1"):
            CalibrationPlan(fpir=bad)
    with pytest.raises(OptionError, match="one probe or more"):
        CalibrationPlan(num_probes=0)
