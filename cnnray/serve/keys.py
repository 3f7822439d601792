"""Keys that callers of a service show: a folder of what is known of them.

A key is `cnnray_ID_SECRET`. FOLDER/ID.json has its name, its scopes, its limit and the SHA-256 of its secret, which is
32 random bytes: nobody guesses those, so that a slow hash would add nothing. One file a key: two commands at a time do
not meet, and a key is revoked by removing its file.
"""

import hashlib
import posixpath
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ConfigDict, TypeAdapter

from cnnray import files
from cnnray.errors import DataError, OptionError, UnknownNameError, one_line

SCOPES = {
    "infer": "classify, detect, segment, stylize; find and compare faces",
    "faces:read": "see galleries and who is in them, recognise",
    "faces:write": "make galleries, enrol, change and erase people",
    "admin": "everything, and drop galleries",
}
_SUFFIX = ".json"
_MOST_DAYS = 36500


@dataclass(frozen=True)
class Key:
    """What is known of a key.

    Attributes:
        id: eight hexadecimal digits, part of the key; not secret.
        name: of whoever has it.
        scopes: what it may be used for, of SCOPES.
        per_minute: requests that it is good for; 0 is without limit.
        created, expires: ISO 8601, UTC; "" never expires.
        digest: SHA-256 of its secret, hexadecimal.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    id: str
    name: str
    scopes: tuple[str, ...]
    per_minute: int
    created: str
    expires: str
    digest: str

    def allows(self, scope: str) -> bool:
        """Whether it may be used for what needs this scope; "" needs none."""
        return not scope or scope in self.scopes or "admin" in self.scopes

    def has_expired(self) -> bool:
        """Whether its time is over."""
        return bool(self.expires) and datetime.fromisoformat(self.expires) <= datetime.now(UTC)


_KEY = TypeAdapter(Key)


def create_key(
    folder: str, name: str, scopes: Sequence[str], *, per_minute: int = 0, days: float = 0
) -> tuple[Key, str]:
    """Make a key and store what is to be known of it.

    Args:
        folder: path or URI; made where it is absent.
        name: of whoever gets it.
        scopes: of SCOPES.
        per_minute: requests that it is good for; 0 is without limit.
        days: until it expires; 0 never does.

    Returns:
        what is stored, and the key itself, which is stored nowhere.

    Raises:
        UnknownNameError: of a scope.
        OptionError: no name or scope, or a number that makes no sense.
        StorageError: it cannot be stored.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise UnknownNameError("scope", scope, SCOPES)
    if not name or not scopes or per_minute < 0 or not 0 <= days <= _MOST_DAYS:
        got = f"{name!r}, {list(scopes)}, {per_minute} and {days:g}"
        raise OptionError(f"expected a name, a scope, a limit from 0 and days from 0 to {_MOST_DAYS}; got {got}")
    secret, now = secrets.token_urlsafe(32), datetime.now(UTC).replace(microsecond=0)
    key = Key(
        id=secrets.token_hex(4),
        name=name,
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        per_minute=per_minute,
        created=now.isoformat(),
        expires=(now + timedelta(days=days)).isoformat() if days else "",
        digest=digest_of(secret),
    )
    files.make_folder(folder)
    files.write_json(files.join(folder, key.id + _SUFFIX), asdict(key))
    return key, f"cnnray_{key.id}_{secret}"


def read_keys(folder: str) -> tuple[list[Key], list[DataError]]:
    """Those that were not revoked, oldest first, and what is wrong with each file that is no key.

    Raises:
        StorageError: the folder cannot be read.
    """
    keys, faults = [], []
    for path in files.list_files(folder, _SUFFIX):
        try:
            keys.append(_read(path))
        except FileNotFoundError:
            pass  # it was revoked just now
        except DataError as error:
            faults.append(error)
    return sorted(keys, key=lambda key: (key.created, key.id)), faults


def revoke_key(folder: str, id: str) -> Key:
    """Remove a key; running services refuse it within seconds.

    Raises:
        UnknownNameError: no key has this id.
        StorageError: it cannot be removed.
    """
    keys = {key.id: key for key in read_keys(folder)[0]}
    if id not in keys:
        raise UnknownNameError("key", id, keys)
    files.remove(files.join(folder, id + _SUFFIX))
    return keys[id]


def _read(path: str) -> Key:
    """Raises DataError: it is no key, or of another name than its key: a copy, which would outlive the key."""
    try:
        key = _KEY.validate_json(files.read_bytes(path))
        key.has_expired()
        if posixpath.basename(path) != key.id + _SUFFIX:
            raise ValueError(f"it is that of {key.id}")
        return key
    except (TypeError, ValueError) as error:
        told = f"expected a key in {path}, which `cnnray serve keys create` writes: {one_line(error)}"
        raise DataError(told) from error


def digest_of(secret: str) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()
