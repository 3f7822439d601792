"""Stored features: round trips, damage is seen, known features are found."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from cnnray import files
from cnnray.config import FeaturesConfig
from cnnray.data.feature_store import (
    FEATURES,
    QUARANTINE,
    QUARANTINE_SCHEMA,
    Outputs,
    feature_array,
    feature_column,
    feature_schema,
    load_features,
    quarantine_row,
    read_parquet,
    read_quarantine,
    take_stock,
    write_part,
)
from cnnray.data.features import check_complete
from cnnray.data.reuse import KnownFeatures, find_runs
from cnnray.data.runs import RunFolder
from cnnray.errors import RunFolderError


def make_part(ids, views=(0,), shape=(4,), dtype="float16", seed=0):
    rng = np.random.default_rng(seed)
    rows = [(item, view) for item in ids for view in views]
    features = rng.normal(size=(len(rows), *shape)).astype(dtype)
    columns = {
        "id": [item for item, _ in rows],
        "path": [f"/p/{item}" for item, _ in rows],
        "label": ["cat"] * len(rows),
        "split": ["train"] * len(rows),
        "view": [view for _, view in rows],
        "label_b": [None] * len(rows),
        "lam": [1.0] * len(rows),
        "key": [hashlib.sha256(f"{item}|{view}".encode()).digest() for item, view in rows],
        "feature": feature_column(features, dtype),
    }
    return pa.table(columns, schema=feature_schema(shape, dtype)), features


def make_index(ids):
    return pa.table({"id": ids, "path": ids, "label": ["cat"] * len(ids), "split": ["train"] * len(ids)})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)])
def test_features_come_back_bit_for_bit_and_sorted(tmp_path, dtype, shape):
    run = RunFolder.open(str(tmp_path), FeaturesConfig(dtype=dtype), "features")
    second, later = make_part(["c", "d"], (1, 0), shape, dtype, seed=1)
    first, earlier = make_part(["b", "a"], (0, 1), shape, dtype)
    for part in (second, first):
        write_part(run.path(FEATURES), part)
    run.finish({})
    table = load_features(str(tmp_path))
    assert list(zip(table.ids, table.views, strict=True)) == [(i, v) for i in "abcd" for v in (0, 1)]
    assert table.features.dtype == dtype and table.features.shape == (8, *shape)
    np.testing.assert_array_equal(table.features[:4], earlier[[2, 3, 0, 1]])
    np.testing.assert_array_equal(table.features[4:], later[[1, 0, 3, 2]])


def test_a_sliced_feature_column_keeps_its_rows():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(feature_array(feature_column(values, "float32").slice(1, 2)), values[1:3])


def test_writing_the_same_rows_again_replaces_the_part(tmp_path):
    part, _ = make_part(["a", "b"])
    assert write_part(str(tmp_path), part) == write_part(str(tmp_path), part)
    assert len(files.list_files(str(tmp_path))) == 1


def test_in_stock_are_ids_with_features_and_those_in_quarantine(tmp_path):
    write_part(str(tmp_path / FEATURES), make_part(["a", "b"], (0, 1))[0])
    bad = [{"id": "c", "path": "/p/c", "code": "empty", "message": "0 bytes"}]
    write_part(str(tmp_path / QUARANTINE), pa.Table.from_pylist(bad, QUARANTINE_SCHEMA))
    assert sorted(take_stock(str(tmp_path)).to_pylist()) == ["a", "b", "c"]


def test_a_part_that_overlaps_another_is_removed_and_its_other_rows_are_to_be_done_again(tmp_path):
    one = write_part(str(tmp_path / FEATURES), make_part(["a", "b"], (0, 1))[0])
    two = write_part(str(tmp_path / FEATURES), make_part(["b", "c"], (0, 1))[0])
    kept, removed = sorted([one, two])
    stock = take_stock(str(tmp_path)).to_pylist()
    assert sorted(stock) == (["a", "b"] if kept == one else ["b", "c"])
    assert files.exists(kept) and not files.exists(removed)


def test_a_quarantine_entry_of_a_stored_image_is_removed(tmp_path):
    write_part(str(tmp_path / FEATURES), make_part(["a"])[0])
    Outputs(str(tmp_path)).quarantine([quarantine_row({"id": "a", "path": "/p/a"}, "empty", "0 bytes")])
    assert take_stock(str(tmp_path)).to_pylist() == ["a"]
    assert read_quarantine(str(tmp_path)).num_rows == 0


def test_workers_of_an_earlier_command_store_nothing(tmp_path):
    first = RunFolder.open(str(tmp_path), FeaturesConfig(), "features")
    second = RunFolder.open(str(tmp_path), FeaturesConfig(), "features")
    with pytest.raises(RunFolderError, match="another command has taken over"):
        Outputs(first.uri, first.token).store(FEATURES, make_part(["a"])[0])
    assert not files.exists(first.path(FEATURES))
    Outputs(second.uri, second.token).store(FEATURES, make_part(["a"])[0])
    assert take_stock(second.uri).to_pylist() == ["a"]


def test_every_flipped_bit_of_a_part_is_seen(tmp_path):
    uri = write_part(str(tmp_path), make_part([f"i{n}" for n in range(50)], shape=(64,))[0])
    original = files.read_bytes(uri)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(original), 200):
        damaged = bytearray(original)
        damaged[at] ^= 1 << int(rng.integers(8))
        files.write_bytes(uri, bytes(damaged))
        with pytest.raises(RunFolderError, match="damaged"):
            read_parquet(uri)


def test_a_part_cut_short_is_damaged(tmp_path):
    uri = write_part(str(tmp_path), make_part(["a"])[0])
    whole = files.read_bytes(uri)
    for length in range(0, len(whole), 397):
        files.write_bytes(uri, whole[:length])
        with pytest.raises(RunFolderError, match="damaged"):
            read_parquet(uri)


def test_the_content_hash_ignores_order_and_division_but_not_content(tmp_path):
    whole, _ = make_part(["a", "b", "c"])
    write_part(str(tmp_path / "one" / FEATURES), whole)
    for row in (2, 0, 1):
        write_part(str(tmp_path / "two" / FEATURES), whole.slice(row, 1))
    write_part(str(tmp_path / "other" / FEATURES), make_part(["a", "b", "c"], seed=5)[0])
    index = make_index(["a", "b", "c"])
    one, two, other = (check_complete(str(tmp_path / n), index, 0)["content_sha256"] for n in ("one", "two", "other"))
    assert one == two != other


@pytest.mark.parametrize(
    ("stored", "message"),
    [(["a"], "1 of 2 feature rows are missing, such as view 0 of 'b'"), (["a", "b", "z"], "not asked for.*'z'")],
)
def test_what_is_missing_or_extra_is_told(tmp_path, stored, message):
    write_part(str(tmp_path / FEATURES), make_part(stored)[0])
    with pytest.raises(RunFolderError, match=message):
        check_complete(str(tmp_path), make_index(["a", "b"]), 0)


def test_a_row_stored_twice_is_told(tmp_path):
    part, _ = make_part(["a", "b"])
    write_part(str(tmp_path / FEATURES), part)
    write_part(str(tmp_path / FEATURES), part.slice(0, 1))
    with pytest.raises(RunFolderError, match="stored twice.*'a'"):
        check_complete(str(tmp_path), make_index(["a", "b"]), 0)


def test_known_features_are_found_by_key_and_others_are_not(tmp_path):
    ids = [f"i{n}" for n in range(200)]
    run = RunFolder.open(str(tmp_path / "run"), FeaturesConfig(), "features")
    features = {}
    for at in (0, 100):
        part, values = make_part(ids[at : at + 100], (0, 1), seed=at)
        features |= dict(zip([bytes(key) for key in part["key"].to_pylist()], values, strict=True))
        write_part(run.path(FEATURES), part)
    run.finish({})
    assert find_runs(str(tmp_path / "next"), FeaturesConfig()) == [str(tmp_path / "run")]
    assert find_runs(str(tmp_path / "next"), FeaturesConfig(dtype="float32")) == []
    known = KnownFeatures([str(tmp_path / "run")])
    assert len(known) == 400
    for key, feature in features.items():
        found = known.get(key)
        assert found is not None and found[1] == 1.0
        np.testing.assert_array_equal(found[0], feature)
    assert known.get(b"\0" * 32) is None
    assert KnownFeatures([]).get(b"\0" * 32) is None


def test_a_damaged_part_of_another_run_is_left_out(tmp_path):
    run = RunFolder.open(str(tmp_path / "run"), FeaturesConfig(), "features")
    write_part(run.path(FEATURES), make_part(["a"])[0])
    files.write_bytes(write_part(run.path(FEATURES), make_part(["b"])[0]), b"rubbish")
    assert len(KnownFeatures([run.uri])) == 1
