"""What a gallery is asked and answers.

A score is the cosine of a face's embedding and of the point that stands for a person, the mean of the person's faces
(see `cnnray.infer.gallery.means`): in [-1, 1], larger for more alike. A threshold is the least score that is taken as
the same person's.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnray.config import QualityPolicy
from cnnray.infer.face_results import Face
from cnnray.infer.gallery.rows import IdentityRow, NewFace

_TIE = 1e-6  # scores that differ by less are equal: an embedding's last bits
REASONS = {
    "too_small": "its box is smaller than {min_size:g} px",
    "low_confidence": "the detector is less sure than {min_confidence:g}",
    "cut_off": "less than {min_inside:g} of its box is in the photo",
    "blurred": "its sharpness is below {min_sharpness:g}",
    "too_dark": "its brightness is below {min_brightness:g}",
    "too_bright": "its brightness is above {max_brightness:g}",
    "turned_away": "it looks further aside, up or down, or is turned further, than {max_yaw:g}, {max_pitch:g} and "
    "{max_roll:g} degrees",
}


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody to enrol, or to enrol more faces of.

    Attributes:
        key: the id by which users know the person.
        faces: at least one.
        name: "" keeps the present one, or is the key of somebody new.
        metadata: None keeps the present.
        request_key: the same request comes with the same one, and is done once; "" is none.
        accept_quality: also faces that are not good enough by the gallery's policy.
        accept_conflict: also faces that somebody else is recognised by.
    """

    key: str
    faces: Sequence[NewFace]
    name: str = ""
    metadata: Mapping[str, Any] | None = None
    request_key: str = ""
    accept_quality: bool = False
    accept_conflict: bool = False

    @property
    def fingerprint(self) -> str:
        """Of everything that is asked for."""
        asked = [self.key, self.name, sorted((self.metadata or {}).items()), self.accept_quality, self.accept_conflict]
        sources = sorted(face.source_sha256 for face in self.faces)
        return hashlib.sha256(repr([asked, sources]).encode()).hexdigest()


@dataclass(frozen=True)
class Enrollment:
    """What an enrolment did.

    Attributes:
        key: of the person.
        face_ids: of the faces that were given, in their order.
        added: of these, how many were not there before.
        version: of the gallery that has them.
        replayed: whether an earlier request with the same key had done it already.
    """

    key: str
    face_ids: tuple[int, ...]
    added: int
    version: int
    replayed: bool = False


@dataclass(frozen=True)
class Candidate:
    """Somebody whom a face resembles."""

    identity: IdentityRow
    score: float


@dataclass(frozen=True)
class Match:
    """Whose face it is.

    Attributes:
        decision: "identified"; "unknown", where nobody scores as high as the threshold; "ambiguous", where several
            do equally, as after one photo was enrolled for several people.
        identity: who it is; None unless identified.
        score: the best one of the gallery, -1 of an empty one.
        candidates: the best people, best first, as many as were asked for, whatever the threshold.
    """

    decision: str
    identity: IdentityRow | None
    score: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Recognition:
    """The answer of a search.

    Attributes:
        version: of the gallery: every change up to it was seen.
        threshold: that scores were compared with.
        calibrated: whether it comes from a calibration of this gallery; else it is the embedder's own for two faces,
            with which strangers are taken for somebody more often the more people there are.
        matches: one for each face.
    """

    version: int
    threshold: float
    calibrated: bool
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class ClaimedMatch:
    """Whether a face is that of the person whom somebody claims to be; see `Recognition` and `Match`."""

    same: bool
    score: float
    threshold: float
    version: int
    identity: IdentityRow


@dataclass(frozen=True)
class Receipt:
    """That somebody, or a face, was erased.

    Attributes:
        gallery, key: where, and who.
        faces: that were erased.
        version: of the gallery since.
        at: ISO 8601, UTC.
        audit_hash: of the entry in the audit log.
        purged: by place, whether nothing of it is left there, see `Record.purge`; and "snapshot" of the index.
    """

    gallery: str
    key: str
    faces: int
    version: int
    at: str
    audit_hash: str
    purged: Mapping[str, bool] = field(default_factory=dict)


def new_face(face: Face, source: bytes) -> NewFace:
    """A face that the pipeline found in a photo, to enrol.

    Args:
        source: the photo's file.
    """
    quality = dataclasses.asdict(face.quality) | {"confidence": face.confidence}
    return NewFace(face.embedding_D, hashlib.sha256(source).hexdigest(), quality)


def judge(quality: Mapping[str, float], policy: QualityPolicy) -> list[str]:
    """Why a picture of a face is not good enough, of REASONS; [] if it is, or if nothing is known of it."""
    if not quality:
        return []
    faults = {
        "too_small": quality["size"] < policy.min_size,
        "low_confidence": quality["confidence"] < policy.min_confidence,
        "cut_off": quality["inside"] < policy.min_inside,
        "blurred": quality["sharpness"] < policy.min_sharpness,
        "too_dark": quality["brightness"] < policy.min_brightness,
        "too_bright": quality["brightness"] > policy.max_brightness,
        "turned_away": abs(quality["yaw"]) > policy.max_yaw
        or abs(quality["pitch"]) > policy.max_pitch
        or abs(quality["roll"]) > policy.max_roll,
    }
    return [reason for reason, fault in faults.items() if fault]


def explain(reasons: Sequence[str], policy: QualityPolicy) -> str:
    """Reasons in words."""
    return "; ".join(REASONS[reason].format(**dataclasses.asdict(policy)) for reason in reasons)


def to_match(
    scores_K: NDArray[np.float32],
    identity_ids_K: NDArray[np.int64],
    people: dict[int, IdentityRow],
    threshold: float,
    wanted: int,
) -> Match:
    """Whose a face is.

    Args:
        scores_K, identity_ids_K: of the K most similar people, best first; ids of 0 and less are nobody.
        people: by id; all that are among them.
        threshold: least score of somebody who is recognised.
        wanted: candidates that are told.
    """
    found = [
        Candidate(people[identity_id], float(score))
        for score, identity_id in zip(scores_K, identity_ids_K.tolist(), strict=True)
        if identity_id > 0
    ]
    best = found[0].score if found else -1.0
    decision = "unknown"
    if found and best >= threshold:
        decision = "ambiguous" if len(found) > 1 and found[1].score > best - _TIE else "identified"
    identity = found[0].identity if decision == "identified" else None
    return Match(decision, identity, best, tuple(found[:wanted]))
