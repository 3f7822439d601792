"""The points of an index in memory, one of each identity: the only copy of them in full precision.

Legend: S slots, N points, D numbers of an embedding. A point keeps its slot until it is removed; the slot is
overwritten then, and given to a later one.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
_BLOCK = 16_384  # slots


class Vectors:
    """Embeddings and identity ids by slot; not safe to change while others read.

    Args:
        num_features: D.

    Attributes:
        num_slots: S, in use or free again.
    """

    def __init__(self, num_features: int) -> None:
        self._embeddings, self._ids = np.empty((0, num_features), np.float32), np.empty(0, np.int64)
        self.num_slots = 0
        self._free: list[int] = []
        self._slots: dict[int, int] = {}

    @classmethod
    def restore(cls, embeddings_SD: Floats, ids_S: Ids) -> "Vectors":
        """From the arrays of the same names, which are kept."""
        vectors = cls(embeddings_SD.shape[1])
        vectors._embeddings, vectors._ids = embeddings_SD, ids_S
        vectors.num_slots = len(ids_S)
        vectors._free = np.flatnonzero(ids_S == 0).tolist()
        live = np.flatnonzero(ids_S)
        vectors._slots = dict(zip(ids_S[live].tolist(), live.tolist(), strict=True))
        return vectors

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def embeddings_SD(self) -> Floats:
        """A view; NaN in a free slot, which so scores below every point in FAISS."""
        return self._embeddings[: self.num_slots]

    @property
    def ids_S(self) -> Ids:
        """A view; 0 in a free slot."""
        return self._ids[: self.num_slots]

    @property
    def num_bytes(self) -> int:
        """About what is held, without room for points to come."""
        table = self._slots.__sizeof__() + 2 * 32 * len(self._slots)  # 32: a Python integer
        return self.embeddings_SD.nbytes + self.ids_S.nbytes + table

    def put(self, ids_N: Ids, embeddings_ND: Floats) -> Ids:
        """Add identities that are not there, none of them twice; returns their slots."""
        count = len(ids_N)
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = np.arange(self.num_slots, self.num_slots + count - len(reused))
        self._reserve(self.num_slots + len(fresh))
        self.num_slots += len(fresh)
        slots = np.concatenate([np.array(reused, np.int64), fresh])
        self._embeddings[slots], self._ids[slots] = embeddings_ND, ids_N
        self._slots.update(zip(ids_N.tolist(), slots.tolist(), strict=True))
        return slots

    def drop(self, ids: Ids) -> tuple[Ids, Floats]:
        """Overwrite identities; returns slots and embeddings of those that were there."""
        found = [self._slots.pop(identity, -1) for identity in ids.tolist()]
        slots = np.array([slot for slot in found if slot >= 0], np.int64)
        embeddings_ND = self._embeddings[slots]
        self._embeddings[slots], self._ids[slots] = np.nan, 0
        self._free += slots.tolist()
        return slots, embeddings_ND

    def slots_of(self, ids_N: Ids) -> Ids:
        """Slots [N] of identities, -1 of those that are not there."""
        return np.array([self._slots.get(identity, -1) for identity in ids_N.tolist()], np.int64)

    def live(self, slots: Ids) -> Ids:
        """Those slots that hold a point."""
        return slots[self._ids[slots] > 0]

    def blocks(self) -> Iterator[slice]:
        """All slots, some at a time."""
        for start in range(0, self.num_slots, _BLOCK):
            yield slice(start, min(start + _BLOCK, self.num_slots))

    def _reserve(self, count: int) -> None:
        """Double the room; pages that nobody has written to take no memory."""
        if count > len(self._ids):
            size = max(count, 2 * self.num_slots)
            embeddings, ids = np.empty((size, self._embeddings.shape[1]), np.float32), np.empty(size, np.int64)
            embeddings[: self.num_slots], ids[: self.num_slots] = self.embeddings_SD, self.ids_S
            self._embeddings, self._ids = embeddings, ids
