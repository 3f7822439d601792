"""Embeddings against what is known: pairs of images, people in a gallery. Thresholds are in the embedder's own unit.

The unit is what `cnnray faces verify --threshold` takes: a distance up to which two faces are one person's, or with a
verification head a probability from which on they are. In a gallery people are always looked for by distance.

Legend: N images (see `MeantFaces`), Q pairs, P probes, G faces of a gallery.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnnray.data.face_pairs import FacePairs
from cnnray.data.meant_faces import MeantFaces
from cnnray.errors import DataError
from cnnray.nn.embedders import VerificationHead
from cnnray.ops.enrolment import Enrolment, closed_set, open_set
from cnnray.ops.identification import OpenSetCurve, Probes, open_set_curve, summarise_probes, summary_identification
from cnnray.ops.verification import Roc, best_threshold, roc, summary_pairs

Figures = dict[str, float | None]
DISTANCE, PROBABILITY = "distance", "probability"


class PairJudge:
    """Compares pairs.

    Args:
        faces: of all images that the pairs name.
        pairs: what is known.
        head: the embedder's, or None.

    Attributes:
        a_Q, b_Q: places of the images.
        scores_Q: similarities: negative distance, or logit of the head; -inf where a face is missing.
        same_Q: the truth.
        unit: "distance" or "probability".

    Raises:
        DataError: an image is not among those of the run.
    """

    def __init__(self, faces: MeantFaces, pairs: FacePairs, head: VerificationHead | None) -> None:
        self.a_Q, self.b_Q = _places(faces, (*pairs.paths_a, *pairs.paths_b)).reshape(2, -1)
        self.same_Q, self._folds_Q = pairs.same_N, pairs.folds_N
        self.unit = DISTANCE if head is None else PROBABILITY
        difference_QD = faces.embeddings_ND[self.a_Q] - faces.embeddings_ND[self.b_Q]
        scores_Q = -np.linalg.norm(difference_QD, axis=1) if head is None else _logits(head, difference_QD)
        self.scores_Q: NDArray[np.float64] = np.where(np.isnan(scores_Q), -np.inf, scores_Q).astype(np.float64)

    @property
    def figures(self) -> Figures:
        """See `summary_pairs`."""
        return in_unit(summary_pairs(self.scores_Q, self.same_Q, self._folds_Q), self.unit)

    @property
    def curve(self) -> Roc:
        """True over false accept rate."""
        return roc(self.scores_Q, self.same_Q)

    @property
    def threshold(self) -> float:
        """The score that divides all pairs best."""
        return best_threshold(self.scores_Q, self.same_Q)

    def measured(self, at: int) -> str:
        """How far apart a pair is, in words."""
        return f"{self.unit} {to_unit(float(self.scores_Q[at]), self.unit):.3f}"

    def worst(self, count: int, *, same: bool) -> list[int]:
        """Pairs of one person that are least alike, or of two who are most; pairs without a face are left out."""
        order = np.argsort(self.scores_Q if same else -self.scores_Q, kind="stable")
        known = (self.same_Q == same) & (self.scores_Q > -np.inf)
        return [int(at) for at in order if known[at]][:count]


class GalleryJudge:
    """Looks for people in galleries of all, and of some.

    Args:
        faces: of all images; each has a label.
        strangers, seed: see `cnnray.ops.enrolment.open_set`.
    """

    def __init__(self, faces: MeantFaces, strangers: float, seed: int) -> None:
        self._faces = faces
        self._closed, self._open = closed_set(faces.labels_N), open_set(faces.labels_N, strangers, seed)
        self._found, self._told = (self._compared(enrolment) for enrolment in (self._closed, self._open))

    @property
    def closed(self) -> Figures:
        """Of the closed set: ranks, see `summary_identification`; num_not_enrolled: people without a face there."""
        return self._figures(self._found, self._closed, ("rank_", "num_"))

    @property
    def open(self) -> Figures:
        """Of the open set: FNIR at FPIRs."""
        return in_unit(self._figures(self._told, self._open, ("fnir_", "num_")), DISTANCE)

    @property
    def curve(self) -> OpenSetCurve:
        """FNIR over FPIR."""
        return open_set_curve(self._told)

    def mistaken(self, count: int) -> list[tuple[int, int, int, int]]:
        """Places of probes that were taken for others in the closed set, of the others, of the right ones; and ranks.

        The surest mistakes come first. Where the probe or the right one has no face nobody is mistaken.
        """
        wrong_P = (self._found.rank_P > 1) & (self._found.own_P > -np.inf)
        wrong = np.flatnonzero(wrong_P)
        gaps = self._found.own_P[wrong] - self._found.other_P[wrong]
        order = wrong[np.argsort(gaps, kind="stable")][:count]
        return [(*self._around(at), int(self._found.rank_P[at])) for at in order]

    def distance(self, a: int, b: int) -> float:
        """Between the faces of two images."""
        return float(np.linalg.norm(self._faces.embeddings_ND[a] - self._faces.embeddings_ND[b]))

    def _around(self, at: int) -> tuple[int, int, int]:
        labels, vectors, gallery = self._faces.labels_N, self._faces.embeddings_ND, self._closed.gallery_G
        probe = int(self._closed.probes_P[at])
        own_G = labels[gallery] == labels[probe]
        away_G = np.linalg.norm(vectors[gallery] - vectors[probe], axis=1)
        other = int(np.nanargmin(np.where(own_G, np.inf, away_G)))
        return probe, int(gallery[other]), int(gallery[own_G][0])

    def _compared(self, enrolment: Enrolment) -> Probes:
        labels, vectors = self._faces.labels_N, self._faces.embeddings_ND
        probes, gallery = enrolment.probes_P, enrolment.gallery_G
        return summarise_probes(vectors[probes], labels[probes], vectors[gallery], labels[gallery])

    def _figures(self, probes: Probes, enrolment: Enrolment, kinds: tuple[str, ...]) -> Figures:
        figures = {name: value for name, value in summary_identification(probes).items() if name.startswith(kinds)}
        lost = np.isnan(self._faces.embeddings_ND[enrolment.gallery_G]).any(axis=1)
        return figures | {"num_not_enrolled": int(lost.sum())}


def in_unit(figures: Mapping[str, float | None], unit: str) -> Figures:
    """Figures whose thresholds are given in the embedder's unit in place of similarities."""
    return {
        name: to_unit(value, unit) if value is not None and name.endswith("threshold") else value
        for name, value in figures.items()
    }


def to_unit(score: float, unit: str) -> float:
    """A similarity as a distance or probability."""
    return -score if unit == DISTANCE else 0.5 * (1 + math.tanh(score / 2))


def _places(faces: MeantFaces, paths: Sequence[str]) -> NDArray[np.int64]:
    place: dict[str, Any] = {path: at for at, path in enumerate(faces.paths)}
    missing = [path for path in paths if path not in place]
    if missing:
        raise DataError(
            f"expected pairs of the {len(place):,} images that the run began with, but {len(missing)} of {len(paths)} "
            f"are others, such as {missing[0]}"
        )
    return np.array([place[path] for path in paths], np.int64)


def _logits(head: VerificationHead, difference_QD: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = head(torch.from_numpy(np.abs(difference_QD))).numpy()
    return logits
