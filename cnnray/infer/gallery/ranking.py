"""From scores of faces to the best identities.

Legend: N queries, C candidates of each, K identities that are asked for, S slots, D numbers of an embedding.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnray.infer.gallery.vectors import Floats, Ids, Vectors

_GATHERED = 2**14  # embeddings that are copied at once


class Found(NamedTuple):
    """The best identities of each query, each by its best face, best first; ties by the lower id.

    Attributes:
        scores_NK: float32 cosines; -inf where there are no more identities.
        identity_ids_NK, face_ids_NK: -1 there.
    """

    scores_NK: Floats
    identity_ids_NK: Ids
    face_ids_NK: Ids

    @classmethod
    def nothing(cls, num_queries: int, count: int) -> "Found":
        """So many queries without an answer."""
        shape = (num_queries, count)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1), np.full(shape, -1))

    def put(self, queries_M: NDArray[np.integer], answers: "Found") -> None:
        """Fill in the answers of some queries, which may hold fewer identities."""
        count = answers.scores_NK.shape[1]
        self.scores_NK[queries_M, :count] = answers.scores_NK
        self.identity_ids_NK[queries_M, :count] = answers.identity_ids_NK
        self.face_ids_NK[queries_M, :count] = answers.face_ids_NK

    def of(self, some_N: NDArray[np.bool_]) -> "Found":
        """The answers of some queries."""
        return Found(self.scores_NK[some_N], self.identity_ids_NK[some_N], self.face_ids_NK[some_N])


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
        count: K.
        without_N: identity of each query that is left out; 0 is none.
    """
    identities_NC = vectors.identity_ids_S.take(slots_NC, mode="clip")
    faces_NC = vectors.face_ids_S.take(slots_NC, mode="clip")
    scores_NC = score(vectors, queries_ND, slots_NC)
    scores_NC[identities_NC == without_N[:, None]] = -np.inf
    return _best(scores_NC, identities_NC, faces_NC, count)


def _best(scores_NC: Floats, identities_NC: Ids, faces_NC: Ids, count: int) -> Found:
    order_NC = np.lexsort((faces_NC, identities_NC, -scores_NC))
    scores_NC = np.take_along_axis(scores_NC, order_NC, 1)
    identities_NC = np.take_along_axis(identities_NC, order_NC, 1)
    kept_NC = _first_of_each(identities_NC) & (scores_NC > -np.inf)
    places_NC = kept_NC.cumsum(1) - 1
    queries, candidates = np.nonzero(kept_NC & (places_NC < count))
    places = places_NC[queries, candidates]
    found = Found.nothing(len(scores_NC), count)
    found.scores_NK[queries, places] = scores_NC[queries, candidates]
    found.identity_ids_NK[queries, places] = identities_NC[queries, candidates]
    found.face_ids_NK[queries, places] = faces_NC[queries, order_NC[queries, candidates]]
    return found


def _first_of_each(values_NC: Ids) -> NDArray[np.bool_]:
    """Whether a value stands in its row for the first time."""
    order_NC = np.argsort(values_NC, axis=1, kind="stable")
    sorted_NC = np.take_along_axis(values_NC, order_NC, 1)
    new_NC = np.ones(values_NC.shape, np.bool_)
    new_NC[:, 1:] = sorted_NC[:, 1:] != sorted_NC[:, :-1]
    first_NC = np.empty_like(new_NC)
    np.put_along_axis(first_NC, order_NC, new_NC, 1)
    return first_NC
