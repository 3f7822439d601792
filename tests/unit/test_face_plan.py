"""Batches of P people with K images each."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnray.train.face_plan import FacePlanner


def planner(counts, people=3, images=2, seed=7):
    """Of people with so many images, which lie in any order."""
    people_N = np.random.default_rng(len(counts)).permutation(np.repeat(np.arange(len(counts)), counts))
    return FacePlanner(people_N=people_N, people=people, images=images, seed=seed)


def batches(plan, epoch=0):
    found = list(plan.epoch(epoch))
    assert len(found) == plan.num_steps
    return found


def check_batch(plan, batch):
    """P different people, K images each, one person after the other."""
    groups = batch.items_B.reshape(plan.people, plan.images)
    people = plan.people_N[groups]
    assert np.all(people == people[:, :1]) and len(set(people[:, 0])) == plan.people
    for person, group in zip(people[:, 0], groups, strict=True):
        own = int((plan.people_N == person).sum())
        assert len(set(group)) == min(own, plan.images), "a photo is repeated only where there are no others"
    assert len(batch.views_B) == len(batch.items_B) and 0 <= batch.seed < 2**62


def test_a_persons_images_are_known():
    plan = planner([3, 2, 5])
    assert [set(plan.people_N[images]) for images in plan.own] == [{0}, {1}, {2}]
    assert sorted(np.concatenate(plan.own)) == list(range(10))


@pytest.mark.parametrize(("count", "own", "people", "images"), [(6, 4, 3, 2), (7, 4, 3, 4), (12, 6, 5, 2)])
def test_where_all_have_equally_many_every_image_comes_in_every_epoch(count, own, people, images):
    plan = planner([own] * count, people, images)
    for epoch in range(3):
        seen = Counter(np.concatenate([batch.items_B for batch in batches(plan, epoch)]).tolist())
        assert len(seen) == count * own
        if count * own % (people * images) == 0:
            assert set(seen.values()) == {1}


def test_a_person_with_fewer_images_is_repeated_as_evenly_as_possible():
    plan = planner([2, 3, 9], people=3, images=8)
    for batch in batches(plan):
        check_batch(plan, batch)
        times = Counter(batch.items_B.tolist())
        assert [sorted(times[item] for item in own.tolist()) for own in plan.own[:2]] == [[4, 4], [2, 3, 3]]


def test_a_group_is_filled_up_with_others_of_the_same_person():
    plan = planner([5, 6, 7], people=2, images=4)
    for epoch in range(40):
        for batch in batches(plan, epoch):
            check_batch(plan, batch)


def test_no_view_comes_twice_in_a_run():
    plan = planner([3, 5, 2, 8], people=3, images=4)
    views = np.concatenate([batch.views_B for epoch in range(6) for batch in batches(plan, epoch)])
    assert len(set(views.tolist())) == len(views) and views.min() == 1  # 0 would be the plain view


def test_seed_and_epoch_decide_and_nothing_else():
    def items(epoch, **changes):
        return tuple(np.concatenate([b.items_B for b in batches(planner([6] * 8, **changes), epoch)]).tolist())

    def drawn(epoch):
        return [batch.seed for batch in batches(planner([6] * 8), epoch)]

    assert items(3) == items(3) and drawn(3) == drawn(3)
    assert len({items(3), items(4), items(3, seed=8)}) == 3
    assert len(set(drawn(3) + drawn(4))) == 16


def test_who_has_most_images_cannot_be_in_a_batch_twice_and_waits():
    """24 images of one person, 2 of each of the others: 12 + 4 groups make 8 batches of two people."""
    plan = planner([24, 2, 2, 2, 2], people=2, images=2)
    assert plan.num_steps == 8
    seen = np.concatenate([batch.items_B for batch in batches(plan)])
    assert all(0 in plan.people_N[batch.items_B] for batch in batches(plan))
    assert len(set(seen[plan.people_N[seen] == 0])) == 16  # each once; 8 wait
    assert set(seen) >= set(np.flatnonzero(plan.people_N > 0))
    waited = [
        set(np.flatnonzero(plan.people_N == 0)) - set(np.concatenate([b.items_B for b in batches(plan, epoch)]))
        for epoch in range(12)
    ]
    assert not set.intersection(*waited)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 13), min_size=2, max_size=9),
    people=st.integers(2, 9),
    images=st.integers(2, 5),
    epoch=st.integers(0, 5),
)
def test_what_always_holds(counts, people, images, epoch):
    plan = planner(counts, min(people, len(counts)), images)
    groups = [-(-count // images) for count in counts]
    assert plan.num_steps == -(-sum(groups) // plan.people)
    found = batches(plan, epoch)
    for batch in found:
        check_batch(plan, batch)
    seen = Counter(np.concatenate([batch.items_B for batch in found]).tolist())
    if max(groups) <= plan.num_steps:
        assert len(seen) == sum(counts), "nobody dominates, so that nobody has to wait"
