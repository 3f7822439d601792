"""What the endpoints of faces answer as JSON."""

from pydantic import BaseModel, ConfigDict, Field

from cnnray.serve import examples
from cnnray.serve.schemas import Fault, Timings


class Quality(BaseModel):
    """How good a picture of a face is; angles in degrees."""

    size: float = Field(description="shorter side of the face's box as it was found, px")
    inside: float = Field(description="share of its box that is in the image, in [0, 1]")
    sharpness: float = Field(description="below 0.05 out of focus, 0.1 to 0.2 in good photos")
    brightness: float = Field(description="mean grey of the aligned face, in [0, 1]")
    yaw: float = Field(description="that the face, held upright, looks to the image's right; negative to its left")
    pitch: float = Field(description="that it then looks down; rough")
    roll: float = Field(description="that it is turned clockwise in the image")


class Face(BaseModel):
    """One face in an image."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.face))

    box: list[float] = Field(description="left, top, right and bottom in px of the upright image")
    confidence: float = Field(description="of the detector; above 0 where it is sure, seldom above 1.2")
    landmarks: dict[str, list[float]] = Field(
        description="[x, y] in px by name: corners of the person's own left and right eye, nose; may lie outside"
    )
    quality: Quality
    embedding: list[float] | None = Field(
        default=None, description="of length 1, comparable with those of the same model alone; null where not asked for"
    )


class SearchedPhoto(BaseModel):
    """One image of a request: its faces, surest first, or its error."""

    height: int = Field(default=0, description="in pixels, upright")
    width: int = 0
    faces: list[Face] = []
    error: Fault | None = None


class FaceDetections(BaseModel):
    """The answer of /v1/faces/detect."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.face_detections))

    model: str = Field(description="name of the model that answered, as /v1/models lists it")
    images: list[SearchedPhoto] = Field(description="one for each image of the request, in their order")
    batch_size: int = Field(description="images that shared a batch")
    timings: Timings
    request_id: str


class FaceVerification(BaseModel):
    """The answer of /v1/faces/verify."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.face_verification))

    model: str = Field(description="name of the model that answered, as /v1/models lists it")
    same: bool = Field(description="whether the two faces are taken as one person's")
    distance: float = Field(description="of the two embeddings, 0 to 2")
    probability: float | None = Field(
        description="that they are one person's, by the model's verification head; null of a model without one"
    )
    threshold: float = Field(
        description="the largest distance of one person's faces; of a model with a head, the least probability"
    )
    faces: list[Face] = Field(description="the two that were compared: of the first image, of the second")
    found: list[int] = Field(description="how many faces each image has")
    timings: Timings
    request_id: str
