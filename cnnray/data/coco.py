"""COCO: one JSON file for all images, boxes as (left, top, width, height) px.

https://cocodataset.org/#format-data
"""

import json
import math
import posixpath
from collections.abc import Mapping
from typing import Any

from cnnray import files
from cnnray.data.annotations import Annotations, Problem, RawBox, RawImage, gather
from cnnray.errors import DataError

KIND = "coco"


def read_coco(source: str, images: str, split: str = "") -> Annotations:
    """The annotations of a COCO file.

    Args:
        source: the JSON file.
        images: folder that its file names start from.
        split: of all its images.

    Returns:
        Images without annotations have no boxes. Images are not opened: their sizes are those that the file says.

    Raises:
        DataError: it is no COCO file.
    """
    return parse_coco(read_coco_json(source), source, images, split)


def read_coco_json(source: str) -> dict[str, Any]:
    """The content of a COCO file.

    Raises:
        DataError: it is no JSON, or lacks images, annotations or categories.
    """
    try:
        content = json.loads(files.read_bytes(source))
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(f"expected a COCO file, but {source} is no JSON: {error}") from error
    missing = [name for name in ("images", "annotations", "categories") if not _is_list(content, name)]
    if missing:
        raise DataError(f"expected a COCO file, but {source} has no list of {', '.join(missing)}")
    return dict(content)


def parse_coco(content: Mapping[str, Any], source: str, images: str, split: str = "") -> Annotations:
    """See `read_coco`; `content` from `read_coco_json`."""
    try:
        categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        number = {category: at for at, category in enumerate(categories)}
        known = {entry["id"]: _image(entry, images, split) for entry in content["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"expected id and name of categories, id, file_name, height, width of images in {source}, but: {error!r}"
        ) from error
    for what, kept in (("categories", categories), ("images", known)):
        if len(kept) < len(content[what]):
            raise DataError(f"expected different ids of the {what} of {source}, got one for several of them")
    if len(set(categories.values())) < len(categories):
        raise DataError(f"expected different names of the categories of {source}, got {list(categories.values())}")
    problems = []
    for entry in content["annotations"]:
        told = f"annotation {entry.get('id') if isinstance(entry, dict) else entry!r}"
        try:
            image = known.get(entry["image_id"])
            if image is None:
                text = f"{told} is of image {entry['image_id']}, which is not in the file"
                problems.append(Problem(str(entry["image_id"]), source, "no_image", text))
            else:
                image.boxes.append(_box(entry, told, number))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(Problem("", source, "bad_line", f"{told} cannot be read: {error!r}"))
    return gather(known.values(), tuple(categories.values()), problems, KIND, tuple(categories))


def to_coco(annotations: Annotations) -> dict[str, Any]:
    """The content of a COCO file; images are numbered from 1 in the order of their ids."""
    numbers = annotations.category_ids
    found: list[dict[str, Any]] = []
    pictures = []
    for at, row in enumerate(annotations.table.to_pylist(), start=1):
        pictures.append({"id": at, "file_name": row["id"], "width": row["width"], "height": row["height"]})
        columns = (row[name] for name in ("boxes", "labels", "crowd", "difficult", "areas"))
        for (x1, y1, x2, y2), label, crowd, difficult, area in zip(*columns, strict=True):
            entry = {"id": len(found) + 1, "image_id": at, "category_id": numbers[label]}
            entry |= {"bbox": [_short(v) for v in (x1, y1, x2 - x1, y2 - y1)], "area": _short(area)}
            found.append(entry | {"iscrowd": int(crowd)} | ({"difficult": 1} if difficult else {}))
    named = zip(numbers, annotations.categories, strict=True)
    return {
        "images": pictures,
        "annotations": found,
        "categories": [{"id": number, "name": name, "supercategory": ""} for number, name in named],
    }


def write_coco(annotations: Annotations, uri: str) -> None:
    """Write a COCO file."""
    files.write_bytes(uri, json.dumps(to_coco(annotations)).encode())


def _image(entry: Mapping[str, Any], images: str, split: str) -> RawImage:
    name = str(entry["file_name"])
    path = name if files.is_absolute(name) else posixpath.join(images.rstrip("/"), name)
    return RawImage(name, path, split, int(entry["height"]), int(entry["width"]))


def _box(entry: Mapping[str, Any], told: str, number: Mapping[int, int]) -> RawBox:
    x, y, width, height = (float(math.nan if value is None else value) for value in entry["bbox"])
    category, area = int(entry["category_id"]), entry.get("area")
    label = number.get(category)
    return RawBox(
        x,
        y,
        x + width,
        y + height,
        label,
        f"{told} of category {category}" if label is None else told,
        crowd=bool(entry.get("iscrowd", 0)),
        difficult=bool(entry.get("difficult", 0)),
        area=math.nan if area is None else float(area),
    )


def _short(value: float) -> float:
    """Three digits are a thousandth of a pixel: rounding noise is not written out."""
    return round(value, 3)


def _is_list(content: object, name: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(name), list)
