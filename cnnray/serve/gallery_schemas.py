"""What the endpoints of galleries are asked and answer as JSON."""

from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, create_model

from cnnray.config import QualityPolicy
from cnnray.serve import examples
from cnnray.serve.face_schemas import Face, Quality
from cnnray.serve.schemas import Fault, Timings

# What the document says of texts that `cnnray.infer.gallery.names` checks.
GALLERY_NAME: dict[str, JsonValue] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"}
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"  # characters that are in no text
_IN_ID = rf"/\\{_CONTROL}"  # and those that are in no id
ID: dict[str, JsonValue] = {
    "minLength": 1,
    "maxLength": 128,
    "pattern": rf"^(?!\.{{1,2}}$)[^\s{_IN_ID}]([^{_IN_ID}]*[^\s{_IN_ID}])?$",
}
NAME: dict[str, JsonValue] = {"maxLength": 200, "pattern": rf"^([^\s{_CONTROL}]([^{_CONTROL}]*[^\s{_CONTROL}])?)?$"}
_SHARE: dict[str, JsonValue] = {"minimum": 0, "exclusiveMaximum": 1}
_BOUNDS: dict[str, dict[str, JsonValue]] = {  # of a policy, that `QualityPolicy` checks
    "min_inside": _SHARE,
    "min_brightness": _SHARE,
    "max_brightness": {"exclusiveMinimum": 0, "maximum": 1},
}

# Declared once, there; a name that is none of these is refused.
_POLICY: dict[str, Any] = {
    field.name: (FiniteFloat, Field(default=field.default, json_schema_extra=_BOUNDS.get(field.name)))
    for field in fields(QualityPolicy)
}
Policy: Any = create_model(
    "Policy",
    __config__=ConfigDict(extra="forbid", strict=True, json_schema_extra=examples.shown(examples.policy)),
    __doc__="Which pictures of faces are good enough to enrol.",
    **_POLICY,
)


class NewGallery(BaseModel):
    """What POST /v1/galleries is asked."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=examples.shown(examples.new_gallery))

    name: str = Field(description="1 to 64 letters, digits, '_' or '-'", json_schema_extra=GALLERY_NAME)
    policy: Policy | None = Field(default=None, description="without it, the usual one")


class NewIdentity(BaseModel):
    """Somebody without faces."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=examples.shown(examples.new_identity))

    id: str = Field(
        description="by which you know the person: 1 to 128 characters, neither '/' nor '\\'", json_schema_extra=ID
    )
    name: str = Field(default="", description="for people; without it, the id", json_schema_extra=NAME)
    metadata: dict[str, Any] | None = Field(
        default=None, description="whatever you keep of a person, up to 10,000 bytes"
    )


class Changes(BaseModel):
    """What is to change of a person."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=examples.shown(examples.changes))

    name: str = Field(default="", description="without it, the present one stays", json_schema_extra=NAME)
    metadata: dict[str, Any] | None = Field(default=None, description="replaces the present; without it, that stays")


class GallerySummary(BaseModel):
    """A gallery of a list."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.gallery_summary))

    name: str
    model: str = Field(description="what embedded its faces; no other's embeddings compare with them")
    identities: int = Field(description="how many people")
    faces: int = Field(description="how many faces they have")
    gallery_version: int = Field(description="number of its newest change")
    calibrated: bool = Field(description="whether its threshold comes from a calibration")
    created_at: str


class GalleryList(BaseModel):
    """The answer of GET /v1/galleries."""

    model_config = ConfigDict(json_schema_extra=examples.shown({"galleries": [examples.gallery_summary]}))

    galleries: list[GallerySummary]


class Gallery(BaseModel):
    """One gallery."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.gallery))

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

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.dropped_gallery))

    gallery: str
    audit_hash: str = Field(description="of the last entry of its audit log, which stays")


class Identity(BaseModel):
    """A person."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.identity))

    id: str
    name: str
    metadata: dict[str, Any]
    created_at: str
    num_faces: int


class StoredFace(BaseModel):
    """An enrolled face, without its embedding."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.stored_face))

    id: int
    source_sha256: str = Field(description="of the image's bytes")
    quality: dict[str, float]
    created_at: str


class IdentityDetail(Identity):
    """A person with faces."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.identity_detail))

    faces: list[StoredFace]


class IdentityPage(BaseModel):
    """The answer of GET /v1/galleries/{gallery}/identities."""

    model_config = ConfigDict(json_schema_extra=examples.shown({"identities": [examples.identity], "cursor": "2"}))

    identities: list[Identity] = Field(description="in the order in which they came")
    cursor: str | None = Field(description="for the next page; null after the last")


class PickedFace(BaseModel):
    """The face of an image that was enrolled."""

    box: list[float] = Field(description="left, top, right and bottom in px of the upright image")
    confidence: float
    quality: Quality


class Enrolled(BaseModel):
    """What an enrolment did."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.enrolled))

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

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.receipt))

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

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.recognized_face))

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

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.recognized))

    model: str
    gallery: str
    gallery_version: int = Field(description="every change up to it was seen")
    images: list[RecognizedPhoto] = Field(description="one for each image of the request, in their order")
    batch_size: int = Field(description="images that shared a batch")
    timings: SearchTimings
    request_id: str


class ClaimedVerification(BaseModel):
    """The answer of /v1/faces/verify about somebody of a gallery."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.claimed_verification))

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
