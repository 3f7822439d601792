"""A folder of arrays that is whole or not there, and of which every changed bit is seen.

    SNAPSHOT/card.json   what the caller keeps, shape, type, size and sha256 of each array, and its own sha256
    SNAPSHOT/NAME        an array's bytes in C order

It is written into a folder beside it, synced and renamed. At any kill there is the old one, the new one, or for a
moment between both none; folders that a kill left behind are removed when the next is saved.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import CheckpointError
from cnnray.files import storage_errors

CARD = "card.json"
_FORMAT = 2


def save_snapshot(folder: str, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replace a snapshot.

    Args:
        folder: a local path.
        content: JSON values.
        arrays: by file name, contiguous.

    Raises:
        StorageError: disk full or read-only; the old snapshot is still there.
    """
    path = Path(folder).absolute()
    with storage_errors(folder), _alone(path):
        _remove_leftovers(path)
        aside = _aside(path)
        aside.mkdir()
        written = {name: _write_array(aside / name, array) for name, array in arrays.items()}
        card = {"format": _FORMAT, "content": content, "files": written}
        _write(aside / CARD, _to_bytes(card))
        _sync_folder(aside)
        _move_away(path)
        os.rename(aside, path)
        _sync_folder(path.parent)
        _remove_leftovers(path)


def read_content(folder: str) -> dict[str, Any]:
    """What `load_snapshot` gives beside the arrays, which are not looked at.

    Raises:
        CheckpointError: as `load_snapshot`.
    """
    with _reading(folder):
        return dict(_read_card(Path(folder).absolute() / CARD, folder)["content"])


def load_snapshot(folder: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What was saved: content and arrays, verified.

    Raises:
        CheckpointError: there is none, or it is cut short or changed.
    """
    path = Path(folder).absolute()
    with _reading(folder):
        card = _read_card(path / CARD, folder)
        return card["content"], {name: _read_array(path / name, about) for name, about in card["files"].items()}


def delete_snapshot(folder: str) -> None:
    """Remove a snapshot and what a killed `save_snapshot` left of it; nothing there is no error.

    Raises:
        StorageError: it cannot be removed.
    """
    # Every erasure comes here, most for galleries that have none. A Path would put its parts among Python's interned
    # strings each time, whose table takes 4 MB more when it is full of such.
    place = os.path.abspath(folder)
    if os.path.exists(os.path.dirname(place)):
        path = Path(place)
        with storage_errors(folder), _alone(path):
            _move_away(path)
            _remove_leftovers(path)


def list_snapshots(folder: str) -> set[str]:
    """Names of the snapshots in a folder, also of those of which a kill left only a part; a folder need not be there.

    Raises:
        StorageError: it cannot be read.
    """
    path = Path(folder)
    with storage_errors(folder):
        found = [entry.name for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []
    return {name.removeprefix(".").partition(".")[0] for name in found}


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else, in this process or another of this machine, writes or removes this snapshot meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back as the file is closed, also by a kill
        yield


@contextlib.contextmanager
def _reading(folder: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"expected a snapshot in {folder}, but {error.filename} is not there") from None
    except OSError as error:
        raise CheckpointError(f"cannot read the snapshot {folder}: {error.strerror or error}") from error


def _read_card(path: Path, folder: str) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        card = json.loads(raw)
        whole = isinstance(card, dict) and "sha256" in card and raw == _to_bytes(card)
    except ValueError:
        whole = False
    if not whole or card.get("format") != _FORMAT:
        raise CheckpointError(
            f"the snapshot {folder} is damaged or of another version: {CARD} is not as it was written"
        )
    return dict(card)


def _to_bytes(card: Mapping[str, Any]) -> bytes:
    """The only way to write a card, with its sha256: whatever other bytes are found were changed."""
    body = {key: value for key, value in card.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps(body | {"sha256": digest}, indent=2, sort_keys=True) + "\n").encode()


def _write_array(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    content = _bytes(array)
    _write(path, content)
    about = {"shape": list(array.shape), "dtype": array.dtype.str}
    return about | {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read_array(path: Path, about: Mapping[str, Any]) -> NDArray[Any]:
    size = path.stat().st_size
    if size != about["size"]:
        raise CheckpointError(f"the snapshot is damaged: {path} has {size} bytes instead of {about['size']}")
    array = np.empty(about["shape"], about["dtype"])
    content = _bytes(array)
    with open(path, "rb") as file:
        file.readinto(content)
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise CheckpointError(f"the snapshot is damaged: {path} has other bytes than were written")
    return array


def _bytes(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array itself."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _write(path: Path, content: Any) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _move_away(path: Path) -> None:
    """So that nobody finds the half of what is being removed."""
    if path.exists():
        os.rename(path, _aside(path))
        _sync_folder(path.parent)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(leftover)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
