"""What the service answers about galleries, as its client gives it; what a newer service adds is passed over.

A score is a cosine from -1 to 1, larger for more alike. `gallery_version` is the number of a gallery's newest change
that an answer takes into account. Times are ISO 8601, UTC.
"""

from dataclasses import dataclass, field
from typing import Any

from cnnray.client.answers import read


@dataclass(frozen=True)
class GallerySummary:
    """A gallery of a list: what embedded its faces, how many people and faces it has, whether it is calibrated."""

    name: str
    model: str
    identities: int
    faces: int
    gallery_version: int
    calibrated: bool
    created_at: str


@dataclass(frozen=True)
class Gallery:
    """One gallery.

    Attributes:
        name, created_at: of it.
        model, num_features: what embedded its faces, into how many numbers.
        identities, faces: how many people have a face there, and how many faces.
        gallery_version: see above.
        threshold: least score of a recognised face; above 1 nobody is recognised.
        calibration: where the threshold comes from; None: the model's own.
        policy: which pictures are enrolled, see `cnnray.config.QualityPolicy`.
        index: how faces are looked for.
    """

    name: str
    model: str
    num_features: int
    identities: int
    faces: int
    gallery_version: int
    threshold: float
    calibration: dict[str, Any] | None
    policy: dict[str, float]
    created_at: str
    index: dict[str, Any]


@dataclass(frozen=True)
class DroppedGallery:
    """That a gallery was dropped; `audit_hash` of its log's last entry, "" where the answer that had it was lost."""

    gallery: str
    audit_hash: str


@dataclass(frozen=True)
class Identity:
    """A person: id, name, metadata (JSON values), since when, and the number of faces."""

    id: str
    name: str
    metadata: dict[str, Any]
    created_at: str
    num_faces: int


@dataclass(frozen=True)
class StoredFace:
    """An enrolled face: id, hash of its photo, quality by name."""

    id: int
    source_sha256: str
    quality: dict[str, float]
    created_at: str


@dataclass(frozen=True)
class IdentityDetail(Identity):
    """A person with faces."""

    faces: tuple[StoredFace, ...]


@dataclass(frozen=True)
class IdentityPage:
    """Some people in the order in which they came, and the cursor of the next ones, "" after the last."""

    identities: tuple[Identity, ...]
    cursor: str


@dataclass(frozen=True)
class PickedFace:
    """The face of a photo that was enrolled; as of `cnnray.client.Face`."""

    box: tuple[float, float, float, float]
    confidence: float
    quality: dict[str, float]


@dataclass(frozen=True)
class Enrolled:
    """What an enrolment did.

    Attributes:
        gallery, identity: where, and who.
        face_ids: of the photos' faces, in their order.
        added: of these, how many were not there before.
        gallery_version: every search from now on sees this version or a later one.
        replayed: whether an earlier request with the same key had done it already.
        faces: that were enrolled.
        model, timings, request_id: as of `cnnray.client.Answer`.
    """

    gallery: str
    identity: str
    face_ids: tuple[int, ...]
    added: int
    gallery_version: int
    replayed: bool
    faces: tuple[PickedFace, ...]
    model: str
    timings: dict[str, float]
    request_id: str


@dataclass(frozen=True)
class Receipt:
    """That somebody, or a face, was erased.

    Attributes:
        gallery, identity: where, and who.
        faces: that were erased.
        gallery_version, at: since when.
        audit_hash: of the entry in the audit log; "" where the service says that the person or face is not there after
            an attempt whose answer was lost: the rest of the receipt is not known then.
        purged: by place, whether nothing of it is left there.
    """

    gallery: str
    identity: str
    faces: int = 0
    gallery_version: int = 0
    at: str = ""
    audit_hash: str = ""
    purged: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownPerson:
    """Somebody of a gallery."""

    id: str
    name: str


@dataclass(frozen=True)
class Candidate:
    """Somebody whom a face resembles."""

    id: str
    name: str
    score: float


@dataclass(frozen=True)
class RecognizedFace:
    """A face, and whose it is.

    Attributes:
        box, confidence, landmarks, quality: as of `cnnray.client.Face`.
        decision: "identified"; "unknown": nobody scores as high as the threshold; "ambiguous": several do equally.
        identity: None unless identified.
        score: the best of the gallery; -1 of an empty one.
        threshold: that the score was compared with.
        calibrated: whether that comes from a calibration of this gallery.
        candidates: the best people, as many as asked for, whatever the threshold.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: dict[str, tuple[float, float]]
    quality: dict[str, float]
    decision: str
    identity: KnownPerson | None
    score: float
    threshold: float
    calibrated: bool
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Recognized:
    """Who is in a photo: its faces, surest first; height and width in px, the rest as of `cnnray.client.Answer`, with
    the gallery's part of the time as "search_ms" among the timings."""

    gallery: str
    gallery_version: int
    model: str
    height: int
    width: int
    faces: tuple[RecognizedFace, ...]
    timings: dict[str, float]
    request_id: str


@dataclass(frozen=True)
class ClaimedVerification:
    """Whether a photo shows whom somebody claims to be.

    Attributes:
        gallery, gallery_version: see above.
        identity: whom the person claims to be.
        same: whether the score reaches the threshold.
        score, threshold: with the most alike of the person's faces.
        found: how many faces the photo has.
        model, timings, request_id: as of `cnnray.client.Answer`.
    """

    gallery: str
    gallery_version: int
    identity: KnownPerson
    same: bool
    score: float
    threshold: float
    found: int
    model: str
    timings: dict[str, float]
    request_id: str


def read_detail(body: dict[str, Any]) -> IdentityDetail:
    """A person with faces."""
    return read(IdentityDetail, {**body, "faces": tuple(read(StoredFace, row) for row in _rows(body, "faces"))})


def read_page(body: dict[str, Any]) -> IdentityPage:
    """Some people."""
    people = tuple(read(Identity, row) for row in _rows(body, "identities"))
    return IdentityPage(people, body.get("cursor") or "")


def read_enrolled(body: dict[str, Any]) -> Enrolled:
    """An enrolment."""
    faces = tuple(read(PickedFace, {**row, "box": tuple(row.get("box", ()))}) for row in _rows(body, "faces"))
    return read(Enrolled, {**body, "faces": faces, "face_ids": tuple(_rows(body, "face_ids"))})


def read_recognized(body: dict[str, Any]) -> Recognized:
    """The answer about one photo."""
    (photo,) = _rows(body, "images") or [{}]
    return read(Recognized, {**body, **photo, "faces": tuple(map(_recognized, _rows(photo, "faces")))})


def read_claim(body: dict[str, Any]) -> ClaimedVerification:
    """A photo compared with somebody."""
    return read(ClaimedVerification, {**body, "identity": read(KnownPerson, body.get("identity"))})


def _recognized(row: dict[str, Any]) -> RecognizedFace:
    who = row.get("identity")
    values = {
        "box": tuple(row.get("box", ())),
        "landmarks": {name: tuple(point) for name, point in row.get("landmarks", {}).items()},
        "identity": None if who is None else read(KnownPerson, who),
        "candidates": tuple(read(Candidate, one) for one in _rows(row, "candidates")),
    }
    return read(RecognizedFace, {**row, **values})


def _rows(body: dict[str, Any], name: str) -> list[Any]:
    return body.get(name) or []
