"""From candidates to the best identities.

Legend: N queries, C candidates of each, K identities that are asked for, S slots, D numbers of an embedding.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnray.infer.gallery.vectors import Floats, Ids, Vectors

_GATHERED = 2**14  # embeddings that are copied at once


class Found(NamedTuple):
    """The best identities of each query, best first; ties by the lower id.

    Attributes:
        scores_NK: float32 cosines; -inf where there are no more identities.
        identity_ids_NK: -1 there.
    """

    scores_NK: Floats
    identity_ids_NK: Ids

    @classmethod
    def nothing(cls, num_queries: int, count: int) -> "Found":
        """So many queries without an answer."""
        shape = (num_queries, count)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1))

    def put(self, queries_M: NDArray[np.integer], answers: "Found") -> None:
        """Fill in the answers of some queries, which may hold fewer identities."""
        count = answers.scores_NK.shape[1]
        self.scores_NK[queries_M, :count] = answers.scores_NK
        self.identity_ids_NK[queries_M, :count] = answers.identity_ids_NK

    def of(self, some_N: NDArray[np.bool_]) -> "Found":
        """The answers of some queries."""
        return Found(self.scores_NK[some_N], self.identity_ids_NK[some_N])


def score(vectors: Vectors, queries_ND: Floats, slots_NC: Ids) -> Floats:
    """Cosines [N, C]; -inf of slot -1 and of a free one.

    einsum and not BLAS: equal embeddings score equally wherever they stand, so that ties are ties.
    """
    scores_NC = np.empty(slots_NC.shape, np.float32)
    step = max(1, _GATHERED // max(1, slots_NC.shape[1]))
    for start in range(0, len(slots_NC), step):
        some = slice(start, start + step)
        taken_MCD = vectors.embeddings_SD.take(slots_NC[some], axis=0, mode="clip")
        scores_NC[some] = np.einsum("mcd,md->mc", taken_MCD, queries_ND[some])
    return np.where((slots_NC >= 0) & ~np.isnan(scores_NC), scores_NC, np.float32(-np.inf))


def rank(vectors: Vectors, queries_ND: Floats, slots_NC: Ids, count: int, without_N: Ids) -> Found:
    """The best identities among candidates.

    Args:
        vectors: of the gallery.
        queries_ND: length 1.
        slots_NC: candidates, each once; -1 is none.
        count: K, at most C.
        without_N: identity of each query that is left out; 0 is none.
    """
    identities_NC = vectors.ids_S.take(slots_NC, mode="clip")
    scores_NC = score(vectors, queries_ND, slots_NC)
    scores_NC[identities_NC == without_N[:, None]] = -np.inf
    best_NK = np.lexsort((identities_NC, -scores_NC))[:, :count]
    scores_NK = np.take_along_axis(scores_NC, best_NK, 1)
    identities_NK = np.take_along_axis(identities_NC, best_NK, 1)
    return Found(scores_NK, np.where(scores_NK > -np.inf, identities_NK, -1))
