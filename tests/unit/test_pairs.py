"""Images and masks: how they are found, and as training data."""

import csv

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cnnray.config import SegmentConfig
from cnnray.data.check import Unusable
from cnnray.data.pairs import Pairs, build_pairs, look_at_pair
from cnnray.data.stream import stream_here
from cnnray.errors import DataError, OptionError, StorageError
from cnnray.ops.decode import decode
from cnnray.ops.masks import IGNORE, LabelSpace
from cnnray.train.loop import Worker, run
from cnnray.train.segment import divide_pairs
from cnnray.train.segment_task import SegmentTask, build_segment_data, square
from cnnray.train.state import load_state
from tests.segmenters import write_pairs

CONFIG = SegmentConfig(encoder="plain", width=4, depth=2, crop=48, batch_size=4, epochs=2, crops=2)
SPACE = LabelSpace(("background", "blob"), (0, 255))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 7)


@pytest.fixture(scope="module")
def table(source):
    found = build_pairs(source, CONFIG)
    count = found.num_rows
    found = found.append_column("height", pa.array([80] * count)).append_column("width", pa.array([96] * count))
    return found.append_column("values", pa.array([[0, 255]] * count))


def data_of(table, **changes):
    config = SegmentConfig(**(vars(CONFIG) | changes))
    return build_segment_data(table.slice(2), table.slice(0, 2), SPACE, config, stream_here)


def test_files_are_matched_by_name_and_sub_folders_kept(tmp_path):
    write_pairs(tmp_path, 2)
    (tmp_path / "masks").rename(tmp_path / "labels")
    for name in ("images", "labels"):
        (tmp_path / name / "more").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "more" / "00.jpg")
    Image.new("L", (9, 9)).save(tmp_path / "labels" / "more" / "00.png")
    (tmp_path / "labels" / "notes.txt").write_text("not a mask")
    found = build_pairs(str(tmp_path), CONFIG).to_pylist()
    assert [row["id"] for row in found] == ["00", "01", "more/00"]
    assert found[2]["path"].endswith("images/more/00.jpg") and found[2]["mask"].endswith("labels/more/00.png")


def test_a_manifest_names_image_mask_and_split(tmp_path, source):
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "mask", "split"])
        rows.writerow([f"{source}/images/00.png", f"{source}/masks/00.png", "train"])
        rows.writerow(["b.png", "m/b.png", "val"])
    found = build_pairs(str(tmp_path / "pairs.csv"), CONFIG).to_pylist()
    assert [row["split"] for row in found] == ["train", "val"]
    assert found[1]["mask"] == f"{tmp_path}/m/b.png"
    with pytest.raises(DataError, match="expected columns path, label in .*label is missing; it has path, mask, split"):
        build_pairs(str(tmp_path / "pairs.csv"), SegmentConfig(mask_column="label"))


def test_what_is_missing_is_named(tmp_path):
    write_pairs(tmp_path, 3)
    (tmp_path / "masks" / "01.png").unlink()
    with pytest.raises(DataError, match=r"mask for every image, but 1 of 3 have none in .*masks, such as .*01.png"):
        build_pairs(str(tmp_path), CONFIG)
    (tmp_path / "masks" / "01.png").touch()
    Image.new("L", (3, 3)).save(tmp_path / "masks" / "01.bmp")
    with pytest.raises(DataError, match="expected one file named 01 in"):
        build_pairs(str(tmp_path), CONFIG)
    with pytest.raises(DataError, match=r"expected the folders images/ and masks/ \(or labels/\)"):
        build_pairs(str(tmp_path / "images"), CONFIG)
    with pytest.raises(DataError, match="there is nothing at"):
        build_pairs(str(tmp_path / "nowhere"), CONFIG)
    (tmp_path / "m.csv").write_text("path,mask\na.png,\n")
    with pytest.raises(DataError, match="expected a mask in every row of .*1 of 1 have none"):
        build_pairs(str(tmp_path / "m.csv"), CONFIG)


def test_a_pair_is_looked_at(source, tmp_path):
    row = build_pairs(source, CONFIG).to_pylist()[0]
    assert look_at_pair(row) == {"image": [80, 96], "mask": [80, 96], "values": [0, 255]}
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(Unusable, match="bad.png"):
        look_at_pair(row | {"mask": str(tmp_path / "bad.png")})
    with pytest.raises(Unusable, match="no such file"):
        look_at_pair(row | {"path": str(tmp_path / "none.png")})


def test_splits_are_used_or_made(table):
    pairs = Pairs(table, SPACE)
    train, val = divide_pairs(pairs, SegmentConfig(val_fraction=0.3))
    assert (train.num_rows, val.num_rows) == (5, 2)
    assert not set(train["id"].to_pylist()) & set(val["id"].to_pylist())
    given = table.set_column(3, "split", pa.array(["val"] + ["train"] * 5 + ["test"]))
    train, val = divide_pairs(Pairs(given, SPACE), CONFIG)
    assert (train.num_rows, val["id"].to_pylist()) == (5, ["00"])
    with pytest.raises(DataError, match=r"to validate on, got 0 and 7 \(splits: val\)"):
        divide_pairs(Pairs(table.set_column(3, "split", pa.array(["val"] * 7)), SPACE), CONFIG)


def test_crops_are_seeded_and_fresh_and_divided_among_workers(table):
    data = data_of(table)
    assert data.num_steps == 3  # 5 images x 2 crops in batches of 4
    for images, classes in data.train_batches(0, 0, 1):
        assert images.shape[1:] == (3, 48, 48) and images.dtype == torch.uint8
        assert set(classes.unique().tolist()) <= {0, 1} and classes.shape[1:] == (48, 48)
    first = [next(iter(data.train_batches(epoch, 0, 1)))[0] for epoch in (0, 1, 0)]
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    for step, whole in enumerate(data.train_batches(1, 0, 1)):
        for rank in (0, 1):
            part = list(data.train_batches(1, rank, 2))[step]
            assert all(torch.equal(ours, every[rank::2]) for ours, every in zip(part, whole, strict=True))
    assert set(data.batch_ids(0, 0)) <= {f"{n:02d}" for n in range(2, 7)}


def test_two_crops_of_an_image_differ_in_every_epoch(table):
    data = data_of(table)
    seen = set()
    for epoch in range(3):
        for plan in data.planner.epoch(epoch):
            unit = data._unit(plan)
            seen |= set(zip(unit["id"].to_pylist(), unit["view"].to_pylist(), strict=True))
    assert len(seen) == 3 * 5 * 2


def test_validation_covers_every_pixel_once(table):
    data = data_of(table)
    tiles = data._tiles()
    assert len(tiles) == 2 * 4  # 80 x 96 in squares of 48
    counted = sum(int((classes != IGNORE).sum()) for _, classes in data.val_batches(0, 1))
    assert counted == 2 * 80 * 96
    images, classes = next(iter(data.val_batches(0, 1)))
    picture = decode(open_bytes(table["path"][0].as_py()))
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), picture[:48, :48])
    assert sum(len(batch[0]) for rank in range(3) for batch in data.val_batches(rank, 3)) == 8


def open_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def test_squares_are_filled_outside():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert square(pixels, 1, 2, 3, mode="constant", constant_values=9).tolist() == [[6, 7, 9], [10, 11, 9], [9, 9, 9]]
    assert square(pixels, 0, 0, 2, mode="symmetric").tolist() == [[0, 1], [4, 5]]


def test_a_file_that_changes_while_training_is_named(table, tmp_path):
    (tmp_path / "m.png").write_bytes(b"x")
    broken = table.set_column(2, "mask", pa.array([str(tmp_path / "m.png")] * table.num_rows))
    with pytest.raises(DataError, match="m.png, which were good when the run began"):
        list(data_of(broken).train_batches(0, 0, 1))
    (tmp_path / "m.png").unlink()
    with pytest.raises(StorageError, match="m.png, which was there when the run began"):
        list(data_of(broken).train_batches(0, 0, 1))


def test_a_network_learns_blobs(table, tmp_path):
    config = SegmentConfig(**(vars(CONFIG) | {"epochs": 8, "lr": 0.01, "precision": "float32", "width": 8}))
    data = build_segment_data(table.slice(2), table.slice(0, 2), SPACE, config, stream_here)
    run(SegmentTask(config, 2), data, config, str(tmp_path / "state"), "x", Worker())
    history = load_state(str(tmp_path / "state"), "x").history
    assert history[-1]["val_score"] > 0.8 and history[-1]["val_loss"] < history[0]["val_loss"]


def test_options_are_checked():
    for wrong, message in (
        ({"crop": 8}, "crop must be at least 32"),
        ({"overlap": 256}, "overlap must be at least 0 and below half of tile"),
        ({"dice": 1.5}, "dice and encoder_lr are shares"),
        ({"augment": "wild"}, "augment must be one of none, light, standard, strong"),
        ({"val_fraction": 1.0}, "val_fraction is a fraction"),
    ):
        with pytest.raises(OptionError, match=message):
            SegmentConfig(**wrong)
