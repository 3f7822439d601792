"""Stored features: Parquet parts in RUN/features, bad inputs in RUN/quarantine, one index of what was asked for.

A part is written whole or not at all, so what is there after a kill is complete rows. Its name is made of the ids in
it and the sha256 of its bytes: writing the same rows again replaces the part, and every changed bit is seen.

One row per (image, view), sorted by neither: `id, path, label, split, view, label_b, lam, key, feature`.
`feature` is FixedSizeList<float16|float32>[D]; for maps D = C*H*W in C order and the shape stands in the
schema's metadata under "shape".
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnnray import files
from cnnray.data.runs import check_owner, read_manifest
from cnnray.errors import RunFolderError

FEATURES, QUARANTINE, INDEX = "features", "quarantine", "index.parquet"
_PART = re.compile(r"part-[0-9a-f]{16}-([0-9a-f]{64})\.parquet$")
INDEX_SCHEMA = pa.schema({"id": pa.string(), "path": pa.string(), "label": pa.string(), "split": pa.string()})
QUARANTINE_SCHEMA = pa.schema({"id": pa.string(), "path": pa.string(), "code": pa.string(), "message": pa.string()})


@dataclass(frozen=True)
class FeatureTable:
    """The features of a finished run in memory, sorted by (id, view).

    Attributes:
        ids, labels, splits, labels_b: [n] arrays of str; label and label_b may be None.
        views: [n] int32; 0 is the plain view, 1..K are augmented.
        lams: [n] float32; the share of `label` in the row's soft label, 1 where nothing was mixed in.
        features: [n, D] in the stored dtype, or [n, C, H, W] for maps.
        manifest: of the run.
    """

    ids: npt.NDArray[np.object_]
    labels: npt.NDArray[np.object_]
    splits: npt.NDArray[np.object_]
    views: npt.NDArray[np.int32]
    labels_b: npt.NDArray[np.object_]
    lams: npt.NDArray[np.float32]
    features: npt.NDArray[Any]
    manifest: dict[str, Any]


def feature_schema(shape: Sequence[int], dtype: str) -> pa.Schema:
    """The schema of a part whose features have `shape` ([D] or [C, H, W]) and `dtype` float16 or float32."""
    value = pa.float16() if dtype == "float16" else pa.float32()
    fields = [pa.field(name, pa.string()) for name in ("id", "path", "label", "split")]
    fields += [pa.field("view", pa.int32()), pa.field("label_b", pa.string()), pa.field("lam", pa.float32())]
    fields += [pa.field("key", pa.binary(32)), pa.field("feature", pa.list_(value, int(np.prod(shape))))]
    return pa.schema(fields, metadata={"shape": json.dumps(list(shape))})


def feature_column(features: npt.NDArray[Any], dtype: str) -> pa.Array:
    """[n, ...] numbers as a FixedSizeList column of n rows."""
    flat = np.ascontiguousarray(features.reshape(len(features), -1).astype(dtype))
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def feature_array(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """A FixedSizeList column of n rows as [n, D] numbers."""
    size = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    # flatten() honours the offsets of a slice, .values would not
    arrays = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, size) for chunk in chunks]
    return np.concatenate(arrays) if arrays else np.empty((0, size), column.type.value_type.to_pandas_dtype())


def write_part(folder: str, table: pa.Table) -> str:
    """Write rows as one part of `folder`, all or nothing; returns its URI.

    Raises:
        StorageError: disk full or unreachable; earlier parts are untouched.
    """
    ids = hashlib.sha256("\n".join(sorted(set(table.column("id").to_pylist()))).encode()).hexdigest()[:16]
    content = to_parquet(table)
    uri = files.join(folder, f"part-{ids}-{hashlib.sha256(content).hexdigest()}.parquet")
    files.write_bytes(uri, content)
    return uri


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file with page checksums."""
    sink = io.BytesIO()
    # float features do not compress and dictionaries of unique values only cost: both measured as wasted time
    pq.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=False, write_page_checksum=True)
    return sink.getvalue()


def read_parquet(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, verified: a part by the sha256 in its name, another file by its page checksums.

    Raises:
        RunFolderError: it is cut short or has changed bits.
    """
    try:
        content = files.read_bytes(uri)
        named = _PART.search(uri)
        if named and hashlib.sha256(content).hexdigest() != named[1]:
            raise RunFolderError(f"{uri} is damaged (other bytes than its name says); delete it and run it again")
        return pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).read(columns=columns)
    except FileNotFoundError:
        raise RunFolderError(f"expected {uri}, but it is not there") from None
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{uri} is damaged ({error}); delete it and run the same command again") from error


def iter_parts(run: str, columns: Sequence[str] | None = None, folder: str = FEATURES) -> Iterator[pa.Table]:
    """The parts in a folder of a run one after another."""
    for uri in files.list_files(files.join(run, folder), ".parquet"):
        yield read_parquet(uri, columns)


def read_quarantine(run: str) -> pa.Table:
    """All quarantined inputs of a run: id, path, code, message."""
    return pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *iter_parts(run, folder=QUARANTINE)])


def quarantine_row(row: dict[str, Any], code: str, message: str) -> dict[str, Any]:
    """The quarantine's entry for a bad input `row`, which has `id` and `path`."""
    return {"id": row["id"], "path": row["path"], "code": code, "message": message}


@dataclass(frozen=True)
class Outputs:
    """Where the workers of one command store what they make.

    Attributes:
        run: URI of the run folder.
        token: of the command, see `RunFolder`; "" stores without asking whose run it is.
    """

    run: str
    token: str = ""

    def store(self, folder: str, table: pa.Table) -> None:
        """Write rows as one part of a folder of the run; no rows, no part.

        Raises:
            RunFolderError: another command has taken over the run.
            StorageError: disk full or unreachable.
        """
        if self.token:
            check_owner(self.run, self.token)
        if table.num_rows:
            write_part(files.join(self.run, folder), table)

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the run.

        Raises:
            RunFolderError, StorageError: as `store`.
        """
        if self.token:
            check_owner(self.run, self.token)
        files.write_bytes(files.join(self.run, name), content)

    def quarantine(self, rows: list[dict[str, Any]]) -> None:
        """Store bad inputs, made by `quarantine_row`."""
        self.store(QUARANTINE, pa.Table.from_pylist(rows, QUARANTINE_SCHEMA))


def take_stock(run: str, folder: str = FEATURES) -> pa.Array:
    """Ids whose outputs (parts in `folder`) or quarantine entry are stored.

    A part with an id that another part already has is removed: a worker that outlived its command wrote it, and what
    else was in it is still to be done.
    """
    uris = [uri for place in (folder, QUARANTINE) for uri in files.list_files(files.join(run, place), ".parquet")]
    parts = {uri: read_parquet(uri, ["id"])["id"].unique() for uri in uris}
    ids = pa.concat_arrays([pa.array([], pa.string()), *parts.values()])
    if len(ids) == len(ids.unique()):
        return ids
    seen: set[str] = set()
    for uri, found in parts.items():
        if seen.isdisjoint(names := found.to_pylist()):
            seen.update(names)
        else:
            files.remove(uri)
    return pa.array(sorted(seen), pa.string())


def load_features(run: str) -> FeatureTable:
    """Read the features of a finished run into memory.

    Raises:
        RunFolderError: the run is not finished, or a part is damaged.
    """
    manifest = read_manifest(run)
    parts = list(iter_parts(run))
    if not parts:
        raise RunFolderError(f"expected features in {run}, but it holds none (kind {manifest.get('kind')!r})")
    table = pa.concat_tables(parts)
    table = table.take(pc.sort_indices(table, [("id", "ascending"), ("view", "ascending")]))
    shape = json.loads((parts[0].schema.metadata or {})[b"shape"])
    names = ("id", "label", "split", "label_b")
    text = {name: np.array(table.column(name).to_pylist(), dtype=object) for name in names}
    return FeatureTable(
        ids=text["id"],
        labels=text["label"],
        splits=text["split"],
        views=table.column("view").to_numpy(),
        labels_b=text["label_b"],
        lams=table.column("lam").to_numpy(),
        features=feature_array(table.column("feature")).reshape(-1, *shape),
        manifest=manifest,
    )


def row_digests(table: pa.Table) -> npt.NDArray[np.bytes_]:
    """A sha256 of every row's content: id, label, split, view, label_b, lam and the feature's exact bits."""
    features = feature_array(table.column("feature"))
    meta = table.select(["id", "label", "split", "view", "label_b", "lam"]).to_pylist()
    digests = [
        hashlib.sha256(json.dumps(list(row.values())).encode() + feature.tobytes()).digest()
        for row, feature in zip(meta, features, strict=True)
    ]
    return np.array(digests, "S32")
