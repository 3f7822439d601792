"""Compressed embeddings in FAISS: 4 bits for each of up to 128 parts of an embedding (FastScan), in lists.

Measured with 1,000,000 points made of real faces: of 128 parts 64 candidates were enough for every probe, of 64 parts
1,024 were not. That costs 32 bytes a point, and a fifth of the searches per second where few candidates would do.

Legend: N queries or points, W candidates of each, D numbers of an embedding.
"""

import math
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cnnray.infer.gallery.vectors import Floats, Ids

LEAST_TRAINED = 256  # points, below which codes make no sense
_TRAINED_PER_LIST = 39  # fewer, and FAISS warns
_BITS, _MOST_PARTS = 4, 128


class Codes:
    """Codes of points by slot; not safe to change while others read.

    Args:
        index: FAISS's IndexIVFPQFastScan, trained.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self._kept = _kept_lanes(index.get_CodePacker())

    @classmethod
    def train(cls, kind: str, sample_ND: Floats, num_points: int) -> "Codes":
        """None yet, for so many points: "ivf" is in many lists, of which a search looks into some, "pq" in one."""
        num_features = sample_ND.shape[1]
        num_parts = max(parts for parts in range(1, _MOST_PARTS + 1) if num_features % parts == 0)
        most = len(sample_ND) // _TRAINED_PER_LIST
        num_lists = 1 if kind == "pq" else max(1, min(int(4 * math.sqrt(num_points)), most))
        name = f"IVF{num_lists},PQ{num_parts}x{_BITS}fs"
        index: Any = faiss.index_factory(num_features, name, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid = 1  # a small sample is no reason to print a warning
        index.train(sample_ND)
        return cls(index)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def num_lists(self) -> int:
        """There are."""
        return int(self.index.nlist)

    @property
    def num_bytes(self) -> int:
        """About what is held: codes, ids and centroids."""
        return int(len(self) * (self.index.code_size + 8) + (self.num_lists + 2**_BITS) * self.index.d * 4)

    def search(self, queries_ND: Floats, num_candidates: int, num_lists: int) -> tuple[Floats, Ids]:
        """Approximate cosines [N, W], falling, and slots; -1 where the lists hold fewer."""
        parameters = faiss.IVFSearchParameters()
        parameters.nprobe = num_lists
        scores_NW, slots_NW = self.index.search(queries_ND, num_candidates, params=parameters)
        return scores_NW, slots_NW

    def add(self, slots: Ids, embeddings_ND: Floats) -> None:
        """Add points that are not there."""
        if len(slots):
            self.index.add_with_ids(embeddings_ND, slots)

    def remove(self, slots: Ids, embeddings_ND: Floats | None = None) -> None:
        """Remove points; of what was in their slots no bit is left. Slots that are not there are ignored.

        FAISS 1.15 leaves a code behind the end of its list, and ORs the next one that is added there into it: the new
        point would hardly be found. So what is behind the end is cleared.

        Args:
            slots: theirs.
            embeddings_ND: that were there, by which their lists are found; None looks at all lists, which is slow.
        """
        if not len(slots):
            return
        lists = range(self.num_lists) if embeddings_ND is None else self._lists_of(embeddings_ND)
        before = self._num_codes(lists)
        removed = self.index.remove_ids(slots)
        if before - self._num_codes(lists) != removed:  # rounding can bring a point into another list next time
            lists = range(self.num_lists)
        self._clear_ends(lists)

    def _lists_of(self, embeddings_ND: Floats) -> list[int]:
        found: list[int] = np.unique(self.index.quantizer.assign(embeddings_ND, 1)).tolist()
        return found

    def _num_codes(self, lists: range | list[int]) -> int:
        return sum(self.index.invlists.list_size(number) for number in lists)

    def _clear_ends(self, lists: range | list[int]) -> None:
        """Zeros behind the last code of lists."""
        inverted, (per_block, block_size) = self.index.invlists, self._kept.shape
        for number in lists:
            blocks, used = divmod(inverted.list_size(number), per_block)
            if used:
                codes = faiss.rev_swig_ptr(inverted.get_codes(number), (blocks + 1) * block_size)
                codes[blocks * block_size :] &= self._kept[used]


def _kept_lanes(packer: Any) -> NDArray[np.uint8]:
    """Of a block with so many codes the bits that are theirs: FAISS interleaves the codes of a block."""
    kept = np.zeros((packer.nvec, packer.block_size), np.uint8)
    ones = np.full(packer.code_size, 255, np.uint8)
    for used in range(1, packer.nvec):
        kept[used] = kept[used - 1]
        packer.pack_1(ones, used - 1, kept[used : used + 1])
    return kept
