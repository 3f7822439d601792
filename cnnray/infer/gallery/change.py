"""One transaction that changes a gallery."""

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from cnnray.errors import GalleryError
from cnnray.infer.gallery import audit
from cnnray.infer.gallery.rows import GalleryRow, IdentityRow, NewFace
from cnnray.infer.gallery.tables import changes, faces, galleries, identities, requests

_MANY = 500  # ids of one statement


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_token() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


class Change:
    """A gallery that nobody else can change until the transaction ends; made by `Record.change`.

    Attributes:
        connection: in the transaction.
        gallery: as it was found.
        version: number of the newest change, counting those made here.
    """

    def __init__(self, connection: sa.Connection, gallery: GalleryRow) -> None:
        self.gallery, self.version = gallery, gallery.version
        self.connection = connection
        self._log: list[dict[str, Any]] = []

    # ---- people ------------------------------------------------------------------------------------------------------

    def find_identity(self, key: str) -> IdentityRow | None:
        """The person of that id."""
        where = (identities.c.gallery_id == self.gallery.id) & (identities.c.key == key)
        row = self.connection.execute(sa.select(identities).where(where)).one_or_none()
        return None if row is None else read_identity(row)

    def get_identity(self, key: str) -> IdentityRow:
        """The person of that id.

        Raises:
            GalleryError: "no_identity".
        """
        found = self.find_identity(key)
        if found is None:
            raise no_identity(self.gallery.name, key)
        return found

    def add_identity(self, key: str, name: str, metadata: str) -> IdentityRow:
        """A new person, of an id that nobody has."""
        values = {"gallery_id": self.gallery.id, "key": key, "name": name, "metadata": metadata, "created_at": now()}
        added = self.connection.execute(sa.insert(identities).values(values).returning(identities)).one()
        self._note("identity", 0, added.id)
        return read_identity(added)

    def update_identity(self, identity: IdentityRow, **values: str) -> None:
        """Change columns of a person."""
        self.connection.execute(sa.update(identities).where(identities.c.id == identity.id).values(values))
        self._note("identity", 0, identity.id)

    def remove_identity(self, identity: IdentityRow) -> int:
        """Take a person out, with all faces and whatever answers named the person; returns the number of faces."""
        found = self.connection.execute(sa.select(faces.c.id).where(faces.c.identity_id == identity.id)).scalars()
        face_ids = list(found)
        mine = requests.c.identity_id == identity.id
        self.connection.execute(sa.update(requests).where(mine).values(answer=None))
        self.connection.execute(sa.delete(faces).where(faces.c.identity_id == identity.id))
        self.connection.execute(sa.delete(identities).where(identities.c.id == identity.id))
        for face_id in face_ids:
            self._note("removed", face_id, identity.id)
        self._note("identity", 0, identity.id)
        return len(face_ids)

    # ---- faces -------------------------------------------------------------------------------------------------------

    def add_faces(self, identity_id: int, new: Sequence[NewFace]) -> list[int]:
        """The ids of the faces, in their order; one whose photo the person has already keeps its id."""
        have = self.connection.execute(
            sa.select(faces.c.source_sha256, faces.c.id).where(faces.c.identity_id == identity_id)
        )
        known: dict[str, int] = {row.source_sha256: row.id for row in have}
        fresh = {face.source_sha256: face for face in new if face.source_sha256 not in known}
        if fresh:
            rows = [self._face_values(identity_id, face) for face in fresh.values()]
            query = sa.insert(faces).returning(faces.c.id, sort_by_parameter_order=True)
            for source, face_id in zip(fresh, self.connection.execute(query, rows).scalars(), strict=True):
                known[source] = face_id
                self._note("added", face_id, identity_id)
        return [known[face.source_sha256] for face in new]

    def remove_face(self, identity: IdentityRow, face_id: int) -> None:
        """Take one face out.

        Raises:
            GalleryError: "no_such_face": the person has none of that id.
        """
        where = (faces.c.identity_id == identity.id) & (faces.c.id == face_id)
        if not self.connection.execute(sa.delete(faces).where(where)).rowcount:
            raise GalleryError("no_such_face", f"identity {identity.key!r} has no face {face_id}")
        self._note("removed", face_id, identity.id)

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def set_calibration(self, calibration: Mapping[str, Any] | None) -> None:
        """Replace what thresholds come from."""
        text = None if calibration is None else json.dumps(calibration)
        where = galleries.c.id == self.gallery.id
        self.connection.execute(sa.update(galleries).where(where).values(calibration=text))
        self._note("settings", 0, 0)

    def find_answer(self, request_key: str, fingerprint: str) -> dict[str, Any] | None:
        """What an earlier request of that key was told.

        Raises:
            GalleryError: "key_reused": that one asked for something else; "erased": it enrolled somebody who was
                erased since.
        """
        where = (requests.c.gallery_id == self.gallery.id) & (requests.c.key == request_key)
        row = self.connection.execute(sa.select(requests).where(where)).one_or_none()
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise GalleryError("key_reused", f"request key {request_key!r} was used for something else before")
        if row.answer is None:
            raise GalleryError("erased", f"request {request_key!r} was done before; who it enrolled was erased since")
        answer: dict[str, Any] = json.loads(row.answer)
        return answer

    def remember_answer(self, request_key: str, fingerprint: str, identity_id: int, answer: Mapping[str, Any]) -> None:
        """Keep what a request was told."""
        values = {"gallery_id": self.gallery.id, "key": request_key, "fingerprint": fingerprint}
        values |= {"identity_id": identity_id, "answer": json.dumps(answer), "created_at": now()}
        self.connection.execute(sa.insert(requests).values(values))

    def audit(self, action: str, identity_id: int = 0, **details: Any) -> str:
        """Add to the audit log; returns the entry's hash."""
        entry = {"token": self.gallery.token, "version": self.version, "at": now(), "action": action}
        return audit.append(self.connection, entry | {"identity_id": identity_id, "details": details})

    def write(self) -> None:
        """Write down what was noted; the transaction ends after this."""
        if not self._log:
            return
        self.connection.execute(sa.insert(changes), self._log)
        where = galleries.c.id == self.gallery.id
        self.connection.execute(sa.update(galleries).where(where).values(version=self.version))

    def _note(self, kind: str, face_id: int, identity_id: int) -> None:
        self.version += 1
        row = {"gallery_id": self.gallery.id, "number": self.version, "kind": kind}
        self._log.append(row | {"face_id": face_id, "identity_id": identity_id})

    def _face_values(self, identity_id: int, face: NewFace) -> dict[str, Any]:
        return {
            "gallery_id": self.gallery.id,
            "identity_id": identity_id,
            "embedding": np.ascontiguousarray(face.embedding_D, "<f4").tobytes(),
            "model": self.gallery.contract.model,
            "source_sha256": face.source_sha256,
            "quality": json.dumps({name: round(float(value), 4) for name, value in face.quality.items()}),
            "created_at": now(),
        }


def read_identity(row: Any, num_faces: int = 0) -> IdentityRow:
    """From a row of the table."""
    return IdentityRow(row.id, row.key, row.name, json.loads(row.metadata), row.created_at, num_faces)


def no_identity(gallery: str, key: str) -> GalleryError:
    """The error for a person who is not there."""
    return GalleryError("no_identity", f"gallery {gallery!r} has no identity {key!r}")
