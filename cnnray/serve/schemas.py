"""What travels over HTTP: the JSON answers, and the one form of every error (RFC 9457, problem+json)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cnnray.serve import examples


class Problem(BaseModel):
    """An error (RFC 9457); `code` is for programs, `detail` for people."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.problem))

    type: str = "about:blank"
    title: str = Field(description="the HTTP status in words")
    status: int
    detail: str = Field(description="what was expected and what came")
    code: str = Field(description="names the fault; stable, unlike the words in detail")
    request_id: str = Field(description="to find the request in the service's log")


class Guess(BaseModel):
    """One class and its softmax probability in [0, 1]."""

    label: str
    probability: float


class Timings(BaseModel):
    """Where a request's time went, in milliseconds."""

    queue_ms: float = Field(description="from the model's door until its batch began")
    inference_ms: float = Field(description="decoding and network, for the whole batch")
    total_ms: float = Field(description="inside the service")


def _picture(kind: str, description: str) -> Any:
    """A field with a picture's file in base64."""
    return Field(description=description, json_schema_extra={"contentEncoding": "base64", "contentMediaType": kind})


class Explanation(BaseModel):
    """What speaks for one class in an image.

    Its pictures show the whole upright photo, and are of one size: the photo's, made smaller where its longest side is
    above 512 px.
    """

    label: str = Field(description="the class that is explained")
    probability: float = Field(description="its softmax probability in [0, 1], computed in float32")
    stage: str = Field(description="of the network, whose map of places is weighed (Grad-CAM)")
    height: int = Field(description="of the upright photo in px; its pictures here may be smaller")
    width: int
    seen: list[float] = Field(
        description="left, top, right and bottom in px of the upright photo: the part that the network saw"
    )
    overlay: str = _picture(
        "image/jpeg",
        "a JPEG in base64: the photo in grey and over it, in colours from black over red to light yellow, how much "
        "each place speaks for the class",
    )
    heat: str = _picture(
        "image/png",
        "a PNG in base64, 8 bits grey, rows from the top: how much each place speaks for the class, in proportion; 255 "
        "at the place that speaks most, 0 where nothing does or the network did not look",
    )
    guided: str | None = _picture(
        "image/png",
        "a PNG in base64, RGB: the pixels that speak for the class (Guided Grad-CAM), lighter than grey (128) where "
        "more of a colour does, darker where less does; null where the network cannot give it",
    )
    note: str = Field(description='why `guided` is null; else ""')


class Classification(BaseModel):
    """The answer of /v1/classify."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.classification))

    model: str = Field(description="name of the model that answered, as /v1/models lists it")
    label: str = Field(description="the most probable class")
    probability: float = Field(description="its softmax probability in [0, 1]")
    top: list[Guess] = Field(description="the top_k classes (fewer where the model has fewer), most probable first")
    batch_size: int = Field(description="requests that shared the forward pass")
    explanation: Explanation | None = Field(default=None, description="of explain=true; else null")
    timings: Timings
    request_id: str


class ClassShare(BaseModel):
    """One class: its value in the class map, and its share of the pixels in [0, 1]."""

    label: str
    value: int
    share: float


class Segmentation(BaseModel):
    """The figures of /v1/segment."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.segmentation))

    model: str = Field(description="name of the model that answered, as /v1/models lists it")
    height: int = Field(description="of the class map in pixels: that of the image, upright")
    width: int
    classes: list[ClassShare]
    confidence: float = Field(description="mean over the pixels of the winning class's probability, in [0, 1]")
    batch_size: int = Field(description="requests that shared the pass")
    timings: Timings
    request_id: str


class Object(BaseModel):
    """One object in an image."""

    label: str
    score: float = Field(description="in [0, 1]")
    box: list[float] = Field(description="left, top, right and bottom in px of the upright image")


class Fault(BaseModel):
    """Why one of several images has no answer; code as in Problem."""

    code: str
    detail: str


class Searched(BaseModel):
    """One image of a request: its objects, best first, or its error."""

    height: int = Field(default=0, description="in pixels, upright")
    width: int = 0
    objects: list[Object] = []
    error: Fault | None = None


class Detections(BaseModel):
    """The answer of /v1/detect."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.detections))

    model: str = Field(description="name of the model that answered, as /v1/models lists it")
    images: list[Searched] = Field(description="one for each image of the request, in their order")
    batch_size: int = Field(description="images that shared a batch")
    timings: Timings
    request_id: str


class Stylized(BaseModel):
    """The figures of /v1/stylize."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.stylized))

    model: str = Field(description="name of the model that answered, as /v1/models lists it")
    height: int = Field(description="of the painting in pixels")
    width: int
    styles: dict[str, float] = Field(description="shares that were asked for")
    batch_size: int = Field(description="requests that shared a batch")
    timings: Timings
    request_id: str


class ModelInfo(BaseModel):
    """One model behind the service."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.model))

    name: str = Field(description="backbone and first digits of the weights' sha256; changes when the weights do")
    task: str
    classes: int = Field(description="number of classes")
    input_size: int = Field(description="side in pixels of the image that the network sees; 0: any")
    weights_sha256: str
    backbone: str
    metrics: dict[str, Any] = Field(description="figures measured when the model was trained")
    styles: list[str] = Field(default=[], description="that a painter has; GET /v1/stylize/styles/NAME shows one")


class Models(BaseModel):
    """The answer of /v1/models."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.models))

    models: list[ModelInfo]


class Status(BaseModel):
    """The answer of /v1/health and /v1/ready."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.status))

    status: str
