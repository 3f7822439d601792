"""Stored faces of people as training data: who is on which side, and what is in the batches."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cnnray.config import FacesConfig
from cnnray.data.face_crops import SCHEMA
from cnnray.data.stream import stream_here
from cnnray.errors import DataError, OptionError, UnknownNameError
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.ops.decode import decode
from cnnray.ops.face_views import cut_view, stored_size
from cnnray.train.face_data import build_face_data, divide_people, face_units, val_parts
from cnnray.train.face_start import prepare_start
from cnnray.train.faces_task import FacesTask

CONFIG = FacesConfig(
    start="mobilenet_v1:size=64,width=0.25", weights="none", batch_size=6, images_per_person=2, augment="light"
)
SIZE = stored_size(64, 0.25)


def rows(counts, splits=None):
    """Stored faces, by person; nothing is behind their paths."""
    splits = splits or {}
    found = [
        {"id": f"{name}/{at}.jpg", "path": "", "label": name, "split": splits.get(name, "train"), "width": 50.0}
        | {"crop": f"/nowhere/{name}-{at}.jpg"}
        for name, count in sorted(counts.items())
        for at in range(count)
    ]
    return pa.Table.from_pylist(found, SCHEMA)


def people(table):
    return set(table["label"].to_pylist())


TEN = {f"p{number}": 3 for number in range(10)}


# ---- who is on which side --------------------------------------------------------------------------------------------


def test_people_are_held_out_whole_by_seed_and_name():
    division = divide_people(rows(TEN), CONFIG)
    assert len(people(division.val)) == 2 and people(division.train) | people(division.val) == set(TEN)
    assert not people(division.train) & people(division.val) and division.alone == 0
    assert division.train.num_rows + division.val.num_rows == 30
    for side in (division.train, division.val):
        assert side["id"].to_pylist() == sorted(side["id"].to_pylist())
    again = divide_people(rows(TEN), CONFIG)
    assert again.train.equals(division.train) and again.val.equals(division.val)
    held = [people(divide_people(rows(TEN), dataclasses.replace(CONFIG, seed=seed)).val) for seed in range(5)]
    assert len(set(map(frozenset, held))) > 1
    assert people(divide_people(rows(TEN), dataclasses.replace(CONFIG, val_people=0.5)).val) > people(division.val)


def test_who_is_held_out_does_not_depend_on_how_many_images_they_have():
    more = dict.fromkeys(TEN, 3) | {"p4": 9, "p7": 2}
    assert people(divide_people(rows(more), CONFIG).val) == people(divide_people(rows(TEN), CONFIG).val)


def test_people_with_one_face_are_left_out_counted_and_told(caplog):
    with caplog.at_level(logging.WARNING):
        division = divide_people(rows(TEN | {"x": 1, "y": 1}), CONFIG)
    assert division.alone == 2 and not people(division.train) & {"x", "y"} and not people(division.val) & {"x", "y"}
    assert "2 people with one face are not learned from" in caplog.text
    caplog.clear()
    divide_people(rows(TEN), CONFIG)
    assert not caplog.records


def test_the_sources_own_val_split_is_kept():
    splits = {"p1": "val", "p2": "val", "p3": "val", "p4": "test", "p5": "test"}
    division = divide_people(rows(TEN | {"p3": 1}, splits), CONFIG)
    assert people(division.val) == {"p1", "p2", "p3"}  # who has one face is nobody's nearest, but may be taken for it
    assert people(division.train) == set(TEN) - set(splits)


def test_a_test_split_is_not_learned_from():
    division = divide_people(rows(TEN, {"p4": "test", "p5": "test"}), CONFIG)
    assert people(division.train) | people(division.val) == set(TEN) - {"p4", "p5"}


def test_a_person_in_both_splits_is_refused():
    table = rows(TEN, {"p1": "val", "p2": "val"})
    both = pa.concat_tables([table, rows({"p1": 2}).slice(0, 1)])
    with pytest.raises(DataError, match="expected other people to validate with .* but 'p1' is in both splits"):
        divide_people(both, CONFIG)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows({"a": 3, "b": 3, "c": 3}), "two people with two faces each to learn from, got 1; of 3 people 3"),
        (rows({"a": 3, "b": 1, "c": 1}), "two people with two faces each to learn from, got 0; of 3 people 1"),
        (rows({"a": 1, "b": 1, "c": 1}), "two people with two faces each to learn from, got 0; of 3 people 0"),
        (rows(TEN, {"p1": "val"}), "two people with two faces each to validate with, got 1; of 10 people 10"),
        (rows(TEN, dict.fromkeys(TEN, "val")), "two people with two faces each to learn from, got 0"),
    ],
)
def test_too_few_people_are_refused(table, message):
    with pytest.raises(DataError, match=message):
        divide_people(table, CONFIG)


def test_images_of_nobody_are_refused():
    table = rows(TEN)
    labels = pa.array([*table["label"].to_pylist()[:-1], None], pa.string())
    table = table.set_column(table.schema.get_field_index("label"), "label", labels)
    with pytest.raises(DataError, match="expected a folder of images for every person"):
        divide_people(table, CONFIG)


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def division(tmp_path_factory):
    """Six people with four faces to learn from and three to validate with: noise, stored as faces are."""
    folder, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    found = []
    for name in "abcdefghi":
        for at in range(4):
            path = folder / f"{name}{at}.jpg"
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
            coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path, quality=95)
            found.append({"id": f"{name}/{at}", "label": name, "crop": str(path), "width": 50.0})
    table = pa.Table.from_pylist(found, SCHEMA)
    return table.slice(0, 24), table.slice(24)


def data(division, **changes):
    return build_face_data(*division, dataclasses.replace(CONFIG, **changes), stream_here)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_parts_of_workers_together_are_the_batch(division, world):
    faces = data(division)
    assert faces.num_steps == 4 == len(list(faces.planner.epoch(1)))
    whole = list(faces.train_batches(1, 0, 1))
    parts = [list(faces.train_batches(1, rank, world)) for rank in range(world)]
    assert all(len(part) == len(whole) for part in parts)
    for step, (images, labels, numbers, seed) in enumerate(whole):
        assert images.shape == (6, 3, 64, 64) and images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last) and numbers.tolist() == list(range(6))
        ids = faces.batch_ids(1, step)
        names = [sorted(people(division[0]))[label] for label in labels.tolist()]
        assert [name.split("/")[0] for name in ids] == names and len(set(names)) == 3
        for rank, part in enumerate(parts):
            ours = part[step]
            assert torch.equal(ours[0], images[rank::world]) and torch.equal(ours[2], numbers[rank::world])
            assert torch.equal(ours[1], labels) and torch.equal(ours[3], seed) and len(seed) == 1


def test_views_differ_between_epochs_and_are_the_same_again(division):
    faces = data(division)
    first, again = (torch.cat([batch[0] for batch in faces.train_batches(0, 0, 1)]) for _ in range(2))
    assert torch.equal(first, again)
    seen = torch.cat([batch[0] for epoch in range(3) for batch in faces.train_batches(epoch, 0, 1)])
    assert len({image.numpy().tobytes() for image in seen}) == len(seen) == 72


def test_without_augmentation_all_views_are_the_plain_one(division):
    faces = data(division, augment="none")
    (images, *_), plan = next(iter(faces.train_batches(0, 0, 1))), next(iter(faces.planner.epoch(0)))
    for image, item in zip(images, plan.items_B, strict=True):
        assert torch.equal(image, plain(division[0], int(item)))


def plain(table, row):
    crop = torch.from_numpy(decode(Path(table["crop"][row].as_py()).read_bytes()).copy()).permute(2, 0, 1)
    return cut_view(crop, 64, 0.25)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_shows_every_face_once_at_its_plain_view(division, world):
    faces = data(division)
    seen = []
    for rank in range(world):
        ((images, labels, numbers, _),) = list(faces.val_batches(rank, world))
        assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and numbers.tolist() == list(range(12))[rank::world]
        for image, number in zip(images, numbers.tolist(), strict=True):
            assert torch.equal(image, plain(division[1], number))
        seen += numbers.tolist()
    assert sorted(seen) == list(range(12))


def test_large_validation_sets_are_cut_into_parts_of_nearly_one_size():
    people_N = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 6))
    parts = val_parts(people_N)
    assert [len(part) for part in parts] == [200, 200, 200]
    assert sorted(np.concatenate(parts)) == list(range(600))
    assert np.all(np.diff(people_N[np.concatenate(parts)]) >= 0)
    assert [len(part) for part in val_parts(people_N[:256])] == [256]


def test_units_of_one_view(division):
    units = face_units(division[0], np.array([5, 0, 7]), -2, 2)
    assert [unit.to_pydict() for unit in units] == [
        {
            "id": ["b/1", "a/0"],
            "crop": [division[0]["crop"][5].as_py(), division[0]["crop"][0].as_py()],
            "view": [-2] * 2,
        },
        {"id": ["b/3"], "crop": [division[0]["crop"][7].as_py()], "view": [-2]},
    ]
    maker = data(division).maker
    views = [maker(face_units(division[0], np.array([5]), view, 1)[0])["image"] for view in (-2, -1, 0, 1)]
    assert len({view.tobytes() for view in views}) == 4


@pytest.mark.parametrize("content", [b"rubbish", b""])
def test_a_damaged_face_is_named(division, tmp_path, content):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(content)
    crops = [*division[0]["crop"].to_pylist()[:-1], str(broken)]
    table = division[0].set_column(division[0].schema.get_field_index("crop"), "crop", pa.array(crops))
    with pytest.raises(DataError, match=f"expected the stored face {broken}, but it is damaged"):
        list(data((table, division[1])).train_batches(0, 0, 1))


def test_more_people_in_a_batch_than_there_are_are_all_of_them(division):
    faces = data(division, batch_size=64)
    assert faces.planner.people == 6 and len(next(iter(faces.train_batches(0, 0, 1)))[0]) == 12


def test_more_workers_than_faces_in_a_batch_are_refused(division):
    with pytest.raises(OptionError, match="at most as many workers as faces in a batch, got 7 workers"):
        data(division, workers=7)
    few = division[1], division[0]  # three people with two faces each make six, whatever is asked for
    with pytest.raises(OptionError, match="got 1:7 workers"):
        data(few, batch_size=64, workers="1:7")
    data(few, batch_size=64, workers="1:6")


# ---- where training starts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_random_network_starts_with_features_that_training_and_validation_see_alike(division, tmp_path, training):
    """Its batch norms know the faces: else all embeddings of one of both would be nearly the same."""
    config = dataclasses.replace(CONFIG, num_features=8)
    prepare_start(data(division), config, str(tmp_path))
    net = FacesTask(config, str(tmp_path)).build().train(training)
    images = torch.cat([batch[0] for batch in data(division).train_batches(0, 0, 1)])
    with torch.no_grad():
        standard = (net.body.features(images) - net.body.mean) / net.body.std
        embedded = net(images)
    assert standard.mean(0).abs().median() < 0.5 and 0.5 < standard.std(0).median() < 2
    assert embedded.mean(0).norm() < 0.7


def test_a_start_does_not_depend_on_the_number_of_cores(division, tmp_path):
    starts = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        prepare_start(data(division), CONFIG, str(tmp_path / str(threads)))
        starts.append(load_checkpoint(str(tmp_path / str(threads)))[0])
        assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items())


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7}, "batch_size must be a multiple of images_per_person and hold two people, got 7 of 2"),
        ({"batch_size": 2}, "hold two people, got 2 of 2"),
        ({"images_per_person": 4}, "got 6 of 4"),
        ({"images_per_person": 1}, "images_per_person must be"),
        ({"accumulate": 2}, "accumulate must be 1: faces of one batch"),
        ({"loss": "arcface"}, "loss .*triplet.*siamese.*binary"),
        ({"mining": "easy"}, "mining .*random.*semihard.*hard"),
        ({"pick": "best"}, "pick .*largest.*central.*only"),
        ({"augment": "wild"}, "augment .*none.*light.*standard.*strong"),
        ({"margin": -0.1}, "margin must be"),
        ({"draw_worst": -1}, "draw_worst must be"),
        ({"unfreeze": -2}, "unfreeze must be"),
        ({"num_features": 1}, "num_features must be"),
        ({"backbone_lr": 0.0}, "backbone_lr is a share above 0"),
        ({"backbone_lr": 1.5}, "backbone_lr is a share above 0"),
        ({"val_people": 0.0}, "val_people is a share above 0"),
        ({"val_people": 0.95}, "val_people is a share above 0"),
        ({"smallest_face": 5}, "smallest_face must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"max_bad": 2.0}, "max_bad"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises((OptionError, UnknownNameError), match=message):
        dataclasses.replace(CONFIG, **changes)
