"""Archives read without trusting them: no file outside of the folder, no more bytes than were expected."""

import gzip
import io
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cnnray.data.byte_progress import ByteProgress
from cnnray.errors import DataError

_BUFFER = 2**18


def read_tar(path: Path, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of each plain file of a tar archive, in its order; progress is shown as it is read.

    Links and devices have no content and are left out, but they too must keep within the folder.

    Args:
        path: ends in .tar, .tgz or .tar.gz.
        most_bytes: that it may hold, headers included.

    Raises:
        DataError: it holds more, is cut short or broken, or a name, or what a link points to, leads out of the folder.
    """
    with open(path, "rb") as file, ByteProgress(f"unpacking {path.name}", path.stat().st_size) as progress:
        unpacked: io.BufferedIOBase = file if path.suffix == ".tar" else gzip.GzipFile(fileobj=file)
        try:
            with tarfile.open(fileobj=_Bounded(unpacked, path, most_bytes), mode="r|", bufsize=_BUFFER) as tar:
                for member in tar:
                    progress.reach(file.tell())
                    _refuse_unsafe(member, path)
                    content = tar.extractfile(member) if member.isfile() else None
                    if content is not None:
                        yield posixpath.normpath(member.name), content.read()
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"expected a tar archive in {path}, but it is damaged: {error}") from error


def _refuse_unsafe(member: tarfile.TarInfo, path: Path) -> None:
    try:
        tarfile.data_filter(member, str(path.parent))  # nothing is written there: it stands for any folder
    except tarfile.FilterError as error:
        raise DataError(f"expected only files within its own folder in {path}, but: {error}") from error
    name = PurePosixPath(member.name)
    if ".." in name.parts or name.is_absolute():  # within the archive's folder perhaps, but not within ours
        raise DataError(f"expected only files within its own folder in {path}, but one is {member.name!r}")
    if member.issparse():  # few bytes in the archive, any number outside of it
        raise DataError(f"expected only plain files in {path}, but {member.name!r} is a sparse one")


class _Bounded(io.RawIOBase):
    """What was unpacked of an archive, up to a number of bytes: a bomb is refused before it is written or held."""

    def __init__(self, file: io.BufferedIOBase, path: Path, most_bytes: int) -> None:
        self._file, self._path, self._most, self._left = file, path, most_bytes, most_bytes

    def readable(self) -> bool:
        """It is only read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of any file; raises DataError past the limit."""
        count = self._file.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise DataError(f"expected at most {self._most:,} bytes in {self._path}, but it holds more")
        return count


def write_file(path: Path, content: bytes) -> Path:
    """Write a file and the folders that it lies in; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
