"""Images with boxes as every part of cnnray knows them, whatever format they come from, and what is wrong with some.

A box that cannot be right is never dropped in silence: it is clipped or left out, and a `Problem` says which and why.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from cnnray.errors import DataError

BOXES = pa.list_(pa.list_(pa.float64(), 4))
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "split": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": BOXES,
        "labels": pa.list_(pa.int32()),
        "crowd": pa.list_(pa.bool_()),
        "difficult": pa.list_(pa.bool_()),
        "areas": pa.list_(pa.float64()),
    }
)

# What a problem is called, and whether the box is still there afterwards (clipped) or the whole image is gone.
CODES = {
    "clipped": "reached outside of its image and was cut at the border",
    "not_a_number": "has coordinates that are no finite numbers",
    "swapped": "has its right or lower side before its left or upper one, or a negative size",
    "empty": "has no area",
    "outside": "lies outside of its image",
    "unknown_category": "is of a category that is not declared",
    "bad_line": "cannot be read",
    "no_image": "annotation whose image is not there",
    "no_annotation": "image that no annotation speaks of",
    "bad_annotation": "annotation file that cannot be read",
    "unreadable_image": "image whose size cannot be read",
    "other_size": "image of another size than its annotation says",
}
IMAGE_PROBLEMS = frozenset({"no_image", "no_annotation", "bad_annotation", "unreadable_image", "other_size"})


@dataclass(frozen=True)
class Problem:
    """Something wrong with an image or a box.

    Attributes:
        id, path: of the image or, where there is none, of the annotation.
        code: one of CODES.
        message: says what came.
    """

    id: str
    path: str
    code: str
    message: str


@dataclass(slots=True)
class RawBox:
    """A box as a file has it, in xyxy px; `label` is None where the file names an unknown category.

    Attributes:
        area: of its outline in px², where the file says one; NaN is that of the box.
        told: what the file calls it, for messages.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: int | None
    told: str
    crowd: bool = False
    difficult: bool = False
    area: float = math.nan


@dataclass(slots=True)
class RawImage:
    """An image as the files have it.

    Attributes:
        id: path relative to the folder of images.
        path: URI.
        split: "" where nothing says one.
        height, width: in px.
    """

    id: str
    path: str
    split: str
    height: int
    width: int
    boxes: list[RawBox] = field(default_factory=list)


@dataclass(frozen=True)
class Annotations:
    """Images with boxes.

    Attributes:
        table: SCHEMA, sorted by id; boxes are xyxy px inside of their image, with an area; labels are places in
            `categories`; `areas` in px² are of the outlines where the format has any, else of the boxes.
        categories: names.
        category_ids: their numbers in COCO files.
        problems: what was found wrong while reading.
        format: "coco", "voc" or "yolo".
    """

    table: pa.Table
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: tuple[Problem, ...]
    format: str

    @property
    def num_boxes(self) -> int:
        """Boxes of all images."""
        return sum(map(len, self.table["labels"].to_pylist()))

    @property
    def codes(self) -> dict[str, int]:
        """How often each problem came, by code."""
        return dict(sorted(Counter(problem.code for problem in self.problems).items()))

    def only(self, mask: pa.Array) -> "Annotations":
        """The same with some of the images."""
        return Annotations(self.table.filter(mask), self.categories, self.category_ids, self.problems, self.format)


def gather(
    images: Iterable[RawImage],
    categories: Sequence[str],
    problems: Iterable[Problem],
    kind: str,
    category_ids: Sequence[int] = (),
) -> Annotations:
    """Clip or leave out what is broken, and put the rest into a table.

    Args:
        category_ids: () numbers the categories from 1.

    Raises:
        DataError: two images of one id.
    """
    found = list(problems)
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for image in sorted(images, key=lambda image: image.id):
        if columns["id"] and columns["id"][-1] == image.id:
            raise DataError(f"expected every image once, but {image.id} comes more than once")
        kept = [box for raw in image.boxes if (box := sound(raw, image, found)) is not None]
        for name in ("id", "path", "split", "height", "width"):
            columns[name].append(getattr(image, name))
        columns["boxes"].append([[box.x1, box.y1, box.x2, box.y2] for box in kept])
        columns["labels"].append([box.label for box in kept])
        columns["crowd"].append([box.crowd for box in kept])
        columns["difficult"].append([box.difficult for box in kept])
        columns["areas"].append([box.area for box in kept])
    numbers = tuple(category_ids) or tuple(range(1, len(categories) + 1))
    return Annotations(pa.table(columns, schema=SCHEMA), tuple(categories), numbers, tuple(found), kind)


def sound(box: RawBox, image: RawImage, problems: list[Problem]) -> RawBox | None:
    """The box as it can be used, clipped to its image, or None; what was wrong is added to `problems`."""
    width, height = image.width, image.height
    inside = (max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, float(width)), min(box.y2, float(height)))
    code = _fault(box, inside)
    if code:
        place = f"({box.x1:g}, {box.y1:g}, {box.x2:g}, {box.y2:g})"
        what = f"{box.told} at {place} in {width} x {height} px {CODES[code]}"
        problems.append(Problem(image.id, image.path, code, what))
        if code != "clipped":
            return None
    x1, y1, x2, y2 = inside
    own = (x2 - x1) * (y2 - y1)
    area = own if code or math.isnan(box.area) or box.area <= 0 else box.area
    return RawBox(x1, y1, x2, y2, box.label, box.told, box.crowd, box.difficult, area)


def _fault(box: RawBox, inside: tuple[float, float, float, float]) -> str:
    """The first of CODES that fits; "" for a sound box."""
    whole = (box.x1, box.y1, box.x2, box.y2)
    if not all(map(math.isfinite, whole)):
        return "not_a_number"
    if box.label is None:
        return "unknown_category"
    if box.x2 < box.x1 or box.y2 < box.y1:
        return "swapped"
    if box.x2 == box.x1 or box.y2 == box.y1:
        return "empty"
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return "outside"
    # formats store a few digits: what is less than a hundredth of a pixel outside is no fault
    reach = max(abs(a - b) for a, b in zip(whole, inside, strict=True))
    return "clipped" if round(reach, 6) > 0.01 else ""  # 1.01 - 1 is a little more than 0.01
