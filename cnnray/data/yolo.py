"""YOLO: a text file for each image, a line for each box: class, centre, width and height as shares of the image's.

A line may hold an outline instead (class and then x, y of its corners): its bounding box counts. YOLO files know
neither crowds nor difficult objects: `write` keeps these in files of the same name in flags/, which others pass over.
"""

import math
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml

from cnnray import files
from cnnray.data.annotations import Annotations, Problem, RawBox, RawImage, gather
from cnnray.data.fetch import fetch
from cnnray.data.listing import Pictures
from cnnray.errors import DataError

KIND = "yolo"
READERS = 16
NAMES = ("data.yaml", "names.yaml", "dataset.yaml", "classes.txt", "obj.names")
_FLAGS = ("crowd", "difficult")
_SPLITS = {"train": {"train"}, "val": {"val", "valid", "validation"}, "test": {"test"}}


def read_yolo(source: str, pictures: Pictures, labels: Sequence[str], flags: Sequence[str]) -> Annotations:
    """The annotations of a YOLO folder.

    Args:
        source: the folder, with one of NAMES in it.
        pictures: its images.
        labels: paths of the text files relative to SOURCE/labels, such as "train/0001.txt".
        flags: those of the files in SOURCE/flags.

    Returns:
        Images without a text file have no boxes. The split is that of the list (.txt) in which data.yaml names the
        image, else the folder above it, if that is train, val or test. Images are opened for their sizes, which turns
        shares into px.

    Raises:
        DataError: no names of the classes.
    """
    names, lists = read_names(source), _read_splits(source, pictures)
    told = {posixpath.splitext(name)[0]: name for name in labels}
    marked = {posixpath.splitext(name)[0] for name in flags}
    problems: list[Problem] = []
    for stem in sorted(told.keys() - pictures.stems.keys()):
        uri = posixpath.join(source.rstrip("/"), "labels", told[stem])
        problems.append(Problem(stem, uri, "no_image", f"expected an image {stem} for {uri}, but there is none"))

    def image(stem: str) -> tuple[RawImage | None, list[Problem]]:
        return _image(source, pictures, stem, told.get(stem), stem in marked, len(names), lists.get(stem, ""))

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(image, sorted(pictures.stems)))
    for _, more in found:
        problems += more
    return gather([one for one, _ in found if one is not None], names, problems, KIND)


def read_names(source: str) -> list[str]:
    """Names of the classes, by number, from the first of NAMES that is there.

    Raises:
        DataError: there is none, or it holds no names.
    """
    for name in NAMES:
        uri = files.join(source, name)
        if not files.exists(uri):
            continue
        try:
            text = files.read_bytes(uri).decode()
            found = yaml.safe_load(text).get("names") if name.endswith(".yaml") else text.split("\n")
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
            raise DataError(f"expected the names of the classes in {uri}, but it cannot be read: {error}") from error
        if isinstance(found, dict) and sorted(found) == list(range(len(found))):
            found = [found[number] for number in range(len(found))]
        if not isinstance(found, list) or not found:
            raise DataError(f"expected a list names, or names by numbers from 0 on, in {uri}, got {found!r}")
        names = ["" if entry is None else str(entry).strip() for entry in found]
        while names and not names[-1]:  # the file ends with an empty line
            names.pop()
        if not all(names):
            raise DataError(f"expected a name for every class in {uri}, but number {names.index('')} has none")
        return names
    raise DataError(f"expected the names of the classes in {source} as one of {', '.join(NAMES)}, but found none")


def _read_splits(source: str, pictures: Pictures) -> dict[str, str]:
    """Split by name of an image without its suffix, from the lists of data.yaml."""
    uri = files.join(source, "data.yaml")
    content = yaml.safe_load(files.read_bytes(uri)) if files.exists(uri) else {}
    found: dict[str, str] = {}
    for split in _SPLITS:
        name = content.get(split)
        if not isinstance(name, str) or not name.endswith(".txt"):
            continue
        for line in (_text(files.join(source, name))[0] or "").splitlines():
            found |= {stem: split for stem in _stems_of(line.strip()) if stem in pictures.stems}
    return found


def _stems_of(path: str) -> Iterator[str]:
    """What an image in a list can be called: what follows its folder images/, of which several may be in the path."""
    parts = posixpath.splitext(path)[0].split("/")
    return ("/".join(parts[at + 1 :]) for at, part in enumerate(parts) if part == "images")


def label_lines(row: dict[str, Any]) -> tuple[str, str]:
    """The text of an image's file in labels/, and in flags/ ("" without flags); `row` of `Annotations.table`.

    A line in flags/ is the number of a line in labels/, from 1, and its flags.
    """
    lines, marks = [], []
    columns = (row[name] for name in ("boxes", "labels", *_FLAGS))
    for at, ((x1, y1, x2, y2), label, *flags) in enumerate(zip(*columns, strict=True), start=1):
        width, height = row["width"], row["height"]
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{label} " + " ".join(f"{share:.7g}" for share in shares) + "\n")
        named = [name for name, flag in zip(_FLAGS, flags, strict=True) if flag]
        if named:
            marks.append(" ".join([str(at), *named]) + "\n")
    return "".join(lines), "".join(marks)


def _image(
    source: str, pictures: Pictures, stem: str, labels: str | None, marked: bool, num_classes: int, split: str
) -> tuple[RawImage | None, list[Problem]]:
    name = pictures.stems[stem]
    size = pictures.size(name)
    if size is None:
        return None, [pictures.unreadable(name)]
    folders = set(name.split("/")[:-1])
    split = split or next((s for s, names in _SPLITS.items() if folders & names), "")
    image = RawImage(name, pictures.uri(name), split, *size)
    if labels is None:
        return image, []
    uri = posixpath.join(source.rstrip("/"), "labels", labels)
    text, problem = _text(uri)
    if text is None:
        return None, [Problem(name, uri, "bad_annotation", problem)]
    flags = _read_flags(posixpath.join(source.rstrip("/"), "flags", labels)) if marked else {}
    problems = []
    for at, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        box = _box(line, size, num_classes, flags.get(at, frozenset()), f"line {at}")
        if box is None:
            told = f"line {at} of {uri}: expected a class and four shares, or an outline, got {line[:80]!r}"
            problems.append(Problem(name, uri, "bad_line", told))
        else:
            image.boxes.append(box)
    return image, problems


def _text(uri: str) -> tuple[str | None, str]:
    data, problem = fetch(uri)
    if data is None:
        return None, f"{uri}: {problem}"
    try:
        return data.decode(), ""
    except UnicodeDecodeError as error:
        return None, f"expected text in {uri}, but {error}"


def _read_flags(uri: str) -> dict[int, frozenset[str]]:
    text = _text(uri)[0] or ""
    return {int(line.split()[0]): frozenset(line.split()[1:]) for line in text.splitlines() if line.strip()}


def _box(line: str, size: tuple[int, int], num_classes: int, flags: frozenset[str], told: str) -> RawBox | None:
    try:
        number, *shares = (float(word) for word in line.split())
        label = int(number)
    except (ValueError, OverflowError):
        return None
    if len(shares) == 4:
        x, y, width, height = shares
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(shares) >= 6 and len(shares) % 2 == 0:
        xs, ys = shares[::2], shares[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys)) if all(map(math.isfinite, shares)) else (math.nan,) * 4
    else:
        return None
    x1, y1, x2, y2 = (share * side for share, side in zip(corners, (size[1], size[0]) * 2, strict=True))
    known = label if 0 <= label < num_classes and label == number else None
    return RawBox(x1, y1, x2, y2, known, f"class {number:g} in {told}", "crowd" in flags, "difficult" in flags)
