"""An index of people in memory, each as one point (see `means`): who is most alike.

Up to some ten thousand identities every one is compared. Above, FAISS chooses candidates by compressed embeddings (see
`approximate`), and those are compared: scores are exact in either way, and what is missed now and then was measured
when the index was built.

Legend: N queries or identities, K identities that are asked for, D numbers of an embedding, S slots.
"""

import threading
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from cnnray.errors import CheckpointError, OptionError
from cnnray.infer.gallery import searching
from cnnray.infer.gallery.approximate import Approximation, Setting
from cnnray.infer.gallery.building import Build
from cnnray.infer.gallery.codes import LEAST_TRAINED, Codes
from cnnray.infer.gallery.lock import ReadWriteLock
from cnnray.infer.gallery.ranking import Found, score
from cnnray.infer.gallery.rows import check_vectors
from cnnray.infer.gallery.snapshot import load_snapshot, save_snapshot
from cnnray.infer.gallery.vectors import Floats, Ids, Vectors

_BLOCK = 1024  # queries; FAISS multiplies matrices from about so many on
_EMBEDDINGS, _IDENTITIES, _CODES = "embeddings.f32", "identity_ids.i64", "codes.faiss"


class FaceIndex:
    """Identities with a point each; safe to call from several threads, where searches run at once.

    Args:
        num_features: D.
        exact_until: identities up to which every one is compared; at least LEAST_TRAINED.
        least_recall: share of searches that must find the very best identity; what finds fewer is not used.
        threads: cores of one search or build.

    Attributes:
        version: number of the newest change that is applied.
    """

    def __init__(
        self, num_features: int, *, exact_until: int = 50_000, least_recall: float = 0.999, threads: int = 1
    ) -> None:
        self.version = 0
        self._num_features, self._threads = num_features, threads
        self._exact_until, self._least_recall = max(exact_until, LEAST_TRAINED), least_recall
        self._vectors = Vectors(num_features)
        self._approximation: Approximation | None = None
        self._built_for = 0
        self._refused: list[tuple[str, float]] = []
        self._build: Build | None = None  # that goes on
        # Taken in this order. Whoever holds _changing may read the vectors: nobody else changes them.
        self._building, self._changing, self._lock = threading.Lock(), threading.Lock(), ReadWriteLock()

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def is_exact(self) -> bool:
        """Whether every identity is compared."""
        return self._approximation is None

    def apply(self, version: int, ids_N: Ids, points_ND: Floats, removed_ids: Ids) -> None:
        """Remove identities, then add some; all of it or, on an error, nothing.

        Args:
            version: number of the change.
            ids_N: added; who is there is replaced. They are positive. Of one that comes twice the last counts.
            points_ND: theirs, of length 1.
            removed_ids: those that are not there are ignored.

        Raises:
            GalleryError: "bad_vector": an embedding of another length, not finite, or not of length 1.
            OptionError: arrays of different lengths, or an id that is not positive.
        """
        ids_N, points_ND = _checked(ids_N, points_ND, self._num_features)
        with self._changing, self._lock.write():
            gone, were_ND = self._vectors.drop(np.concatenate([removed_ids, ids_N]))
            came = self._vectors.put(ids_N, points_ND)
            if self._approximation is not None:
                self._use_threads()
                self._approximation.codes.remove(gone, were_ND)
                self._approximation.codes.add(came, points_ND)
            if self._build is not None:
                self._build.touched += [gone, came]
            self.version = version

    def search(self, queries_ND: Floats, count: int, *, without_N: Ids | None = None) -> Found:
        """The identities that are most alike.

        Args:
            queries_ND: embeddings of length 1.
            count: K, from 1.
            without_N: an identity per query that is left out; 0 leaves out none.

        Raises:
            GalleryError: "bad_vector", as in `apply`.
        """
        queries_ND = check_vectors(queries_ND, self._num_features)
        without_N = np.zeros(len(queries_ND), np.int64) if without_N is None else without_N
        found = Found.nothing(len(queries_ND), count)
        for start in range(0, len(queries_ND), _BLOCK):
            some = np.arange(start, min(start + _BLOCK, len(queries_ND)))
            with self._lock.read():
                # more than there are cannot be found, and looking for them would be long
                fewer = min(count, len(self))
                if fewer:
                    self._use_threads()
                    asked = (queries_ND[some], fewer, without_N[some])
                    found.put(some, searching.search(self._vectors, self._approximation, *asked))
        return found

    def compare(self, queries_ND: Floats, ids_N: Ids) -> Floats:
        """Scores [N] of one given identity each; -inf of one that is not there.

        Raises:
            GalleryError: "bad_vector", as in `apply`.
        """
        queries_ND = check_vectors(queries_ND, self._num_features)
        scores_N = np.full(len(queries_ND), -np.inf, np.float32)
        with self._lock.read():
            slots_N = self._vectors.slots_of(ids_N)
            there_N = slots_N >= 0
            scores_N[there_N] = score(self._vectors, queries_ND[there_N], slots_N[there_N, None])[:, 0]
        return scores_N

    def points(self) -> tuple[Ids, Floats]:
        """Copies of all, by rising id: ids [N] and points [N, D]."""
        with self._lock.read():
            slots = np.flatnonzero(self._vectors.ids_S)
            slots = slots[np.argsort(self._vectors.ids_S[slots])]
            return self._vectors.ids_S[slots], self._vectors.embeddings_SD[slots]

    @property
    def needs_build(self) -> bool:
        """Whether `build` would choose anew: other size class, more than twice the identities, or a higher aim.

        An index that shrinks is built anew below half of `exact_until`, so that one at the limit does not swing.
        """
        size, approximation = len(self), self._approximation
        if approximation is None:
            return size > self._exact_until and size > 2 * self._built_for
        missed = approximation.setting.recall < self._least_recall
        return missed or size > 2 * self._built_for or 2 * size <= self._exact_until

    def build(self) -> None:
        """Choose and train what suits the present size; the searches and changes meanwhile go on.

        Each kind of candidates is compared with exact search on probes (see `approximate.make_probes`). One whose
        recall at rank 1 is too low with every setting is refused, and the cheapest of the others taken; if all are
        refused, search is exact.
        """
        with self._building:
            with self._changing:
                size = len(self)
                self._build = Build(self._vectors, self._changing, self._least_recall)
            try:
                self._use_threads()
                chosen = self._build.choose() if size > self._exact_until else None
                with self._changing, self._lock.write():
                    if chosen is not None:
                        self._build.catch_up(chosen.codes)
                    self._approximation, self._refused, self._built_for = chosen, self._build.refused, size
            finally:
                with self._changing:
                    self._build = None

    def describe(self) -> dict[str, Any]:
        """What it is.

        Returns:
            kind ("exact", "ivf" or "pq"), identities, version; recall at rank 1 as measured when it was built; nprobe
            (lists) and candidates that are searched, 0 of an exact one; bytes_per_identity; refused, as (kind, recall).
        """
        with self._lock.read():
            approximation = self._approximation
            setting = Setting(0, 0, 1.0, 0.0) if approximation is None else approximation.setting
            held = self._vectors.num_bytes + (0 if approximation is None else approximation.codes.num_bytes)
            return {
                "kind": "exact" if approximation is None else approximation.kind,
                "identities": len(self),
                "version": self.version,
                "recall": setting.recall,
                "nprobe": setting.num_lists,
                "candidates": setting.num_candidates,
                "bytes_per_identity": round(held / max(1, len(self))),
                "refused": list(self._refused),
            }

    def save(self, folder: str, contract: dict[str, str]) -> None:
        """Write a snapshot, see `snapshot`; changes wait meanwhile, searches do not.

        Args:
            folder: a local path; an older snapshot there is replaced.
            contract: what `load` must be given again.

        Raises:
            StorageError: disk full or read-only; the old snapshot is still there.
        """
        with self._changing:
            vectors, approximation = self._vectors, self._approximation
            arrays: dict[str, NDArray[Any]] = {
                _EMBEDDINGS: vectors.embeddings_SD,
                _IDENTITIES: vectors.ids_S,
            }
            content = {
                "contract": contract,
                "version": self.version,
                "num_features": self._num_features,
                "built_for": self._built_for,
                "refused": self._refused,
                "kind": "exact" if approximation is None else approximation.kind,
            }
            if approximation is not None:
                arrays[_CODES] = faiss.serialize_index(approximation.codes.index)
                content["setting"] = approximation.setting
            save_snapshot(folder, content, arrays)

    @classmethod
    def load(cls, folder: str, contract: dict[str, str], **options: Any) -> Self:
        """The index of a snapshot, verified.

        Args:
            folder: of `save`.
            contract: as `save` was given it.
            options: of the constructor.

        Raises:
            CheckpointError: there is none, it is damaged, or it has another contract.
        """
        content, arrays = load_snapshot(folder)
        if content["contract"] != contract:
            raise CheckpointError(f"the snapshot {folder} is of {content['contract']}, expected {contract}")
        index = cls(content["num_features"], **options)
        index._vectors = Vectors.restore(arrays[_EMBEDDINGS], arrays[_IDENTITIES])
        index._check_finite(folder)
        index.version, index._built_for = content["version"], content["built_for"]
        index._refused = [(kind, recall) for kind, recall in content["refused"]]
        if content["kind"] != "exact":
            codes = Codes(faiss.deserialize_index(arrays[_CODES]))
            index._approximation = Approximation(content["kind"], codes, Setting(*content["setting"]))
        return index

    def _check_finite(self, folder: str) -> None:
        for some in self._vectors.blocks():
            live = self._vectors.ids_S[some] > 0
            if not np.isfinite(self._vectors.embeddings_SD[some][live]).all():
                raise CheckpointError(f"the snapshot {folder} holds embeddings that are not finite")

    def _use_threads(self) -> None:
        faiss.omp_set_num_threads(self._threads)  # belongs to the calling thread


def _checked(ids_N: Ids, points_ND: Floats, num_features: int) -> tuple[Ids, Floats]:
    points_ND, ids_N = check_vectors(points_ND, num_features), np.asarray(ids_N, np.int64)
    if len(ids_N) != len(points_ND):
        raise OptionError(f"expected as many ids as points, got {len(ids_N)} and {len(points_ND)}")
    if ids_N.min(initial=1) < 1:
        raise OptionError(f"expected positive ids, got {ids_N.min()}")
    last_N = len(ids_N) - 1 - np.unique(ids_N[::-1], return_index=True)[1]
    return ids_N[last_N], points_ND[last_N]
