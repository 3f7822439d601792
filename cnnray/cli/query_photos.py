"""The images of a `cnnray query`: which they are, what is written for each, and how the service is asked about all."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cnnray import files
from cnnray.cli.console import ProgressLine, table
from cnnray.errors import DataError, OptionError, ServiceError, StorageError

T = TypeVar("T")
Fault = ServiceError | StorageError

# No connection, no right to ask, nothing of that name, too busy for longer than the client's patience: so it will be
# for the next image, and to wait it out for each of a thousand takes hours.
_SAME_FOR_ALL = (0, 401, 403, 404, 429, 502, 503)


@dataclass(frozen=True)
class Photo:
    """An image's file, and how files that are written for it are called: without suffix, maybe in folders."""

    path: Path
    name: str

    def place(self, out: Path, ending: str) -> str:
        """Where a file for it belongs."""
        return str(out / f"{self.name}{ending}")

    def write(self, out: Path | None, ending: str, content: bytes) -> dict[str, Any]:
        """Write a file for it, if there is a folder for that; "picture": where it is."""
        if out is None:
            return {}
        files.write_bytes(self.place(out, ending), content)
        return {"picture": self.place(out, ending)}


def list_photos(given: Sequence[Path], out: Path | None = None, endings: Sequence[str] = ()) -> list[Photo]:
    """The images of files and folders.

    What is written for an image is called like it; in a folder like its path below that. Where that does not tell
    images apart, more of their folders come before, and suffixes stay where only they differ.

    Args:
        given: a file is taken as it is, of a folder all images at any depth.
        out: folder that will be written to; if it is inside of one of these, what is there is none of the images.
        endings: of the files that will be written for each.

    Raises:
        DataError: a folder without images.
        OptionError: an image itself would be overwritten.
    """
    found = [one for path in given for one in _below(path, out)]
    names = _names([path for path, _ in found], [depth for _, depth in found])
    photos = [Photo(path, name) for (path, _), name in zip(found, names, strict=True)]
    if out is not None:
        images = {os.path.realpath(photo.path) for photo in photos}
        for place in (photo.place(out, ending) for photo in photos for ending in endings):
            if os.path.realpath(place) in images:
                raise OptionError(f"expected another folder than {out} to write to: {place} is one of the images")
    return photos


def ask_about(
    photos: Sequence[Photo],
    ask: Callable[[Path], T],
    tell: Callable[[Photo, T], tuple[dict[str, Any], dict[str, Any]]],
    *,
    failed: Mapping[str, Any],
    concurrency: int = 1,
) -> dict[str, Any]:
    """Ask a service about each image, and show a table of the answers.

    Args:
        ask: about one.
        tell: what the JSON and the table say of an answer.
        failed: what the JSON says of an image that failed, besides its error.
        concurrency: images that are asked about at a time.

    Returns:
        "answers": of each image, in their order; its `error` is None unless it failed.

    Raises:
        ServiceError, StorageError: all failed; that of the first one.
    """
    answers, shown, faults = [], [], []
    with asked([photo.path for photo in photos], ask, concurrency) as found:
        for photo, answer in zip(photos, found, strict=True):
            image = {"image": str(photo.path)}
            if isinstance(answer, Fault):
                faults.append(answer)
                answers.append({**image, **failed, "error": str(answer)})
                shown.append({**image, "error": str(answer)})
            else:
                values, cells = tell(photo, answer)
                answers.append({**image, **values, "error": None})
                shown.append({**image, **cells})
    _show(shown)
    if len(faults) == len(photos):
        raise faults[0]
    return {"answers": answers}


@contextlib.contextmanager
def asked(paths: Sequence[Path], ask: Callable[[Path], T], concurrency: int) -> Iterator[Iterator[T | Fault]]:
    """The answers in their order, or what went wrong; when this ends, nothing more is asked.

    What would be wrong with every image (no connection, no right to ask) is not tried with each.
    """
    in_vain: list[ServiceError] = []  # since the last other answer; one for each that is asked at a time is enough

    def one(path: Path) -> T | Fault:
        if len(in_vain) >= concurrency:
            return _not_asked(in_vain[-1])
        try:
            answer: T | Fault = ask(path)
        except (ServiceError, StorageError) as error:
            answer = error
        if isinstance(answer, ServiceError) and answer.status in _SAME_FOR_ALL:
            in_vain.append(answer)
        elif not isinstance(answer, StorageError):
            in_vain.clear()
        return answer

    pool = ThreadPoolExecutor(concurrency)
    try:
        with ProgressLine() as line:
            yield _counted(pool.map(one, paths), len(paths), line)
    finally:
        pool.shutdown(cancel_futures=True)


def _counted(answers: Iterator[T], count: int, line: ProgressLine) -> Iterator[T]:
    for number, answer in enumerate(answers, 1):
        if count > 1:
            line.show(f"{number:,} of {count:,} images")
        yield answer


def _not_asked(error: ServiceError) -> ServiceError:
    return ServiceError(f"not asked, after: {error}", code=error.code, status=error.status, request_id=error.request_id)


def _show(rows: list[dict[str, Any]]) -> None:
    """A table with the columns that any row has; what went wrong is the last one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: name == "error")
    table("Answers", [dict.fromkeys(columns) | row for row in rows], columns)


def _below(given: Path, out: Path | None) -> list[tuple[Path, int]]:
    """The images that a path stands for, each with how many of its last parts name it at least."""
    if not given.is_dir():
        return [(given, 1)]
    from cnnray.data.readers import IMAGE_SUFFIXES, list_images  # which loads Ray

    inner = [Path(name) for name in sorted(list_images(str(given), "").to_pylist())]
    written = None if out is None or out.resolve() == given.resolve() else out.resolve()
    found = [(given / name, len(name.parts)) for name in inner]
    if written is not None:
        found = [(path, depth) for path, depth in found if not path.resolve().is_relative_to(written)]
    if not found:
        raise DataError(f"expected images in {given}, but found none (looked for {' '.join(IMAGE_SUFFIXES)})")
    return found


def _names(paths: Sequence[Path], depths: Sequence[int]) -> list[str]:
    """Names that tell paths apart, from so many of their last parts or more."""
    whole = [Path(os.path.abspath(path)).parts[1:] for path in paths]
    parts = [(*part[:-1], Path(part[-1]).stem) for part in whole]
    if len(set(parts)) < len(set(whole)):
        parts = whole
    while True:
        names = [part[-depth:] for part, depth in zip(parts, depths, strict=True)]
        owners = defaultdict(set)
        for name, part in zip(names, parts, strict=True):
            owners[name].add(part)
        if all(len(found) == 1 for found in owners.values()):
            return ["/".join(name) for name in names]
        depths = [depth + (len(owners[name]) > 1) for name, depth in zip(names, depths, strict=True)]
