"""One gallery: its record, an index over it, and what both mean together.

The record is right; the index follows it. A search first asks the record what changed and applies it, so that whatever
was acknowledged anywhere is seen by the next search everywhere.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnray import files
from cnnray.config import QualityPolicy, RecordConfig
from cnnray.errors import CnnrayError, GalleryError, RecordError, StorageError
from cnnray.infer.gallery import names
from cnnray.infer.gallery.calibrate import Calibration, threshold_for
from cnnray.infer.gallery.change import Change, now
from cnnray.infer.gallery.enrolling import Enrolling, changed_columns, check_person
from cnnray.infer.gallery.index import FaceIndex
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.opening import load_index, load_snapshot_of, snapshot_contract, snapshot_folder
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import (
    ClaimedMatch,
    Enrollment,
    Person,
    Receipt,
    Recognition,
    to_match,
)
from cnnray.infer.gallery.rows import Contract, Delta, FaceRow, GalleryRow, IdentityRow, check_vectors
from cnnray.infer.gallery.snapshot import delete_snapshot

logger = logging.getLogger("cnnray")

_MOST_SEARCHES = 100  # of one question, each after an erasure that came meanwhile
_MANY_CHANGES = 0.1  # of a gallery's size, after which a snapshot is too old to save time


class Gallery:
    """A gallery that is open; safe to use from several threads. Other processes may have it open, too.

    Args:
        record: of all galleries.
        row: this one's.
        index: over its people, at whatever version.
        config: where the index is kept, and of what kind it is.
    """

    def __init__(self, record: Record, row: GalleryRow, index: FaceIndex, config: RecordConfig) -> None:
        self.record, self._row, self._index, self._config = record, row, index, config
        self._snapshot = snapshot_folder(record, row, config)
        self._changing = threading.Lock()
        self._saved = -1

    @classmethod
    def open(
        cls, record: Record, name: str, config: RecordConfig | None = None, contract: Contract | None = None
    ) -> "Gallery":
        """The gallery with an index that is ready: from its snapshot, or else from the record.

        Args:
            contract: the embedder that is at hand, None if none is; the gallery's must be the same.

        Raises:
            GalleryError: "no_gallery"; "model_mismatch": its faces were embedded by another.
        """
        config = config or RecordConfig()
        row = record.get_gallery(name)
        if contract is not None:
            row.check_model(contract.model)
        index = load_snapshot_of(record, row, config)
        gallery = cls(record, row, index or load_index(record, row, config), config)
        gallery._read_row()  # the index may have seen a calibration that came after the row
        gallery._saved = index.version if index is not None else -1
        gallery.maintain()
        return gallery

    @property
    def row(self) -> GalleryRow:
        """As of the last look at the record."""
        return self._row

    @property
    def calibration(self) -> Calibration | None:
        """Where the threshold comes from."""
        return None if self._row.calibration is None else Calibration.from_json(self._row.calibration)

    def threshold(self) -> float:
        """Least score of a recognised face at the present number of people."""
        calibration = self.calibration
        if calibration is None:
            return self._row.contract.threshold
        return threshold_for(calibration, max(1, len(self._index)))

    def describe(self) -> dict[str, Any]:
        """What users want to know of a gallery, JSON values."""
        self.catch_up()
        return {
            "name": self._row.name,
            "model": self._row.contract.model,
            "num_features": self._row.contract.num_features,
            "identities": len(self._index),
            "faces": self.record.count_faces(self._row),
            "gallery_version": self._index.version,
            "threshold": self.threshold(),
            "calibration": self._row.calibration,
            "policy": asdict(self._row.policy),
            "created_at": self._row.created_at,
            "index": self._index.describe(),
        }

    # ---- enrolment ---------------------------------------------------------------------------------------------------

    def enroll(self, person: Person) -> Enrollment:
        """Enrol one person's faces; all of them or none.

        Raises:
            GalleryError: "low_quality" with `reasons`; "identity_conflict" with the `identity` that the face is taken
                for; "bad_name", "bad_vector"; "key_reused", "erased" of a request key.
        """
        (done,) = self.enroll_many([person])
        if isinstance(done, GalleryError):
            raise done
        return done

    def enroll_many(self, people: Sequence[Person]) -> list[Enrollment | GalleryError]:
        """Enrol in one transaction; who is refused has the error in place, and keeps out nobody else."""
        checked = [check_person(person, self._row) for person in people]
        with self.record.change(self._row.name) as change:
            self._check_same(change)
            self.catch_up()  # nobody can change the gallery now, so conflicts are seen
            enrolling = Enrolling(change, self.record, self._index, self.threshold())
            done = [one if isinstance(one, GalleryError) else enrolling.enroll(one) for one in checked]
        self.catch_up()
        return done

    # ---- recognition -------------------------------------------------------------------------------------------------

    def recognize(
        self, embeddings_ND: NDArray[np.floating], *, threshold: float | None = None, candidates: int = 0
    ) -> Recognition:
        """Who each face is, or nobody of the gallery.

        Args:
            embeddings_ND: of length 1, by the gallery's embedder.
            threshold: least score; None is the gallery's own.
            candidates: of `Match.candidates`.

        Raises:
            GalleryError: "bad_vector"; "no_gallery" once it is dropped.
        """
        queries = check_vectors(embeddings_ND, self._row.contract.num_features)
        for _ in range(_MOST_SEARCHES):
            version = self.catch_up()
            limit = self.threshold() if threshold is None else threshold
            found = self._index.search(queries, max(2, candidates))
            people = self.record.find_identities(set(found.identity_ids_NK[found.identity_ids_NK > 0].tolist()))
            if (found.identity_ids_NK > 0).sum() == np.isin(found.identity_ids_NK, list(people)).sum():
                break  # else somebody was erased just now: search again, without
        else:
            raise RecordError(f"the index of gallery {self._row.name!r} has people whom the record does not have")
        matches = [
            to_match(*columns, people, limit, candidates)
            for columns in zip(found.scores_NK, found.identity_ids_NK, strict=True)
        ]
        calibrated = threshold is None and self._row.calibration is not None
        return Recognition(version, limit, calibrated, tuple(matches))

    def verify(self, embedding_D: NDArray[np.floating], key: str, *, threshold: float | None = None) -> ClaimedMatch:
        """Whether a face is that of the person of id `key`.

        Args:
            threshold: least score; None is the embedder's own for two faces: one person is compared, however many the
                gallery has.

        Raises:
            GalleryError: "no_identity"; else as `recognize`.
        """
        queries = check_vectors(embedding_D[None], self._row.contract.num_features)
        identity, _ = self.record.get_identity(self._row, names.check_identity(key))
        version = self.catch_up()
        limit = self._row.contract.threshold if threshold is None else threshold
        score = float(self._index.compare(queries, np.array([identity.id]))[0])
        return ClaimedMatch(score >= limit, max(score, -1.0), limit, version, identity)

    # ---- people ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> tuple[IdentityRow, list[FaceRow]]:
        """A person and the person's faces.

        Raises:
            GalleryError: "no_identity".
        """
        return self.record.get_identity(self._row, names.check_identity(key))

    def people(self, cursor: int = 0, limit: int = 100) -> tuple[list[IdentityRow], int]:
        """People in the order in which they came, and the cursor of the next ones, 0 after the last."""
        found = self.record.list_identities(self._row, cursor, limit + 1)
        return found[:limit], found[limit - 1].id if len(found) > limit else 0

    def add(self, key: str, *, name: str = "", metadata: dict[str, Any] | None = None) -> IdentityRow:
        """A new person without faces, whom nobody is recognised as yet.

        Raises:
            GalleryError: "identity_exists"; "bad_name".
        """
        key, text = names.check_identity(key), names.dump_metadata(metadata or {})
        name = names.check_text("name", name or key)
        with self._change() as change:
            if change.find_identity(key) is not None:
                raise GalleryError("identity_exists", f"gallery {self._row.name!r} has an identity {key!r} already")
            identity = change.add_identity(key, name, text)
            change.audit("add_identity", identity.id)
        return identity

    def update(self, key: str, *, name: str = "", metadata: dict[str, Any] | None = None) -> IdentityRow:
        """Give a person another name, or other metadata.

        Raises:
            GalleryError: "no_identity"; "bad_name".
        """
        name = names.check_text("name", name) if name else ""
        text = None if metadata is None else names.dump_metadata(metadata)
        with self._change() as change:
            identity = change.get_identity(names.check_identity(key))
            if values := changed_columns(identity, name, text):
                change.update_identity(identity, **values)
                change.audit("update", identity.id, columns=sorted(values))
            return change.get_identity(identity.key)

    def delete_face(self, key: str, face_id: int) -> Receipt:
        """Erase one face of a person.

        Raises:
            GalleryError: "no_identity"; "no_such_face".
        """
        with self._change() as change:
            identity = change.get_identity(names.check_identity(key))
            change.remove_face(identity, face_id)
            entry = change.audit("delete_face", identity.id, faces=[face_id])
        return self._erased(change, identity.key, 1, entry)

    def erase(self, key: str) -> Receipt:
        """Erase a person: name, metadata, faces, and whatever answers told of the person.

        Raises:
            GalleryError: "no_identity".
        """
        with self._change() as change:
            identity = change.get_identity(names.check_identity(key))
            count = change.remove_identity(identity)
            entry = change.audit("erase", identity.id, faces=count)
        return self._erased(change, identity.key, count, entry)

    def _erased(self, change: Change, key: str, count: int, entry: str) -> Receipt:
        """The receipt of what is committed; nothing that fails now may keep it back."""
        at, purged = now(), dict(self.record.purge())
        try:
            self.catch_up()
            gone = not self._snapshot or not files.exists(self._snapshot)
        except CnnrayError as error:
            logger.warning("galleries: an erasure of %s is done, its index follows later: %s", self._row.name, error)
            gone = False
        if self._snapshot:
            purged["snapshot"] = gone
        return Receipt(self._row.name, key, count, change.version, at, entry, purged)

    # ---- the index ---------------------------------------------------------------------------------------------------

    def catch_up(self) -> int:
        """Apply what the record has and the index lacks; returns the version that is searched from now on.

        Raises:
            GalleryError: "no_gallery": it was dropped.
        """
        delta = self._changes_since(self._index.version)
        if delta.version > self._index.version:
            with self._changing:
                self._apply(self._index, delta)
        return self._index.version

    def _changes_since(self, version: int) -> Delta:
        """As of the record; raises GalleryError: "no_gallery"."""
        delta = self.record.changes_since(self._row.id, version)
        if delta is None:
            self._forget_snapshot()
            raise GalleryError("no_gallery", f"gallery {self._row.name!r} was dropped")
        return delta

    def _apply(self, index: FaceIndex, delta: Delta) -> None:
        """Bring an index to the version of a delta, which begins at the index's version or at one before it."""
        if delta.version <= index.version:  # another thread applied as much
            return
        if delta.settings:
            self._read_row()
        ids_I, points_ID = mean_embeddings(delta.faces.identity_ids_N, delta.faces.embeddings_ND)
        index.apply(delta.version, ids_I, points_ID, np.setdiff1d(delta.changed_I, ids_I))
        if delta.removed:
            self._forget_snapshot()

    def _read_row(self) -> None:
        row = self.record.get_gallery(self._row.name)
        if row.id == self._row.id:  # else it was dropped, and made anew
            self._row = row

    def maintain(self) -> None:
        """What needs to be done now and then, beside searches: a new structure after growth, a new snapshot, and what
        an erasure could not clean because somebody was reading."""
        self.catch_up()
        self.record.maintain()
        if self._index.needs_build:
            self._index.build()
        old = self._saved < 0 or self._index.version - self._saved > _MANY_CHANGES * len(self._index)
        if old and self._snapshot and not self._index.is_exact:
            self.save_snapshot()

    def save_snapshot(self) -> None:
        """Write the index into the gallery's folder; one with erased faces never stays there."""
        with self._changing:  # so that it has the version that the contract speaks of
            version = self._index.version
            self._index.save(self._snapshot, snapshot_contract(self.record, self._row, version))
            self._saved = version
        delta = self.record.changes_since(self._row.id, version)
        if delta is None or delta.removed:
            self._forget_snapshot()

    def rebuild(self) -> dict[str, Any]:
        """Read all faces from the record again, build the index anew, write a snapshot; returns `describe`."""
        index = load_index(self.record, self._row, self._config)
        with self._changing:
            # the index never gets older: whoever waits here has a delta that begins at the version of the one so far
            self._apply(index, self._changes_since(index.version))
            self._index = index
        self._read_row()
        if self._index.needs_build:
            self._index.build()
        if self._snapshot and not self._index.is_exact:
            self.save_snapshot()
        return self.describe()

    def set_calibration(self, calibration: Calibration | None) -> None:
        """Use the threshold of a calibration from now on, on every replica; None goes back to the embedder's own."""
        with self._change() as change:
            change.set_calibration(None if calibration is None else calibration.to_json())
            change.audit("calibrate", threshold=None if calibration is None else calibration.threshold)
        self.catch_up()

    @property
    def index(self) -> FaceIndex:
        """Over the people."""
        return self._index

    @contextlib.contextmanager
    def _change(self) -> Iterator[Change]:
        with self.record.change(self._row.name) as change:
            self._check_same(change)
            yield change

    def _check_same(self, change: Change) -> None:
        if change.gallery.id != self._row.id:
            raise GalleryError("no_gallery", f"gallery {self._row.name!r} was dropped, and is another one now")

    def _forget_snapshot(self) -> None:
        self._saved = -1
        if self._snapshot:
            delete_snapshot(self._snapshot)


def create_gallery(
    record: Record, name: str, contract: Contract, policy: QualityPolicy | None = None, *, exist_ok: bool = False
) -> GalleryRow:
    """A new gallery; with `exist_ok` the one that is there.

    Raises:
        GalleryError: as `Record.create_gallery`.
    """
    try:
        return record.create_gallery(name, contract, policy)
    except GalleryError as error:
        if error.code != "gallery_exists" or not exist_ok:
            raise
        return record.get_gallery(name)


def drop_gallery(record: Record, name: str, config: RecordConfig) -> str:
    """Take a gallery out, see `Record.drop_gallery`, and its snapshot; the audit log's last hash.

    Raises:
        GalleryError: "no_gallery".
    """
    row = record.get_gallery(name)
    entry = record.drop_gallery(name)
    try:
        if folder := snapshot_folder(record, row, config):
            delete_snapshot(folder)
    except StorageError as error:  # the gallery is gone, and whoever asked is told so; see `forget_dropped`
        logger.warning("galleries: %s is dropped, its snapshot could not be removed: %s", row.name, error)
    return entry
