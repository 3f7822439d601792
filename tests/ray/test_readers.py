"""Sources of images become an index: folders, split folders, flat folders, manifests, and what is refused."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnray import files
from cnnray.config import SourceConfig
from cnnray.data.readers import build_index, list_images
from cnnray.errors import DataError, StorageError

pytestmark = pytest.mark.usefixtures("ray_cluster")
CONFIG = SourceConfig()


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def rows(table):
    return list(zip(table["id"].to_pylist(), table["label"].to_pylist(), table["split"].to_pylist(), strict=True))


def test_class_folders_give_labels_and_deeper_folders_belong_to_the_class(tmp_path):
    touch(tmp_path, "cat/1.jpg", "cat/old/2.PNG", "dog/3.webp", "dog/notes.txt", "dog/.hidden.jpg", ".git/4.jpg")
    table = build_index(str(tmp_path), CONFIG)
    assert rows(table) == [
        ("cat/1.jpg", "cat", "train"),
        ("cat/old/2.PNG", "cat", "train"),
        ("dog/3.webp", "dog", "train"),
    ]
    assert table["path"].to_pylist()[0] == f"{tmp_path}/cat/1.jpg"


def test_split_folders_give_splits_and_labels(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "validation/dog/2.jpg", "test/cat/3.jpg")
    assert rows(build_index(str(tmp_path), CONFIG)) == [
        ("test/cat/3.jpg", "cat", "test"),
        ("train/cat/1.jpg", "cat", "train"),
        ("validation/dog/2.jpg", "dog", "val"),
    ]


def test_a_flat_folder_has_no_labels(tmp_path):
    touch(tmp_path, "b.jpg", "a.jpg")
    assert rows(build_index(str(tmp_path), CONFIG)) == [("a.jpg", None, "train"), ("b.jpg", None, "train")]


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    touch(tmp_path / "far", "1.jpg")
    (tmp_path / "src").mkdir()
    os.symlink(tmp_path / "far", tmp_path / "src" / "cat")
    os.symlink(tmp_path / "far", tmp_path / "far" / "loop")
    assert [row[0] for row in rows(build_index(str(tmp_path / "src"), CONFIG))] == ["cat/1.jpg"]


def test_an_object_store_is_listed_like_a_disk():
    for name in ("cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg", "dog/x.txt"):
        files.write_bytes(f"memory://photos/{name}", b"")
    # the in-memory store lives in this process, so its listing is called here and not in a Ray task
    assert sorted(list_images("memory://photos", "cat").to_pylist()) == ["cat/1.jpg", "cat/deep/2.jpg"]


def test_a_csv_manifest_resolves_paths_beside_it_and_keeps_labels_as_text(tmp_path):
    (tmp_path / "m.csv").write_text(
        "path,label,split\na/1.jpg,007,train\n/abs/2.jpg,8,val\ns3://b/3.jpg,9,\n4.jpg,,val\n"
    )
    table = build_index(str(tmp_path / "m.csv"), CONFIG)
    by_id = {row["id"]: row for row in table.to_pylist()}
    assert by_id["a/1.jpg"] == {"id": "a/1.jpg", "path": f"{tmp_path}/a/1.jpg", "label": "007", "split": "train"}
    assert by_id["/abs/2.jpg"]["path"] == "/abs/2.jpg" and by_id["/abs/2.jpg"]["split"] == "val"
    assert by_id["s3://b/3.jpg"]["path"] == "s3://b/3.jpg" and by_id["s3://b/3.jpg"]["split"] == "train"
    assert by_id["4.jpg"]["label"] is None


def test_a_parquet_manifest_with_ids_may_name_a_path_twice(tmp_path):
    pq.write_table(pa.table({"id": ["x", "y"], "file": ["1.jpg", "1.jpg"], "kind": ["a", "b"]}), tmp_path / "m.parquet")
    table = build_index(str(tmp_path / "m.parquet"), SourceConfig(path_column="file", label_column="kind"))
    assert rows(table) == [("x", "a", "train"), ("y", "b", "train")]


def test_a_manifest_without_labels_is_read_on_request(tmp_path):
    (tmp_path / "m.csv").write_text("path\n1.jpg\n")
    assert rows(build_index(str(tmp_path / "m.csv"), SourceConfig(label_column=""))) == [("1.jpg", None, "train")]


def test_a_split_divides_every_class(tmp_path):
    touch(tmp_path, *[f"{c}/{n}.jpg" for c in "ab" for n in range(10)])
    table = build_index(str(tmp_path), CONFIG, split="train=0.8,val=0.2", seed=1)
    assert sorted((label, split) for _, label, split in rows(table)).count(("a", "val")) == 2
    assert len(table) == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "nothing at"),
        (lambda p: p.mkdir(), "expected images in .* but found none"),
        (lambda p: touch(p, "cat/1.jpg", "stray.jpg"), "beside the class folders, such as 'stray.jpg'"),
        (lambda p: touch(p, "train/1.jpg", "val/cat/2.jpg"), "no class folder, such as train/1.jpg"),
    ],
    ids=["absent", "empty", "stray", "splits-without-classes"],
)
def test_folders_that_cannot_be_used_are_explained(tmp_path, make, message):
    source = tmp_path / "src"
    make(source)
    with pytest.raises(DataError, match=message):
        build_index(str(source), CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n1.jpg,a\n", "path is missing; it has file, label"),
        ("path,kind\n1.jpg,a\n", "label is missing; it has path, kind"),
        ("path,label\n1.jpg,a\n1.jpg,b\n", "'1.jpg'; add a column 'id'"),
        ("path,label\n,a\n", "1 of 1 have none"),
        ("path,label\n1.jpg,a,b\n", "CSV manifest"),
        ("", "CSV manifest"),
    ],
)
def test_manifests_that_cannot_be_used_are_explained(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        build_index(str(tmp_path / "m.csv"), CONFIG)


def test_a_damaged_parquet_manifest_and_a_foreign_file_are_explained(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "m.doc").write_bytes(b"?")
    with pytest.raises(DataError, match="PARQUET manifest"):
        build_index(str(tmp_path / "m.parquet"), CONFIG)
    with pytest.raises(DataError, match=r"\.csv or \.parquet"):
        build_index(str(tmp_path / "m.doc"), CONFIG)


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    folder = os.fsencode(tmp_path / "cat")
    os.mkdir(folder)
    with open(folder + b"/\xff.jpg", "wb"):
        pass
    with pytest.raises((DataError, StorageError), match="UTF-8"):
        list_images(str(tmp_path), "cat")
