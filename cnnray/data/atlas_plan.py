"""What an atlas of filters shows: which layers and filters, which images are strongest, which of them are drawn."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnnray.data.atlas_draw import WANTED
from cnnray.data.atlas_stage import KEPT, STATES
from cnnray.data.feature_store import iter_parts, read_quarantine
from cnnray.nn.backbones import Backbone
from cnnray.nn.layer_names import conv_layers, find_layer
from cnnray.nn.spec import LOGITS
from cnnray.ops.strongest import State, Strongest, state_columns, with_columns

_MERGED_ROWS = 200_000  # of stored states that are merged at once
_DRAWN_TABLE = ("layer", "filter", "rank", "row", "column")


def choose_layers(backbone: Backbone, names: Sequence[str]) -> list[str]:
    """The layers of an atlas, in the order of the network.

    Args:
        names: see `conv_layers`; empty is the first convolution, and the last of three stages a third apart.

    Raises:
        UnknownNameError: no such layer; lists the known ones.
    """
    known = conv_layers(backbone)
    for name in names:
        find_layer(known, name, backbone.name)
    if names:
        return [name for name in known if name in names]
    last = {layer.stage: name for name, layer in known.items()}  # of each stage
    first = next(iter(known))
    upper = [name for stage, name in last.items() if stage not in (known[first].stage, LOGITS)]
    picked = {round(third * len(upper) / 3) - 1 for third in (1, 2, 3)} if upper else set()
    return [first, *(upper[at] for at in sorted(picked) if at >= 0)]


def choose_filters(layer: Strongest, most: int) -> NDArray[np.int64]:
    """Numbers of the filters that are drawn, ascending: evenly spread over those that fire; all of those for 0."""
    alive: NDArray[np.int64] = np.flatnonzero(layer.values_FK[:, 0] > 0)
    if not most or len(alive) <= most:
        return alive
    picked: NDArray[np.int64] = alive[np.linspace(0, len(alive) - 1, most).round().astype(int)]
    return picked


def gather(run: str, num_filters: Mapping[str, int]) -> State:
    """The top nine of all that is stored, some parts at a time: memory does not grow with the number of images.

    Images in quarantine do not count: a worker may have died at one after it had stored what it saw.

    Args:
        run: URI of the run folder.
        num_filters: of each layer.
    """
    state: State = {name: Strongest.none(count, KEPT) for name, count in num_filters.items()}
    bad = read_quarantine(run)["id"]
    for table in _some_at_a_time(iter_parts(run, folder=STATES)):
        table = table.filter(pc.invert(pc.is_in(table["id"].cast(pa.string()), value_set=bad)))
        state = with_columns(state, {name: table[name].to_numpy() for name in table.column_names})
    return state


def _some_at_a_time(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    kept: list[pa.Table] = []
    for part in parts:
        kept.append(part)
        if sum(one.num_rows for one in kept) >= _MERGED_ROWS:
            yield pa.concat_tables(kept)
            kept = []
    if kept:
        yield pa.concat_tables(kept)


def strongest_table(state: State, index: pa.Table) -> pa.Table:
    """The columns of `state_columns`, and `path` of each image, which the index has by `id`."""
    table = pa.table(state_columns(state))
    table = table.set_column(table.column_names.index("id"), "id", table["id"].cast(pa.string()))
    at = pc.index_in(table["id"], value_set=index["id"])
    return table.add_column(table.column_names.index("id") + 1, "path", index["path"].take(at))


def plan_drawings(strongest: pa.Table, shown: Mapping[str, NDArray[np.int64]]) -> pa.Table:
    """An index of the images that something is drawn of, with `wanted`: the units of each, see WANTED."""
    wanted: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in strongest.to_pylist():
        if row["filter"] in shown[row["layer"]]:
            wanted.setdefault((row["id"], row["path"]), []).append({name: row[name] for name in _DRAWN_TABLE})
    ids, paths = zip(*sorted(wanted), strict=True) if wanted else ((), ())
    count = len(ids)
    columns = {
        "id": pa.array(ids, pa.string()),
        "path": pa.array(paths, pa.string()),
        "label": pa.nulls(count, pa.string()),
        "split": pa.array(["train"] * count, pa.string()),
        "wanted": pa.array([wanted[key] for key in sorted(wanted)], WANTED),
    }
    return pa.table(columns)
