"""`cnnray data inspect`: what is in a detection data set, and what is wrong with it."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from cnnray import cluster, files
from cnnray.config import BoxesConfig
from cnnray.data.annotations import Annotations, Problem
from cnnray.data.boxes import look_at_boxed_image
from cnnray.data.check import Facts, look_at_all
from cnnray.data.convert import PROBLEMS, problems_csv
from cnnray.data.fetch import fetch
from cnnray.data.formats import read_annotations
from cnnray.errors import OptionError
from cnnray.page import Numbers, Picture, Section, Table, Text, write_page
from cnnray.report import box_size_picture

SMALL, MEDIUM = 32**2, 96**2  # px², COCO's limits
_SHOWN = 200


def inspect_boxes(source: str, out: str | None, config: BoxesConfig, *, address: str | None = None) -> dict[str, Any]:
    """Read a data set, decode every image on the cluster, and count.

    Args:
        source: see `read_annotations`.
        out: folder, new or empty, for report.html and problems.csv; None writes nothing.
        config: where images are.
        address: of a Ray cluster; None is a local one.

    Returns:
        format, images, splits, boxes, without_boxes (images), small, medium, large (boxes), crowd, difficult,
        duplicates (images that are the same file as an earlier one), across_splits (of those, in another split),
        problems (by code), examples (one of each), classes (name, images, boxes, crowd, difficult).

    Raises:
        DataError: as `read_annotations`.
        OptionError: `out` holds something.
    """
    if out is not None and files.exists(files.join(out, "report.html")):
        raise OptionError(f"expected a new or empty folder as --out, but {out} holds a report")
    annotations = read_annotations(files.absolute(source), config.images)
    cluster.connect(address)
    index = annotations.table.select(["id", "path", "height", "width"])
    facts, bad = look_at_all(index, look_and_hash)
    problems = [*annotations.problems, *(Problem(**row) for row in bad)]
    found = count_boxes(annotations) | _duplicates(annotations, facts)
    found["problems"] = dict(sorted(Counter(problem.code for problem in problems).items()))
    found["examples"] = [vars(next(p for p in problems if p.code == code)) for code in found["problems"]]
    if out is not None:
        write_page(files.join(out, "report.html"), "Data set", _sections(annotations, found), source)
        files.write_bytes(files.join(out, PROBLEMS), problems_csv(problems).encode())
    return found


def look_and_hash(row: dict[str, Any]) -> Facts:
    """See `look_at_boxed_image`; also the sha256 of the file."""
    facts = look_at_boxed_image(row)
    return facts | {"sha256": hashlib.sha256(fetch(row["path"])[0] or b"").hexdigest()}


def count_boxes(annotations: Annotations) -> dict[str, Any]:
    """What can be counted without opening an image, see `inspect_boxes`."""
    table = annotations.table
    labels = np.array([label for row in table["labels"].to_pylist() for label in row], np.int64)
    flags = {
        name: np.array([f for row in table[name].to_pylist() for f in row], bool) for name in ("crowd", "difficult")
    }
    areas = np.array([area for row in table["areas"].to_pylist() for area in row])
    images = Counter(label for row in table["labels"].to_pylist() for label in set(row))
    classes = [
        {"name": name, "images": images[at], "boxes": int((labels == at).sum())}
        | {flag: int(values[labels == at].sum()) for flag, values in flags.items()}
        for at, name in enumerate(annotations.categories)
    ]
    return {
        "format": annotations.format,
        "images": table.num_rows,
        "splits": dict(Counter(table["split"].to_pylist())),
        "boxes": len(labels),
        "without_boxes": sum(not row for row in table["labels"].to_pylist()),
        "small": int((areas < SMALL).sum()),
        "medium": int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
        "large": int((areas >= MEDIUM).sum()),
        **{flag: int(values.sum()) for flag, values in flags.items()},
        "classes": classes,
    }


def _duplicates(annotations: Annotations, facts: dict[str, Facts]) -> dict[str, int]:
    first: dict[str, str] = {}
    twice = across = 0
    for name, split in zip(*(annotations.table[column].to_pylist() for column in ("id", "split")), strict=True):
        digest = facts.get(name, {}).get("sha256")
        if digest is None:
            continue
        if digest in first:
            twice += 1
            across += first[digest] != split
        first.setdefault(digest, split)
    return {"duplicates": twice, "across_splits": across}


def _sections(annotations: Annotations, found: dict[str, Any]) -> list[Section]:
    names = ("images", "boxes", "without_boxes", "small", "medium", "large", "crowd", "difficult", "duplicates")
    numbers = Numbers({name.replace("_", " "): found[name] for name in names})
    rows = [tuple(row.values()) for row in sorted(found["classes"], key=lambda row: -row["boxes"])]
    sizes = box_sizes(annotations.table)
    caption = "shares of the image's width and height; small: below 32 x 32 px, large: from 96 x 96 px on"
    sections = [
        Section("Counts", [numbers]),
        Section("Classes", [Table(("class", "images", "boxes", "crowd", "difficult"), rows)]),
        Section("Box sizes", [Picture(box_size_picture(sizes), caption)]),
    ]
    if found["across_splits"]:
        text = f"{found['across_splits']:,} images are in two splits at once: figures on the second one flatter."
        sections.append(Section("Images twice", [Text(text)]))
    broken = [(e["id"], e["code"], e["message"]) for e in map(vars, annotations.problems[:_SHOWN])]
    if broken:
        sections.append(Section("What is wrong", [Table(("image", "code", "what came"), broken)]))
    return sections


def box_sizes(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[n, 2] width and height of every box as shares of its image's."""
    rows = [
        ((x2 - x1) / width, (y2 - y1) / height)
        for boxes, height, width in zip(
            *(table[name].to_pylist() for name in ("boxes", "height", "width")), strict=True
        )
        for x1, y1, x2, y2 in boxes
    ]
    return np.array(rows, np.float64).reshape(-1, 2)
