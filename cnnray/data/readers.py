"""Where images come from: class folders, split folders, flat folders, CSV and Parquet manifests, at any URI.

Each becomes one Arrow table, the index: `id, path, label, split`, sorted by id. A folder's sub-folders are listed
by Ray tasks and come back as Arrow columns, so the driver never holds an object per file.
"""

import posixpath
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import ray

from cnnray import files
from cnnray.config import ManifestConfig
from cnnray.data.deaths import worker_died
from cnnray.data.feature_store import INDEX_SCHEMA
from cnnray.errors import DataError
from cnnray.ops.split import parse_fractions, stratified_split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
MANIFEST_SUFFIXES = (".csv", ".parquet")
SPLIT_NAMES = frozenset({"train", "val", "valid", "validation", "test"})


def build_index(source: str, config: ManifestConfig, *, split: str = "", seed: int = 0) -> pa.Table:
    """List a source of images; needs Ray for folders.

    Args:
        source: a folder (root/CLASS/..., root/train|val|test/CLASS/..., or images without classes) or a manifest
            (.csv or .parquet; columns of `config.path_column`, `config.label_column`, and if present `id`, `split`).
            A manifest's relative paths start at its own folder. Sub-folders of a class folder belong to the class.
        config: its column options.
        split: fractions by name such as "train=0.9,val=0.1", in place of the source's own division; "" keeps that.
        seed: of the split.

    Returns:
        `id, path, label, split`, sorted by id. A folder's ids are paths relative to it; a manifest's are its `id`
        column or else its paths. `label` is null where there is none, `split` is "train" where nothing says otherwise.

    Raises:
        DataError: no such source, no images in it, a missing column, an id twice, images beside class folders.
    """
    fs, path = files.filesystem(source)
    if not files.exists(source):
        raise DataError(f"expected a folder of images or a manifest, but there is nothing at {source}")
    table = index_folder(source) if fs.isdir(path) else index_manifest(source, config)
    if not table.num_rows:
        raise DataError(f"expected images in {source}, but found none (looked for {' '.join(IMAGE_SUFFIXES)})")
    table = table.sort_by("id")
    _check_unique(table, source)
    if split:
        names = stratified_split(table["id"].to_pylist(), table["label"].to_pylist(), parse_fractions(split), seed)
        table = table.set_column(3, "split", pa.array(names, pa.string()))
    return table


def index_folder(source: str) -> pa.Table:
    """Index a folder: its sub-folders are listed in parallel by Ray tasks."""
    fs, root = files.filesystem(source)
    entries = [e for e in fs.ls(root, detail=True) if not _hidden(e["name"])]
    folders = sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if files.kind_of(fs, e) == "directory")
    task = ray.remote(num_cpus=0.25)(list_images)
    try:
        listed = ray.get([task.remote(source, folder) for folder in folders])
    except ray.exceptions.WorkerCrashedError as error:
        raise worker_died() from error
    pictures = [e for e in entries if _is_image(e["name"])]
    beside = sorted(posixpath.basename(e["name"]) for e in pictures if files.kind_of(fs, e) != "directory")
    if not any(len(column) for column in listed):
        return _rows(source, pa.array(beside, pa.string()), None, "train")
    if beside:
        raise DataError(
            f"expected every image of {source} in a class folder, but {len(beside)} lie beside the class folders, "
            f"such as {beside[0]!r}"
        )
    if set(folders) <= SPLIT_NAMES:
        return pa.concat_tables([_split_rows(source, f, c) for f, c in zip(folders, listed, strict=True)])
    return pa.concat_tables([_rows(source, c, f, "train") for f, c in zip(folders, listed, strict=True)])


def list_images(source: str, folder: str) -> pa.Array:
    """Paths relative to `source` of all images below its sub-folder, links followed, hidden files left out."""
    found = files.find(files.join(source, folder))
    return _text([posixpath.join(folder, name) for name in found if _is_image(name)], source)


def index_manifest(source: str, config: ManifestConfig) -> pa.Table:
    """Index a CSV or Parquet manifest."""
    table = read_manifest_table(source)
    labelled = bool(config.label_column)
    wanted = [config.path_column] + ([config.label_column] if labelled else [])
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DataError(
            f"expected columns {', '.join(wanted)} in {source}, but {', '.join(missing)} is missing; it has "
            f"{', '.join(table.column_names)} (choose with --path-column and --label-column)"
        )
    paths = table[config.path_column].cast(pa.string()).combine_chunks()
    label = _filled(table[config.label_column]) if labelled else pa.nulls(len(paths), pa.string())
    empty = pc.sum(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(paths), ""), True)).as_py()
    if empty:
        raise DataError(f"expected a path in every row of {source}, but {empty} of {len(paths)} have none")
    split = pc.fill_null(_filled(table["split"]), "train") if "split" in table.column_names else None
    columns = {
        "id": table["id"].cast(pa.string()) if "id" in table.column_names else paths,
        "path": resolve(paths, source),
        "label": label,
        "split": split if split is not None else pa.array(["train"] * len(paths), pa.string()),
    }
    return pa.table(columns, schema=INDEX_SCHEMA)


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as text, with null in place of empty cells, which is what CSV has for null."""
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def read_manifest_table(source: str) -> pa.Table:
    """A CSV (every column as text) or Parquet manifest as it is.

    Raises:
        DataError: it is neither, or cannot be parsed.
    """
    if not source.lower().endswith(MANIFEST_SUFFIXES):
        raise DataError(f"expected a folder or a manifest ending in .csv or .parquet, got the file {source}")
    content = files.read_bytes(source)
    try:
        if source.lower().endswith(".parquet"):
            return pq.read_table(pa.BufferReader(content))
        # every column as text: a label "007" is a name, not the number 7
        names = pyarrow.csv.open_csv(pa.BufferReader(content)).schema.names
        options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return pyarrow.csv.read_csv(pa.BufferReader(content), convert_options=options)
    except pa.ArrowInvalid as error:
        kind = source.rsplit(".", 1)[-1].upper()
        raise DataError(f"expected a {kind} manifest with a header line in {source}, but: {error}") from error


def resolve(paths: pa.Array, source: str) -> pa.Array:
    """Relative paths as URIs beside the manifest."""
    base = posixpath.dirname(source)
    if not base or not len(paths):
        return paths
    absolute = pc.or_(pc.starts_with(paths, "/"), pc.match_substring(paths, "://"))
    return pc.if_else(absolute, paths, pc.binary_join_element_wise(pa.scalar(base), paths, "/"))


def _rows(source: str, relative: pa.Array, label: str | None, split: str) -> pa.Table:
    count = len(relative)
    paths = pc.binary_join_element_wise(pa.scalar(source.rstrip("/")), relative, "/")
    labels, splits = pa.repeat(pa.scalar(label, pa.string()), count), pa.repeat(pa.scalar(split), count)
    return pa.table([relative, paths, labels, splits], schema=INDEX_SCHEMA)


def _split_rows(source: str, split: str, relative: pa.Array) -> pa.Table:
    parts = pc.split_pattern(relative, "/")
    shallow = pc.filter(relative, pc.less(pc.list_value_length(parts), 3))
    if len(shallow):
        raise DataError(
            f"expected {source}/{split}/CLASS/IMAGE as the top folders are splits, but {len(shallow)} images have no "
            f"class folder, such as {shallow[0]}"
        )
    name = "val" if split in ("valid", "validation") else split
    table = _rows(source, relative, None, name)
    return table.set_column(2, "label", pc.list_element(parts, 1)) if len(relative) else table


def _text(names: Sequence[str], source: str) -> pa.Array:
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError as error:
        raise DataError(
            f"expected file names in UTF-8 below {source}, but one is {error.object!r}; rename it"
        ) from None


def _check_unique(table: pa.Table, source: str) -> None:
    if len(table["id"].unique()) == table.num_rows:
        return
    counts = table.group_by("id").aggregate([([], "count_all")])  # takes ten times the memory
    repeated = counts.filter(pc.greater(counts["count_all"], 1))
    raise DataError(
        f"expected every id of {source} once, but {repeated.num_rows} come more than once, such as "
        f"{repeated['id'][0].as_py()!r}; add a column 'id' that tells the rows apart"
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not _hidden(name)


def _hidden(name: str) -> bool:
    return posixpath.basename(name.rstrip("/")).startswith(".")
