import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnray.errors import CheckpointError, GalleryError, OptionError, StorageError
from cnnray.infer.gallery import approximate
from cnnray.infer.gallery.building import Build
from cnnray.infer.gallery.codes import Codes
from cnnray.infer.gallery.index import FaceIndex
from cnnray.infer.gallery.lock import ReadWriteLock
from cnnray.infer.gallery.snapshot import delete_snapshot

NOBODY = np.zeros(0, np.int64)
CONTRACT = {"model": "m", "gallery": "g"}


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def points(count, dim, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def remove(index, version, ids):
    index.apply(version, NOBODY, np.zeros((0, index._num_features), np.float32), ids)


def filled(vectors, ids=None, **options):
    """An index of identities 1, 2, ..., where none are given."""
    index = FaceIndex(vectors.shape[1], **options)
    index.apply(1, np.arange(1, len(vectors) + 1) if ids is None else ids, vectors, NOBODY)
    return index


def built(index, kind="ivf"):
    """With candidates of a kind, which with so few faces need not be the cheapest."""
    with mock.patch.object(approximate, "KINDS", (kind,)):
        index.build()
    assert index.describe()["kind"] == kind
    return index


def approximated(vectors, ids=None, kind="ivf", **options):
    return built(filled(vectors, ids, exact_until=500, **options), kind)


def oracle(people, query, count, without=0):
    """The best of people {id: vector} one after the other: [(score, id)]."""
    scores = [(-np.einsum("d,d->", vector, query), identity) for identity, vector in people.items()]
    found = [(-score, identity) for score, identity in sorted(scores) if identity != without][:count]
    return found + [(-np.inf, -1)] * (count - len(found))


def as_list(found, at=0):
    return list(zip(*(values[at].tolist() for values in found), strict=True))


def same(found, expected):
    """Ids the same, scores but for the last bits, in which ways to add up differ."""
    assert [row[1] for row in found] == [row[1] for row in expected]
    np.testing.assert_allclose([row[0] for row in found], [row[0] for row in expected], atol=1e-6)


class Model:
    """Random changes of an index, and what it then must hold."""

    def __init__(self, index, dim, seed):
        self.index, self.rng, self.dim = index, np.random.default_rng(seed), dim
        self.people, self.next, self.pool = {}, 1, points(2, dim, seed + 100)

    def add(self, vectors):
        """People of the next ids."""
        ids = np.arange(self.next, self.next + len(vectors))
        self.index.apply(self.index.version + 1, ids, vectors, NOBODY)
        self.people |= zip(ids.tolist(), vectors, strict=True)
        self.next += len(vectors)

    def change(self, most=6):
        removed = [identity for identity in self.people if self.rng.random() < 0.1] + [self.next + 1000]
        replaced = [identity for identity in self.people if self.rng.random() < 0.05]
        fresh = list(range(self.next, self.next + int(self.rng.integers(most))))
        self.next += len(fresh)
        ids = self.rng.permutation(np.array(replaced + fresh, np.int64))
        vectors = points(len(ids), self.dim, int(self.rng.integers(2**31)))
        copies = self.rng.random(len(ids)) < 0.5  # of the same photo: ties
        vectors[copies] = self.pool[self.rng.integers(len(self.pool), size=int(copies.sum()))]
        self.index.apply(self.index.version + 1, ids, vectors, np.array(removed, np.int64))
        for identity in removed:
            self.people.pop(identity, None)
        self.people |= zip(ids.tolist(), vectors, strict=True)

    def check_points(self):
        ids, vectors = self.index.points()
        assert len(self.index) == len(self.people) and ids.tolist() == sorted(self.people)
        assert all(np.array_equal(vector, self.people[identity]) for identity, vector in zip(ids, vectors, strict=True))

    def queries(self, count):
        some = self.pool[self.rng.integers(len(self.pool), size=count)]
        return np.where(self.rng.random((count, 1)) < 0.5, some, points(count, self.dim, int(self.rng.integers(2**31))))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(1, 40))
def test_all_compared_one_after_the_other_give_the_same(seed, count, changes):
    model = Model(FaceIndex(8), 8, seed)
    for _ in range(changes):
        model.change()
    queries, without = model.queries(5), model.rng.integers(0, model.next, 5)
    found = model.index.search(queries, count, without_N=without)
    for at in range(5):
        same(as_list(found, at), oracle(model.people, queries[at], count, without[at]))
    model.check_points()


@pytest.mark.parametrize("kind", ["ivf", "pq"])
@pytest.mark.parametrize("seed", range(4))
def test_changes_reach_the_codes(seed, kind):
    dim, count = 32, 900
    model = Model(FaceIndex(dim, exact_until=500), dim, seed)
    model.add(points(count, dim, seed))
    built(model.index, kind)
    for _ in range(12):
        model.change(most=120)
        queries = model.queries(20)
        found = model.index.search(queries, 5)
        for at in range(20):
            same(as_list(found, at)[:1], oracle(model.people, queries[at], 1))
            for score, identity in as_list(found, at):  # whoever is found is there, and scored exactly
                assert score == pytest.approx(float(model.people[identity] @ queries[at]), abs=1e-6)
    assert len(model.index._approximation.codes) == len(model.people) != count


def test_scores_are_cosines():
    vectors = points(300, 128)
    found = filled(vectors).search(vectors[:50], 300)
    exact = vectors[:50].astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_allclose(found.scores_NK, -np.sort(-exact, axis=1), atol=1e-6)
    assert found.scores_NK.dtype == np.float32 and found.identity_ids_NK.dtype == np.int64


@pytest.mark.parametrize("queries", [1, 100])
@pytest.mark.parametrize("count", [1, 10, 200])
def test_who_is_removed_never_comes_back(count, queries):
    vectors = points(3000, 16)
    index = filled(vectors)
    removed = np.random.default_rng(1).choice(np.arange(1, 3001), 2900, replace=False)
    remove(index, 2, removed)
    found = index.search(vectors[removed[:queries] - 1], count)
    assert not np.isin(found.identity_ids_NK, removed).any() and not np.isnan(found.scores_NK).any()
    assert (found.identity_ids_NK > 0).sum(1).tolist() == [min(count, 100)] * queries


@pytest.mark.parametrize("build", ["", "ivf", "pq"])
def test_a_removed_embedding_is_nowhere(tmp_path, build):
    vectors = points(800, 16)
    index = approximated(vectors, kind=build) if build else filled(vectors)
    remove(index, 2, np.array([7, 300]))
    index.save(str(tmp_path / "s"), CONTRACT)
    held = (tmp_path / "s" / "embeddings.f32").read_bytes()
    assert vectors[10].tobytes() in held
    assert vectors[6].tobytes() not in held and vectors[299].tobytes() not in held
    if build:
        assert len(index._approximation.codes) == 798


def test_slots_are_used_again():
    index = filled(points(100, 16))
    for version in range(2, 30):
        index.apply(version, np.arange(1, 101), points(100, 16, version), NOBODY)
    assert index._vectors.num_slots == 100 and len(index) == 100


@pytest.mark.parametrize("build", ["", "ivf", "pq"])
def test_equal_scores_are_ranked_by_identity(build):
    vectors = points(1000, 32)
    vectors[400:460] = vectors[400]
    ids = np.arange(5000, 4000, -1)
    index = approximated(vectors, ids, build) if build else filled(vectors, ids)
    found = index.search(vectors[400:401], 3)
    assert found.identity_ids_NK.tolist() == [sorted(ids[400:460])[:3]]
    assert len(set(found.scores_NK[0].tolist())) == 1


def test_an_empty_index_finds_nobody():
    index = FaceIndex(8)
    found = index.search(points(2, 8), 3)
    assert found.scores_NK.tolist() == [[-np.inf] * 3] * 2
    assert found.identity_ids_NK.tolist() == [[-1] * 3] * 2
    assert index.compare(points(1, 8), np.array([1])).tolist() == [-np.inf]
    assert len(index) == len(index.points()[0]) == 0 and index.points()[1].shape == (0, 8)
    index.build()
    assert index.describe()["kind"] == "exact" and not index.needs_build
    assert index.search(np.zeros((0, 8), np.float32), 3).scores_NK.shape == (0, 3)


def test_fewer_identities_than_asked_for():
    vectors = points(2, 8)
    found = filled(vectors).search(vectors[:1], 4)
    assert found.identity_ids_NK[0].tolist() == [1, 2, -1, -1]
    assert found.scores_NK[0, 2:].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("build", ["", "ivf", "pq"])
def test_somebody_is_left_out(build):
    vectors = points(700, 16)
    index = approximated(vectors, kind=build) if build else filled(vectors)
    found = index.search(vectors[:3], 1, without_N=np.array([1, 0, 999_999]))
    assert found.identity_ids_NK[0, 0] != 1 and found.identity_ids_NK[1:, 0].tolist() == [2, 3]
    expected = np.argsort(-(vectors[1:] @ vectors[0]))[0] + 2
    assert found.identity_ids_NK[0, 0] == expected


def test_a_gallery_of_one_without_that_one_is_empty():
    found = filled(points(1, 8), np.array([5])).search(points(1, 8), 2, without_N=np.array([5]))
    assert found.identity_ids_NK.tolist() == [[-1, -1]]


@pytest.mark.parametrize("count", [1, 5, 40])
def test_of_many_with_one_photo_the_lowest_ids_are_found(count):
    """Also those that hardly differ from it, where they belong, and the one in front without who is left out."""
    vectors, ids = np.repeat(points(1, 32), 3000, axis=0), np.random.default_rng(0).permutation(3000) + 1
    vectors[:20] = unit(vectors[:20] + 0.02 * points(20, 32, 1))
    index, people = filled(vectors, ids), dict(zip(ids.tolist(), vectors, strict=True))
    without = np.array([0, ids[0], ids[2000], np.sort(ids[20:])[0]])
    queries = np.concatenate([vectors[:2], vectors[20:22]])
    found = index.search(queries, count, without_N=without)
    for at in range(4):
        same(as_list(found, at), oracle(people, queries[at], count, without[at]))


def test_copies_of_one_photo_do_not_hide_a_face_beside_them():
    rng, dim, count = np.random.default_rng(0), 64, 60_000
    vectors = points(count, dim)
    vectors[:10_000] = vectors[0]
    beside = unit(vectors[0] + 0.5 * points(200, dim, 5))
    vectors[10_000:10_200] = beside
    index = filled(vectors)
    index.build()
    assert index.describe()["kind"] != "exact" and index.describe()["recall"] >= 0.999
    # nearer to the face than to the copies, of which each is nearer than anybody else
    probes = unit(beside + 0.03 * rng.standard_normal(beside.shape))
    scores = probes @ vectors.T
    assert (scores.argmax(1) == np.arange(10_000, 10_200)).all()
    assert ((scores[:, :1] > scores[:, 10_200:].max(1, keepdims=True)).mean()) > 0.9
    found = index.search(probes, 1)
    assert found.identity_ids_NK[:, 0].tolist() == list(range(10_001, 10_201))
    # and a probe of the photo itself finds the first of the copies
    assert index.search(vectors[:1], 2).identity_ids_NK.tolist() == [[1, 2]]


BAD = [
    (np.ones((1, 8)), GalleryError, "length 1"),
    (points(1, 9), GalleryError, "8 numbers"),
    (np.full((1, 8), np.nan), GalleryError, "finite"),
    (np.array([[np.inf] + [0] * 7]), GalleryError, "finite"),
    (points(1, 8)[0], GalleryError, "8 numbers"),
]


@pytest.mark.parametrize(("vectors", "error", "expected"), BAD)
def test_bad_embeddings_change_nothing(vectors, error, expected):
    index = filled(points(3, 8))
    before = index.points()
    with pytest.raises(error, match=expected):
        index.apply(2, np.array([9]), vectors, np.array([1]))
    with pytest.raises(error, match=expected):
        index.search(vectors, 1)
    with pytest.raises(error, match=expected):
        index.compare(vectors, np.array([1]))
    assert index.version == 1 and all(map(np.array_equal, index.points(), before))


@pytest.mark.parametrize("ids", [[9, 10], [], [0], [-1]])
def test_bad_ids_change_nothing(ids):
    index = filled(points(3, 8))
    with pytest.raises(OptionError, match="ids"):
        index.apply(2, np.array(ids), points(1, 8), np.array([1]))
    assert index.version == 1 and len(index) == 3


def test_lengths_within_a_thousandth_are_taken():
    vector = points(1, 8)
    filled(vector * np.float32(1.0009))
    with pytest.raises(GalleryError):
        filled(vector * np.float32(1.0011))


def test_of_one_that_comes_twice_the_last_counts():
    vectors = points(2, 8)
    index = FaceIndex(8)
    index.apply(3, np.array([4, 4]), vectors, NOBODY)
    assert index.version == 3 and index.points()[0].tolist() == [4]
    assert np.array_equal(index.points()[1], vectors[1:])


def test_compare_is_with_those_who_are_named():
    vectors = points(20, 8)
    index = filled(vectors)
    remove(index, 2, np.array([1, 3]))
    queries, claimed = points(6, 8, 1), np.array([2, 20, 1, 999, 0, 2])
    scores = index.compare(queries, claimed)
    np.testing.assert_allclose(scores[[0, 1, 5]], (vectors[[1, 19, 1]] * queries[[0, 1, 5]]).sum(1), atol=1e-6)
    assert scores[2:5].tolist() == [-np.inf] * 3
    found = index.search(queries[:1], 20)
    assert scores[0] == found.scores_NK[found.identity_ids_NK == 2]


def test_what_is_given_out_is_a_copy():
    vectors = points(5, 8)
    index = filled(vectors, np.array([5, 4, 3, 2, 1]))
    ids, embeddings = index.points()
    assert ids.tolist() == [1, 2, 3, 4, 5] and np.array_equal(embeddings, vectors[::-1])
    ids[:] = embeddings[:] = vectors[:] = 0
    assert index.points()[0].tolist() == [1, 2, 3, 4, 5]
    assert np.linalg.norm(index.points()[1], axis=1) == pytest.approx([1] * 5)


# ---- building --------------------------------------------------------------------------------------------------------


def test_when_to_build():
    index = filled(points(500, 16), exact_until=500)
    assert not index.needs_build
    index.apply(2, np.array([501]), points(1, 16, 1), NOBODY)
    assert index.needs_build
    index.build()
    assert not index.needs_build and index.describe()["kind"] != "exact"
    index.apply(3, np.arange(502, 1003), points(501, 16, 2), NOBODY)
    assert not index.needs_build
    index.apply(4, np.array([1003]), points(1, 16, 3), NOBODY)
    assert index.needs_build
    index.build()
    remove(index, 5, np.arange(251, 1004))
    assert index.needs_build
    index.build()
    assert not index.needs_build and index.describe()["kind"] == "exact"


def test_describe():
    about = approximated(points(2000, 32)).describe()
    assert about["identities"] == 2000 and about["version"] == 1
    assert about["recall"] >= 0.9995 and about["nprobe"] >= 1 and about["candidates"] >= 32 and about["refused"] == []
    assert 4 * 32 < about["bytes_per_identity"] < 4 * 32 + 250
    json.dumps(about)
    exact = filled(points(20, 32)).describe()
    assert (exact["kind"], exact["recall"], exact["nprobe"], exact["candidates"]) == ("exact", 1.0, 0, 0)


def test_what_finds_too_little_is_refused():
    """Thousands of points that differ less than their codes tell."""
    crowd = unit(points(1, 512) + 0.004 * np.random.default_rng(0).standard_normal((2500, 512)))
    vectors = np.concatenate([crowd, points(500, 512, 1)])
    index = filled(vectors, exact_until=500)
    index.build()
    about = index.describe()
    assert about["kind"] == "exact" and about["recall"] == 1.0
    assert [kind for kind, _ in about["refused"]] == ["ivf", "pq"]
    assert all(0.5 < recall < 0.9995 for _, recall in about["refused"])
    assert not index.needs_build
    assert index.search(vectors[::30], 1).identity_ids_NK[:, 0].tolist() == list(range(1, 3001, 30))
    lenient = filled(vectors, exact_until=500, least_recall=0.5)
    lenient.build()
    assert lenient.describe()["kind"] != "exact" and lenient.describe()["refused"] == []


def test_where_one_kind_is_refused_the_other_is_taken(monkeypatch):
    monkeypatch.setattr(approximate, "NUM_LISTS", (1,))  # of many: too few
    index = filled(points(4000, 64), exact_until=500)
    index.build()
    about = index.describe()
    assert about["kind"] == "pq" and about["recall"] >= 0.9995
    assert [kind for kind, _ in about["refused"]] == ["ivf"] and about["refused"][0][1] < 0.9


def test_the_cheaper_kind_is_taken(monkeypatch):
    vectors = points(1500, 32)
    monkeypatch.setattr(approximate, "cost", lambda setting, codes: codes.num_lists)
    index = filled(vectors, exact_until=500)
    index.build()
    assert index.describe()["kind"] == "pq" and index.describe()["refused"] == []
    monkeypatch.setattr(approximate, "cost", lambda setting, codes: -codes.num_lists)
    index.build()
    assert index.describe()["kind"] == "ivf" and index.describe()["refused"] == []


def test_other_probes_find_as_many():
    vectors = points(20_000, 64)
    index = approximated(vectors)
    probes = unit(vectors[:3000] + 0.16 * np.random.default_rng(5).standard_normal((3000, 64)))
    found = index.search(probes, 1).identity_ids_NK[:, 0]
    assert (found == (probes @ vectors.T).argmax(1) + 1).mean() >= 0.998


@pytest.mark.parametrize("kind", ["ivf", "pq"])
@pytest.mark.parametrize("dim", [8, 128, 130, 512])
@pytest.mark.parametrize("given", [False, True])
def test_codes_that_came_after_others_went_are_as_new(kind, dim, given):
    vectors, slots = points(900, dim), np.arange(900)
    codes, fresh = Codes.train(kind, vectors, 900), Codes.train(kind, vectors, 900)
    codes.add(slots, vectors[::-1])
    fresh.add(slots, vectors)
    for part in np.array_split(slots, 7):
        codes.remove(part, vectors[::-1][part] if given else None)
        codes.add(part, vectors[part])
    assert len(codes) == 900
    found, expected = (one.search(vectors[:50], 900, one.num_lists) for one in (codes, fresh))
    assert np.array_equal(found[0], expected[0])
    for at in range(50):  # but for the order of equal guesses
        assert sorted(zip(*(values[at] for values in found), strict=True)) == sorted(
            zip(*(values[at] for values in expected), strict=True)
        )


def packed(codes):
    """The memory of the first list."""
    per_block, block_size = codes._kept.shape
    lists = codes.index.invlists
    return faiss.rev_swig_ptr(lists.get_codes(0), -(-lists.list_size(0) // per_block) * block_size).copy()


@pytest.mark.parametrize("given", [False, True])
def test_of_a_removed_code_no_bit_is_left(given):
    vectors = points(900, 16)
    codes, fresh = Codes.train("pq", vectors, 900), Codes.train("pq", vectors, 900)
    codes.add(np.arange(900), vectors)
    codes.remove(np.arange(3, 900), vectors[3:] if given else None)
    fresh.add(np.arange(3), vectors[:3])
    assert packed(fresh).any() and np.array_equal(packed(codes), packed(fresh))
    codes.remove(np.arange(1000, 1010))
    assert len(codes) == 3


def test_a_point_whose_list_was_guessed_wrong_is_cleared_all_the_same():
    vectors = points(900, 16)
    codes, fresh = Codes.train("ivf", vectors, 900), Codes.train("ivf", vectors, 900)
    codes.add(np.arange(900), vectors)
    codes.remove(np.arange(100), -vectors[:100])
    codes.add(np.arange(100), vectors[:100])
    fresh.add(np.arange(900), vectors)
    found, expected = (one.search(vectors, 1, one.num_lists)[0] for one in (codes, fresh))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("part", "name"), [(Codes, "train"), (Build, "_measure"), (Build, "_catch_up_early")])
def test_searches_and_changes_go_on_while_an_index_is_built(monkeypatch, part, name):
    """Changes come before the codes are made, before the setting is verified, and just before the index is used."""
    paused, go_on, original = threading.Event(), threading.Event(), getattr(part, name)

    def pauses(*args):
        answer = original(*args)
        paused.set()
        assert go_on.wait(60)
        return answer

    monkeypatch.setattr(part, name, pauses)
    vectors, fresh = points(2000, 32), points(300, 32, 1)
    index = filled(vectors, exact_until=500)
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(index.build)
        try:
            assert paused.wait(60)
            index.apply(2, np.arange(3001, 3301), fresh, np.arange(1, 601))
            remove(index, 3, np.arange(3001, 3101))
            assert index.search(fresh[150:151], 1).identity_ids_NK.tolist() == [[3151]]
            assert index.describe()["kind"] == "exact"
        finally:
            go_on.set()
        building.result()
    assert index.describe()["kind"] != "exact" and index.version == 3
    assert len(index._approximation.codes) == len(index) == 1600
    found = index.search(np.concatenate([fresh[100:], vectors[600:900]]), 1).identity_ids_NK[:, 0]
    assert (found == np.concatenate([np.arange(3101, 3301), np.arange(601, 901)])).mean() > 0.99
    gone = index.search(np.concatenate([fresh[:100], vectors[:600]]), 5).identity_ids_NK
    assert not np.isin(gone, np.concatenate([np.arange(3001, 3101), np.arange(1, 601)])).any()


def test_changes_all_through_builds_are_kept():
    dim = 32
    model = Model(FaceIndex(dim, exact_until=500), dim, 3)
    model.add(points(1500, dim))
    done = threading.Event()

    def build():
        try:
            for _ in range(3):
                model.index.build()
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(build)
        while not done.is_set():
            model.change(most=200)
            time.sleep(0.01)
        building.result()
    model.check_points()
    if (approximation := model.index._approximation) is not None:
        assert len(approximation.codes) == len(model.people)
    found = model.index.search(model.index.points()[1], 1)
    assert (found.scores_NK[:, 0] > 1 - 1e-5).mean() > 0.99


def test_where_all_are_replaced_meanwhile_nothing_is_known_of_the_recall(monkeypatch):
    index, original = filled(points(600, 16), exact_until=500), Build._measure

    def measure(*args):
        index.apply(2, np.arange(1, 601), points(600, 16, 1), NOBODY)
        return original(*args)

    monkeypatch.setattr(Build, "_measure", measure)
    index.build()
    assert index.describe()["kind"] == "exact" and index.describe()["refused"] == [("ivf", 0.0), ("pq", 0.0)]
    assert index.search(points(600, 16, 1), 1).identity_ids_NK[:, 0].tolist() == list(range(1, 601))


def test_a_failed_build_leaves_what_was_there(monkeypatch):
    index = approximated(points(800, 16))
    monkeypatch.setattr(Codes, "train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.build()
    assert index.describe()["kind"] != "exact"
    remove(index, 2, np.array([1]))
    assert index._build is None and len(index._approximation.codes) == 799


# ---- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", ["", "ivf", "pq"])
def test_searches_see_whole_changes(build):
    """Two people are swapped for two others at once, again and again: each search finds one pair."""
    vectors = points(800, 16)
    index = approximated(vectors, kind=build) if build else filled(vectors)
    pairs, stop, wrong = points(4, 16, 7).reshape(2, 2, 16), threading.Event(), []

    def search():
        while not stop.is_set():
            scores = index.search(pairs.reshape(4, 16), 1).scores_NK[:, 0] > 0.9999
            if scores.tolist() not in ([True, True, False, False], [False, False, True, True]):
                wrong.append(scores)

    index.apply(2, np.array([901, 902]), pairs[0], NOBODY)
    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in range(3, 203):
            new, old = (np.array([901, 902]) + 2 * ((version + other) % 2) for other in (0, 1))
            index.apply(version, new, pairs[version % 2], old)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("kept_busy", ["read", "write"])
def test_nobody_starves(kept_busy):
    """Some threads never leave one side of the lock free; the other side gets in all the same."""
    lock, stop = ReadWriteLock(), threading.Event()
    busy, other = (lock.read, lock.write) if kept_busy == "read" else (lock.write, lock.read)

    def occupy():
        while not stop.is_set():
            with busy():
                time.sleep(0.002)

    threads = [threading.Thread(target=occupy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        started = time.monotonic()
        for _ in range(20):
            with other():
                pass
        assert time.monotonic() - started < 5
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_readers_are_together_and_a_writer_is_alone():
    lock, together, inside, worst = ReadWriteLock(), threading.Barrier(3), [], []

    def read():
        with lock.read():
            together.wait(10)  # broken if one of them had to wait for another

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: read(), range(3)))

    def visit(writes):
        with lock.write() if writes else lock.read():
            inside.append(writes)
            time.sleep(0.001)
            worst.append(len(inside) > 1 and any(inside))
            inside.remove(writes)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, random.Random(0).choices([True, False], k=200)))
    assert len(worst) == 200 and not any(worst)


# ---- snapshots -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", ["", "ivf", "pq"])
def test_a_snapshot_is_the_index(tmp_path, build):
    vectors, folder = points(900, 24), str(tmp_path / "below" / "snapshot")
    ids = np.arange(900, 0, -1)
    index = approximated(vectors, ids, build) if build else filled(vectors, ids)
    remove(index, 9, np.arange(100, 150))
    index.save(folder, CONTRACT)
    again = FaceIndex.load(folder, CONTRACT, exact_until=500)
    assert again.describe() == index.describe() and again.version == 9
    assert again.needs_build is (build == "")
    assert all(map(np.array_equal, again.points(), index.points()))
    assert all(map(np.array_equal, again.search(vectors, 4), index.search(vectors, 4)))
    for one in (index, again):
        one.apply(10, np.arange(2001, 2101), points(100, 24, 1), np.arange(1, 50))
    assert all(map(np.array_equal, again.points(), index.points()))
    assert all(map(np.array_equal, again.search(vectors, 4), index.search(vectors, 4)))


def test_an_empty_index_has_a_snapshot(tmp_path):
    FaceIndex(8).save(str(tmp_path / "s"), {})
    again = FaceIndex.load(str(tmp_path / "s"), {})
    assert len(again) == 0 and again.search(points(1, 8), 1).identity_ids_NK.tolist() == [[-1]]


def beside(snapshot):
    """What is in its parent folder, but for the lock."""
    return sorted(path.name for path in snapshot.parent.iterdir() if path.name != f".{snapshot.name}.lock")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots") / "s"
    approximated(points(600, 8)).save(str(folder), CONTRACT)
    return folder


@pytest.fixture
def damaged(snapshot, tmp_path):
    return shutil.copytree(snapshot, tmp_path / "s")


NAMES = ["card.json", "codes.faiss", "embeddings.f32", "identity_ids.i64"]


def test_the_files_of_a_snapshot(snapshot):
    assert sorted(path.name for path in snapshot.iterdir()) == NAMES
    assert beside(snapshot) == ["s"]


@pytest.mark.parametrize("name", NAMES)
def test_every_changed_byte_is_seen(damaged, name):
    path, rng = damaged / name, np.random.default_rng(0)
    whole = path.read_bytes()
    for at in rng.choice(len(whole), min(200, len(whole)), replace=False):
        changed = bytearray(whole)
        changed[at] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="damaged"):
            FaceIndex.load(str(damaged), CONTRACT)
    path.write_bytes(whole)
    FaceIndex.load(str(damaged), CONTRACT)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["shorter", "longer", "empty", "gone"])
def test_files_cut_short(damaged, name, change):
    path, content = damaged / name, (damaged / name).read_bytes()
    path.write_bytes({"shorter": content[:-1], "longer": content + b"\0"}.get(change, b""))
    if change == "gone":
        path.unlink()
    with pytest.raises(CheckpointError, match="not there" if change == "gone" else "damaged"):
        FaceIndex.load(str(damaged), CONTRACT)


def test_other_snapshots(damaged, tmp_path):
    with pytest.raises(CheckpointError, match="expected"):
        FaceIndex.load(str(damaged), CONTRACT | {"model": "other"})
    with pytest.raises(CheckpointError, match="not there"):
        FaceIndex.load(str(tmp_path / "nothing"), CONTRACT)
    (damaged / "card.json").write_text("[]")
    with pytest.raises(CheckpointError, match="damaged"):
        FaceIndex.load(str(damaged), CONTRACT)


def test_embeddings_that_are_not_finite_are_seen(tmp_path):
    index = filled(points(50, 8))
    index._vectors.embeddings_SD[20, 3] = np.inf
    index.save(str(tmp_path / "s"), CONTRACT)
    with pytest.raises(CheckpointError, match="finite"):
        FaceIndex.load(str(tmp_path / "s"), CONTRACT)


def test_a_full_or_closed_disk_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        filled(points(5, 8)).save(str(tmp_path / "file" / "s"), CONTRACT)


def test_a_failed_save_leaves_the_old_snapshot(tmp_path, monkeypatch):
    folder = str(tmp_path / "s")
    index = filled(points(5, 8))
    index.save(folder, CONTRACT)
    remove(index, 2, np.array([1]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="no space"):
            index.save(folder, CONTRACT)
    assert FaceIndex.load(folder, CONTRACT).version == 1
    index.save(folder, CONTRACT)
    assert FaceIndex.load(folder, CONTRACT).version == 2
    assert beside(tmp_path / "s") == ["s"]


def test_a_snapshot_is_deleted_with_its_leftovers(tmp_path):
    folder = tmp_path / "s"
    filled(points(5, 8)).save(str(folder), CONTRACT)
    (tmp_path / ".s.0123.tmp").mkdir()
    (tmp_path / "t").mkdir()
    delete_snapshot(str(folder))
    assert beside(folder) == ["t"]
    delete_snapshot(str(folder))


def test_kills_leave_a_whole_snapshot_or_none(tmp_path):
    folder, rng, versions = tmp_path / "s", random.Random(0), set()
    fork = multiprocessing.get_context("fork")

    def save(started):
        for version in range(1, 1_000_000):
            index = filled(points(50 + version % 7, 8, version % 7))
            remove(index, version, NOBODY)
            index.save(str(folder), CONTRACT)
            started.set()

    for _ in range(20):
        started = fork.Event()
        process = fork.Process(target=save, args=(started,))
        process.start()
        assert started.wait(30)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if not folder.exists():
            continue
        index = FaceIndex.load(str(folder), CONTRACT)
        kind = index.version % 7
        assert np.array_equal(index.points()[1], points(50 + kind, 8, kind))
        versions.add(index.version)
    assert len(versions) > 1
    filled(points(5, 8)).save(str(folder), CONTRACT)
    assert beside(tmp_path / "s") == ["s"]
