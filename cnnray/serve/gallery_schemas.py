"""What the endpoints of galleries are asked and answer as JSON."""

from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, create_model

from cnnray.config import QualityPolicy
from cnnray.serve.face_schemas import Face, Quality
from cnnray.serve.schemas import Fault, Timings

# Declared once, there; a name that is none of these is refused.
_POLICY: dict[str, Any] = {field.name: (FiniteFloat, field.default) for field in fields(QualityPolicy)}
Policy: Any = create_model(
    "Policy",
    __config__=ConfigDict(extra="forbid"),
    __doc__="Which pictures of faces are good enough to enrol.",
    **_POLICY,
)


class NewGallery(BaseModel):
    """What POST /v1/galleries is asked."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="1 to 64 letters, digits, '_' or '-'")
    policy: Policy | None = Field(default=None, description="without it, the usual one")


class NewIdentity(BaseModel):
    """Somebody without faces."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="by which you know the person: 1 to 128 characters, neither '/' nor '\\'")
    name: str = Field(default="", description="for people; without it, the id")
    metadata: dict[str, Any] | None = Field(
        default=None, description="whatever you keep of a person, up to 10,000 bytes"
    )


class Changes(BaseModel):
    """What is to change of a person."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", description="without it, the present one stays")
    metadata: dict[str, Any] | None = Field(default=None, description="replaces the present; without it, that stays")


class GallerySummary(BaseModel):
    """A gallery of a list."""

    name: str
    model: str = Field(description="what embedded its faces; no other's embeddings compare with them")
    identities: int = Field(description="how many people")
    faces: int = Field(description="how many faces they have")
    gallery_version: int = Field(description="number of its newest change")
    calibrated: bool = Field(description="whether its threshold comes from a calibration")
    created_at: str


class GalleryList(BaseModel):
    """The answer of GET /v1/galleries."""

    galleries: list[GallerySummary]


class Gallery(BaseModel):
    """One gallery."""

    name: str
    model: str = Field(description="what embedded its faces; no other's embeddings compare with them")
    num_features: int
    identities: int = Field(description="how many people have a face here")
    faces: int
    gallery_version: int = Field(description="number of its newest change")
    threshold: float = Field(description="least score of a recognised face; above 1 nobody is recognised")
    calibration: dict[str, Any] | None = Field(description="where the threshold comes from; null: the model's own")
    policy: Policy
    created_at: str
    index: dict[str, Any] = Field(description="how faces are looked for")


class DroppedGallery(BaseModel):
    """The answer of DELETE /v1/galleries/{gallery}."""

    gallery: str
    audit_hash: str = Field(description="of the last entry of its audit log, which stays")


class Identity(BaseModel):
    """A person."""

    id: str
    name: str
    metadata: dict[str, Any]
    created_at: str
    num_faces: int


class StoredFace(BaseModel):
    """An enrolled face, without its embedding."""

    id: int
    source_sha256: str = Field(description="of the image's bytes")
    quality: dict[str, float]
    created_at: str


class IdentityDetail(Identity):
    """A person with faces."""

    faces: list[StoredFace]


class IdentityPage(BaseModel):
    """The answer of GET /v1/galleries/{gallery}/identities."""

    identities: list[Identity] = Field(description="in the order in which they came")
    cursor: str | None = Field(description="for the next page; null after the last")


class PickedFace(BaseModel):
    """The face of an image that was enrolled."""

    box: list[float] = Field(description="left, top, right and bottom in px of the upright image")
    confidence: float
    quality: Quality


class Enrolled(BaseModel):
    """What an enrolment did."""

    gallery: str
    identity: str
    face_ids: list[int] = Field(description="of the images' faces, in their order")
    added: int = Field(description="of these, how many were not there before")
    gallery_version: int = Field(description="every search from now on sees this version or a later one")
    replayed: bool = Field(description="whether an earlier request with the same Idempotency-Key had done it already")
    faces: list[PickedFace]
    model: str
    timings: Timings
    request_id: str


class Receipt(BaseModel):
    """That somebody, or a face, was erased."""

    gallery: str
    identity: str
    faces: int = Field(description="that were erased")
    gallery_version: int
    at: str
    audit_hash: str = Field(description="of the entry in the audit log")
    purged: dict[str, bool] = Field(description="by place, whether nothing of it is left there")


class KnownPerson(BaseModel):
    """Somebody of a gallery."""

    id: str
    name: str


class Candidate(KnownPerson):
    """Somebody whom a face resembles."""

    score: float = Field(description="cosine of the face and the person's, -1 to 1")


class RecognizedFace(Face):
    """A face, and whose it is."""

    decision: str = Field(
        description="identified; unknown: nobody scores as high as the threshold; ambiguous: several do equally"
    )
    identity: KnownPerson | None = Field(description="null unless identified")
    score: float = Field(description="the best of the gallery, cosine from -1 to 1; -1 of an empty one")
    threshold: float = Field(description="that the score was compared with")
    calibrated: bool = Field(description="whether the threshold comes from a calibration of this gallery")
    candidates: list[Candidate] = Field(description="the best people, as many as asked for, whatever the threshold")


class RecognizedPhoto(BaseModel):
    """One image of a request: its faces, surest first, or its error."""

    height: int = Field(default=0, description="in pixels, upright")
    width: int = 0
    faces: list[RecognizedFace] = []
    error: Fault | None = None


class SearchTimings(Timings):
    """Of a request that looked somebody up in a gallery."""

    search_ms: float = Field(description="what the gallery took: what changed, the search, and who it is")


class Recognized(BaseModel):
    """The answer of /v1/galleries/{gallery}/recognize."""

    model: str
    gallery: str
    gallery_version: int = Field(description="every change up to it was seen")
    images: list[RecognizedPhoto] = Field(description="one for each image of the request, in their order")
    batch_size: int = Field(description="images that shared a batch")
    timings: SearchTimings
    request_id: str


class ClaimedVerification(BaseModel):
    """The answer of /v1/faces/verify about somebody of a gallery."""

    model: str
    gallery: str
    gallery_version: int = Field(description="every change up to it was seen")
    identity: KnownPerson = Field(description="whom the person claims to be")
    same: bool = Field(description="whether the face is taken as that person's")
    score: float = Field(description="cosine with the person's faces, -1 to 1; -1 of somebody without faces")
    threshold: float = Field(description="least score")
    face: Face = Field(description="that was compared")
    found: int = Field(description="how many faces the image has")
    timings: SearchTimings
    request_id: str
