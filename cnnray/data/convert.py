"""`cnnray data convert`, `cnnray data split`: detection data sets written anew, with their images."""

import contextlib
import csv
import dataclasses
import io
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from cnnray import files
from cnnray.config import BoxesConfig, SplitConfig
from cnnray.data import coco, voc, yolo
from cnnray.data.annotations import Annotations, Problem
from cnnray.data.boxes import refuse_broken
from cnnray.data.fetch import fetch_known
from cnnray.data.formats import FORMATS, read_annotations, write_annotations
from cnnray.data.picture_names import check_names, inside, picture_name
from cnnray.errors import OptionError, UnknownNameError
from cnnray.ops.split import parse_fractions, split_label_sets

PROBLEMS = "problems.csv"
COPIERS = 16
_IMAGES = {coco.KIND: "images", voc.KIND: "JPEGImages", yolo.KIND: "images"}


def convert_boxes(source: str, out: str, to: str, config: BoxesConfig, *, copy: bool = True) -> dict[str, Any]:
    """Write a data set in another format.

    Args:
        source: see `read_annotations`.
        out: folder, new or empty.
        to: one of FORMATS.
        config: where images are, how many may be bad.
        copy: the images too; on one disk they become second names of the same files.

    Returns:
        images, boxes, splits (images by name), problems (by code), flags (boxes whose flags YOLO files cannot hold).

    Raises:
        UnknownNameError: no such format.
        OptionError: `out` holds something.
        DataError: as `read_annotations`; two images would have one name.
        QuarantineError: too many images or boxes are broken.
    """
    if to not in FORMATS:
        raise UnknownNameError("format", to, FORMATS)
    annotations = _read(source, out, config)
    return _write(annotations, out, to, copy)


def split_boxes(source: str, out: str, config: SplitConfig, *, copy: bool = True) -> dict[str, Any]:
    """Divide a data set so that every class is divided alike, and write it in its own format.

    Args:
        as `convert_boxes`; config says the fractions. Splits that the source has are forgotten.

    Returns, raises:
        as `convert_boxes`.
    """
    fractions = parse_fractions(config.split)
    annotations = _read(source, out, config)
    table = annotations.table
    names = split_label_sets(table["id"].to_pylist(), table["labels"].to_pylist(), fractions, config.seed)
    table = table.set_column(2, "split", pa.array(names.tolist(), pa.string()))
    return _write(dataclasses.replace(annotations, table=table), out, annotations.format, copy)


def _read(source: str, out: str, config: BoxesConfig) -> Annotations:
    fs, path = files.filesystem(out)
    if fs.exists(path) and (fs.isfile(path) or fs.ls(path)):
        raise OptionError(f"expected a new or empty folder as --out, but {out} holds something")
    annotations = read_annotations(files.absolute(source), config.images)
    refuse_broken(annotations, config, "`cnnray data inspect`, which lists them")
    return annotations


def _write(annotations: Annotations, out: str, kind: str, copy: bool) -> dict[str, Any]:
    if copy or kind != coco.KIND:  # a COCO file may name images that lie elsewhere
        annotations = _inside(annotations, kind)
    if copy:
        folder = files.join(out, _IMAGES[kind])
        names, paths = (annotations.table[name].to_pylist() for name in ("id", "path"))
        with ThreadPoolExecutor(COPIERS) as pool:
            list(pool.map(_copy, paths, [files.join(folder, name) for name in names]))
    write_annotations(annotations, out, kind)
    if annotations.problems:
        files.write_bytes(files.join(out, PROBLEMS), problems_csv(annotations.problems).encode())
    flagged = (sum(map(sum, annotations.table[name].to_pylist())) for name in ("crowd", "difficult"))
    return {
        "format": kind,
        "images": annotations.table.num_rows,
        "boxes": annotations.num_boxes,
        "splits": dict(Counter(annotations.table["split"].to_pylist())),
        "problems": annotations.codes,
        "flags": sum(flagged) if kind == yolo.KIND else 0,
    }


def _inside(annotations: Annotations, kind: str) -> Annotations:
    """The same with ids that name files inside of the new folder; a COCO file names images wherever they are.

    Raises:
        DataError: two images would have one name, or one file of annotations.
    """
    ids = annotations.table["id"].to_pylist()
    check_names(ids, inside if kind == coco.KIND else picture_name)
    table = annotations.table.set_column(0, "id", pa.array([inside(name) for name in ids], pa.string()))
    return dataclasses.replace(annotations, table=table.sort_by("id"))


def problems_csv(problems: Sequence[Problem]) -> str:
    """All that is wrong: id, path, code, message."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Problem)])
    writer.writerows(dataclasses.astuple(problem) for problem in problems)
    return text.getvalue()


def _copy(source: str, target: str) -> None:
    if files.is_local(source) and files.is_local(target):
        path = Path(files.absolute(target))
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another disk, or one without links
            os.link(os.path.realpath(files.absolute(source)), path)
            return
    files.write_bytes(target, fetch_known(source))
