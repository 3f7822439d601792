"""A gallery as one Parquet file: a row for each face, and one for each person without faces.

identity, name, metadata (JSON text), embedding, model, source_sha256, quality (JSON text), created_at; the rows of
a person are together. The schema's metadata says which gallery it was, its contract and policy; the footer has the hash
of the content, see `content_hash`. Calibrations stay behind: they name people by numbers.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnray import files
from cnnray.config import QualityPolicy, RecordConfig
from cnnray.errors import DataError, GalleryError, OptionError
from cnnray.infer.gallery import names
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Person
from cnnray.infer.gallery.rows import Contract, NewFace, check_vectors

_ABOUT, _CONTENT = b"cnnray_gallery", "cnnray_content"
_BATCH = 1000  # rows of one transaction
_TEXTS = ("identity", "name", "metadata", "model", "source_sha256", "quality", "created_at")
_CONTENTS = ("identity", "name", "metadata", "source_sha256", "quality")
Row = Mapping[str, Any]


def export_gallery(gallery: Gallery, uri: str) -> dict[str, Any]:
    """Write all of a gallery into one file, as of one moment.

    Args:
        uri: of the file, which is replaced whole or not at all.

    Returns:
        gallery, model, identities, faces, content (see `content_hash`).

    Raises:
        StorageError: it cannot be written.
    """
    row = gallery.row
    about = {"gallery": row.name, "contract": row.contract._asdict(), "policy": dataclasses.asdict(row.policy)}
    schema = _schema(row.contract.num_features).with_metadata({_ABOUT: json.dumps(about)})
    content = _Content()
    with (
        contextlib.closing(gallery.record.export_rows(row.id)) as blocks,
        files.replacing(uri) as sink,
        pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False, write_page_checksum=True) as writer,
    ):
        for block in blocks:
            rows = [_exported(one, row.contract) for one in block]
            for one in rows:
                content.add(one)
            writer.write_table(_table(rows, schema))
        writer.add_key_value_metadata({_CONTENT: content.hash()})
    return {"gallery": row.name, "model": row.contract.model} | content.facts()


def import_gallery(record: Record, name: str, uri: str, config: RecordConfig | None = None) -> dict[str, Any]:
    """Put the people of a file into a gallery, which is made where there is none, with the file's policy.

    All of the file is checked first. Then it is taken in some people at a time: the same call after a kill, or another
    one, adds what is missing. Names and metadata become those of the file; quality and conflicts were judged before.

    Returns:
        gallery, model, identities and faces of the file, added (faces), content.

    Raises:
        DataError: no file of a gallery, or a damaged one.
        GalleryError: "model_mismatch"; "bad_vector", "bad_name": rows that no gallery has.
    """
    source = _Source(uri)
    content = source.check()
    create_gallery(record, name, source.contract, source.policy, exist_ok=True)
    gallery = Gallery.open(record, name, config, source.contract)
    added = 0
    for rows in source.blocks():
        people = [(key, list(some)) for key, some in groupby(rows, lambda row: row["identity"])]
        faceless = [some[0] for _, some in people if some[0]["embedding"] is None]
        for row in faceless:
            _add_faceless(gallery, row)
        done = gallery.enroll_many([_person(key, some) for key, some in people if some[0]["embedding"] is not None])
        for one in done:
            if isinstance(one, GalleryError):
                raise one
            added += one.added
    gallery.maintain()
    return {"gallery": name, "model": source.contract.model, "added": added} | content.facts()


def content_hash(gallery: Gallery) -> str:
    """A hash of who is in a gallery with which faces: equal for equal content, in whatever order it was enrolled.

    It covers ids, names and metadata of people, and embeddings, photos' hashes and quality of faces; not the times.
    """
    content = _Content()
    for block in gallery.record.export_rows(gallery.row.id):
        for row in block:
            content.add(_exported(row, gallery.row.contract))
    return content.hash()


class _Content:
    """Counts and hash of rows that are added one after the other."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._people: set[str] = set()
        self._faces = 0

    def add(self, row: Row) -> None:
        """A row of the file."""
        vector = b"" if row["embedding"] is None else np.asarray(row["embedding"], "<f4").tobytes()
        texts = json.dumps([row[name] for name in _CONTENTS])
        self._rows.append(hashlib.sha256(texts.encode() + vector).digest())
        self._people.add(row["identity"])
        self._faces += row["embedding"] is not None

    def hash(self) -> str:
        """Of all rows, in no order."""
        return hashlib.sha256(b"".join(sorted(self._rows))).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Identities, faces, content."""
        return {"identities": len(self._people), "faces": self._faces, "content": self.hash()}


class _Source:
    """A file that is read in blocks.

    Raises:
        DataError: it is no gallery's, or cut short.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        with self._opened() as file:
            try:
                about = json.loads((file.schema_arrow.metadata or {})[_ABOUT])
                self.contract, self.policy = Contract(**about["contract"]), QualityPolicy(**about["policy"])
                self._content = (file.metadata.metadata or {})[_CONTENT.encode()].decode()
            except (KeyError, TypeError, ValueError, OptionError) as error:
                raise DataError(
                    f"expected a gallery that `cnnray faces export` wrote in {uri}, got another file"
                ) from error
            if not file.schema_arrow.equals(_schema(self.contract.num_features)):
                raise DataError(f"expected the columns of a gallery in {uri}, got {file.schema_arrow.names}")

    def check(self) -> _Content:
        """Read all of it.

        Raises:
            DataError: it is damaged, or what it says of people contradicts itself.
            GalleryError: "bad_vector", "bad_name".
        """
        content = _Content()
        for rows in self.blocks():
            for row in rows:
                content.add(row)
                self._check_row(row)
        if content.hash() != self._content:
            raise DataError(f"{self._uri} is damaged: its rows are others than were exported; export it again")
        return content

    def blocks(self) -> Iterator[list[dict[str, Any]]]:
        """Its rows, embeddings as float32 arrays or None."""
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                columns = [batch.column(name).to_pylist() for name in _TEXTS]
                flat = batch.column("embedding")
                vectors = flat.values.to_numpy(zero_copy_only=False).reshape(-1, self.contract.num_features)
                vectors = vectors[flat.offset : flat.offset + len(flat)]
                known = flat.is_valid().to_pylist()
                yield [
                    dict(zip(_TEXTS, texts, strict=True)) | {"embedding": vector if there else None}
                    for *texts, vector, there in zip(*columns, vectors, known, strict=True)
                ]

    def _check_row(self, row: Row) -> None:
        where = f"of identity {row['identity']!r} in {self._uri}"
        if names.check_identity(row["identity"]) != row["identity"]:
            raise GalleryError("bad_name", f"expected form NFC {where}")
        names.check_text("name", row["name"])
        _metadata(row, where)
        if row["embedding"] is None:
            return
        try:
            check_vectors(row["embedding"][None], self.contract.num_features)
        except GalleryError as error:
            raise GalleryError("bad_vector", f"a face {where}: {error}") from error
        if row["model"] != self.contract.model:
            raise GalleryError("model_mismatch", f"expected faces of {self.contract.model}, got {row['model']} {where}")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        fs, path = files.filesystem(self._uri)
        try:
            with fs.open(path, "rb") as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
                yield file
        except FileNotFoundError:
            raise DataError(f"expected a gallery's Parquet file, but there is nothing at {self._uri}") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._uri} is damaged, or no Parquet file: {error}") from error


def _schema(num_features: int) -> pa.Schema:
    texts: list[tuple[str, Any]] = [(name, pa.string()) for name in _TEXTS]
    return pa.schema([*texts[:3], ("embedding", pa.list_(pa.float32(), num_features)), *texts[3:]])


def _exported(row: Row, contract: Contract) -> dict[str, Any]:
    """A row of `Record.export_rows` as one of the file."""
    blob = row["embedding"]
    values = {name: row[name] for name in ("name", "metadata", "source_sha256", "quality", "created_at")}
    vector = None if blob is None else np.frombuffer(blob, "<f4")
    return values | {"identity": row["key"], "embedding": vector, "model": contract.model}


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as Arrow; list scalars one by one would take ten times as long as the database."""
    size = schema.field("embedding").type.list_size
    nothing = np.zeros(size, np.float32)
    flat = np.concatenate([nothing if row["embedding"] is None else row["embedding"] for row in rows])
    missing = pa.array([row["embedding"] is None for row in rows])
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in _TEXTS}
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), size, mask=missing)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _person(key: str, rows: Iterable[Row]) -> Person:
    rows = list(rows)
    faces = [NewFace(row["embedding"], row["source_sha256"], json.loads(row["quality"])) for row in rows]
    first = rows[0]
    metadata = json.loads(first["metadata"])
    return Person(
        key=key, faces=faces, name=first["name"], metadata=metadata, accept_quality=True, accept_conflict=True
    )


def _add_faceless(gallery: Gallery, row: Row) -> None:
    metadata = json.loads(row["metadata"])
    try:
        gallery.add(row["identity"], name=row["name"], metadata=metadata)
    except GalleryError as error:
        if error.code != "identity_exists":
            raise
        gallery.update(row["identity"], name=row["name"], metadata=metadata)


def _metadata(row: Row, where: str) -> None:
    try:
        metadata = json.loads(row["metadata"])
        quality = json.loads(row["quality"] or "{}")
    except (TypeError, ValueError) as error:
        raise DataError(f"expected JSON as metadata and quality {where}: {error}") from error
    if not isinstance(metadata, dict) or not isinstance(quality, dict):
        raise DataError(f"expected JSON objects as metadata and quality {where}")
    names.dump_metadata(metadata)
