"""Choosing and training what suits a gallery, while it is searched and changed.

Legend: N points, P probes, W candidates of each, D numbers of an embedding.
"""

import threading
from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np

from cnnray.infer.gallery import approximate
from cnnray.infer.gallery.approximate import Approximation, Setting
from cnnray.infer.gallery.codes import Codes
from cnnray.infer.gallery.ranking import score
from cnnray.infer.gallery.searching import search
from cnnray.infer.gallery.vectors import Floats, Ids, Vectors

_AT_ONCE = 64  # probes, for which changes wait


class Probes(NamedTuple):
    """Queries [P, D] of `approximate.make_probes`, and of each the best cosine of all points and that point's slot."""

    queries_PD: Floats
    best_P: Floats
    slots_P: Ids


class Build:
    """One build.

    Args:
        vectors: of the gallery.
        changing: whoever changes the vectors holds it.
        least_recall: see `FaceIndex`.

    Attributes:
        touched: slots that changed since it began; who changes them adds them.
        refused: kinds that found too little, with their recall.
    """

    def __init__(self, vectors: Vectors, changing: threading.Lock, least_recall: float) -> None:
        self._vectors, self._changing, self._least_recall = vectors, changing, least_recall
        self._rng = np.random.default_rng(0)
        self.touched: list[Ids] = []
        self.refused: list[tuple[str, float]] = []

    def choose(self) -> Approximation | None:
        """The cheapest of the kinds that find enough, up to date but for `catch_up`; None is exact search."""
        sample_ND = self._sample()
        probes = self._searched(approximate.make_probes(sample_ND, self._rng))
        good: list[Approximation] = []
        for kind in approximate.KINDS:
            made = self._make(kind, sample_ND, probes)
            if made.setting.recall >= approximate.aim(self._least_recall):
                good.append(made)
            else:
                self.refused.append((kind, made.setting.recall))
        if not good:
            return None
        chosen = min(good, key=lambda made: approximate.cost(made.setting, made.codes))
        self._catch_up_early(chosen.codes)
        return chosen

    def _make(self, kind: str, sample_ND: Floats, probes: Probes) -> Approximation:
        """With the recall that searches then have."""
        codes = Codes.train(kind, sample_ND, len(self._vectors))
        for slots, embeddings_ND in self._copies():
            codes.add(slots, embeddings_ND)
        setting = self._measure(codes, probes)
        recall = self._recall(Approximation(kind, codes, setting), probes)
        return Approximation(kind, codes, setting._replace(recall=recall))

    def catch_up(self, codes: Codes) -> None:
        """Bring codes up to date with what was touched; the caller holds `changing`."""
        touched, live, embeddings_ND = self._take_touched()
        codes.remove(touched)
        codes.add(live, embeddings_ND)

    def _catch_up_early(self, codes: Codes) -> None:
        """Most of `catch_up` before anybody has to wait for it."""
        with self._changing:
            touched, live, embeddings_ND = self._take_touched()
        codes.remove(touched)
        codes.add(live, embeddings_ND)

    def _take_touched(self) -> tuple[Ids, Ids, Floats]:
        """Slots that changed, those of them that hold a point, and its embedding."""
        touched = self._all_touched()
        self.touched = []
        live = self._vectors.live(touched)
        return touched, live, self._vectors.embeddings_SD[live]

    def _all_touched(self) -> Ids:
        return np.unique(np.concatenate([np.empty(0, np.int64), *self.touched]))

    def _sample(self) -> Floats:
        with self._changing:
            live = np.flatnonzero(self._vectors.ids_S)
            picked = self._rng.choice(live, min(len(live), approximate.TRAINED_ON), replace=False)
            sample_ND: Floats = self._vectors.embeddings_SD[np.sort(picked)]
            return sample_ND

    def _copies(self) -> Iterator[tuple[Ids, Floats]]:
        """All points, some at a time: slots and embeddings; changes wait for no more than a copy."""
        for some in self._vectors.blocks():
            with self._changing:
                slots = self._vectors.live(np.arange(some.start, some.stop))
                embeddings_ND = self._vectors.embeddings_SD[slots]
            if len(slots):
                yield slots, embeddings_ND

    def _searched(self, queries_PD: Floats) -> Probes:
        """Compared with all points."""
        best_P, slots_P = np.full(len(queries_PD), -np.inf, np.float32), np.full(len(queries_PD), -1)
        for slots, embeddings_ND in self._copies():
            scores, places = faiss.knn(queries_PD, embeddings_ND, 1, metric=faiss.METRIC_INNER_PRODUCT)
            better = scores[:, 0] > best_P
            best_P[better], slots_P[better] = scores[better, 0], slots[places[better, 0]]
        return Probes(queries_PD, best_P, slots_P)

    def _measure(self, codes: Codes, probes: Probes) -> Setting:
        """The setting for codes, see `approximate.cheapest`."""
        settings: list[Setting] = []
        width = max(approximate.NUM_CANDIDATES)
        for num_lists in sorted({min(lists, codes.num_lists) for lists in approximate.NUM_LISTS}):
            guesses_PW, slots_PW = codes.search(probes.queries_PD, width, num_lists)
            tried = approximate.try_settings(
                num_lists, probes.best_P, self._scores(probes, slots_PW), guesses_PW, slots_PW
            )
            settings += tried
            if tried[0].recall >= approximate.aim(self._least_recall):
                break  # with the fewest candidates: more lists can only cost more
        return approximate.cheapest(settings, codes, self._least_recall)

    def _scores(self, probes: Probes, slots_PW: Ids) -> Floats:
        """Cosines of the probes' candidates."""
        parts = []
        for some in _parts(len(slots_PW)):
            with self._changing:
                parts.append(score(self._vectors, probes.queries_PD[some], slots_PW[some]))
        return np.concatenate(parts)

    def _recall(self, approximation: Approximation, probes: Probes) -> float:
        """Share of the probes for which a search as users do it finds the best point; 0 where none can tell."""
        parts = []
        for some in _parts(len(probes.queries_PD)):
            nobody = np.zeros(len(probes.queries_PD[some]), np.int64)
            with self._changing:
                parts.append(search(self._vectors, approximation, probes.queries_PD[some], 1, nobody).scores_NK[:, 0])
        with self._changing:  # a best point that went meanwhile cannot be found
            kept_P = ~np.isin(probes.slots_P, self._all_touched())
        found_P = np.concatenate(parts) >= probes.best_P - approximate.TIE
        return float(found_P[kept_P].mean()) if kept_P.any() else 0.0


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _AT_ONCE):
        yield slice(start, start + _AT_ONCE)
