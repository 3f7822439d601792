"""What the service answers, as its client gives it; what a newer service adds is passed over."""

import base64
import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from cnnray.errors import ServiceError

T = TypeVar("T")


@dataclass(frozen=True)
class Guess:
    """One class and its softmax probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True)
class Explanation:
    """What speaks for one class in an image.

    The pictures show the whole upright photo, all in one size: its own, or smaller where its longest side is above
    512 px.

    Attributes:
        label: the class that is explained.
        probability: of the class, in [0, 1].
        stage: of the network, whose map of places is weighed (Grad-CAM).
        height, width: of the upright photo in px.
        seen: left, top, right, bottom in px of the photo, the part that the network saw.
        overlay: a JPEG, the photo in grey with the heat in colour over it.
        heat: a PNG, 8 bits grey: how much each place speaks for the class; 255 at the one that speaks most, 0 where
            nothing does or the network did not look.
        guided: a PNG, RGB, the pixels that speak for the class, lighter than grey (128) where more of a colour does,
            darker where less does; None where the network cannot give it.
        note: why `guided` is None; else "".
    """

    label: str
    probability: float
    stage: str
    height: int
    width: int
    seen: tuple[float, float, float, float]
    overlay: bytes
    heat: bytes
    guided: bytes | None
    note: str


@dataclass(frozen=True)
class Answer:
    """What the service says about one image.

    Attributes:
        model: name of the model that answered.
        label, probability: the most probable class.
        top: the most probable classes, best first.
        batch_size: requests that shared the forward pass.
        timings: milliseconds by part: "queue_ms", "inference_ms", "total_ms".
        request_id: under which the service logged the request.
        explanation: why, where it was asked for; else None.
    """

    model: str
    label: str
    probability: float
    top: tuple[Guess, ...]
    batch_size: int
    timings: dict[str, float]
    request_id: str
    explanation: Explanation | None


@dataclass(frozen=True)
class ClassShare:
    """One class: its value in the class map, and its share of the pixels in [0, 1]."""

    label: str
    value: int
    share: float


@dataclass(frozen=True)
class Segmentation:
    """The classes of the pixels of one image.

    Attributes:
        content: a PNG of the image's size: the values of the classes, or the image with their colours.
        model: name of the model that answered.
        height, width: of the image in px.
        classes: all classes with their shares.
        confidence: mean over the pixels of the winning class's probability.
        request_id: under which the service logged the request.
    """

    content: bytes
    model: str
    height: int
    width: int
    classes: tuple[ClassShare, ...]
    confidence: float
    request_id: str


@dataclass(frozen=True)
class Painting:
    """A photo, painted.

    Attributes:
        content: the painting's file.
        model: name of the model that answered.
        height, width: of the painting in px.
        styles: shares that were asked for.
        timings: milliseconds by part, as of `Answer`.
        request_id: under which the service logged the request.
    """

    content: bytes
    model: str
    height: int
    width: int
    styles: dict[str, float]
    timings: dict[str, float]
    request_id: str


@dataclass(frozen=True)
class Object:
    """One object in an image: its class, its score in [0, 1], and (left, top, right, bottom) in px."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """The objects in one image, best first.

    Attributes:
        model: name of the model that answered.
        height, width: of the image in px.
        objects: of the image.
        request_id: under which the service logged the request.
    """

    model: str
    height: int
    width: int
    objects: tuple[Object, ...]
    request_id: str


@dataclass(frozen=True)
class Face:
    """One face in an image.

    Attributes:
        box: left, top, right, bottom in px.
        confidence: of the detector; above 0 where it is sure, seldom above 1.2.
        landmarks: (x, y) in px by name: corners of the person's own left and right eye, nose.
        quality: of the face's picture: "size" in px, "inside", "sharpness", "brightness", and the degrees "yaw",
            "pitch", "roll".
        embedding: of length 1; None where none was asked for.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: dict[str, tuple[float, float]]
    quality: dict[str, float]
    embedding: tuple[float, ...] | None


@dataclass(frozen=True)
class FaceDetection:
    """The faces in one image, surest first.

    Attributes:
        model: name of the model that answered; embeddings of other models do not compare.
        height, width: of the image in px.
        faces: of the image.
        request_id: under which the service logged the request.
    """

    model: str
    height: int
    width: int
    faces: tuple[Face, ...]
    request_id: str


@dataclass(frozen=True)
class FaceVerification:
    """Whether two images show the same person.

    Attributes:
        model: name of the model that answered.
        same: what the threshold says.
        distance: of the two embeddings, 0 to 2.
        probability: by the model's verification head; None of a model without one, where the distance decides.
        threshold: the largest distance, or the least probability, of the same person.
        faces: the two that were compared.
        found: how many faces each image has.
        timings: milliseconds by part, as of `Answer`.
        request_id: under which the service logged the request.
    """

    model: str
    same: bool
    distance: float
    probability: float | None
    threshold: float
    faces: tuple[Face, Face]
    found: tuple[int, int]
    timings: dict[str, float]
    request_id: str


@dataclass(frozen=True)
class Model:
    """One model behind the service; `classes` is their number, `input_size` the side in pixels of what it sees,
    `styles` what a painter has."""

    name: str
    task: str
    classes: int
    input_size: int
    weights_sha256: str
    backbone: str
    metrics: dict[str, Any]
    styles: tuple[str, ...] = ()


def read(kind: type[T], body: Any) -> T:
    """A dataclass from an answer; what a newer service adds is passed over, what an older one lacks has its default."""
    try:
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        names = [field.name for field in fields if field.name in body or field.default is dataclasses.MISSING]
        return kind(**{name: tuple(v) if isinstance(v := body[name], list) else v for name in names})
    except (KeyError, TypeError) as error:
        raise ServiceError(f"expected {kind.__name__} from the service, got {str(body)[:200]}") from error


def read_answer(body: dict[str, Any]) -> Answer:
    """What the service says about one image."""
    top = tuple(read(Guess, guess) for guess in body.get("top", []))
    why = body.get("explanation")
    return read(Answer, {**body, "top": top, "explanation": None if why is None else _explanation(why)})


def read_detection(part: dict[str, Any], body: dict[str, Any]) -> Detection:
    """The objects of one image of an answer."""
    objects = tuple(read(Object, {**row, "box": tuple(row.get("box", ()))}) for row in part.get("objects", []))
    return read(Detection, {**body, **part, "objects": objects})


def read_faces(part: dict[str, Any], body: dict[str, Any]) -> FaceDetection:
    """The faces of one image of an answer."""
    return read(FaceDetection, {**body, **part, "faces": tuple(map(_face, part.get("faces", [])))})


def read_verification(body: dict[str, Any]) -> FaceVerification:
    """Two faces compared."""
    faces, found = tuple(map(_face, body.get("faces", []))), tuple(body.get("found", ()))
    return read(FaceVerification, {**body, "faces": faces, "found": found})


def _explanation(row: dict[str, Any]) -> Explanation:
    try:
        files = {name: base64.b64decode(row[name], validate=True) for name in ("overlay", "heat")}
        guided = None if row["guided"] is None else base64.b64decode(row["guided"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ServiceError(f"expected an Explanation's pictures in base64 from the service: {error}") from error
    return read(Explanation, {**row, **files, "guided": guided, "seen": tuple(row.get("seen", ()))})


def _face(row: dict[str, Any]) -> Face:
    embedding = row.get("embedding")
    landmarks = {name: tuple(point) for name, point in row.get("landmarks", {}).items()}
    tuples = {"box": tuple(row.get("box", ())), "embedding": None if embedding is None else tuple(embedding)}
    return read(Face, {**row, **tuples, "landmarks": landmarks})
