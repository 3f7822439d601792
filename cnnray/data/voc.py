"""Pascal VOC: an XML file for each image, corners in px.

The PASCAL Visual Object Classes Challenge, development kit: pixels are counted from 1 and both corners belong to the
box, so xmin = 1 and xmax = width is the whole width. Some programs count from 0; a set in which a 0 occurs is read so.
"""

import functools
import math
import posixpath
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cnnray import files
from cnnray.data.annotations import Annotations, Problem, RawBox, RawImage, gather
from cnnray.data.fetch import fetch
from cnnray.data.listing import Pictures
from cnnray.errors import DataError

KIND = "voc"
READERS = 16
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _File:
    """What one XML file says, corners as they stand there."""

    stem: str
    path: str
    filename: str
    width: int
    height: int
    objects: list[tuple[str, tuple[float, ...], bool, bool]]


def read_voc(folder: str, pictures: Pictures, names: Sequence[str], splits: dict[str, str]) -> Annotations:
    """The annotations of a VOC folder.

    Args:
        folder: of the XML files.
        pictures: the images.
        names: of the XML files in it, such as "0001.xml" or "day/0001.xml".
        splits: split by name of an image without its suffix, from ImageSets/Main; {} where there is none.

    Returns:
        Categories are sorted by name. An image without a file of its own is a problem, as is a file without an image.

    Raises:
        DataError: no file can be read.
    """
    with ThreadPoolExecutor(READERS) as pool:
        parsed = list(pool.map(functools.partial(_read, folder), names))
    problems = [entry for entry in parsed if isinstance(entry, Problem)]
    known = [entry for entry in parsed if isinstance(entry, _File)]
    if not known:
        raise DataError(f"expected VOC annotations in {folder}, but no file can be read: {problems[0].message}")
    categories = sorted({name for file in known for name, *_ in file.objects})
    number = {name: at for at, name in enumerate(categories)}
    lows = [value for file in known for _, corners, *_ in file.objects for value in corners[:2]]
    origin = 0.0 if any(value < 1 for value in lows) and min(lows) >= 0 else 1.0
    images, used = [], set()
    for file in known:
        name = pictures.find(file.stem) or pictures.find(posixpath.splitext(file.filename)[0])
        if name is None:
            text = f"expected an image {file.filename or file.stem} for {file.path}, but there is none"
            problems.append(Problem(file.stem, file.path, "no_image", text))
            continue
        used.add(name)
        size = (file.height, file.width) if file.height and file.width else pictures.size(name)
        if size is None:
            problems.append(pictures.unreadable(name))
            continue
        boxes = [_box(entry, number, origin) for entry in file.objects]
        images.append(RawImage(name, pictures.uri(name), splits.get(file.stem, ""), *size, boxes))
    unread = {entry.id for entry in problems}
    for name in pictures.names:
        if name not in used and posixpath.splitext(name)[0] not in unread:
            problems.append(Problem(name, pictures.uri(name), "no_annotation", f"expected an XML file for {name}"))
    return gather(images, categories, problems, KIND)


def voc_xml(row: dict[str, Any], categories: Sequence[str]) -> bytes:
    """The XML file of an image, counted from 1; `row` of `Annotations.table`."""
    root = ElementTree.Element("annotation")
    _add(root, "filename", posixpath.basename(row["id"]))
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", row["width"]), ("height", row["height"]), ("depth", 3)):
        _add(size, name, value)
    columns = (row[name] for name in ("boxes", "labels", "crowd", "difficult"))
    for (x1, y1, x2, y2), label, crowd, difficult in zip(*columns, strict=True):
        entry = ElementTree.SubElement(root, "object")
        _add(entry, "name", categories[label])
        _add(entry, "difficult", int(difficult))
        if crowd:  # VOC knows no crowds: an element of our own, which others pass over
            _add(entry, "crowd", 1)
        box = ElementTree.SubElement(entry, "bndbox")
        for name, value in zip(_CORNERS, (x1 + 1, y1 + 1, _apart(x1, x2), _apart(y1, y2)), strict=True):
            _add(box, name, f"{round(value, 2):g}" if value < 1e5 else value)
    ElementTree.indent(root)
    return ElementTree.tostring(root)


def _apart(low: float, high: float) -> float:
    """The far side; a hundredth further for a box of one pixel, which would be taken for a click that went wrong."""
    return high + 0.01 if round(high, 2) == round(low + 1, 2) else high


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


def _read(folder: str, name: str) -> _File | Problem:
    stem, uri = posixpath.splitext(name)[0], files.join(folder, name)
    data, problem = fetch(uri)
    if data is None:
        return Problem(stem, uri, "bad_annotation", f"{uri}: {problem}")
    try:
        if b"<!ENTITY" in data:
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(data)
        if root.tag != "annotation":
            raise ValueError(f"its root is <{root.tag}>, not <annotation>")
        width, height = (int(float(root.findtext(f"size/{name}") or 0)) for name in ("width", "height"))
        return _File(
            stem, uri, root.findtext("filename") or "", width, height, [_object(e) for e in root.iter("object")]
        )
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        return Problem(stem, uri, "bad_annotation", f"expected a VOC annotation in {uri}, but {error}")


def _object(entry: ElementTree.Element) -> tuple[str, tuple[float, ...], bool, bool]:
    corners = tuple(_number(entry.findtext(f"bndbox/{name}")) for name in _CORNERS)
    flags = ((entry.findtext(name) or "0").strip() == "1" for name in ("crowd", "difficult"))
    return ((entry.findtext("name") or "").strip(), corners, *flags)  # type: ignore[return-value]


def _number(text: str | None) -> float:
    """NaN for what is no number: then the box goes, not the file."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _box(entry: tuple[str, tuple[float, ...], bool, bool], number: dict[str, int], origin: float) -> RawBox:
    name, (x1, y1, x2, y2), crowd, difficult = entry
    if x1 == x2 or y1 == y2:
        origin = 0.0  # a single pixel by the book, a click that went wrong in practice
    label = number[name] if name else None
    return RawBox(x1 - origin, y1 - origin, x2, y2, label, f"object {name!r}", crowd, difficult)
