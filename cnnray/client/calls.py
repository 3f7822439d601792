"""What the clients ask about images and models: one function for each method of `Client`, which describes it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

from cnnray.client.answers import (
    Answer,
    ClassShare,
    Detection,
    FaceDetection,
    FaceVerification,
    Model,
    Painting,
    Segmentation,
    read,
    read_answer,
    read_detection,
    read_faces,
    read_verification,
)
from cnnray.client.call import Call, Image, json_of, place_of
from cnnray.client.retry import Steady
from cnnray.errors import ServiceError

_DETECT, _FACES = "/v1/detect", "/v1/faces/detect"


def classify(image: Image, top_k: int, explain: bool, explain_label: str | None) -> Call[Answer]:
    """See `Client`, as of all functions here."""
    params: dict[str, Any] = {"top_k": top_k} | ({"explain": True} if explain else {})
    params |= {} if explain_label is None else {"explain_label": explain_label}
    return Call(
        method="POST", path="/v1/classify", params=params, image=image, read=lambda answer: read_answer(json_of(answer))
    )


def detect(image: Image, search: Mapping[str, Any]) -> Call[Detection]:
    """The objects in one image."""
    return Call(
        method="POST", path=_DETECT, params=search, image=image, read=lambda answer: read_detection(*_first(answer))
    )


def detect_many(images: Sequence[Image], search: Mapping[str, Any]) -> Call[list[Detection | ServiceError]]:
    """The objects in several."""

    def found(answer: httpx.Response) -> list[Detection | ServiceError]:
        return [_fault(part, body) or read_detection(part, body) for part, body in _each(answer)]

    return Call(method="POST", path=_DETECT, params=search, parts=numbered(images), read=found)


def draw_objects(image: Image, search: Mapping[str, Any]) -> Call[bytes]:
    """One image with the boxes of its objects."""
    return Call(method="POST", path=_DETECT, params={**search, "draw": True}, image=image, read=content_of)


def detect_faces(image: Image, embeddings: bool, search: Mapping[str, Any]) -> Call[FaceDetection]:
    """The faces in one image."""
    params = {**search, "embeddings": embeddings}
    return Call(method="POST", path=_FACES, params=params, image=image, read=lambda answer: read_faces(*_first(answer)))


def detect_faces_many(
    images: Sequence[Image], embeddings: bool, search: Mapping[str, Any]
) -> Call[list[FaceDetection | ServiceError]]:
    """The faces in several."""

    def found(answer: httpx.Response) -> list[FaceDetection | ServiceError]:
        return [_fault(part, body) or read_faces(part, body) for part, body in _each(answer)]

    params = {**search, "embeddings": embeddings}
    return Call(method="POST", path=_FACES, params=params, parts=numbered(images), read=found)


def draw_faces(image: Image, search: Mapping[str, Any]) -> Call[bytes]:
    """One image with its faces."""
    return Call(method="POST", path=_FACES, params={**search, "draw": True}, image=image, read=content_of)


def verify_faces(
    first: Image, second: Image, threshold: float | None, pick: str, search: Mapping[str, Any]
) -> Call[FaceVerification]:
    """Whether two images show the same person."""
    params = {**search, "pick": pick} | ({} if threshold is None else {"threshold": threshold})
    parts = [("first", "first", first), ("second", "second", second)]
    return Call(
        method="POST",
        path="/v1/faces/verify",
        params=params,
        parts=parts,
        read=lambda answer: read_verification(json_of(answer)),
    )


def segment(image: Image, draw: bool) -> Call[Segmentation]:
    """The class of every pixel."""

    def painted(answer: httpx.Response) -> Segmentation:
        figures = _figures(answer, "x-segmentation")
        classes = tuple(read(ClassShare, row) for row in figures.get("classes", []))
        return read(Segmentation, {**figures, "classes": classes, "content": answer.content})

    return Call(method="POST", path="/v1/segment", params={"draw": draw}, image=image, read=painted)


def stylize(
    image: Image, style: str | Sequence[str] | Mapping[str, float], options: Mapping[str, Any]
) -> Call[Painting]:
    """A photo painted in a style."""

    def painted(answer: httpx.Response) -> Painting:
        return read(Painting, {**_figures(answer, "x-stylize"), "content": answer.content})

    asked = [f"{name}:{share}" for name, share in style.items()] if isinstance(style, Mapping) else style
    return Call(method="POST", path="/v1/stylize", params={"style": asked, **options}, image=image, read=painted)


def style_preview(style: str) -> Call[bytes]:
    """A small picture in a style."""
    return Call(method="GET", path=f"/v1/stylize/styles/{quote(style, safe='')}", read=content_of)


def models() -> Call[list[Model]]:
    """The models behind the service."""

    def listed(answer: httpx.Response) -> list[Model]:
        return [read(Model, model) for model in json_of(answer).get("models", [])]

    return Call(method="GET", path="/v1/models", read=listed)


def health() -> Call[bool]:
    """Whether the service's process lives."""
    return _is_ok("/v1/health")


def ready() -> Call[bool]:
    """Whether every model has answered a self-test."""
    return _is_ok("/v1/ready")


def wait_ready(url: str, timeout: float) -> Call[bool]:
    """An answer as soon as the service at `url` is ready."""

    def too_late(error: ServiceError) -> NoReturn:
        raise ServiceError(
            f"{url} was not ready after {timeout:g} s: {error}",
            code=error.code,
            status=error.status,
            request_id=error.request_id,
        ) from error

    return Call(method="GET", path="/v1/ready", read=_is_json, recover=too_late, retry=Steady, patience=timeout)


def numbered(images: Sequence[Image]) -> list[tuple[str, str, Image]]:
    """The parts of a form that are images."""
    return [("file", f"{number}", image) for number, image in enumerate(images)]


def content_of(answer: httpx.Response) -> bytes:
    """The file that an answer is."""
    return answer.content


def _is_ok(path: str) -> Call[bool]:
    return Call(method="GET", path=path, read=_is_json, recover=lambda _: False, patience=0)


def _is_json(answer: httpx.Response) -> bool:
    json_of(answer)
    return True


def _figures(answer: httpx.Response, header: str) -> dict[str, Any]:
    """The figures that come with a picture."""
    try:
        return dict(json.loads(answer.headers[header]))
    except (KeyError, ValueError, TypeError) as error:
        message = f"{place_of(answer)} answered, but without figures: is it a cnnray service?"
        raise ServiceError(message) from error


def _first(answer: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """The part of an answer that is about its one image, and the answer."""
    body = json_of(answer)
    (part,) = body.get("images") or [{}]
    return part, body


def _each(answer: httpx.Response) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The parts of an answer, each with the answer."""
    body = json_of(answer)
    return [(part, body) for part in body.get("images", [])]


def _fault(part: dict[str, Any], body: dict[str, Any]) -> ServiceError | None:
    """What is wrong with an image of several, if anything."""
    error = part.get("error")
    if not error:
        return None
    return ServiceError(error["detail"], code=error["code"], status=422, request_id=body.get("request_id", ""))
