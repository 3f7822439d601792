"""Candidates from compressed embeddings, and how many of them so that hardly anybody is missed.

Kinds: "ivf" looks only into the lists of codes nearest to a query, "pq" at the codes of all points. Candidates are then
compared exactly, by others.

Legend: N queries, P probes, W candidates of each, D numbers of an embedding.
"""

from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from cnnray.infer.gallery.codes import Codes
from cnnray.infer.gallery.vectors import Floats, Ids

KINDS = ("ivf", "pq")
NUM_PROBES, TRAINED_ON = 2_000, 170_000
NUM_LISTS = (64, 128, 256, 512, 1024)  # that are looked into; fewer save little, and miss others than our probes
NUM_CANDIDATES = (32, 64, 128, 256, 512, 1024)
_NOISE = 0.74
TIE = 1e-6  # of one cosine, by two ways to add up


class Setting(NamedTuple):
    """How much of an index is searched.

    Attributes:
        num_lists: that are looked into.
        num_candidates: of a query.
        recall: at rank 1, measured on probes.
        doubted: share of the probes whose candidates were not enough, see `doubtful`.
    """

    num_lists: int
    num_candidates: int
    recall: float
    doubted: float


class Approximation(NamedTuple):
    """What chooses candidates: one of KINDS, codes of all points, and how much of them is searched."""

    kind: str
    codes: Codes
    setting: Setting

    def search(self, queries_ND: Floats, num_candidates: int) -> tuple[Floats, Ids]:
        """See `Codes.search`."""
        return self.codes.search(queries_ND, num_candidates, self.setting.num_lists)


def make_probes(sample_ND: Floats, rng: np.random.Generator) -> Floats:
    """Pictures of some of the sample's people, as far as can be had without any: [P, D], length 1.

    A point and the difference of two others: it varies as points of the gallery do among themselves. On isotropic data
    the cosine to its point is 0.69, and to one of the other two 0.51; on real embeddings both are higher.
    """
    count = min(NUM_PROBES, len(sample_ND))
    picked = [rng.choice(len(sample_ND), count, replace=False) for _ in range(3)]
    point_PD, plus_PD, minus_PD = (sample_ND[some] for some in picked)
    probes_PD = point_PD + _NOISE * (plus_PD - minus_PD)
    faiss.normalize_L2(probes_PD)
    return probes_PD


def doubtful(found_N: Floats, guesses_NW: Floats, slots_NW: Ids) -> NDArray[np.bool_]:
    """Whether candidates may not be enough: of more of them, or of all, another may be the best.

    So it is if the last candidate may be better than what was found, or if a large part of them have one code: many
    copies of one photo can stand in front of the right one. Codes are compared coarsely, so that a few equal guesses
    among hundreds mean nothing.

    Args:
        found_N: cosine of the last identity that was found among them.
        guesses_NW, slots_NW: see `Codes.search`.
    """
    part = guesses_NW.shape[1] // 4
    equal_NW = (guesses_NW[:, part:] == guesses_NW[:, :-part]) & (slots_NW[:, part:] >= 0)
    last_N = np.where(slots_NW[:, -1] >= 0, guesses_NW[:, -1], -np.inf)
    doubtful_N: NDArray[np.bool_] = (found_N <= last_N) | equal_NW.any(1)
    return doubtful_N


def try_settings(num_lists: int, best_P: Floats, scores_PW: Floats, guesses_PW: Floats, slots_PW: Ids) -> list[Setting]:
    """What numbers of candidates find, if those in doubt are then found in another way.

    Args:
        num_lists: that gave the candidates.
        best_P: cosine of the best point of all.
        scores_PW: of the candidates, exact.
        guesses_PW, slots_PW: see `Codes.search`.
    """
    settings = []
    for width in NUM_CANDIDATES:
        found_P = scores_PW[:, :width].max(1)
        doubted_P = doubtful(found_P, guesses_PW[:, :width], slots_PW[:, :width])
        recall = float(((found_P >= best_P - TIE) | doubted_P).mean())
        settings.append(Setting(num_lists, width, recall, float(doubted_P.mean())))
    return settings


def aim(least_recall: float) -> float:
    """A recall on probes with some margin: half as many are missed as may be."""
    return 1 - (1 - least_recall) / 2


def cheapest(settings: list[Setting], codes: Codes, least_recall: float) -> Setting:
    """The cheapest setting that reaches `aim`, or else the one of the best recall."""
    good = [setting for setting in settings if setting.recall >= aim(least_recall)]
    if not good:
        return max(settings, key=lambda setting: setting.recall)
    return min(good, key=lambda setting: cost(setting, codes))


def cost(setting: Setting, codes: Codes) -> float:
    """Microseconds of a query, as measured on one core with 1,000,000 points of 128 numbers."""
    lists = setting.num_lists * (1 + 0.003 * len(codes) / codes.num_lists)
    return lists + 0.3 * setting.num_candidates + 0.03 * setting.doubted * len(codes)
