"""Detection data sets in the formats that people have: COCO, Pascal VOC and YOLO, found out by looking at the folder.

COCO   a JSON file, its images beside it or in images/; or a folder with such files, one for each split
VOC    Annotations/*.xml, JPEGImages/ (or images/), ImageSets/Main/{train,val,test}.txt
YOLO   labels/**/*.txt, images/, and the names of the classes in data.yaml, names.yaml or classes.txt
"""

import json
import posixpath
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from cnnray import files
from cnnray.data import coco, voc, yolo
from cnnray.data.annotations import SCHEMA, Annotations
from cnnray.data.listing import list_pictures
from cnnray.errors import DataError, UnknownNameError

FORMATS = (coco.KIND, voc.KIND, yolo.KIND)
_XML_FOLDERS, _IMAGE_FOLDERS = ("Annotations", "annotations"), ("JPEGImages", "images")
_SPLITS = ("train", "val", "test")


def read_annotations(source: str, images: str = "") -> Annotations:
    """Read a detection data set.

    Args:
        source: as above; a path or URI.
        images: folder of a COCO file's images, where it is neither beside it nor beside its folder.

    Returns:
        See `Annotations`; what is broken is in its problems.

    Raises:
        DataError: nothing there, none of the formats, or no image with annotations at all.
    """
    fs, path = files.filesystem(source)
    if not files.exists(source):
        raise DataError(f"expected a detection data set, but there is nothing at {source}")
    found = _read_file(source, images) if not fs.isdir(path) else _read_folder(source, images)
    if not found.table.num_rows:
        detail = f": {found.problems[0].message}" if found.problems else ""
        raise DataError(f"expected images with annotations in {source}, but found none{detail}")
    return found


def _read_file(source: str, images: str) -> Annotations:
    if not source.lower().endswith(".json"):
        raise DataError(f"expected a COCO file ending in .json, or a folder, got the file {source}")
    return coco.read_coco(source, images or _images_of(source), _split_of(source))


def _read_folder(source: str, images: str) -> Annotations:
    fs, path = files.filesystem(source)
    inside = {posixpath.basename(entry["name"].rstrip("/")): entry["type"] for entry in fs.ls(path, detail=True)}
    xml = next((name for name in _XML_FOLDERS if name in inside and _names(source, name, ".xml")), None)
    if xml is not None:
        pictures = list_pictures(_image_folder(source, inside))
        return voc.read_voc(
            files.join(source, xml), pictures, _names(source, xml, ".xml"), _image_sets(source, pictures.stems)
        )
    if "labels" in inside:
        pictures = list_pictures(_image_folder(source, inside))
        return yolo.read_yolo(source, pictures, _names(source, "labels", ".txt"), _names(source, "flags", ".txt"))
    lists = _coco_files(source, inside)
    if lists:
        parts = [coco.read_coco(uri, images or _images_of(uri), _split_of(uri)) for uri in lists]
        return _joined(parts, source)
    shown = ", ".join(sorted(inside)[:8]) or "nothing"
    raise DataError(
        f"expected a detection data set in {source}: a COCO file (.json), Annotations/*.xml beside JPEGImages/ or "
        f"images/ (VOC), or labels/*.txt beside images/ (YOLO); it holds {shown}"
    )


def write_annotations(annotations: Annotations, out: str, kind: str) -> None:
    """Write a detection data set; the images are not copied.

    Args:
        out: folder: OUT/annotations.json (or train.json, val.json ... where there are splits), OUT/Annotations and
            OUT/ImageSets, or OUT/labels, OUT/flags and OUT/data.yaml. Images belong into OUT/images (VOC: JPEGImages).
        kind: one of FORMATS.

    Raises:
        UnknownNameError: no such format.
    """
    if kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS)
    if kind == coco.KIND:
        for split, part in by_split(annotations):
            coco.write_coco(part, files.join(out, f"{split or 'annotations'}.json"))
        return
    for row in annotations.table.to_pylist():
        stem = posixpath.splitext(row["id"])[0]
        if kind == voc.KIND:
            files.write_bytes(files.join(out, "Annotations", f"{stem}.xml"), voc.voc_xml(row, annotations.categories))
        else:
            lines, flags = yolo.label_lines(row)
            files.write_bytes(files.join(out, "labels", f"{stem}.txt"), lines.encode())
            if flags:
                files.write_bytes(files.join(out, "flags", f"{stem}.txt"), flags.encode())
    _write_lists(annotations, out, kind)


def by_split(annotations: Annotations) -> Iterator[tuple[str, Annotations]]:
    """The parts of each split, by name."""
    splits = annotations.table["split"].to_pylist()
    for name in sorted(set(splits)):
        yield name, annotations.only(pa.array([split == name for split in splits]))


def _write_lists(annotations: Annotations, out: str, kind: str) -> None:
    """The files beside the annotations: which image is in which split, names of the classes."""
    for split, part in by_split(annotations):
        if not split:
            continue
        names = part.table["id"].to_pylist()
        if kind == voc.KIND:
            text = "".join(f"{posixpath.splitext(name)[0]}\n" for name in names)
            files.write_bytes(files.join(out, "ImageSets", "Main", f"{split}.txt"), text.encode())
        else:
            text = "".join(f"./images/{name}\n" for name in names)
            files.write_bytes(files.join(out, f"{split}.txt"), text.encode())
    if kind == yolo.KIND:
        there = [split for split, _ in by_split(annotations) if split]
        lines = [f"{split}: {split}.txt\n" for split in there] or ["train: images\n", "val: images\n"]
        lines += ["names:\n", *(f"  {at}: {json.dumps(name)}\n" for at, name in enumerate(annotations.categories))]
        files.write_bytes(files.join(out, "data.yaml"), "".join(lines).encode())


def _joined(parts: Sequence[Annotations], source: str) -> Annotations:
    first = parts[0]
    for part in parts:
        if (part.categories, part.category_ids) != (first.categories, first.category_ids):
            raise DataError(f"expected the same categories in all COCO files of {source}, but they differ")
    table = pa.concat_tables([part.table for part in parts]).sort_by("id")
    ids = table["id"].to_pylist()
    twice = next((a for a, b in zip(ids, ids[1:], strict=False) if a == b), None)
    if twice is not None:
        raise DataError(f"expected every image in one file of {source}, but {twice} is in several")
    problems = tuple(problem for part in parts for problem in part.problems)
    return Annotations(table.cast(SCHEMA), first.categories, first.category_ids, problems, first.format)


def _coco_files(source: str, inside: dict[str, str]) -> list[str]:
    for folder in (source, *(files.join(source, name) for name in _XML_FOLDERS if name in inside)):
        found = files.list_files(folder, ".json")
        if found:
            return found
    parts = [files.join(source, name) for name, kind in inside.items() if kind == "directory"]
    return sorted(uri for part in parts for uri in files.list_files(part, ".coco.json"))


def _images_of(uri: str) -> str:
    """The folder of a COCO file's images: images/ beside it or above it, else the file's own."""
    folder = posixpath.dirname(uri)
    above = posixpath.dirname(folder)
    for candidate in (files.join(folder, "images"), files.join(above, "images")):
        if files.exists(candidate):
            return candidate
    return folder


def _split_of(uri: str) -> str:
    """The split that a COCO file's name or folder speaks of, such as instances_val2017.json."""
    words = posixpath.splitext(posixpath.basename(uri))[0].replace("-", "_").split("_")
    words.append(posixpath.basename(posixpath.dirname(uri)))
    for word in words:
        plain = word.rstrip("0123456789").lower()
        if plain in ("valid", "validation"):
            return "val"
        if plain in _SPLITS:
            return plain
    return ""


def _image_sets(source: str, stems: Collection[str]) -> dict[str, str]:
    """Split by name of image from VOC's lists; trainval counts as train where it is not divided.

    Args:
        stems: names of the images, without their suffixes.
    """
    found: dict[str, str] = {}
    for name, split in (("trainval", "train"), ("train", "train"), ("val", "val"), ("test", "test")):
        uri = files.join(source, "ImageSets", "Main", f"{name}.txt")
        if files.exists(uri):
            for line in filter(None, map(str.strip, files.read_bytes(uri).decode().splitlines())):
                # lists of one class have a number behind the name, which may have spaces of its own
                found[line if line in stems else line.split()[0]] = split
    return found


def _image_folder(source: str, inside: dict[str, str]) -> str:
    for name in _IMAGE_FOLDERS:
        if name in inside:
            return files.join(source, name)
    raise DataError(f"expected the images of {source} in {' or '.join(_IMAGE_FOLDERS)}, but neither is there")


def _names(source: str, folder: str, suffix: str) -> list[str]:
    """Paths of the files below SOURCE/folder, relative to it, sorted; hidden ones left out."""
    return [name for name in files.find(files.join(source, folder)) if name.endswith(suffix)]
