"""What a run has to do: its inputs, fixed when it began, cut into units of work."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnray import files
from cnnray.config import ManifestConfig
from cnnray.data.feature_store import FEATURES, INDEX, read_parquet, take_stock, to_parquet
from cnnray.data.readers import build_index
from cnnray.data.runs import RunFolder
from cnnray.ops.seeds import seed_for

MAX_ROUNDS = 3
UNIT_ROWS = 256
MILLIONS, LARGE_UNIT_ROWS = 2_000_000, 1024
UNIT_BYTES = 64 * 1024**2


def load_index(run: RunFolder, source: str, config: ManifestConfig, *, split: str = "", seed: int = 0) -> pa.Table:
    """The inputs as they were when the run began, stored in it: what is added later belongs to the next run."""
    uri = run.path(INDEX)
    if not files.exists(uri):
        files.write_bytes(uri, to_parquet(build_index(source, config, split=split, seed=seed)))
    return read_parquet(uri)


def rounds(run: str, index: pa.Table, folder: str = FEATURES) -> Iterator[pa.Table]:
    """The rows of the index that are still to be done, and again what is then still to be done, until nothing is.

    One round is the rule. Another is needed where workers of a killed command stored something after all and parts
    had to be removed; the number is bounded, so that whoever checks the outputs tells what is missing.
    """
    for _ in range(MAX_ROUNDS):
        todo = index.filter(pc.invert(pc.is_in(index["id"], value_set=take_stock(run, folder))))
        if not todo.num_rows:
            return
        yield todo


def plan_units(
    todo: pa.Table, index: pa.Table, *, views: int = 0, mixup: bool = False, seed: int = 0
) -> list[pa.Table]:
    """Cut rows into work units and give each row its mixup partners.

    Args:
        todo: rows of the index that are still to be done.
        index: all rows; partners are training images of it, chosen by (id, seed, view) alone.
        views: augmented views per training image.
        mixup: whether they are mixed with a partner.
        seed: of the choice of partners.

    Returns:
        tables `id, path, label, split, partner_paths, partner_labels`; the lists have one entry per augmented view,
        null where nothing is to be mixed in.
    """
    # in Arrow's memory, as there may be millions
    train = index.filter(pc.equal(index["split"], "train"))
    augmented = pc.equal(todo["split"], "train")
    rows = _partners(todo["id"].filter(augmented), train.num_rows, views, mixup, seed)
    lengths = views * augmented.to_numpy().astype(np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    for name in ("path", "label"):
        partners = pa.ListArray.from_arrays(offsets, train[name].take(rows).combine_chunks().cast(pa.string()))
        todo = todo.append_column(f"partner_{name}s", partners)
    todo = todo.combine_chunks()
    size = unit_rows(todo)
    return [todo.slice(at, size) for at in range(0, todo.num_rows, size)]


def _partners(ids: pa.ChunkedArray, num_train: int, views: int, mixup: bool, seed: int) -> pa.Array:
    """Rows of partners among the training images, view by view of each image; null where nothing is mixed in."""
    if not mixup:
        return pa.nulls(len(ids) * views, pa.int64())
    asked = ((item.as_py(), view) for item in ids for view in range(1, views + 1))
    drawn = (seed_for(f"{item}|partner", seed, view) % num_train for item, view in asked)
    return pa.array(np.fromiter(drawn, np.int64, len(ids) * views))


def unit_rows(todo: pa.Table) -> int:
    """Fewer rows per unit where the files are large, judged by a sample: a unit should stay near 64 MiB.

    More where there are millions: handing out a unit takes the driver some 15 ms, which bounds how many workers it
    feeds (benchmarks/scale.py).
    """
    step = max(1, todo.num_rows // 16)
    sizes = list(_sizes(todo["path"].take(list(range(0, todo.num_rows, step))[:16]).to_pylist()))
    mean = sum(sizes) / len(sizes) if sizes else 1
    most = UNIT_ROWS if todo.num_rows < MILLIONS else LARGE_UNIT_ROWS
    return max(16, min(most, int(UNIT_BYTES / max(mean, 1))))


def _sizes(paths: list[str]) -> Iterator[int]:
    for path in paths:
        fs, inner = files.filesystem(path)
        try:
            yield int(fs.size(inner) or 0)
        except OSError:  # a missing file gets its quarantine entry when it is read
            continue
