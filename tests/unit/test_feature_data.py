"""Feature tables as training data: the division into training and validation, batches, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from cnnray.config import ClassifyConfig
from cnnray.errors import DataError
from cnnray.train.head import build_head_data
from tests.feature_tables import make_table

PLAIN = ClassifyConfig(batch_size=8, dropout=0.0)


def build(table=None, config=PLAIN, **changes):
    return build_head_data(make_table(**changes) if table is None else table, config)


def replaced(table, name, rows, value):
    column = getattr(table, name).copy()
    column[rows] = value
    return dataclasses.replace(table, **{name: column})


def seen_rows(data, features):
    """Row numbers of batch features, found by their content."""
    stored = data.features.float()
    return [int((stored == feature).all(1).nonzero()[0]) for feature in features]


def test_the_tables_own_splits_are_used():
    table = make_table(val_per_class=2)
    data = build(table)
    assert set(table.splits[data.val]) == {"val"} and len(data.val) == 6
    assert set(table.splits[data.first]) == {"train"} and len(data.first) == 27


@pytest.mark.parametrize("splits", [True, False])
def test_without_a_validation_split_each_class_gives_its_fraction_and_views_stay_together(splits):
    table = make_table((20, 10, 30), views=3, splits=splits)
    data = build(table)
    assert np.unique(table.labels[data.val], return_counts=True)[1].tolist() == [2, 1, 3]
    assert set(table.views[data.val]) == {0}
    assert data.planner.counts.tolist() == [4] * len(data.first)
    assert not set(table.ids[data.val]) & set(table.ids[data.first])
    again = build(table)
    np.testing.assert_array_equal(again.val, data.val)
    other = build(table, dataclasses.replace(PLAIN, seed=1))
    assert set(other.val) != set(data.val)


def test_other_splits_are_left_out():
    table = make_table(val_per_class=2)
    table = replaced(table, "splits", np.flatnonzero(table.splits == "val")[:3], "test")
    assert len(build(table).val) == 3


def test_an_epoch_takes_every_image_once_at_one_of_its_views():
    data = build(views=2, val_per_class=1)
    chosen = []
    for epoch in range(20):
        rows = seen_rows(data, torch.cat([batch[0] for batch in data.train_batches(epoch, 0, 1)]))
        images = np.searchsorted(data.first, rows, side="right") - 1
        assert sorted(images) == list(range(len(data.first)))
        chosen.append(np.array(rows) - data.first[images])
    share = np.bincount(np.concatenate(chosen), minlength=3) / (20 * len(data.first))
    assert np.all(abs(share - 1 / 3) < 0.08)  # 540 draws: 4 standard deviations
    assert len(list(data.train_batches(0, 0, 1))) == data.num_steps == 4


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_workers_parts_together_are_the_batch_of_one_worker(world):
    config = ClassifyConfig(batch_size=9, mixup_alpha=0.4, label_smoothing=0.1, dropout=0.3)
    data = build(make_table((12, 9, 7), views=2, val_per_class=1, mixup=True), config)
    parts = [list(data.train_batches(3, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {data.num_steps}
    for index, whole in enumerate(data.train_batches(3, 0, 1)):
        for column, tensor in enumerate(whole):
            for rank in range(world):
                # a product's last bit may depend on its shape
                torch.testing.assert_close(parts[rank][index][column], tensor[rank::world], rtol=1e-6, atol=0)
    val = torch.cat([batch[0] for rank in range(world) for batch in data.val_batches(rank, world)])
    assert sorted(seen_rows(data, val)) == sorted(data.val)


def test_batches_depend_on_seed_and_epoch_only():
    first, again = (next(iter(build().train_batches(4, 0, 1)))[0] for _ in range(2))
    assert torch.equal(first, again)
    for other in (
        build().train_batches(5, 0, 1),
        build(config=dataclasses.replace(PLAIN, seed=1)).train_batches(4, 0, 1),
    ):
        assert not torch.equal(first, next(iter(other))[0])


def test_balanced_weights_give_every_class_the_same_sum():
    data = build(make_table((12, 9, 6), val_per_class=1))
    targets = torch.cat([batch[1] for batch in data.train_batches(0, 0, 1)])
    weights = torch.cat([batch[2] for batch in data.train_batches(0, 0, 1)])
    torch.testing.assert_close((targets * weights[:, None]).sum(0), torch.full((3,), 9.0))
    assert float(weights.sum()) == pytest.approx(27)
    unweighted = build(config=dataclasses.replace(PLAIN, class_weights="none"))
    assert unweighted.class_weights.tolist() == [1, 1, 1]


def test_stored_mixup_views_have_soft_labels():
    data = build(make_table((4, 4), views=1, val_per_class=1, mixup=True))
    targets = torch.cat([batch[1] for epoch in range(5) for batch in data.train_batches(epoch, 0, 1)])
    assert {tuple(row) for row in targets.tolist()} == {(1, 0), (0, 1), (0.75, 0.25), (0.25, 0.75)}


def test_feature_mixup_mixes_features_and_labels_by_the_same_share():
    # one-hot features of class number and no spread: the mixed features must equal the mixed labels
    table = make_table((6, 6, 6), dim=3, val_per_class=1)
    number = np.array([int(label[1]) for label in table.labels])
    table = dataclasses.replace(table, features=np.eye(3, dtype=np.float32)[number])
    data = build(table, dataclasses.replace(PLAIN, mixup_alpha=1.0))
    for features, targets, _ in data.train_batches(0, 0, 1):
        torch.testing.assert_close(features, targets)
    assert any((t.max() < 1) for _, targets, _ in data.train_batches(0, 0, 1) for t in targets)


def test_label_smoothing_moves_its_share_to_all_classes():
    data = build(config=dataclasses.replace(PLAIN, label_smoothing=0.3))
    targets = next(iter(data.train_batches(0, 0, 1)))[1]
    torch.testing.assert_close(targets.sort(dim=1).values, torch.tensor([[0.1, 0.1, 0.8]]).expand(8, 3))


def test_dropout_keeps_the_mean_and_spares_validation():
    data = build(config=dataclasses.replace(PLAIN, dropout=0.5, batch_size=64))
    plain = build(config=dataclasses.replace(PLAIN, batch_size=64))
    many = torch.stack([torch.cat([b[0] for b in data.train_batches(e, 0, 1)]).mean(0) for e in range(200)]).mean(0)
    once = torch.cat([b[0] for b in plain.train_batches(0, 0, 1)]).mean(0)
    torch.testing.assert_close(many, once, rtol=0, atol=0.1)  # about 4 standard deviations of 200 x 24 draws
    for ours, theirs in zip(data.val_batches(0, 1), plain.val_batches(0, 1), strict=True):
        assert torch.equal(ours[0], theirs[0])
    features = next(iter(data.train_batches(0, 0, 1)))[0]
    assert 0.4 < float((features == data.mean).float().mean()) < 0.6


def test_moments_are_those_of_all_training_views():
    table = make_table(views=2, val_per_class=3, dtype="float32")
    data = build(table)
    used = table.features[table.splits == "train"].astype(np.float64)
    np.testing.assert_allclose(data.mean, used.mean(0), atol=1e-6)
    assert data.scale == pytest.approx(np.sqrt(used.var(0).mean()), rel=1e-6)


def test_maps_are_refused():
    table = make_table()
    maps = dataclasses.replace(table, features=np.zeros((len(table.ids), 4, 2, 2), np.float16))
    with pytest.raises(DataError, match=r"got maps of shape \[4, 2, 2\].*--pool avg"):
        build(maps)


def test_one_class_is_refused():
    with pytest.raises(DataError, match="at least 2 classes.*only 'c0'"):
        build(counts=(9,))


def test_a_class_with_one_image_is_named():
    with pytest.raises(DataError, match="1 of 'c1'; add images of it or remove the class"):
        build(counts=(9, 1, 5))


def test_unlabelled_images_are_counted():
    with pytest.raises(DataError, match="2 of 27 have none"):
        build(replaced(make_table(), "labels", [0, 3], None))


def test_validation_labels_that_training_lacks_are_named():
    table = make_table(val_per_class=1)
    with pytest.raises(DataError, match="among the 3 classes.*got 'wolf'"):
        build(replaced(table, "labels", np.flatnonzero(table.splits == "val")[0], "wolf"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(bad):
    table = make_table()
    features = table.features.copy()
    features[5, 3] = bad
    with pytest.raises(DataError, match=f"NaN or infinity in image '{table.ids[5]}'"):
        build(dataclasses.replace(table, features=features))


def test_splits_without_training_images_are_refused():
    table = make_table()
    with pytest.raises(DataError, match="expected a split named 'train', got test"):
        build(replaced(table, "splits", slice(None), "test"))


def test_mixup_views_need_a_validation_split_of_their_own():
    with pytest.raises(DataError, match="expected a validation split"):
        build(make_table(views=1, mixup=True))
