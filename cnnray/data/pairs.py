"""Images and their masks: a folder with images/ and masks/, or a manifest with columns path and mask.

Each pair is looked at once before training: what cannot be decoded goes to the quarantine, what contradicts itself
(sizes that differ, numbers that are no class, masks that are missing) is an error that says where.
"""

import posixpath
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cnnray import files
from cnnray.config import PairsConfig
from cnnray.data.check import Facts, check_rows, read_with
from cnnray.data.readers import IMAGE_SUFFIXES, read_manifest_table, resolve
from cnnray.data.runs import RunFolder
from cnnray.errors import DataError
from cnnray.ops.decode import decode
from cnnray.ops.masks import LabelSpace, decode_mask

IMAGES, MASKS = "images", ("masks", "labels")
SCHEMA = pa.schema({name: pa.string() for name in ("id", "path", "mask", "split")})
_MOST_VALUES = 1000  # a mask with more different numbers is a photo


def build_pairs(source: str, config: PairsConfig) -> pa.Table:
    """List images and masks.

    Args:
        source: a folder with images/ and masks/ (or labels/), whose files are matched by name without suffix; or a CSV
            or Parquet manifest with columns of `config.path_column`, `config.mask_column` and perhaps id and split.
        config: its column options.

    Returns:
        `id, path, mask, split`, sorted by id; split is "" where none is given.

    Raises:
        DataError: no such source, no images, images without masks, two files of one name.
    """
    fs, path = files.filesystem(source)
    if not files.exists(source):
        raise DataError(f"expected a folder with images and masks or a manifest, but there is nothing at {source}")
    table = _from_folder(source) if fs.isdir(path) else _from_manifest(source, config)
    if not table.num_rows:
        raise DataError(f"expected images with masks in {source}, but found none")
    return table.sort_by("id")


def _from_folder(source: str) -> pa.Table:
    fs, root = files.filesystem(source)
    folders = {posixpath.basename(entry["name"].rstrip("/")) for entry in fs.ls(root, detail=True)}
    beside = next((name for name in MASKS if name in folders), None)
    if IMAGES not in folders or beside is None:
        raise DataError(f"expected the folders {IMAGES}/ and masks/ (or labels/) in {source}, got {sorted(folders)}")
    images, masks = _by_stem(source, IMAGES), _by_stem(source, beside)
    without = sorted(images.keys() - masks.keys())
    if without:
        raise DataError(
            f"expected a mask for every image, but {len(without)} of {len(images)} have none in {source}/{beside}, "
            f"such as {images[without[0]]}"
        )
    names = sorted(images)
    columns = [names, [images[n] for n in names], [masks[n] for n in names], [""] * len(names)]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA)


def _by_stem(source: str, folder: str) -> dict[str, str]:
    """Files below a folder by their name without suffix, sub-folders kept."""
    found: dict[str, str] = {}
    for inner in files.find(files.join(source, folder)):
        stem, suffix = posixpath.splitext(inner)
        if suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if stem in found:
            raise DataError(
                f"expected one file named {stem} in {source}/{folder}, but there are {found[stem]}, {inner}"
            )
        found[stem] = posixpath.join(source.rstrip("/"), folder, inner)
    return found


def _from_manifest(source: str, config: PairsConfig) -> pa.Table:
    table = read_manifest_table(source)
    wanted = [config.path_column, config.mask_column]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DataError(
            f"expected columns {', '.join(wanted)} in {source}, but {', '.join(missing)} is missing; it has "
            f"{', '.join(table.column_names)} (choose with --path-column and --mask-column)"
        )
    paths, masks = (table[name].cast(pa.string()).combine_chunks() for name in wanted)
    empty = sum(not (text or "").strip() for text in masks.to_pylist())
    if empty:
        raise DataError(f"expected a mask in every row of {source}, but {empty} of {len(masks)} have none")
    ids = table["id"].cast(pa.string()) if "id" in table.column_names else paths
    split = table["split"].cast(pa.string()) if "split" in table.column_names else pa.array([""] * len(paths))
    return pa.table([ids, resolve(paths, source), resolve(masks, source), split], schema=SCHEMA)


@dataclass(frozen=True)
class Pairs:
    """Images and masks that fit together.

    Attributes:
        table: `id, path, mask, split, height, width (px), values (list of the numbers in the mask)`.
        space: which number in the masks is which class.
    """

    table: pa.Table
    space: LabelSpace


def look_at_pair(row: dict[str, Any]) -> Facts:
    """Decode image and mask: their sizes, and the numbers in the mask (the first 1,000)."""
    image, mask = read_with(decode, row["path"]), read_with(decode_mask, row["mask"])
    values = np.unique(mask)[:_MOST_VALUES].tolist()
    return {"image": list(image.shape[:2]), "mask": list(mask.shape), "values": values}


def check_pairs(run: RunFolder, index: pa.Table, config: PairsConfig, space: LabelSpace | None = None) -> Pairs:
    """Look at every image and mask, see `check_rows`, and find out which classes there are.

    Args:
        run: where the result is kept.
        index: from `build_pairs`.
        config: its classes, where `space` is None.
        space: the classes, where they are known.

    Raises:
        DataError: a mask of another size than its image, numbers that are no class; says where.
        OptionError: `config.classes` is no list of classes.
        QuarantineError: too many images or masks cannot be decoded.
    """
    good, facts = check_rows(run, index, config, look_at_pair)
    rows = [{"mask_path": row["mask"]} | facts[row["id"]] for row in good.to_pylist()]
    odd = [row for row in rows if row["image"] != row["mask"]]
    if odd:
        (height, width), (mask_height, mask_width) = odd[0]["image"], odd[0]["mask"]
        raise DataError(
            f"expected masks of their images' size, but {len(odd)} of {len(rows)} differ, such as "
            f"{odd[0]['mask_path']}: {mask_width} x {mask_height} px for an image of {width} x {height} px"
        )
    space = space or (LabelSpace.parse(config.classes) if config.classes else None)
    if space is None:
        space = LabelSpace.from_values(value for row in rows for value in row["values"])
    _check_values(rows, space)
    sizes = np.array([row["image"] for row in rows], np.int64).reshape(-1, 2)
    table = good.append_column("height", pa.array(sizes[:, 0])).append_column("width", pa.array(sizes[:, 1]))
    return Pairs(table.append_column("values", pa.array([row["values"] for row in rows], pa.list_(pa.int64()))), space)


def _check_values(rows: list[dict[str, Any]], space: LabelSpace) -> None:
    odd = [(row["mask_path"], wrong) for row in rows if (wrong := space.undeclared(row["values"]))]
    if odd:
        path, wrong = odd[0]
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        raise DataError(
            f"expected only the numbers of {space.text} in the masks, but {len(odd)} of {len(rows)} masks "
            f"hold others, such as {path}: {shown}"
        )
