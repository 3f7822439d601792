"""What a calibration of a gallery's threshold says, and what follows from it without data.

A threshold is a cosine; an answer is accepted where its score >= threshold. Above 1 nobody is recognised.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cnnray.errors import DataError


@dataclass(frozen=True)
class Tail:
    """How often a stranger's best score of K identities is high: 1 - exp(-rate exp(-(t - start) / scale)), t >= start.

    Attributes:
        start: score from which on it holds.
        scale: cosine in which the number of scores falls to 1 / e.
        rate: of hits above `start` per probe, with all identities.
        count: probes above `start`, from which the scale was found.
    """

    start: float
    scale: float
    rate: float
    count: int

    def threshold(self, fpir: float) -> float:
        """The score that a share `fpir` of strangers exceeds."""
        return self.start + self.scale * math.log(self.rate / hit_rate(fpir))


@dataclass(frozen=True)
class Share:
    """False positives at a threshold: their share of impostor probes and its 95 % interval."""

    threshold: float
    fpir: float
    low: float
    high: float


@dataclass(frozen=True)
class CurveRow:
    """What is missed at a number of identities and a FPIR; averages over all subsets of that many.

    Attributes:
        num_identities: of the subset.
        target: FPIR that was asked for.
        threshold: the smallest at which `fpir` is at most that.
        fpir: reached there.
        fnir: share of mated probes that are not recognised: their own identity is not the first of the subset, or
            scores below the threshold. None without mated probes.
        fnir_low, fnir_high: its 95 % interval, Wilson's.
        below: share of mated probes whose own identity scores below the threshold, whatever its rank.
    """

    num_identities: int
    target: float
    threshold: float
    fpir: float
    fnir: float | None
    fnir_low: float | None
    fnir_high: float | None
    below: float | None


@dataclass(frozen=True)
class Suspect:
    """Two identities that may be one person.

    Attributes:
        identity_a, identity_b: their ids, the smaller first.
        score: of a face of one and the point of the other.
        expected: probes with so high a score if they are two people; far below 1 is suspicious.
    """

    identity_a: int
    identity_b: int
    score: float
    expected: float


@dataclass(frozen=True)
class Calibration:
    """A threshold for a number of identities.

    Attributes:
        fpir: false positive identification rate that was asked for.
        threshold: the smallest whose FPIR on the impostor probes is at most that; see `extrapolated`.
        low, high: its 95 % interval. -1 and 1 where there are too few probes to say.
        reached: share of the impostor probes at or above `threshold`.
        reached_low, reached_high: its 95 % interval.
        num_identities, num_faces: of the gallery.
        num_probes: impostor probes.
        num_independent: what they are worth: faces of one person count once, two people who are each other's best
            count once.
        num_mated: mated probes.
        source: of the impostor probes, "gallery" or "cohort".
        extrapolated: `num_independent` is below 1 / fpir: the threshold is the tail's, not measured.
        tail: of the impostors' best scores.
        num_doubtful: impostor probes that scored far above the others: identities that are in the gallery twice,
            people of the cohort who are in it.
        threshold_without: the threshold without these.
        at: when, as the caller gave it.
        shares: FPIR at some thresholds, falling.
        curve: rows by number of identities, then by target; of all of them there is one at `threshold`.
        suspects: highest score first; from the gallery alone.
    """

    fpir: float
    threshold: float
    low: float
    high: float
    reached: float
    reached_low: float
    reached_high: float
    num_identities: int
    num_faces: int
    num_probes: int
    num_independent: int
    num_mated: int
    source: str
    extrapolated: bool
    tail: Tail
    num_doubtful: int
    threshold_without: float
    at: str
    shares: tuple[Share, ...] = ()
    curve: tuple[CurveRow, ...] = ()
    suspects: tuple[Suspect, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self) | {
            name: [dataclasses.asdict(row) for row in getattr(self, name)] for name in _ROWS
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` made.

        Raises:
            DataError: a value is absent or not known.
        """
        try:
            rows = {name: tuple(kind(**row) for row in values[name]) for name, kind in _ROWS.items()}
            return cls(**{**values, **rows, "tail": Tail(**values["tail"])})
        except (TypeError, KeyError) as error:
            raise DataError(f"expected the values of a calibration, got others: {error}") from error


_ROWS: dict[str, type[Any]] = {"shares": Share, "curve": CurveRow, "suspects": Suspect}


def threshold_for(calibration: Calibration, num_identities: int) -> float:
    """The threshold that holds the FPIR at another number of identities, without data.

    Up to the calibrated number it is read off the curve, straight over the logarithm of the number, where the curve
    was measured at this FPIR. Elsewhere it follows from the exponential tail: a stranger is taken for somebody with
    1 - exp(-K c exp(-t / scale)), which stays the same where t grows by scale * log(K' / K). Tails of cosines fall
    faster than exponentially far out, so the threshold for a larger gallery is rather too high than too low; but it
    errs with the scale, which 1,000 people tell to about 15 %. Measured on 24 galleries of 1,000 random directions: at
    100,000 the FPIR of 0.1 was 0.07 on average and 0.21 at worst, that of 0.01 was 0.004 and 0.024; the thresholds for
    1,000 gave 1.0 and 0.64 there. Calibrate again when a gallery has grown a few times over.

    Raises:
        DataError: less than one identity.
    """
    if num_identities < 1:
        raise DataError(f"expected one identity or more, got {num_identities}")
    known = {row.num_identities: row.threshold for row in calibration.curve if row.target == calibration.fpir}
    known[calibration.num_identities] = calibration.threshold
    nearest = min(max(num_identities, min(known)), calibration.num_identities)
    sizes = sorted(known)
    start = np.interp(math.log(nearest), np.log(sizes), [known[size] for size in sizes])
    return float(start + calibration.tail.scale * math.log(num_identities / nearest))


def hit_rate(share: float) -> float:
    """Hits per probe, if they come independently, where this share of probes has one or more: -log(1 - share)."""
    return -math.log1p(-share)
