"""`cnnray data fetch`: a public data set from its authors' archives to a folder that the other commands read.

OUT/archives/       the archives; NAME.part is one that is still coming. Files may be put there by hand
OUT/NAME/           the data set: there when it is complete, not before; dataset.json in it says what it is
"""

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnray import __version__, files
from cnnray.data.datasets import Archive, DataSet
from cnnray.data.download import Unavailable, addresses, fetch_archive
from cnnray.errors import OptionError, StorageError

ARCHIVES, ABOUT = "archives", "dataset.json"

logger = logging.getLogger(__name__)


def fetch_dataset(dataset: DataSet, out: str, *, mirror: str = "", keep_archives: bool = True) -> dict[str, Any]:
    """Download a data set, check it and lay it out; the same call goes on after any kill.

    Args:
        dataset: which, see `cnnray.data.datasets.DATASETS`.
        out: a folder on a disk of this machine, for any number of data sets.
        mirror: takes the place of scheme and host in all URLs; "" for none.
        keep_archives: whether they stay when the data set is complete.

    Returns:
        name, out (the data set's own folder), images, classes (or people), bytes (of its files), licence, citation,
        next (a command that uses it), commands (all of them), new (False where it was complete before).

    Raises:
        OptionError: `out` is not on a disk, in use by another command, or holds something else by this name.
        DataError: an archive is another than was published; it is removed.
        StorageError: no server can be reached or has it, or the disk is too small, full or broken.
    """
    if not files.is_local(out):
        raise OptionError(f"expected a folder on a disk of this machine as --out, got {out}; copy it there afterwards")
    place = Path(files.absolute(out)) / dataset.name
    folder = place.parent / ARCHIVES
    with files.storage_errors(str(place.parent)):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            new = not _is_complete(place)
            if new:
                _make(dataset, place, folder, mirror)
            if not keep_archives:
                for archive in dataset.archives:
                    (folder / archive.name).unlink(missing_ok=True)
    commands = [command.format(out=shlex.quote(os.path.join(out, dataset.name))) for command in dataset.commands]
    about = files.read_json(str(place / ABOUT))
    said = {name: about[name] for name in ("name", "images", "classes", "bytes", "licence", "citation")}
    return said | {"out": str(place), "next": commands[0], "commands": commands, "new": new}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other command of this machine writes there meanwhile: two would write into one half file."""
    with open(folder / ".lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back as the file is closed, also by a kill
        except BlockingIOError:
            raise OptionError(
                f"another command is fetching into {folder.parent}; wait for its end, or choose another --out"
            ) from None
        yield


def _is_complete(place: Path) -> bool:
    if (place / ABOUT).exists():
        return True
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise OptionError(f"expected nothing yet at {place}, but it holds something that this command did not make")
    return False


def _make(dataset: DataSet, place: Path, folder: Path, mirror: str) -> None:
    for archive in dataset.archives:
        addresses(archive, mirror)  # refuses a mirror that is none before anything is done
    _check_space(dataset, folder)
    try:
        archives = [fetch_archive(archive, folder, mirror) for archive in dataset.archives]
    except Unavailable as error:
        raise StorageError(f"{error}; {_ways_out(dataset.archives, folder, mirror)}") from error
    aside = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of a command that was killed
    try:
        aside.mkdir()
        counts = dataset.lay_out(archives, aside, 2 * dataset.unpacked_bytes)
        about = _about(dataset, aside) | counts._asdict()
        files.write_json(str(aside / ABOUT), about)
        os.sync()  # once for thousands of small files: they must be there when the name is
        os.rename(aside, place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # gives its space back
        raise


def _check_space(dataset: DataSet, folder: Path) -> None:
    """Say how much space it takes, before anything is downloaded."""
    download = sum(_missing_bytes(archive, folder) for archive in dataset.archives)
    free = shutil.disk_usage(folder).free
    logger.info(
        f"{dataset.name}: {_size(download)} to download, {_size(dataset.unpacked_bytes)} more for the data set; "
        f"{_size(free)} are free in {folder.parent}"
    )
    if free < download + dataset.unpacked_bytes:
        raise StorageError(
            f"{dataset.name} takes about {_size(download + dataset.unpacked_bytes)} in {folder.parent}, where "
            f"{_size(free)} are free; free some space or choose another --out"
        )


def _missing_bytes(archive: Archive, folder: Path) -> int:
    if (folder / archive.name).exists():
        return 0
    part = folder / f"{archive.name}.part"
    return max(0, archive.num_bytes - (part.stat().st_size if part.exists() else 0))


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _ways_out(archives: Sequence[Archive], folder: Path, mirror: str) -> str:
    absent = [archive for archive in archives if not (folder / archive.name).exists()]
    named = (url if url.endswith(f"/{a.name}") else f"{url} as {a.name}" for a in absent for url in a.urls[:1])
    other = "another mirror" if mirror else "--mirror URL, a server with the same paths"
    return (
        f"what has come is kept, and the same command goes on; else give {other}, or on a machine without internet "
        f"put into {folder} by hand: {', '.join(named)}"
    )


def _about(dataset: DataSet, made: Path) -> dict[str, Any]:
    sizes = {entry.stat().st_ino: entry.stat().st_size for entry in made.rglob("*") if entry.is_file()}
    archives = [{"name": a.name, "urls": a.urls, "md5": a.md5, "sha256": a.sha256} for a in dataset.archives]
    about = {"name": dataset.name, "bytes": sum(sizes.values())}
    said = {"licence": dataset.licence, "citation": dataset.citation}
    return about | said | {"archives": archives, "cnnray": __version__}
