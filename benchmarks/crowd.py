"""Galleries of many people for benchmarks, written straight into the tables."""

import sqlalchemy as sa

from cnnray.infer.gallery.tables import changes, faces, galleries, identities

_BLOCK = 20_000


def fill(record, name, embeddings_ND):
    """One face of each of so many people; embeddings of length 1."""
    for start in range(0, len(embeddings_ND), _BLOCK):
        with record.change(name) as change:
            _insert(change, embeddings_ND[start : start + _BLOCK], start)


def _insert(change, embeddings_ND, start):
    connection, gallery = change.connection, change.gallery
    base = {"gallery_id": gallery.id, "created_at": "2026-01-01T00:00:00.000+00:00"}
    keys = [f"crowd-{start + at}" for at in range(len(embeddings_ND))]
    rows = [base | {"key": key, "name": key, "metadata": "{}"} for key in keys]
    connection.execute(sa.insert(identities), rows)
    columns = sa.select(identities.c.id).where(identities.c.gallery_id == gallery.id)
    ids = connection.execute(columns.order_by(identities.c.id.desc()).limit(len(keys))).scalars().all()[::-1]
    rest = {"model": gallery.contract.model, "quality": "{}"}
    blobs = [vector.astype("<f4").tobytes() for vector in embeddings_ND]
    rows = [
        base | rest | {"identity_id": owner, "embedding": blob, "source_sha256": f"{key:0>64}"}
        for owner, blob, key in zip(ids, blobs, keys, strict=True)
    ]
    connection.execute(sa.insert(faces), rows)
    number, version = gallery.version, gallery.version + 1
    row = {"gallery_id": gallery.id, "number": version, "kind": "identity", "face_id": 0, "identity_id": 0}
    connection.execute(sa.insert(changes), [row])
    where = (galleries.c.id == gallery.id) & (galleries.c.version == number)
    connection.execute(sa.update(galleries).where(where).values(version=version))
