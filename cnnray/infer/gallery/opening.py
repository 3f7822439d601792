"""Where the index of a gallery comes from: its snapshot, if it fits, or else the record."""

import contextlib
import gc
import logging
from collections.abc import Iterator

import numpy as np

from cnnray import files
from cnnray.config import RecordConfig
from cnnray.errors import CheckpointError
from cnnray.infer.gallery.index import FaceIndex
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.rows import GalleryRow
from cnnray.infer.gallery.snapshot import delete_snapshot, list_snapshots, read_content

logger = logging.getLogger("cnnray")


def snapshot_folder(record: Record, row: GalleryRow, config: RecordConfig) -> str:
    """Where the index of a gallery is kept; "" is nowhere."""
    parent = _parent(record, config)
    return files.join(parent, row.token) if parent else ""


def snapshot_contract(record: Record, row: GalleryRow, version: int) -> dict[str, str]:
    """What a snapshot must have been made of: this gallery, this model, and this history of changes."""
    return {
        "gallery": row.token,
        "model": row.contract.model,
        "audit_hash": record.audit_hash(row.token, version),
    }


def load_snapshot_of(record: Record, row: GalleryRow, config: RecordConfig) -> FaceIndex | None:
    """The index of the gallery's snapshot; None where there is none that fits, and then it is gone."""
    folder = snapshot_folder(record, row, config)
    if not folder or not files.exists(folder):
        return None
    try:
        version = int(read_content(folder)["version"])
        if version > row.version:
            raise CheckpointError(f"the snapshot {folder} is at version {version}, the record at {row.version}")
        contract = snapshot_contract(record, row, version)
        return FaceIndex.load(folder, contract, exact_until=config.exact_until)
    except CheckpointError as error:
        logger.warning("%s; the index is built from the record", error)
        delete_snapshot(folder)
        return None


def forget_dropped(record: Record, config: RecordConfig) -> None:
    """Remove the snapshots of galleries that were dropped elsewhere meanwhile: they hold embeddings of people who were
    erased. Those of galleries of another record stay.

    Raises:
        StorageError: one cannot be removed.
    """
    parent = _parent(record, config)
    for token in sorted(list_snapshots(parent)) if parent else ():
        if record.was_dropped(token):
            delete_snapshot(files.join(parent, token))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of rows as tuples, none of them in a cycle: the garbage collector would take more than half of the time
    to look at them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parent(record: Record, config: RecordConfig) -> str:
    if config.snapshots:
        return files.absolute(config.snapshots)
    return f"{record.database.shown}.snapshots" if record.database.is_sqlite else ""


def load_index(record: Record, row: GalleryRow, config: RecordConfig) -> FaceIndex:
    """An index of all people of the record, exact as yet."""
    index = FaceIndex(row.contract.num_features, exact_until=config.exact_until)
    nobody = np.zeros(0, np.int64)
    with record.load_faces(row.id) as (version, _, blocks), _without_collector():
        for rows in blocks:
            index.apply(0, *mean_embeddings(rows.identity_ids_N, rows.embeddings_ND), nobody)
        index.version = version
    return index
