"""The record: galleries, people and their faces in a database, which is right whatever becomes of indexes.

What a method has returned from is committed, and on disk. Changes of a gallery come one after the other and are
numbered; whoever knows a gallery at a number learns from `changes_since` what it lacks.
"""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from cnnray.config import QualityPolicy
from cnnray.errors import GalleryError, RecordError
from cnnray.infer.gallery import audit, names
from cnnray.infer.gallery.change import Change, new_token, no_identity, now, read_identity
from cnnray.infer.gallery.database import Database
from cnnray.infer.gallery.rows import Contract, Delta, FaceRow, GalleryRow, IdentityRow, Rows, read_vectors
from cnnray.infer.gallery.tables import changes, faces, galleries, identities

logger = logging.getLogger("cnnray")

_BLOCK = 20_000  # faces that are read at once
_PURGE_SECONDS = 10.0
_DROPPED = "drop_gallery"  # in the audit log


class Record:
    """The galleries in one database; safe to use from several threads and processes.

    Args:
        url: see `Database`.

    Raises:
        OptionError, RecordError: see `Database`. So do all methods raise RecordError where the database fails.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self._owes_purge = False
        if self.database.is_sqlite:
            self.purge(patience=0)  # who erased somebody may have been killed before this

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
            entry = change.audit(_DROPPED)
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
        """What happened after `version`; None once the gallery is dropped.

        The faces may be those of a still later moment, of which the next call tells.
        """
        news = (changes.c.gallery_id == gallery_id) & (changes.c.number > version)
        query = (
            sa.select(galleries.c.num_features, changes.c.number, changes.c.kind, changes.c.identity_id)
            .outerjoin(changes, news)
            .where(galleries.c.id == gallery_id)
            .order_by(changes.c.number)
        )
        with self.database.outside() as connection:
            found = connection.execute(query).all()
            if not found:
                return None
            changed = sorted({row.identity_id for row in found if row.kind in ("added", "removed")})
            rows: Sequence[Any] = []
            if changed:
                owners = sa.select(changes.c.identity_id).where(news & (changes.c.face_id > 0))
                columns = sa.select(faces.c.id, faces.c.identity_id, faces.c.embedding)
                rows = connection.execute(
                    columns.where(faces.c.identity_id.in_(owners)).order_by(faces.c.identity_id, faces.c.id)
                ).all()
        known = [row for row in rows if row.identity_id in set(changed)]  # not those of the later moment
        return Delta(
            found[-1].number or version,
            np.array(changed, np.int64),
            _to_rows(known, found[-1].num_features),
            any(row.kind == "removed" for row in found),
            any(row.kind == "settings" for row in found),
        )

    # ---- reading -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load_faces(self, gallery_id: int) -> Iterator[tuple[int, int, Iterator[Rows]]]:
        """All faces of a gallery as of one moment: its version, their number, and they, some people at a time.

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

    def export_rows(self, gallery_id: int) -> Generator[list[dict[str, Any]], None, None]:
        """All people and faces of a gallery as of one moment, in the order in which people came, a block at a time.

        Yields:
            dicts of a face each: key, name and metadata (JSON text) of its person, embedding (bytes, see
            `read_vectors`), source_sha256, quality (JSON text), created_at. A person without faces has one with None
            for these, and the person's own created_at.
        """
        columns = (faces.c.embedding, faces.c.source_sha256, faces.c.quality)
        created = sa.func.coalesce(faces.c.created_at, identities.c.created_at).label("created_at")
        query = (
            sa.select(identities.c.key, identities.c.name, identities.c.metadata, *columns, created)
            .outerjoin(faces, faces.c.identity_id == identities.c.id)
            .where(identities.c.gallery_id == gallery_id)
            .order_by(identities.c.id, faces.c.id)
        )
        with self.database.read() as connection:
            streamed = connection.execution_options(stream_results=True, max_row_buffer=_BLOCK)
            with streamed.execute(query) as found:
                for block in found.mappings().partitions(_BLOCK):
                    yield [{str(name): value for name, value in row.items()} for row in block]

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

    def was_dropped(self, token: str) -> bool:
        """Whether the gallery of this token was one of this record, and was dropped."""
        with self.database.read() as connection:
            return audit.last_action(connection, token) == _DROPPED

    def count_faces(self, gallery: GalleryRow) -> int:
        """How many are enrolled."""
        query = sa.select(sa.func.count()).where(faces.c.gallery_id == gallery.id)
        with self.database.outside() as connection:
            return int(connection.execute(query).scalar_one())

    def verify_audit(self, token: str, known_hash: str = "") -> int:
        """See `audit.verify`."""
        with self.database.read() as connection:
            return audit.verify(connection, token, known_hash)

    # ---- erasure -----------------------------------------------------------------------------------------------------

    def purge(self, patience: float | None = None) -> Mapping[str, bool]:
        """Take what was deleted out of the files, too.

        SQLite overwrites deleted rows as it deletes them; older copies are in its log, which is emptied here once no
        other transaction needs it. PostgreSQL's tables are vacuumed; its own log keeps old pages until it recycles
        them, as its settings say, and backups are out of reach.

        What was deleted is deleted: a disk that is full, or a database that is away, is logged, and `maintain` tries
        again.

        Args:
            patience: seconds to wait for other transactions; None is ten.

        Returns:
            by place ("tables", "log"), whether nothing deleted is left there.
        """
        self._owes_purge = False  # before, not after: what fails meanwhile in another thread stays owed
        try:
            done = self._empty_log(patience) if self.database.is_sqlite else self._vacuum()
        except RecordError as error:
            logger.warning("galleries: what was erased waits to be taken out of the files: %s", error)
            done = False
        if not done:
            self._owes_purge = True
        return {"tables": done, "log": done and self.database.is_sqlite}

    def maintain(self) -> None:
        """What a `purge` could not do, because somebody was reading or something failed."""
        if self._owes_purge:
            self.purge(patience=0)

    def _empty_log(self, patience: float | None) -> bool:
        deadline = time.monotonic() + (_PURGE_SECONDS if patience is None else patience)
        while not self.database.empty_log():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _vacuum(self) -> bool:
        with self.database.outside() as connection:
            connection.execute(sa.text("VACUUM faces, identities, requests"))
        return True

    def _find(self, connection: sa.Connection, name: str, lock: bool = False) -> GalleryRow:
        query = sa.select(galleries).where(galleries.c.name == name)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise GalleryError("no_gallery", f"there is no gallery {name[:100]!r}")
        return GalleryRow.read(row)

    def _blocks(self, connection: sa.Connection, gallery_id: int, num_features: int) -> Iterator[Rows]:
        query = f"SELECT id, identity_id, embedding FROM faces WHERE gallery_id = {int(gallery_id)} "
        query += "ORDER BY identity_id, id"
        stream = connection.execution_options(stream_results=True, max_row_buffer=_BLOCK).exec_driver_sql(query)
        rest: list[Any] = []  # the last person of a block, more of whose faces may come
        for block in stream.partitions(_BLOCK):
            rows = [*rest, *block]
            cut = len(rows)
            while cut and rows[cut - 1][1] == rows[-1][1]:
                cut -= 1
            rest = rows[cut:]
            if cut:
                yield _to_rows(rows[:cut], num_features)
        if rest:
            yield _to_rows(rest, num_features)


def _count(table: sa.Table) -> sa.Subquery:
    return sa.select(table.c.gallery_id, sa.func.count().label("count")).group_by(table.c.gallery_id).subquery()


def _to_rows(found: Iterable[Any], num_features: int) -> Rows:
    face_ids, identity_ids, blobs = zip(*found, strict=True) if found else ((), (), ())
    return Rows(np.array(face_ids, np.int64), np.array(identity_ids, np.int64), read_vectors(list(blobs), num_features))
