"""Where the index of a gallery comes from: its snapshot, if it fits, or else the record."""

import logging

import numpy as np

from cnnray import files
from cnnray.config import RecordConfig
from cnnray.errors import CheckpointError
from cnnray.infer.gallery.index import FaceIndex
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.rows import GalleryRow, Rows
from cnnray.infer.gallery.snapshot import delete_snapshot, read_content

logger = logging.getLogger("cnnray")


def snapshot_folder(record: Record, row: GalleryRow, config: RecordConfig) -> str:
    """Where the index of a gallery is kept; "" is nowhere."""
    if config.snapshots:
        return files.join(files.absolute(config.snapshots), row.token)
    return f"{record.database.shown}.snapshots/{row.token}" if record.database.is_sqlite else ""


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


def load_index(record: Record, row: GalleryRow, config: RecordConfig) -> FaceIndex:
    """An index of all people of the record, exact as yet."""
    index = FaceIndex(row.contract.num_features, exact_until=config.exact_until)
    nobody = np.zeros(0, np.int64)
    with record.load_faces(row.id) as (version, _, blocks):
        for rows in blocks:
            ids_I, points_ID = mean_embeddings(rows.identity_ids_N, rows.embeddings_ND)
            index.apply(0, Rows(ids_I, ids_I, points_ID), nobody)
        index.version = version
    return index
