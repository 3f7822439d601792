"""The faces of an index in memory: the only copy of their embeddings in full precision.

Legend: S slots, N faces, D numbers of an embedding. A face keeps its slot until it is removed; the slot is overwritten
then, and given to a later face.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cnnray.infer.gallery.rows import Rows

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
_BLOCK = 16_384  # slots


class Vectors:
    """Embeddings, face and identity ids by slot; not safe to change while others read.

    Args:
        num_features: D.

    Attributes:
        num_slots: S, in use or free again.
    """

    def __init__(self, num_features: int) -> None:
        self._embeddings = np.empty((0, num_features), np.float32)
        self._face_ids, self._identity_ids = np.empty(0, np.int64), np.empty(0, np.int64)
        self.num_slots = 0
        self._free: list[int] = []
        self._slots: dict[int, int] = {}
        self._num_faces: Counter[int] = Counter()  # of each identity

    @classmethod
    def restore(cls, embeddings_SD: Floats, face_ids_S: Ids, identity_ids_S: Ids) -> "Vectors":
        """From the arrays of the same names, which are kept."""
        vectors = cls(embeddings_SD.shape[1])
        vectors._embeddings, vectors._face_ids, vectors._identity_ids = embeddings_SD, face_ids_S, identity_ids_S
        vectors.num_slots = len(face_ids_S)
        vectors._free = np.flatnonzero(face_ids_S == 0).tolist()
        live = np.flatnonzero(face_ids_S)
        vectors._slots = dict(zip(face_ids_S[live].tolist(), live.tolist(), strict=True))
        vectors._num_faces = Counter(identity_ids_S[live].tolist())
        return vectors

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def num_identities(self) -> int:
        """Different ones."""
        return len(self._num_faces)

    @property
    def embeddings_SD(self) -> Floats:
        """A view; NaN in a free slot, which so scores below every face in FAISS."""
        return self._embeddings[: self.num_slots]

    @property
    def face_ids_S(self) -> Ids:
        """A view; 0 in a free slot."""
        return self._face_ids[: self.num_slots]

    @property
    def identity_ids_S(self) -> Ids:
        """A view; 0 in a free slot."""
        return self._identity_ids[: self.num_slots]

    @property
    def num_bytes(self) -> int:
        """About what is held, without room for faces to come."""
        arrays = self.embeddings_SD.nbytes + self.face_ids_S.nbytes + self.identity_ids_S.nbytes
        tables = self._slots.__sizeof__() + self._num_faces.__sizeof__()
        return arrays + tables + 32 * (2 * len(self._slots) + len(self._num_faces))  # 32: a Python integer

    def put(self, rows: Rows) -> Ids:
        """Add faces that are not there, none of them twice; returns their slots."""
        count = len(rows.face_ids_N)
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = np.arange(self.num_slots, self.num_slots + count - len(reused))
        self._reserve(self.num_slots + len(fresh))
        self.num_slots += len(fresh)
        slots = np.concatenate([np.array(reused, np.int64), fresh])
        self._embeddings[slots] = rows.embeddings_ND
        self._face_ids[slots] = rows.face_ids_N
        self._identity_ids[slots] = rows.identity_ids_N
        self._slots.update(zip(rows.face_ids_N.tolist(), slots.tolist(), strict=True))
        self._num_faces.update(rows.identity_ids_N.tolist())
        return slots

    def drop(self, face_ids: Ids) -> tuple[Ids, Floats]:
        """Overwrite faces; returns slots and embeddings of those that were there."""
        found = [self._slots.pop(face, -1) for face in face_ids.tolist()]
        slots = np.array([slot for slot in found if slot >= 0], np.int64)
        for identity in self._identity_ids[slots].tolist():
            self._num_faces[identity] -= 1
            if not self._num_faces[identity]:
                del self._num_faces[identity]
        embeddings_ND = self._embeddings[slots]
        self._embeddings[slots] = np.nan
        self._face_ids[slots] = self._identity_ids[slots] = 0
        self._free += slots.tolist()
        return slots, embeddings_ND

    def slots_of(self, face_ids: Iterable[int]) -> Ids:
        """Slots of faces, -1 of those that are not there."""
        return np.array([self._slots.get(face, -1) for face in face_ids], np.int64)

    def live(self, slots: Ids) -> Ids:
        """Those slots that hold a face."""
        return slots[self._face_ids[slots] > 0]

    def rows(self, slots: Ids) -> Rows:
        """Copies of what is in slots."""
        return Rows(self._face_ids[slots], self._identity_ids[slots], self._embeddings[slots])

    def blocks(self) -> Iterator[slice]:
        """All slots, some at a time."""
        for start in range(0, self.num_slots, _BLOCK):
            yield slice(start, min(start + _BLOCK, self.num_slots))

    def _reserve(self, count: int) -> None:
        """Double the room; pages that nobody has written to take no memory."""
        if count <= len(self._face_ids):
            return
        size = max(count, 2 * self.num_slots)
        for name in ("_embeddings", "_face_ids", "_identity_ids"):
            old = getattr(self, name)
            larger = np.empty((size, *old.shape[1:]), old.dtype)
            larger[: self.num_slots] = old[: self.num_slots]
            setattr(self, name, larger)
