"""Detection data made ready for a run: every image looked at once, what is broken set aside, the rest divided."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnnray import files
from cnnray.config import BoxesConfig
from cnnray.data.annotations import IMAGE_PROBLEMS, Annotations, Problem
from cnnray.data.check import Facts, Unusable, check_rows, read_with
from cnnray.data.feature_store import to_parquet
from cnnray.data.runs import RunFolder, count_by_code
from cnnray.errors import DataError, QuarantineError
from cnnray.ops.decode import decode
from cnnray.ops.split import split_label_sets

PROBLEMS = "problems.parquet"


def look_at_boxed_image(row: dict[str, Any]) -> Facts:
    """Decode an image and compare its size with what its annotation says."""
    height, width = read_with(decode, row["path"]).shape[:2]
    if (height, width) != (row["height"], row["width"]):
        raise Unusable(
            "other_size",
            f"expected {row['path']} to be {row['width']} x {row['height']} px as annotated, got {width} x {height} px",
        )
    return {}


def check_boxes(run: RunFolder, annotations: Annotations, config: BoxesConfig) -> Annotations:
    """The images that can be used, with their sound boxes; what was wrong stands in RUN/problems.parquet.

    Raises:
        DataError: no image is good, or none has a box.
        QuarantineError: too many images or boxes are bad.
    """
    write_problems(run, annotations)
    refuse_broken(annotations, config, run.path(PROBLEMS))
    index = annotations.table.select(["id", "path", "height", "width"])
    good, _ = check_rows(run, index, config, look_at_boxed_image)
    found = annotations.only(pc.is_in(annotations.table["id"], value_set=good["id"].combine_chunks()))
    if not found.num_boxes:
        raise DataError(f"expected boxes on the images, but none of the {found.table.num_rows:,} good ones has any")
    return found


def write_problems(run: RunFolder, annotations: Annotations) -> None:
    """Store what was found wrong while reading: id, path, code, message."""
    rows = [vars(problem) for problem in annotations.problems]
    schema = pa.schema({name: pa.string() for name in Problem.__dataclass_fields__})
    files.write_bytes(run.path(PROBLEMS), to_parquet(pa.Table.from_pylist(rows, schema)))


def refuse_broken(annotations: Annotations, config: BoxesConfig, where: str) -> None:
    """Refuse a data set of which too much is broken.

    Raises:
        QuarantineError: more than `config.max_bad` of the images, or of the boxes, had to be left out.
    """
    codes = annotations.codes
    for kind, count, wrong in (
        ("images", annotations.table.num_rows, {c: n for c, n in codes.items() if c in IMAGE_PROBLEMS}),
        ("boxes", annotations.num_boxes, {c: n for c, n in codes.items() if c not in IMAGE_PROBLEMS | {"clipped"}}),
    ):
        bad = sum(wrong.values())
        if bad > config.max_bad * (count + bad):
            raise QuarantineError(
                f"{bad:,} of {count + bad:,} {kind} ({bad / (count + bad):.1%}) cannot be used, more than --max-bad "
                f"{config.max_bad:.1%}: {count_by_code(wrong)}; see {where}"
            )


def divide_boxes(annotations: Annotations, val_fraction: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """Images to train and to validate on: by their split, or a seeded, stratified fraction of what is not "test".

    Raises:
        DataError: nothing on one side, or a class that only validation images have.
    """
    table = annotations.table
    splits = set(table["split"].to_pylist())
    if "val" not in splits:
        table = table.filter(pc.not_equal(table["split"], "test"))
        table = table.set_column(2, "split", pa.array(split_table(table, val_fraction, seed), pa.string()))
    train, val = (table.filter(pc.equal(table["split"], name)) for name in ("train", "val"))
    if not train.num_rows or not val.num_rows:
        raise DataError(
            f"expected images to train and to validate on, got {train.num_rows} and {val.num_rows}; add images or "
            "change --val-fraction"
        )
    learned, asked = (set(pc.list_flatten(part["labels"].combine_chunks()).to_pylist()) for part in (train, val))
    if asked - learned:
        names = ", ".join(annotations.categories[label] for label in sorted(asked - learned))
        raise DataError(
            f"expected every class among the training images, but {names} is only on those of the {val.num_rows} "
            "validation images; add training images with it or divide otherwise"
        )
    return train, val


def split_table(table: pa.Table, val_fraction: float, seed: int) -> list[str]:
    """ "train" or "val" for each row, so that every class is divided in the same way."""
    fractions = {"train": 1 - val_fraction, "val": val_fraction}
    names = split_label_sets(table["id"].to_pylist(), table["labels"].to_pylist(), fractions, seed)
    return [str(name) for name in names]
