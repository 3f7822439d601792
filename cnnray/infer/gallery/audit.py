"""The audit log of a gallery: a chain of entries, each of which holds the hash of the one before.

An entry that is changed, taken out, put in or moved breaks the chain from there on. That entries at the end were cut
off shows only to whoever kept a later hash: receipts of erasures hold one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from cnnray.errors import RecordError
from cnnray.infer.gallery.tables import audit

FIRST = "0" * 64  # before the first entry
_HASHED = ("token", "number", "version", "at", "action", "identity_id", "details", "previous")


def append(connection: sa.Connection, entry: Mapping[str, Any]) -> str:
    """Add an entry at the end of its gallery's chain, whose gallery the transaction has locked.

    Args:
        entry: token, version, at, action, identity_id, details (JSON values).

    Returns:
        its hash.
    """
    last = connection.execute(
        sa.select(audit.c.number, audit.c.hash)
        .where(audit.c.token == entry["token"])
        .order_by(audit.c.number.desc())
        .limit(1)
    ).one_or_none()
    row = dict(entry) | {
        "number": last.number + 1 if last else 1,
        "previous": last.hash if last else FIRST,
        "details": json.dumps(entry["details"], sort_keys=True),
    }
    row["hash"] = _hash(row)
    connection.execute(sa.insert(audit).values(row))
    return str(row["hash"])


def last_hash(connection: sa.Connection, token: str, version: int) -> str:
    """The hash of the last entry that was made at `version` or before; FIRST where there is none."""
    query = sa.select(audit.c.hash).where((audit.c.token == token) & (audit.c.version <= version))
    found = connection.execute(query.order_by(audit.c.number.desc()).limit(1)).scalar()
    return str(found or FIRST)


def last_action(connection: sa.Connection, token: str) -> str:
    """What the last entry of a gallery's chain says was done; "" where there is none."""
    query = sa.select(audit.c.action).where(audit.c.token == token)
    return str(connection.execute(query.order_by(audit.c.number.desc()).limit(1)).scalar() or "")


def verify(connection: sa.Connection, token: str, known_hash: str = "") -> int:
    """Read a gallery's chain from its first entry to its last.

    Args:
        known_hash: of an entry that must be there, from a receipt.

    Returns:
        the number of entries.

    Raises:
        RecordError: names the first entry that does not fit; or the known one is missing.
    """
    number, previous, seen = 0, FIRST, not known_hash
    query = sa.select(audit).where(audit.c.token == token).order_by(audit.c.number)
    for row in connection.execute(query).mappings():
        found: dict[str, Any] = {str(name): value for name, value in row.items()}
        number += 1
        if found["number"] != number or found["previous"] != previous or found["hash"] != _hash(found):
            raise RecordError(f"the audit log was changed: entry {number} of gallery {token} does not fit")
        previous = found["hash"]
        seen = seen or previous == known_hash
    if not seen:
        raise RecordError(f"the audit log was cut off: no entry of gallery {token} has the hash {known_hash}")
    return number


def _hash(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([row[name] for name in _HASHED]).encode()).hexdigest()
