"""Galleries as files: what is exported is what is imported, on SQLite and PostgreSQL."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnray import files
from cnnray.config import QualityPolicy
from cnnray.data import gallery_files
from cnnray.data.gallery_files import content_hash, export_gallery, import_gallery
from cnnray.errors import DataError, GalleryError, StorageError
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from tests.unit.test_gallery import CONTRACT, SIZE, person, vector

POLICY = QualityPolicy(min_size=33.0)
ADA = (vector(1), vector(2, near=vector(1)))  # near each other, so that their mean is near both


@pytest.fixture
def gallery(record):
    create_gallery(record, "staff", CONTRACT, POLICY)
    gallery = Gallery.open(record, "staff")
    gallery.enroll(person("ada", *ADA, name="Ada Łoś", metadata={"b": [1, None], "a": "é"}))
    gallery.add("nobody", name="No Body", metadata={"x": 1})
    gallery.enroll(person("bob"))
    return gallery


@pytest.fixture
def file(gallery, tmp_path):
    uri = str(tmp_path / "out" / "staff.parquet")
    export_gallery(gallery, uri)
    return uri


def test_an_export_is_a_plain_parquet_file(gallery, file):
    table = pq.read_table(file)
    assert table["identity"].to_pylist() == ["ada", "ada", "nobody", "bob"]
    assert table["name"].to_pylist() == ["Ada Łoś"] * 2 + ["No Body", "bob"]
    assert json.loads(table["metadata"][0].as_py()) == {"a": "é", "b": [1, None]}
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), SIZE)
    np.testing.assert_array_equal(table["embedding"][1].as_py(), ADA[1])
    assert table["embedding"][2].as_py() is None and table["source_sha256"][2].as_py() is None
    assert json.loads(table["quality"][0].as_py())["size"] == 90
    assert set(table["model"].to_pylist()) == {CONTRACT.model} and table["created_at"][0].as_py().startswith("20")
    about = json.loads(table.schema.metadata[b"cnnray_gallery"])
    assert about["contract"] == CONTRACT._asdict() and about["policy"]["min_size"] == 33


def test_export_and_import_give_the_same_content_in_small_blocks_too(gallery, record, file, tmp_path, monkeypatch):
    monkeypatch.setattr("cnnray.infer.gallery.record._BLOCK", 2)
    monkeypatch.setattr(gallery_files, "_BATCH", 1)  # also the faces of one person come apart
    found = import_gallery(record, "copy", file)
    copy = Gallery.open(record, "copy")
    assert found | {"added": 3, "faces": 3, "identities": 3, "content": content_hash(gallery)} == found
    assert content_hash(copy) == content_hash(gallery)
    assert (copy.row.contract, copy.row.policy) == (CONTRACT, POLICY)
    again = export_gallery(copy, str(tmp_path / "again.parquet"))
    assert again["content"] == found["content"]
    assert copy.recognize(ADA[0][None]).matches[0].identity.name == "Ada Łoś"


def test_an_import_can_be_repeated_and_completes_what_is_there(gallery, record, file):
    before = gallery.describe()["gallery_version"]
    assert import_gallery(record, "staff", file)["added"] == 0
    assert gallery.describe()["gallery_version"] == before
    wanted = content_hash(gallery)
    gallery.erase("bob")
    gallery.update("nobody", name="Somebody")
    gallery.delete_face("ada", gallery.get("ada")[1][0].id)
    assert content_hash(gallery) != wanted
    assert import_gallery(record, "staff", file)["added"] == 2
    assert content_hash(gallery) == wanted
    gallery.enroll(person("eve"))
    import_gallery(record, "staff", file)
    assert gallery.get("eve")[0].faces == 1  # who is not in the file stays


def test_another_models_gallery_takes_no_file(record, file):
    create_gallery(record, "other", CONTRACT._replace(model="other@1"))
    with pytest.raises(GalleryError, match="do not compare") as caught:
        import_gallery(record, "other", file)
    assert caught.value.code == "model_mismatch" and not Gallery.open(record, "other").people()[0]


def test_an_empty_gallery_travels_too(record, tmp_path):
    create_gallery(record, "empty", CONTRACT)
    found = export_gallery(Gallery.open(record, "empty"), str(tmp_path / "e.parquet"))
    assert (found["faces"], found["identities"]) == (0, 0)
    assert import_gallery(record, "copy", str(tmp_path / "e.parquet"))["added"] == 0
    assert Gallery.open(record, "copy").row.contract == CONTRACT


def test_every_cut_or_changed_file_is_refused_and_nothing_of_it_is_taken(gallery, file, tmp_path):
    record, whole = gallery.record, files.read_bytes(file)
    bad = str(tmp_path / "bad.parquet")
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        files.write_bytes(bad, bytes(changed))
        try:
            import_gallery(record, "damaged", bad)
        except (DataError, GalleryError):
            names = [row.name for row, _, _ in record.list_galleries()]
            assert names == ["staff"], (place, names)
        else:  # a bit that says nothing of the content, such as of the writer's version
            assert content_hash(Gallery.open(record, "damaged")) == content_hash(gallery)
            record.drop_gallery("damaged")
    for content in (b"", b"rubbish", whole[:-1], whole[: len(whole) // 2]):
        files.write_bytes(bad, content)
        with pytest.raises(DataError, match="damaged"):
            import_gallery(record, "damaged", bad)


def rewritten(file, uri, **columns):
    """The file with other columns, and its hash unchanged."""
    table = pq.read_table(file)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    with pq.ParquetWriter(uri, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"cnnray_content": "0" * 64})
    return uri


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"embedding": [vector(1), np.full(SIZE, np.nan), None, vector(3)]}, "'ada'.*NaN"),
        ({"embedding": [vector(1) * 2, vector(2), None, vector(3)]}, "'ada'.*length 2"),
        ({"identity": ["a/b", "a/b", "c", "d"]}, "no path"),
        ({"identity": ["e\u0301", "e\u0301", "c", "d"]}, "form NFC"),
        ({"metadata": ["{}", "{}", "[]", "{}"]}, "'nobody'.*|JSON objects"),
        ({"quality": ["{", "{}", None, "{}"]}, "expected JSON"),
        ({"model": ["other", "other", "x", "x"]}, "got other"),
        ({"name": ["new", "new", "b", "c"]}, "its rows are others"),
    ],
)
def test_rows_that_no_gallery_has_are_refused(gallery, file, tmp_path, columns, message):
    bad = rewritten(file, str(tmp_path / "bad.parquet"), **columns)
    with pytest.raises((DataError, GalleryError), match=message):
        import_gallery(gallery.record, "bad", bad)
    assert len(gallery.record.list_galleries()) == 1


def test_other_files_and_places(gallery, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="expected a gallery that `cnnray faces export` wrote"):
        import_gallery(gallery.record, "x", str(tmp_path / "other.parquet"))
    with pytest.raises(DataError, match="there is nothing at"):
        import_gallery(gallery.record, "x", str(tmp_path / "none.parquet"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot access"):
        export_gallery(gallery, str(tmp_path / "file" / "x.parquet"))


def test_an_export_that_fails_leaves_the_file_before_it(gallery, file, monkeypatch):
    before = files.read_bytes(file)
    monkeypatch.setattr(gallery_files, "_table", lambda rows, schema: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_gallery(gallery, file)
    assert files.read_bytes(file) == before
    assert [uri.rsplit("/", 1)[1] for uri in files.list_files(file.rsplit("/", 1)[0])] == ["staff.parquet"]


def test_a_gallery_travels_through_an_object_store(gallery, record):
    found = export_gallery(gallery, "memory://bucket/staff.parquet")
    assert import_gallery(record, "copy", "memory://bucket/staff.parquet")["content"] == found["content"]
