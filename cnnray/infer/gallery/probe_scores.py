"""How probes score against the identities of a gallery, in blocks of bounded memory.

    FaceGroups           the gallery's faces by identity
    score_probes         each probe against all identities but its own
    own_scores           each probe against the other faces of its own identity

A score is the cosine of a face and of the point that stands for an identity, see `cnnray.infer.gallery.means`.

Legend: N faces of the gallery, I its identities by place (sorted ids), P probes, D numbers of an embedding, B bins.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import DataError
from cnnray.infer.gallery.means import mean_embeddings

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
NOBODY = -1
NUM_BINS = 4096
_CELLS = 2**21  # scores that are held at once, 4 bytes each, a few times over
_POINTS = 2**14  # of a chunk: large against the bins of a block of probes, which are cleared for each
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
    probes_PD: Float32s, own_P: Int64s, points_ID: Float32s, limits_P: Float32s | None = None
) -> ProbeScores:
    """Score probes against all identities but their own.

    Extra memory: 16 KiB for each probe, and about 60 MiB. With `limits_P` scores are compared with these alone:
    `above_PB` has no bins then.
    """
    count, edges_B = len(probes_PD), _edges(probes_PD, points_ID)
    best_P, identity_P = np.full(count, -np.inf, np.float32), np.full(count, NOBODY)
    above_PB, ahead_P = np.zeros((count, NUM_BINS if limits_P is None else 0), np.int32), np.zeros(count, np.int64)
    for first in range(0, len(points_ID), _POINTS):
        chunk_JD = points_ID[first : first + _POINTS]
        rows = max(1, _CELLS // len(chunk_JD))
        for start in range(0, count, rows):
            some = slice(start, start + rows)
            best_JP = chunk_JD @ probes_PD[some].T
            local_P = own_P[some] - first
            inside = np.flatnonzero((local_P >= 0) & (local_P < len(chunk_JD)))
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
    """Scores [P] of faces against the points of their own identities without them, which have two faces or more."""
    scores_P = np.empty(len(faces_P), np.float32)
    for at, (face, own) in enumerate(zip(faces_P, own_P, strict=True)):
        others = groups.faces(own)
        others = others[others != face]
        _, (point_D,) = mean_embeddings(np.zeros(len(others), np.int64), groups.embeddings_ND[others])
        scores_P[at] = point_D @ groups.embeddings_ND[face]
    return scores_P


def _keep_best(best_JP: Float32s, first: int, best_P: Float32s, identity_P: Int64s) -> None:
    """Overwrite those of `best_P` that are beaten; of equal ones the first stays. Scores are compared along the first
    axis, by whole rows: several times as fast as along the second."""
    place_P = best_JP.argmax(axis=0)
    found_P = np.take_along_axis(best_JP, place_P[None], axis=0)[0]
    better_P = found_P > best_P
    best_P[better_P], identity_P[better_P] = found_P[better_P], place_P[better_P] + first


def _edges(probes_PD: Float32s, points_ID: Float32s) -> Float32s:
    """Bins from the lower quartile of some scores up to 1: no threshold of use is lower, and where embedders crowd
    all faces together, as dlib's above 0.8, they are fine enough for that."""
    some_JD = points_ID[:: max(1, len(points_ID) // _SAMPLE)]
    scores = probes_PD[:: max(1, len(probes_PD) // _SAMPLE)] @ some_JD.T
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
