"""Stratified splits: exact shares, independent of order, every class in every split."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnray.errors import DataError, OptionError
from cnnray.ops.split import parse_fractions, stratified_split


def test_fractions_are_read_in_order():
    assert parse_fractions("train=0.8, val=0.2") == {"train": 0.8, "val": 0.2}


@pytest.mark.parametrize("text", ["train", "train=x", "a=0.5,b=0.6", "a=0,b=1", "a=0.5,a=0.5", "=1", ""])
def test_wrong_fractions_are_refused_with_what_came(text):
    with pytest.raises(OptionError, match="got"):
        parse_fractions(text)


def test_every_class_is_divided_to_the_nearest_item():
    labels = ["a"] * 100 + ["b"] * 10
    names = stratified_split([str(i) for i in range(110)], labels, {"train": 0.8, "val": 0.2}, seed=0)
    assert Counter(zip(labels, names, strict=True)) == {
        ("a", "train"): 80,
        ("a", "val"): 20,
        ("b", "train"): 8,
        ("b", "val"): 2,
    }


def test_the_split_of_an_item_does_not_depend_on_the_order():
    ids = [f"i{n}" for n in range(50)]
    labels = [f"c{n % 3}" for n in range(50)]
    first = dict(zip(ids, stratified_split(ids, labels, {"train": 0.7, "val": 0.3}, 1), strict=True))
    order = np.random.default_rng(0).permutation(50)
    again = stratified_split([ids[i] for i in order], [labels[i] for i in order], {"train": 0.7, "val": 0.3}, 1)
    assert {ids[i]: name for i, name in zip(order, again, strict=True)} == first


def test_another_seed_gives_another_split():
    ids = [str(n) for n in range(100)]
    one, two = (list(stratified_split(ids, ["a"] * 100, {"train": 0.5, "val": 0.5}, seed)) for seed in (0, 1))
    assert one != two


def test_a_class_of_one_image_is_named():
    with pytest.raises(DataError, match="'lonely'"):
        stratified_split(["1", "2", "3"], ["a", "a", "lonely"], {"train": 0.5, "val": 0.5}, 0)


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(2, 30), min_size=1, max_size=5), share=st.floats(0.01, 0.99))
def test_no_item_is_lost_and_every_class_is_in_both_splits(counts, share):
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    names = stratified_split([str(n) for n in range(len(labels))], labels, {"train": 1 - share, "val": share}, 3)
    assert set(names) <= {"train", "val"}
    for label in set(labels):
        assert {name for name, own in zip(names, labels, strict=True) if own == label} == {"train", "val"}
