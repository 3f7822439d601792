"""Pairs of faces to verify: LFW's pairs.txt, or a CSV.

http://vis-www.cs.umass.edu/lfw/README.txt, section 3. Fields are divided by tabs:

    10   300            folds, and pairs of each kind in a fold; of "view 1" only the pairs of each kind
    NAME 1 4            300 lines: images 1 and 4 of one person
    NAME 1 OTHER 2      300 lines: image 1 of one person, image 2 of another; then the next fold

Image n of NAME is ROOT/NAME/NAME_000n.jpg or another suffix of an image; where no image of the folder is named so, it
is the n-th of them in sorted order.
"""

import csv
import io
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnray import files
from cnnray.data.readers import IMAGE_SUFFIXES
from cnnray.errors import DataError

FOLDS = 10  # where a file does not divide its pairs
_SAME = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_THREADS = 16  # that list folders: on object stores each takes a round trip


@dataclass(frozen=True)
class FacePairs:
    """N pairs of images.

    Attributes:
        ids_a, ids_b: the images' paths below the root, or as the CSV has them.
        paths_a, paths_b: their URIs, local ones absolute.
        same_N: bool, whether both show one person.
        folds_N: int64, from 0. Of a file without folds there are up to ten, to which same and different pairs are
            dealt in turn.
    """

    ids_a: tuple[str, ...]
    ids_b: tuple[str, ...]
    paths_a: tuple[str, ...]
    paths_b: tuple[str, ...]
    same_N: NDArray[np.bool_]
    folds_N: NDArray[np.int64]

    @property
    def images(self) -> dict[str, str]:
        """URIs of all images by id, each once, sorted."""
        return dict(sorted(zip((*self.ids_a, *self.ids_b), (*self.paths_a, *self.paths_b), strict=True)))


@dataclass(frozen=True)
class _Pair:
    """Line of the file; of each image its folder, and its number or its file's name there; fold is -1 without one."""

    line: int
    a: tuple[str, int | str]
    b: tuple[str, int | str]
    same: bool
    fold: int


def read_face_pairs(uri: str, root: str) -> FacePairs:
    """Read a list of pairs, and look whether all its images are there.

    Args:
        uri: LFW's format, see above; or a .csv with a header line and columns path_a, path_b, same (1 or 0, true or
            false, yes or no) and perhaps fold (whole numbers).
        root: folder where the identity folders are, or where the CSV's relative paths start.

    Raises:
        DataError: no such file, a line of another form, folds that do not fit, images that are not there, only one
            kind of pairs.
    """
    try:
        text = files.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"expected a list of pairs of faces, but there is nothing at {uri}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"expected text in UTF-8 in {uri}, but: {error}") from None
    pairs = _parse_csv(text, uri) if uri.lower().endswith(".csv") else _parse_lfw(text, uri)
    same_N = np.array([pair.same for pair in pairs], np.bool_)
    if not 0 < same_N.sum() < len(same_N):
        raise DataError(
            f"expected pairs of the same person and of different people in {uri}, got {same_N.sum()} and "
            f"{(~same_N).sum()}"
        )
    folds_N = _folds(pairs, uri)
    ids_a, ids_b = _find_images(pairs, uri, root)
    base = files.absolute(root)
    paths_a, paths_b = (tuple(_uri(name, base) for name in ids) for ids in (ids_a, ids_b))
    return FacePairs(ids_a, ids_b, paths_a, paths_b, same_N, folds_N)


def _parse_lfw(text: str, uri: str) -> list[_Pair]:
    lines = [_fields(line) for line in text.rstrip().splitlines()]
    head = lines[0] if lines else []
    if len(head) not in (1, 2) or not all(_is_number(field) for field in head):
        raise DataError(
            f'expected "FOLDS PAIRS" or "PAIRS", numbers from 1, in line 1 of {uri}, got {" ".join(head)[:80]!r}'
        )
    folds, each = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    if len(lines) - 1 != 2 * folds * each:
        raise DataError(
            f"expected {folds} x 2 x {each} = {2 * folds * each} pairs in {uri}, as its line 1 says, got "
            f"{len(lines) - 1} lines"
        )
    divided = len(head) == 2
    return [
        _lfw_pair(fields, at + 2, at % (2 * each) < each, at // (2 * each) if divided else -1, uri)
        for at, fields in enumerate(lines[1:])
    ]


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split("\t")] if "\t" in line else line.split()


def _lfw_pair(fields: Sequence[str], line: int, same: bool, fold: int, uri: str) -> _Pair:
    form, count = ('"NAME N N" (one person)', 3) if same else ('"NAME N NAME N" (two people)', 4)
    numbers = fields[1::2] if count == 4 else fields[1:]
    if len(fields) != count or not all(map(_is_number, numbers)) or (not same and fields[0] == fields[2]):
        raise DataError(f"expected {form} in line {line} of {uri}, got {' '.join(fields)[:80]!r}")
    first, second = map(int, numbers)
    return _Pair(line, (fields[0], first), (fields[0 if same else 2], second), same, fold)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _parse_csv(text: str, uri: str) -> list[_Pair]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [name.strip() for name in reader.fieldnames or ()]
    missing = [name for name in ("path_a", "path_b", "same") if name not in columns]
    if missing:
        raise DataError(
            f"expected columns path_a, path_b, same in line 1 of {uri}, but {', '.join(missing)} is missing; it has "
            f"{', '.join(columns)}"
        )
    reader.fieldnames = columns
    return [_csv_pair(row, reader.line_num, uri) for row in reader]


def _csv_pair(row: Mapping[str, str | None], line: int, uri: str) -> _Pair:
    a, b, same, fold = ((row.get(name) or "").strip() for name in ("path_a", "path_b", "same", "fold"))
    if not a or not b:
        raise DataError(f"expected path_a and path_b in line {line} of {uri}, got {a!r} and {b!r}")
    if same.lower() not in _SAME:
        raise DataError(f"expected same to be one of {', '.join(_SAME)} in line {line} of {uri}, got {same!r}")
    if "fold" in row and not (fold.isascii() and fold.isdigit()):
        raise DataError(f"expected fold to be a whole number in line {line} of {uri}, got {fold!r}")
    return _Pair(line, posixpath.split(a), posixpath.split(b), _SAME[same.lower()], int(fold) if fold else -1)


def _folds(pairs: Sequence[_Pair], uri: str) -> NDArray[np.int64]:
    given_N = np.array([pair.fold for pair in pairs], np.int64)
    if given_N[0] < 0:  # so are all
        places = {True: 0, False: 0}
        for at, pair in enumerate(pairs):
            given_N[at] = places[pair.same] % FOLDS
            places[pair.same] += 1
    numbers, folds_N = np.unique(given_N, return_inverse=True)
    if len(numbers) < 2:
        raise DataError(f"expected two folds or more in {uri}, got {len(numbers)}")
    return folds_N.astype(np.int64)


def _find_images(pairs: Sequence[_Pair], uri: str, root: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the first and the second images."""
    listed = _list_folders(root, {folder for pair in pairs for folder, _ in (pair.a, pair.b)})
    known: dict[str, dict[str | int, str]] = {
        folder: {name: name for name in names} | image_numbers(folder, names) for folder, names in listed.items()
    }
    found, missing = [], []
    for pair in pairs:
        for folder, image in (pair.a, pair.b):
            name = known[folder].get(image, "")
            found.append(posixpath.join(folder, name))
            if not name:
                named = f"number {image} of {folder}" if isinstance(image, int) else posixpath.join(folder, image)
                missing.append(f"{named} (line {pair.line})")
    if missing:
        raise DataError(
            f"expected the images of {uri} in {root}, but {len(missing)} of {len(found)} are not there, such as "
            f"{missing[0]}"
        )
    return tuple(found[::2]), tuple(found[1::2])


def image_numbers(person: str, names: Sequence[str]) -> dict[int, str]:
    """The images of an identity folder by number, see above.

    Args:
        person: name of the folder.
        names: of the files in it; those that are no images are left out.

    Raises:
        DataError: two images of one number.
    """
    images = sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES))
    form = re.compile(re.escape(person) + r"_(\d{4,})\.[^.]+")
    found: dict[int, str] = {}
    for name in images:
        if match := form.fullmatch(name):
            if int(match[1]) in found:
                raise DataError(f"expected one image of each number of {person}, got {found[int(match[1])]} and {name}")
            found[int(match[1])] = name
    return found or dict(enumerate(images, start=1))


def _list_folders(root: str, folders: Iterable[str]) -> dict[str, list[str]]:
    """Names of the files in each folder; none of one that is not there."""

    def listed(folder: str) -> list[str]:
        fs, path = files.filesystem(_uri(folder, root))
        try:
            entries = fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (posixpath.basename(entry["name"]) for entry in entries if entry["type"] != "directory")
        return [name for name in names if not name.startswith(".")]

    names = sorted(folders)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(listed, names), strict=True))


def _uri(path: str, root: str) -> str:
    return path if "://" in path else files.join(root, path)


def list_people(root: str) -> dict[str, list[str]]:
    """The identity folders of a root and their images, both sorted; those without images are left out.

    Raises:
        DataError: there is no such folder, or no image in its sub-folders.
    """
    fs, path = files.filesystem(root)
    if not (files.exists(root) and fs.isdir(path)):
        raise DataError(f"expected a folder with a sub-folder of images for every person, but {root} is none")
    entries = [posixpath.basename(e["name"].rstrip("/")) for e in fs.ls(path, detail=True) if fs.isdir(e["name"])]
    listed = _list_folders(root, (name for name in entries if not name.startswith(".")))
    people = {name: list(image_numbers(name, names).values()) for name, names in listed.items()}
    found = {name: images for name, images in people.items() if images}
    if not found:
        raise DataError(f"expected a sub-folder of images for every person in {root}, but found none")
    return found
