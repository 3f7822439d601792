"""Files by URI: local paths, file://, s3://, gs:// and whatever else fsspec knows.

The one place that writes to disk durably. On a local disk a file is written aside, synced and renamed,
so that a reader sees the old content or the new, never half of it. Object stores give that by themselves.
"""

import contextlib
import errno
import json
import os
import posixpath
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cnnray.errors import OptionError, StorageError, one_line

_CLOUDS = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google"}


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of `uri` and the path inside it.

    Raises:
        OptionError: nothing that is installed reads such a URI.
    """
    try:
        fs, path = fsspec.core.url_to_fs(os.fspath(uri))
    except (ImportError, ValueError) as error:
        raise OptionError(f"cannot read and write {uri}: {error}") from error
    return fs, path


def join(uri: str, *parts: str) -> str:
    """`uri` with path components appended, by the rules of URIs (always '/')."""
    return posixpath.join(os.fspath(uri), *parts)


def is_local(uri: str) -> bool:
    """Whether `uri` is on a disk that this process can reach by path."""
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def is_absolute(uri: str) -> bool:
    """Whether it is a place by itself, wherever work runs: a URI, or an absolute path."""
    return "://" in uri or uri.startswith("/")


def absolute(uri: str) -> str:
    """A local path made absolute, any other URI as it is: Ray's workers run in folders of their own."""
    return str(filesystem(uri)[1]) if is_local(uri) else uri


def exists(uri: str) -> bool:
    """Whether a file or folder is there; StorageError where that cannot be told."""
    fs, path = filesystem(uri)
    with storage_errors(uri):
        return bool(fs.exists(path))


def list_files(uri: str, suffix: str = "") -> list[str]:
    """Sorted URIs of the files directly inside folder `uri` that end in `suffix`; [] where there is no folder.

    Raises:
        StorageError: it cannot be read, or is no folder.
    """
    return [join(uri, name) for name in _names(uri, "file") if name.endswith(suffix)]


def list_folders(uri: str) -> list[str]:
    """Sorted names of the folders directly inside folder `uri`; [] where there is no folder; raises as `list_files`."""
    return _names(uri, "directory")


def find(uri: str) -> list[str]:
    """Paths of all files below folder `uri`, relative to it, sorted; [] where there is no folder.

    Links are followed, those to folders too. Hidden files, and what is in hidden folders, are left out.

    Raises:
        StorageError: a folder cannot be read.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri):
        if is_local(uri):
            found = _walk(path)
        else:
            found = [posixpath.relpath(name, path) for name in (fs.find(path) if fs.exists(path) else ())]
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


def _walk(root: str) -> list[str]:
    found, seen = [], set()
    for place, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = "" if place == root else os.path.relpath(place, root)
        found += [posixpath.join(below, name) for name in names]
    return found


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise StorageError(f"cannot list {error.filename}: {error.strerror}") from error


def _names(uri: str, kind: str) -> list[str]:
    fs, path = filesystem(uri)
    fs.invalidate_cache(path)
    try:
        with storage_errors(uri):
            entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if kind_of(fs, e) == kind)


def kind_of(fs: Any, entry: dict[str, Any]) -> str:
    """ "file", "directory" or "other", of an entry that `fs.ls` lists; of a link, that of what it leads to.

    Some stores list a link as one, some as a file. A mounted secret of Kubernetes consists of links.
    """
    if entry["type"] == "directory" or (entry["type"] == "file" and not entry.get("islink")):
        return str(entry["type"])
    return "directory" if fs.isdir(entry["name"]) else "file" if fs.isfile(entry["name"]) else "other"


def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: nothing is there.
        StorageError: it cannot be read.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri):
        return bytes(fs.cat_file(path))


def write_bytes(uri: str, content: bytes) -> None:
    """Replace a file by `content`, all or nothing, on disk when this returns.

    Raises:
        StorageError: disk full, read-only, unreachable; the old content is still there.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri):
        if isinstance(fs, LocalFileSystem):
            with _replacing_local(Path(path)) as file:
                file.write(content)
        else:
            _put(uri, lambda: fs.pipe_file(path, content))


@contextlib.contextmanager
def replacing(uri: str) -> Iterator[BinaryIO]:
    """A file to write to piece by piece, which takes the place of `uri` when this ends; nothing is left of it after an
    error. Else as `write_bytes`; on its way into an object store it lies on this machine's disk.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri), contextlib.ExitStack() as stack:
        local = isinstance(fs, LocalFileSystem)
        place = Path(path) if local else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "content"
        with _replacing_local(place) as file:
            yield file
        if not local:
            _put(uri, lambda: fs.put_file(str(place), path))


def _put(uri: str, write: Callable[[], None]) -> None:
    """Write to an object store, where only the bucket can be absent."""
    try:
        write()
    except FileNotFoundError as error:
        raise StorageError(f"cannot write {uri}: {error}") from error


def read_json(uri: str) -> Any:
    """A JSON file's content."""
    return json.loads(read_bytes(uri))


def write_json(uri: str, content: Any) -> None:
    """Replace a JSON file, all or nothing; keys keep their order, indented for people."""
    write_bytes(uri, (json.dumps(content, indent=2) + "\n").encode())


def make_folder(uri: str) -> None:
    """Create a folder and its parents where the store has folders."""
    fs, path = filesystem(uri)
    with storage_errors(uri):
        fs.makedirs(path, exist_ok=True)


def remove(uri: str) -> None:
    """Remove a file or a folder with all that is in it; nothing there is no error."""
    fs, path = filesystem(uri)
    with storage_errors(uri), contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


@contextlib.contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn I/O errors of the operating system and of clouds' libraries into StorageError, with a sentence.

    FileNotFoundError passes.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"no space left on {socket.gethostname()} while writing {uri}; what was written before is safe: free "
                "some space and run the same command again"
            ) from error
        if isinstance(error, PermissionError) and "://" in uri:
            raise StorageError(
                f"not allowed to access {uri}: {error}; the credentials of this machine lack rights for the bucket, or "
                "are others than you think"
            ) from error
        raise StorageError(f"cannot access {uri}: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _CLOUDS:  # no credentials, no such endpoint, ...
            raise StorageError(f"cannot access {uri}: {one_line(error)}") from error
        raise


@contextlib.contextmanager
def _replacing_local(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power loss
    finally:
        os.close(folder)
