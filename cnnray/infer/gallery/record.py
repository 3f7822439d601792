"""The record: galleries, people and their faces in a database, which is right whatever becomes of indexes.

What a method has returned from is committed, and on disk. Changes of a gallery come one after the other and are
numbered; whoever knows a gallery at a number learns from `changes_since` what it lacks.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from cnnray.config import QualityPolicy
from cnnray.errors import GalleryError
from cnnray.infer.gallery import audit, names
from cnnray.infer.gallery.change import Change, new_token, no_identity, now, read_identity
from cnnray.infer.gallery.database import Database
from cnnray.infer.gallery.rows import Contract, Delta, FaceRow, GalleryRow, IdentityRow, Rows, read_vectors
from cnnray.infer.gallery.tables import changes, faces, galleries, identities

_BLOCK = 20_000  # faces that are read at once
_PURGE_SECONDS = 10.0


class Record:
    """The galleries in one database; safe to use from several threads and processes.

    Args:
        url: see `Database`.

    Raises:
        OptionError, RecordError: see `Database`. So do all methods raise RecordError where the database fails.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def close(self) -> None:
        """Close all connections."""
        self.database.dispose()

    # ---- galleries ---------------------------------------------------------------------------------------------------

    def create_gallery(self, name: str, contract: Contract, policy: QualityPolicy | None = None) -> GalleryRow:
        """A new gallery, empty.

        Raises:
            GalleryError: "bad_name"; "gallery_exists".
        """
        values: dict[str, Any] = {
            "name": names.check_gallery(name),
            "token": new_token(),
            "model": contract.model,
            "num_features": contract.num_features,
            "base_threshold": repr(float(contract.threshold)),
            "policy": json.dumps(dataclasses.asdict(policy or QualityPolicy())),
            "version": 0,
            "created_at": now(),
        }
        with self.database.write() as connection:
            if connection.execute(sa.select(galleries.c.id).where(galleries.c.name == name)).first():
                raise GalleryError("gallery_exists", f"there is a gallery {name!r} already")
            try:
                row = connection.execute(sa.insert(galleries).values(values).returning(galleries)).one()
            except IntegrityError as error:  # PostgreSQL: another process was faster
                raise GalleryError("gallery_exists", f"there is a gallery {name!r} already") from error
            gallery = GalleryRow.read(row)
            Change(connection, gallery).audit("create_gallery", model=contract.model)
        return gallery

    def get_gallery(self, name: str) -> GalleryRow:
        """The gallery of that name.

        Raises:
            GalleryError: "no_gallery".
        """
        with self.database.read() as connection:
            return self._find(connection, name)

    def list_galleries(self) -> list[tuple[GalleryRow, int, int]]:
        """All galleries by name, with the numbers of their identities and faces."""
        people = _count(identities)
        photos = _count(faces)
        query = (
            sa.select(galleries, people.c.count.label("people"), photos.c.count.label("photos"))
            .outerjoin(people, people.c.gallery_id == galleries.c.id)
            .outerjoin(photos, photos.c.gallery_id == galleries.c.id)
        )
        with self.database.read() as connection:
            found = [(GalleryRow.read(row), row.people or 0, row.photos or 0) for row in connection.execute(query)]
        return sorted(found, key=lambda item: item[0].name)

    def drop_gallery(self, name: str) -> str:
        """Take a gallery out with everything in it; returns the hash of the audit log's last entry, which stays.

        Raises:
            GalleryError: "no_gallery".
        """
        with self.change(name) as change:
            entry = change.audit("drop_gallery")
            change.connection.execute(sa.delete(galleries).where(galleries.c.id == change.gallery.id))
        self.purge()
        return entry

    # ---- changes -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def change(self, name: str) -> Iterator[Change]:
        """The one transaction that changes this gallery now; others wait. It is committed when this ends.

        Raises:
            GalleryError: "no_gallery".
        """
        with self.database.write() as connection:
            change = Change(connection, self._find(connection, name, lock=True))
            yield change
            change.write()

    def changes_since(self, gallery_id: int, version: int) -> Delta | None:
        """What happened after `version`, in one look at the database; None once the gallery is dropped."""
        query = (
            sa.select(
                galleries.c.num_features,
                changes.c.number,
                changes.c.kind,
                changes.c.face_id,
                changes.c.identity_id,
                faces.c.embedding,
            )  # fmt: skip
            .outerjoin(changes, (changes.c.gallery_id == galleries.c.id) & (changes.c.number > version))
            .outerjoin(faces, (faces.c.id == changes.c.face_id) & (changes.c.kind == "added"))
            .where(galleries.c.id == gallery_id)
            .order_by(changes.c.number)
        )
        with self.database.outside() as connection:
            found = connection.execute(query).all()
        if not found:
            return None
        if found[-1].number is None:
            return Delta(version, _no_rows(found[-1].num_features), np.zeros(0, np.int64), False)
        added = [row for row in found if row.embedding is not None]
        return Delta(
            found[-1].number,
            _to_rows([(row.face_id, row.identity_id, row.embedding) for row in added], found[-1].num_features),
            np.array([row.face_id for row in found if row.kind == "removed"], np.int64),
            any(row.kind == "settings" for row in found),
        )

    # ---- reading -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load_faces(self, gallery_id: int) -> Iterator[tuple[int, int, Iterator[Rows]]]:
        """All faces of a gallery as of one moment: its version, their number, and they, some at a time.

        Raises:
            GalleryError: "no_gallery".
        """
        with self.database.read() as connection:
            query = sa.select(galleries).where(galleries.c.id == gallery_id)
            gallery = connection.execute(query).one_or_none()
            if gallery is None:
                raise GalleryError("no_gallery", "that gallery was dropped")
            count = sa.select(sa.func.count()).where(faces.c.gallery_id == gallery_id)
            total = connection.execute(count).scalar_one()
            yield gallery.version, total, self._blocks(connection, gallery_id, gallery.num_features)

    def find_identities(self, ids: Iterable[int]) -> dict[int, IdentityRow]:
        """People by their number; who was erased is missing."""
        wanted = list(ids)
        if not wanted:
            return {}
        with self.database.outside() as connection:
            found = connection.execute(sa.select(identities).where(identities.c.id.in_(wanted)))
            return {row.id: read_identity(row) for row in found}

    def get_identity(self, gallery: GalleryRow, key: str) -> tuple[IdentityRow, list[FaceRow]]:
        """A person and the person's faces.

        Raises:
            GalleryError: "no_identity".
        """
        where = (identities.c.gallery_id == gallery.id) & (identities.c.key == key)
        with self.database.read() as connection:
            row = connection.execute(sa.select(identities).where(where)).one_or_none()
            if row is None:
                raise no_identity(gallery.name, key)
            columns = (faces.c.id, faces.c.source_sha256, faces.c.quality, faces.c.created_at)
            query = sa.select(*columns).where(faces.c.identity_id == row.id).order_by(faces.c.id)
            found = [FaceRow(one.id, one.source_sha256, json.loads(one.quality), one.created_at)
                     for one in connection.execute(query)]  # fmt: skip
        return read_identity(row, len(found)), found

    def list_identities(self, gallery: GalleryRow, after: int = 0, limit: int = 100) -> list[IdentityRow]:
        """People in the order in which they came, from the one after number `after` on."""
        counted = sa.select(sa.func.count()).where(faces.c.identity_id == identities.c.id).scalar_subquery()
        query = (
            sa.select(identities, counted.label("photos"))
            .where((identities.c.gallery_id == gallery.id) & (identities.c.id > after))
            .order_by(identities.c.id)
            .limit(limit)
        )
        with self.database.read() as connection:
            return [read_identity(row, row.photos) for row in connection.execute(query)]

    def audit_hash(self, token: str, version: int) -> str:
        """The hash of the last entry of a gallery's audit log as of a version: of its history up to there."""
        with self.database.read() as connection:
            return audit.last_hash(connection, token, version)

    def verify_audit(self, token: str, known_hash: str = "") -> int:
        """See `audit.verify`."""
        with self.database.read() as connection:
            return audit.verify(connection, token, known_hash)

    # ---- erasure -----------------------------------------------------------------------------------------------------

    def purge(self) -> Mapping[str, bool]:
        """Take what was deleted out of the files, too.

        SQLite overwrites deleted rows as it deletes them; older copies are in its log, which is emptied here once no
        other transaction needs it. PostgreSQL's tables are vacuumed; its own log keeps old pages until it recycles
        them, as its settings say, and backups are out of reach.

        Returns:
            by place ("tables", "log"), whether nothing deleted is left there.
        """
        if not self.database.is_sqlite:
            with self.database.outside() as connection:
                connection.execute(sa.text("VACUUM faces, identities, requests"))
            return {"tables": True, "log": False}
        deadline = time.monotonic() + _PURGE_SECONDS
        with self.database.outside() as connection:
            while connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                if time.monotonic() > deadline:
                    return {"tables": True, "log": False}
                time.sleep(0.02)
        return {"tables": True, "log": True}

    def _find(self, connection: sa.Connection, name: str, lock: bool = False) -> GalleryRow:
        query = sa.select(galleries).where(galleries.c.name == name)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise GalleryError("no_gallery", f"there is no gallery {name[:100]!r}")
        return GalleryRow.read(row)

    def _blocks(self, connection: sa.Connection, gallery_id: int, num_features: int) -> Iterator[Rows]:
        query = f"SELECT id, identity_id, embedding FROM faces WHERE gallery_id = {int(gallery_id)} ORDER BY id"
        stream = connection.execution_options(stream_results=True, max_row_buffer=_BLOCK).exec_driver_sql(query)
        for block in stream.partitions(_BLOCK):
            yield _to_rows(block, num_features)


def _count(table: sa.Table) -> sa.Subquery:
    return sa.select(table.c.gallery_id, sa.func.count().label("count")).group_by(table.c.gallery_id).subquery()


def _to_rows(found: Iterable[Any], num_features: int) -> Rows:
    face_ids, identity_ids, blobs = zip(*found, strict=True) if found else ((), (), ())
    return Rows(np.array(face_ids, np.int64), np.array(identity_ids, np.int64), read_vectors(list(blobs), num_features))


def _no_rows(num_features: int) -> Rows:
    return _to_rows([], num_features)
