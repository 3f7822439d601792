"""The images that make each filter of a layer fire most, kept while they pass by, in parts that can be merged.

    F  filters        K  kept for each, strongest first        M  candidates

Equal activations are ordered by the image's id, and an image counts once for each filter, so the result is the same for
any order of the images, any division into parts and any order of merging, also where parts share images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import OptionError

COLUMNS = ("layer", "filter", "rank", "id", "value", "row", "column")


@dataclass(frozen=True)
class Strongest:
    """Of one layer; entries that are not there yet have the value -inf, the id "" and the place (0, 0).

    Attributes:
        values_FK: float32, the largest activation of the filter in the image; above 0, descending in each row.
        ids_FK: str, of the images.
        places_FK2: int32, (row, column) of that activation in the layer's map.
    """

    values_FK: NDArray[np.float32]
    ids_FK: NDArray[np.str_]
    places_FK2: NDArray[np.int32]

    @classmethod
    def none(cls, num_filters: int, k: int) -> "Strongest":
        """Before any image.

        Raises:
            OptionError: k under 1.
        """
        if k < 1:
            raise OptionError(f"expected at least 1 image to keep for each filter, got {k}")
        shape = num_filters, k
        return cls(np.full(shape, -np.inf, np.float32), np.zeros(shape, "<U1"), np.zeros((*shape, 2), np.int32))

    @property
    def least_F(self) -> NDArray[np.float32]:
        """What a new activation must reach to be kept; 0 where there is room for any that is above."""
        return np.maximum(self.values_FK[:, -1], 0)

    def merge(self, other: "Strongest") -> "Strongest":
        """The strongest of both; associative and commutative.

        Raises:
            OptionError: other numbers of filters or of kept images.
        """
        if self.values_FK.shape != other.values_FK.shape:
            raise OptionError(
                f"expected parts of the same size to merge, got [filters, kept] of {list(self.values_FK.shape)} and "
                f"{list(other.values_FK.shape)}"
            )
        return self.with_candidates(np.arange(len(self.values_FK)), other)

    def with_candidates(self, filters_R: NDArray[np.integer], found: "Strongest") -> "Strongest":
        """With the candidates of some filters.

        Args:
            filters_R: the filters that the rows of `found` are for, each at most once.
            found: [R, M] values in any order; those of at most 0, and NaN, are not kept.
        """
        kept = _sorted(self._rows(filters_R).beside(found), self.values_FK.shape[1])
        ids_FK = self.ids_FK.astype(np.promote_types(self.ids_FK.dtype, kept.ids_FK.dtype))
        result = Strongest(self.values_FK.copy(), ids_FK, self.places_FK2.copy())
        result.values_FK[filters_R], result.ids_FK[filters_R] = kept.values_FK, kept.ids_FK
        result.places_FK2[filters_R] = kept.places_FK2
        return result

    def beside(self, other: "Strongest") -> "Strongest":
        """The entries of both in one row for each filter, not sorted."""
        return Strongest(
            np.concatenate([self.values_FK, other.values_FK], axis=1),
            np.concatenate([self.ids_FK, other.ids_FK], axis=1),
            np.concatenate([self.places_FK2, other.places_FK2], axis=1),
        )

    def _rows(self, filters_R: NDArray[np.integer]) -> "Strongest":
        return Strongest(self.values_FK[filters_R], self.ids_FK[filters_R], self.places_FK2[filters_R])


State = Mapping[str, Strongest]


def merge_states(a: State, b: State) -> dict[str, Strongest]:
    """The strongest of all layers of both, by name of the layer."""
    return {name: a[name].merge(b[name]) if name in a and name in b else {**a, **b}[name] for name in {**a, **b}}


def state_columns(state: State) -> dict[str, NDArray[Any]]:
    """A state as a table: COLUMNS as arrays of one length, one row for each kept image of a filter, rank from 0."""
    parts = [_layer_columns(name, layer) for name, layer in state.items()]
    return {column: np.concatenate([part[column] for part in parts]) for column in COLUMNS}


def state_from_columns(columns: Mapping[str, NDArray[Any]], num_filters: Mapping[str, int], k: int) -> State:
    """The state of such a table, see `with_columns`.

    Args:
        num_filters: of each layer.
        k: kept for each filter, as in the state.
    """
    return with_columns({name: Strongest.none(count, k) for name, count in num_filters.items()}, columns)


def with_columns(state: State, columns: Mapping[str, NDArray[Any]]) -> dict[str, Strongest]:
    """A state merged with those that such a table holds: one, several one after the other, or parts of them.

    Args:
        columns: rows in any order; those of layers that the state does not have are left out, and ranks do not matter.
    """
    layers, ids = np.asarray(columns["layer"], str), np.asarray(columns["id"], str)
    found = {**columns, "id": ids}
    return {
        name: _with_rows(layer, {column: found[column][layers == name] for column in COLUMNS[1:]})
        for name, layer in state.items()
    }


def _with_rows(layer: Strongest, columns: Mapping[str, NDArray[Any]]) -> Strongest:
    order = np.argsort(columns["filter"], kind="stable")
    filters_R, starts_R, counts_R = np.unique(columns["filter"][order], return_index=True, return_counts=True)
    if not len(order):
        return layer
    at = np.repeat(np.arange(len(filters_R)), counts_R), np.arange(len(order)) - np.repeat(starts_R, counts_R)
    empty = Strongest.none(len(filters_R), int(counts_R.max()))
    found = Strongest(empty.values_FK, empty.ids_FK.astype(columns["id"].dtype), empty.places_FK2)
    found.values_FK[at], found.ids_FK[at] = columns["value"][order], columns["id"][order]
    found.places_FK2[at] = np.stack([columns["row"], columns["column"]], 1)[order]
    return layer.with_candidates(filters_R, found)


def _layer_columns(name: str, layer: Strongest) -> dict[str, NDArray[Any]]:
    filters, ranks = np.nonzero(layer.values_FK > 0)
    places = layer.places_FK2[filters, ranks]
    return {
        "layer": np.full(len(filters), name),
        "filter": filters.astype(np.int32),
        "rank": ranks.astype(np.int32),
        "id": layer.ids_FK[filters, ranks],
        "value": layer.values_FK[filters, ranks],
        "row": places[:, 0],
        "column": places[:, 1],
    }


def _sorted(found: Strongest, k: int) -> Strongest:
    """The `k` first of each row by descending value, then id, each id once; what is not above 0 is emptied."""
    values = np.where(found.values_FK > 0, found.values_FK, np.float32(-np.inf))
    numbers = np.unique(found.ids_FK, return_inverse=True)[1].reshape(values.shape)  # as the ids, but quick to sort
    rows, columns = found.places_FK2[..., 0], found.places_FK2[..., 1]
    order = np.lexsort((columns, rows, -values, numbers), axis=1)
    sorted_numbers = np.take_along_axis(numbers, order, 1)
    again = np.zeros(values.shape, bool)
    np.put_along_axis(again, order[:, 1:], sorted_numbers[:, 1:] == sorted_numbers[:, :-1], axis=1)
    values = np.where(again, np.float32(-np.inf), values)
    order = np.lexsort((numbers, -values), axis=1)[:, :k]
    values = np.take_along_axis(values, order, 1)
    ids, places = np.take_along_axis(found.ids_FK, order, 1), np.take_along_axis(found.places_FK2, order[..., None], 1)
    empty = np.isneginf(values)
    return Strongest(values, np.where(empty, "", ids), np.where(empty[..., None], np.int32(0), places))
