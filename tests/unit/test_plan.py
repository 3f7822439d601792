"""What an epoch consists of, and how it is divided among workers."""

import numpy as np
import pytest

from cnnray.config import FinetuneConfig
from cnnray.errors import OptionError
from cnnray.train.plan import Planner, check_batches


def planner(**changes):
    settings = {"counts": np.full(23, 3), "num_items": 23, "batch_size": 5, "seed": 7} | changes
    return Planner(**settings)


def test_every_image_comes_once_in_batches_of_nearly_one_size():
    plans = list(planner().epoch(0))
    assert len(plans) == planner().num_steps == 5
    assert sorted(np.concatenate([plan.items for plan in plans])) == list(range(23))
    assert sorted(len(plan.items) for plan in plans) == [4, 4, 5, 5, 5]
    assert all(set(plan.partners) == set(plan.items) for plan in plans)


@pytest.mark.parametrize(("num_items", "batch_size"), [(23, 5), (24, 8), (17, 8), (3, 2), (5, 64), (1, 1)])
def test_a_worker_that_would_get_no_image_of_some_batch_is_refused(num_items, batch_size):
    plans = planner(counts=None, num_items=num_items, batch_size=batch_size).epoch(0)
    smallest = min(len(plan.items) for plan in plans)
    check_batches(num_items, FinetuneConfig(workers=f"1:{smallest}", batch_size=batch_size))
    with pytest.raises(
        OptionError,
        match=f"each of {smallest + 1} workers has an image, but {num_items} images in batches of {batch_size} make "
        f"some of {smallest}; use fewer --workers",
    ):
        check_batches(num_items, FinetuneConfig(workers=f"1:{smallest + 1}", batch_size=batch_size))


def test_a_batch_larger_than_the_set_is_the_set():
    (plan,) = planner(batch_size=64).epoch(0)
    assert len(plan.items) == 23


def test_views_are_chosen_among_those_that_there_are_or_are_fresh():
    counts = np.arange(1, 24)
    seen = np.zeros((23, 24), bool)
    for epoch in range(200):
        for plan in planner(counts=counts).epoch(epoch):
            seen[plan.items, plan.views] = True
            np.testing.assert_array_equal(plan.partner_views, dict_of(plan)[1])
    assert all(seen[item, : item + 1].all() and not seen[item, item + 1 :].any() for item in range(8))
    assert not seen[np.triu_indices(23, 1)].any()
    fresh = [plan.views for plan in planner(counts=None).epoch(4)]
    assert set(np.concatenate(fresh)) == {5}


def dict_of(plan):
    view = dict(zip(plan.items.tolist(), plan.views.tolist(), strict=True))
    return plan.partners, [view[partner] for partner in plan.partners.tolist()]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_parts_are_disjoint_and_together_the_batch(world):
    for plan in planner(mixup_alpha=0.3).epoch(2):
        parts = [plan.part(rank, world) for rank in range(world)]
        for name in ("items", "views", "partners", "partner_views"):
            joined = np.empty_like(plan.items)
            for rank, part in enumerate(parts):
                joined[rank::world] = getattr(part, name)
            np.testing.assert_array_equal(joined, getattr(plan, name))
        assert {(part.lam, part.mix, part.seed) for part in parts} == {(plan.lam, plan.mix, plan.seed)}


def test_mixing_is_off_one_of_both_or_each_in_turn():
    def kinds(**alphas):
        return [(plan.mix, plan.lam) for epoch in range(20) for plan in planner(**alphas).epoch(epoch)]

    assert set(kinds()) == {("", 1.0)}
    assert {mix for mix, _ in kinds(cutmix_alpha=1.0)} == {"cutmix"}
    both = kinds(mixup_alpha=0.2, cutmix_alpha=1.0)
    share = np.mean([mix == "mixup" for mix, _ in both])
    assert 0.3 < share < 0.7  # 100 draws: 4 standard deviations
    cut = np.array([lam for mix, lam in both if mix == "cutmix"])
    assert np.all((cut >= 0) & (cut <= 1)) and 0.15 < cut.std() < 0.42  # uniform has 0.29


def test_seed_and_epoch_decide_and_nothing_else():
    def items(epoch, **changes):
        return np.concatenate([plan.items for plan in planner(**changes).epoch(epoch)]).tolist()

    assert items(3) == items(3)
    assert len({tuple(items(3)), tuple(items(4)), tuple(items(3, seed=8))}) == 3
