"""How probes score against the identities of a gallery, in blocks of bounded memory.

    FaceGroups           the gallery's faces by identity
    score_probes         each probe against all identities but its own
    own_scores           each probe against the other faces of its own identity

A score is the cosine; an identity scores by the best of its faces.

Legend: N faces of the gallery, I its identities by place (sorted ids), P probes, D numbers of an embedding, B bins.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import DataError

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
NOBODY = -1
NUM_BINS = 4096
_CELLS = 2**21  # scores that are held at once, 4 bytes each, a few times over
_FACES = 2**14  # of a chunk: large against the bins of a block of probes, which are cleared for each
_OFF_LENGTH = 0.01
_SAMPLE, _HIGHEST_BIN = 1000, 0.99


class FaceGroups(NamedTuple):
    """Faces sorted by identity, without a copy of the embeddings.

    Attributes:
        embeddings_ND: float32 of length 1, as they came.
        order_N: places of faces, those of an identity side by side.
        starts_I: where the faces of each identity begin in `order_N`; one more entry, N, at the end.
        ids_I: sorted ids.
    """

    embeddings_ND: Float32s
    order_N: Int64s
    starts_I: Int64s
    ids_I: Int64s

    def faces(self, identity: int) -> Int64s:
        """Places of an identity's faces."""
        return self.order_N[self.starts_I[identity] : self.starts_I[identity + 1]]


def group_faces(embeddings_ND: Float32s, ids_N: Int64s, name: str = "the gallery") -> FaceGroups:
    """Sort by identity; `name` is for messages.

    Raises:
        DataError: see `check_embeddings`; another number of ids than of faces.
    """
    check_embeddings(embeddings_ND, name)
    if len(ids_N) != len(embeddings_ND):
        raise DataError(f"expected an identity for each of {len(embeddings_ND):,} faces, got {len(ids_N):,}")
    order_N = np.argsort(ids_N, kind="stable")
    ids_I, starts_I = np.unique(ids_N[order_N], return_index=True)
    return FaceGroups(embeddings_ND, order_N, np.append(starts_I, len(ids_N)), ids_I)


def check_embeddings(embeddings_ND: Float32s, name: str) -> None:
    """See that they are rows of length 1.

    Raises:
        DataError: they are not; NaN counts as that.
    """
    if embeddings_ND.ndim != 2:
        raise DataError(f"expected rows of embeddings in {name}, got an array of shape {embeddings_ND.shape}")
    squares_N = np.einsum("nd,nd->n", embeddings_ND, embeddings_ND)
    wrong_N = ~(np.abs(squares_N - 1) < 2 * _OFF_LENGTH)  # written so that NaN is wrong
    if wrong_N.any():
        at = int(np.flatnonzero(wrong_N)[0])
        length = float(np.sqrt(squares_N[at]))
        raise DataError(
            f"expected embeddings of length 1 in {name}, but {int(wrong_N.sum()):,} are not: face {at} has {length:.4g}"
        )


@dataclass(frozen=True)
class ProbeScores:
    """Each probe against the others: all identities but its own.

    Attributes:
        own_P: place of its own identity; NOBODY of a stranger.
        best_P: float32 score of the best of the others, -inf without any.
        identity_P: which that is; NOBODY without any.
        edges_B: lower ends of the bins, rising; of the first in name only: it holds all lower scores too.
        above_PB: int32 others of each bin and those above it.
        ahead_P: others that score at least `limits_P`.
    """

    own_P: Int64s
    best_P: Float32s
    identity_P: Int64s
    edges_B: Float32s
    above_PB: NDArray[np.int32]
    ahead_P: Int64s


def score_probes(
    probes_PD: Float32s, own_P: Int64s, groups: FaceGroups, limits_P: Float32s | None = None
) -> ProbeScores:
    """Score probes against all identities but their own.

    Extra memory: 16 KiB for each probe, and about 60 MiB; more only where one identity has more faces than `_FACES`,
    whose embeddings are copied. With `limits_P` scores are compared with these alone: `above_PB` has no bins then.
    """
    count, edges_B = len(probes_PD), _edges(probes_PD, groups)
    best_P, identity_P = np.full(count, -np.inf, np.float32), np.full(count, NOBODY)
    above_PB, ahead_P = np.zeros((count, NUM_BINS if limits_P is None else 0), np.int32), np.zeros(count, np.int64)
    for first, last in _chunks(groups.starts_I):
        faces = groups.order_N[groups.starts_I[first] : groups.starts_I[last]]
        chunk_GD, starts_J = groups.embeddings_ND[faces], groups.starts_I[first:last] - groups.starts_I[first]
        rows = max(1, _CELLS // len(faces))
        for start in range(0, count, rows):
            some = slice(start, start + rows)
            best_JP = _best_by_identity(chunk_GD @ probes_PD[some].T, starts_J)
            local_P = own_P[some] - first
            inside = np.flatnonzero((local_P >= 0) & (local_P < last - first))
            best_JP[local_P[inside], inside] = -np.inf
            _keep_best(best_JP, first, best_P[some], identity_P[some])
            if limits_P is None:
                above_PB[some] += _histograms(best_JP, edges_B)
            else:
                ahead_P[some] += (best_JP >= limits_P[some]).sum(axis=0)
    if limits_P is None:
        np.cumsum(above_PB[:, ::-1], axis=1, out=above_PB[:, ::-1])
    return ProbeScores(own_P, best_P, identity_P, edges_B, above_PB, ahead_P)


def own_scores(faces_P: Int64s, own_P: Int64s, groups: FaceGroups) -> Float32s:
    """Best score [P] of faces against the other faces of their own identities, which have two or more."""
    scores_P = np.empty(len(faces_P), np.float32)
    for at, (face, own) in enumerate(zip(faces_P, own_P, strict=True)):
        others = groups.faces(own)
        others = others[others != face]
        scores_P[at] = (groups.embeddings_ND[others] @ groups.embeddings_ND[face]).max()
    return scores_P


def _chunks(starts_I: Int64s) -> list[tuple[int, int]]:
    """Neighbouring identities, first and one after the last, of `_FACES` faces together, or of a single identity."""
    chunks, first, num_identities = [], 0, len(starts_I) - 1
    while first < num_identities:
        last = int(np.searchsorted(starts_I, starts_I[first] + _FACES, side="right")) - 1
        last = min(max(last, first + 1), num_identities)
        chunks.append((first, last))
        first = last
    return chunks


def _best_by_identity(scores_GP: Float32s, starts_J: Int64s) -> Float32s:
    """[J, P]; along the first axis, where whole rows are compared: several times as fast as along the second."""
    if len(starts_J) == len(scores_GP):
        return scores_GP
    best_JP: Float32s = np.maximum.reduceat(scores_GP, starts_J, axis=0)
    return best_JP


def _keep_best(best_JP: Float32s, first: int, best_P: Float32s, identity_P: Int64s) -> None:
    """Overwrite those of `best_P` that are beaten; of equal ones the first stays."""
    place_P = best_JP.argmax(axis=0)
    found_P = np.take_along_axis(best_JP, place_P[None], axis=0)[0]
    better_P = found_P > best_P
    best_P[better_P], identity_P[better_P] = found_P[better_P], place_P[better_P] + first


def _edges(probes_PD: Float32s, groups: FaceGroups) -> Float32s:
    """Bins from the lower quartile of some scores up to 1: no threshold of use is lower, and where embedders crowd
    all faces together, as dlib's above 0.8, they are fine enough for that."""
    some = groups.order_N[:: max(1, len(groups.order_N) // _SAMPLE)]
    scores = probes_PD[:: max(1, len(probes_PD) // _SAMPLE)] @ groups.embeddings_ND[some].T
    lowest = min(float(np.quantile(scores, 0.25)), _HIGHEST_BIN) if scores.size else 0.0
    return np.linspace(lowest, 1, NUM_BINS, endpoint=False, dtype=np.float32)


def _histograms(best_JP: Float32s, edges_B: Float32s) -> NDArray[np.int32]:
    """Scores of each probe by bin [P, B]; -inf is in none."""
    count = best_JP.shape[1]
    scale = np.float32(NUM_BINS / (1 - float(edges_B[0])))
    bins_JP = np.clip((best_JP - edges_B[0]) * scale, 0, NUM_BINS - 1).astype(np.int64)
    bins_JP += np.arange(count) * NUM_BINS
    histogram = np.bincount(bins_JP.reshape(-1), minlength=count * NUM_BINS).reshape(count, NUM_BINS).astype(np.int32)
    histogram[:, 0] -= np.isneginf(best_JP).sum(axis=0, dtype=np.int32)
    return histogram
