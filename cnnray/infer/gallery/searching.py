"""The identities that are most alike, of all or of candidates where these will do.

Legend: N queries, K identities that are asked for, W candidates, D numbers of an embedding, S slots.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from cnnray.infer.gallery.approximate import Approximation, doubtful
from cnnray.infer.gallery.ranking import Found, rank
from cnnray.infer.gallery.vectors import Floats, Ids, Vectors

_SPARE = 4  # candidates beyond those asked for: the one that is left out, and some that score as the last one
_WIDER = 8
_ROUNDING = 2e-6  # of a cosine: FAISS adds up in other orders than we do


def search(
    vectors: Vectors, approximation: Approximation | None, queries_ND: Floats, count: int, without_N: Ids
) -> Found:
    """The best identities.

    Args:
        vectors: of the gallery.
        approximation: what chooses candidates; None compares all identities.
        queries_ND: of length 1.
        count: K, at most the number of identities there are.
        without_N: identity of each query that is left out; 0 is none.
    """
    if approximation is None:
        return _exact(vectors, queries_ND, count, without_N)
    found, left = Found.nothing(len(queries_ND), count), np.arange(len(queries_ND))
    width = max(approximation.setting.num_candidates, 4 * count)
    for candidates in (width, _WIDER * width):
        answers, enough = _approximate(vectors, approximation, queries_ND[left], count, without_N[left], candidates)
        found.put(left[enough], answers.of(enough))
        left = left[~enough]
        if not len(left):
            return found
    found.put(left, _exact(vectors, queries_ND[left], count, without_N[left]))
    return found


def _approximate(
    vectors: Vectors, approximation: Approximation, queries_ND: Floats, count: int, without_N: Ids, width: int
) -> tuple[Found, NDArray[np.bool_]]:
    """The best among candidates, and whether these were enough."""
    guesses_NW, slots_NW = approximation.search(queries_ND, width)
    found = rank(vectors, queries_ND, slots_NW, count, without_N)
    return found, ~doubtful(found.scores_NK[:, -1], guesses_NW, slots_NW)


def _exact(vectors: Vectors, queries_ND: Floats, count: int, without_N: Ids) -> Found:
    """The best of all: of those that FAISS finds best, and where these leave a doubt, of all that may be as good."""
    width = min(count + _SPARE, vectors.num_slots)
    scores_NW, slots_NW = faiss.knn(queries_ND, vectors.embeddings_SD, width, metric=faiss.METRIC_INNER_PRODUCT)
    found = rank(vectors, queries_ND, slots_NW, count, without_N)
    whole_N = (slots_NW[:, -1] < 0) | (width == vectors.num_slots)
    enough_N = whole_N | (found.scores_NK[:, -1] > scores_NW[:, -1] + _ROUNDING)
    for at in np.flatnonzero(~enough_N):
        some = slice(at, at + 1)
        slots = _scan(vectors, queries_ND[at], count, int(without_N[at]))
        found.put(np.array([at]), rank(vectors, queries_ND[some], slots[None], count, without_N[some]))
    return found


def _scan(vectors: Vectors, query_D: Floats, count: int, without: int) -> Ids:
    """Slots of all that are as good as the `count`-th best, but for rounding, or better."""
    scores_S = np.einsum("sd,d->s", vectors.embeddings_SD, query_D)
    scores_S[np.isnan(scores_S) | (vectors.ids_S == without)] = -np.inf
    return np.flatnonzero(scores_S >= np.partition(scores_S, -count)[-count] - _ROUNDING)
