"""A file from the web: streamed, gone on with where a connection broke, and trusted only after its checksum."""

import hashlib
import logging
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from cnnray import __version__
from cnnray.data.byte_progress import ByteProgress
from cnnray.data.datasets import Archive
from cnnray.errors import DataError, OptionError, StorageError

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before the next attempt, while nothing comes
TIMEOUT = httpx.Timeout(30.0, connect=10.0)  # seconds without a byte
_LONGEST_WAIT = 60.0  # seconds that a server can ask for
_BUSY = frozenset({429, 500, 502, 503, 504})
_NO_SERVER = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)

logger = logging.getLogger(__name__)


class Unavailable(StorageError):
    """No server gave the file."""


class _Broken(Exception):
    """An answer that another attempt may better; `wait` is the least number of seconds before it."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def fetch_archive(archive: Archive, folder: Path, mirror: str = "") -> Path:
    """Bring a file into a folder, or check the one that is there; what has come of it is kept as NAME.part.

    Args:
        archive: what to bring.
        folder: it exists.
        mirror: takes the place of scheme and host in its URLs, "http://127.0.0.1:8000/copies"; "" for none.

    Raises:
        Unavailable: no server has it or can be reached; says which were tried.
        DataError: the content is another than expected; the file is removed.
        StorageError: the disk is full or fails.
    """
    place = folder / archive.name
    if place.exists():
        check_content(place, archive)
        return place
    part = folder / f"{archive.name}.part"
    if _size(part) != archive.num_bytes:
        _download(archive, part, mirror)
    check_content(part, archive)
    os.replace(part, place)
    return place


def check_content(path: Path, archive: Archive) -> None:
    """Compare a file with its checksums.

    Raises:
        DataError: they differ; the file is removed.
    """
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            md5.update(piece)
            sha256.update(piece)
    for name, expected, got in (("md5", archive.md5, md5), ("sha256", archive.sha256, sha256)):
        if got.hexdigest() != expected:
            path.unlink()
            raise DataError(
                f"expected {path} to have the {name} {expected}, got {got.hexdigest()}; the file was damaged or is "
                "another one, and is removed: run the same command again"
            )


def addresses(archive: Archive, mirror: str) -> tuple[str, ...]:
    """Its URLs, at a mirror where one is given.

    Raises:
        OptionError: the mirror is no http or https URL.
    """
    if not mirror:
        return archive.urls
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise OptionError(f'expected a mirror such as "https://example.org/copies", got {mirror!r}')
    return tuple(mirror.rstrip("/") + urlsplit(url).path for url in archive.urls)


def _download(archive: Archive, part: Path, mirror: str) -> None:
    tried = []
    # a server that packs a .tgz once more for its way would have us count and hash other bytes than were published
    headers = {"User-Agent": f"cnnray/{__version__}", "Accept-Encoding": "identity"}
    with httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True) as client:
        for url in addresses(archive, mirror):
            try:
                return _insist(client, url, part, archive)
            except Unavailable as error:
                tried.append(f"{url} ({error})")
    raise Unavailable(f"cannot download {archive.name}; tried {', '.join(tried)}")


def _insist(client: httpx.Client, url: str, part: Path, archive: Archive) -> None:
    """Go on with a file until it is there.

    Raises:
        Unavailable: several attempts in a row brought nothing, or the first found no server: there is no internet.
    """
    failures, reached = 0, False
    while True:
        before = _size(part)
        try:
            return _continue(client, url, part, archive)
        except (httpx.RequestError, _Broken) as error:
            came = _size(part) > before
            reached = reached or came or not isinstance(error, _NO_SERVER)
            failures = 0 if came else failures
            reason = str(error) or type(error).__name__
            if failures == len(DELAYS) or not reached:
                raise Unavailable(reason) from error
            wait = max(DELAYS[failures], getattr(error, "wait", 0.0))
            failures += 1
        logger.info(f"{archive.name}: {reason}; {_size(part):,} bytes are here, trying again in {wait:g} s")
        time.sleep(wait)


def _continue(client: httpx.Client, url: str, part: Path, archive: Archive) -> None:
    begin = _size(part)
    with client.stream("GET", url, headers={"Range": f"bytes={begin}-"} if begin else {}) as response:
        done = _receive(response, part, _begin(response, part, archive), archive)
    if done < archive.num_bytes:
        raise _Broken(f"the server ended after {done:,} of {archive.num_bytes:,} bytes")


def _begin(response: httpx.Response, part: Path, archive: Archive) -> int:
    """Where in the file the answer begins: at the end of what is here, or from a server without Range at its start."""
    begin = _size(part)
    if response.status_code == 416:
        part.unlink()
        raise _Broken(f"the server has no more than the {begin:,} bytes that were here; beginning again")
    _refuse(response)
    if response.status_code == 200:
        length = response.headers.get("Content-Length", str(archive.num_bytes))
        if length != str(archive.num_bytes):  # such as a page that asks to log in: what is here is not given for it
            raise Unavailable(f"its file has {length} bytes, the published one {archive.num_bytes}")
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
        part.unlink(missing_ok=True)
        raise _Broken("the server sent another piece than was asked for; beginning again")
    return begin


def _receive(response: httpx.Response, part: Path, begin: int, archive: Archive) -> int:
    """Store what comes; the size of the file then. It ends early where more comes than was published."""
    done, title = begin, f"rest of {archive.name}" if begin else archive.name
    with open(part, "ab" if begin else "wb") as file, ByteProgress(title, archive.num_bytes - begin) as progress:
        for piece in response.iter_raw():  # as it comes: of a larger chunk the begun part would be lost
            file.write(piece)
            done += len(piece)
            progress.reach(done - begin)
            if done > archive.num_bytes:
                break
        file.flush()
        os.fsync(file.fileno())
    return done


def _refuse(response: httpx.Response) -> None:
    if response.status_code in (200, 206):
        return
    message = f"{response.status_code} {response.reason_phrase}"
    if response.status_code in _BUSY:
        asked = response.headers.get("Retry-After", "")
        raise _Broken(message, min(float(asked), _LONGEST_WAIT) if asked.isdigit() else 0.0)
    raise Unavailable(message)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
