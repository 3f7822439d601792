"""Errors over HTTP: every one is a problem+json (RFC 9457) with a code, whatever part of the service it comes from."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cnnray.errors import CnnrayError, GalleryError, RecordError
from cnnray.serve.schemas import Problem

logger = logging.getLogger("ray.serve")

PROBLEM_JSON = "application/problem+json"
OF_NO_PRESSURE = "of_no_pressure"  # of a request's state: its 503 says nothing of others that ask for the like
RETRY_SOON = {"retry-after": "1"}
# By the beginning of a path, the deployment that answers and the options that bring it; the longer of two comes first.
_BEHIND = {
    "/v1/classify": ("classifier", "--classifier CHECKPOINT"),
    "/v1/detect": ("detector", "--detector CHECKPOINT"),
    "/v1/segment": ("segmenter", "--segmenter CHECKPOINT"),
    "/v1/stylize/jobs": ("stylize_jobs", "--stylize-jobs FOLDER"),
    "/v1/stylize": ("painter", "--painter default"),
    "/v1/faces": ("faces", "--faces dlib_resnet"),
    "/v1/galleries": ("galleries", "--faces dlib_resnet --record galleries.db"),
}
CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}  # of refusals by the framework

# Every code of every status that the service answers, and what it means to a person: docs/errors.md and the OpenAPI
# document are made of it.
MEANINGS: dict[int, dict[str, str]] = {
    400: {
        "bad_request": "The body cannot be read: a damaged form, one with too many fields or files, or text that is "
        "not UTF-8.",
        "bad_option": "A setting is out of its range, or does not fit the images or the other settings.",
    },
    401: {"unauthenticated": "The service asks for a key, and none came, or one that is unknown, revoked or expired."},
    403: {
        "insufficient_scope": "The key is not for this: it lacks the scope that `detail` names.",
        "foreign_host": "Without keys the service answers only to names of its own machine.",
        "foreign_origin": "Without keys the service takes no requests from web pages of other places.",
    },
    404: {
        "not_found": "There is nothing at this path.",
        "unknown_name": "There is no style of that name; `detail` lists those that there are.",
        "no_gallery": "There is no gallery of that name, or the service keeps none.",
        "no_identity": "The gallery has nobody of that id.",
        "no_such_face": "The person has no face of that id.",
        "no_job": "There is no job of that id; it may have been deleted.",
    },
    405: {"method_not_allowed": "The path exists, but not for this method; the header Allow lists those that it has."},
    409: {
        "gallery_exists": "There is a gallery of that name already.",
        "identity_exists": "The gallery has somebody of that id already.",
        "identity_conflict": "The face looks like somebody else of the gallery, whom the member `identity` names.",
        "model_mismatch": "The gallery was made with another model; faces of two models cannot be compared.",
        "key_reused": "The Idempotency-Key came before, with another request.",
        "not_finished": "The painting is not there yet; ask again later, unless `detail` says that its job failed.",
    },
    410: {"erased": "The request was done before, and whom it enrolled was erased since; it is not done again."},
    413: {"body_too_large": "The body has more bytes than the service takes; `detail` says how many that are."},
    415: {"unsupported_media_type": "The header Content-Type names something that this path does not take."},
    422: {
        "invalid_parameter": "A parameter or a field of the body is missing, of another type or out of its range.",
        "no_file": "The form lacks the image; `detail` names the field.",
        "too_many_files": "A field of the form has more files than it may; `detail` names it.",
        "one_image_to_draw": "With draw=true one image is answered at a time, and several came.",
        "explain_label_alone": "The parameter explain_label came without explain=true.",
        "not_explainable": "The network is of a kind whose answers cannot be explained.",
        "unknown_name": "The model has no class of the name that explain_label has; `detail` lists those it has.",
        "empty": "The image has no bytes.",
        "not_an_image": "The bytes are no image.",
        "unsupported_format": "The image is of a format, or of a kind, that is not read.",
        "truncated": "The image's file ends too early.",
        "corrupt": "The image's file is damaged.",
        "too_large": "The image has too many pixels.",
        "too_small": "The photo is too small to be painted.",
        "animated": "The image has several frames or pages; a single picture is expected.",
        "no_face": "There is no face in an image that should have one.",
        "several_faces": "There are several faces in an image that should have one.",
        "bad_name": "A name, an id or metadata of a gallery or person is not as it may be; `detail` says which.",
        "low_quality": "The picture of the face is below the gallery's policy; the member `reasons` says why.",
    },
    429: {"rate_limited": "The key has had its requests of this minute; Retry-After says when there is another."},
    500: {"internal": "The service failed; its log has more under the request's id."},
    503: {
        "busy": "More is waiting than the service takes on; ask again after Retry-After.",
        "not_ready": "A model or a database did not pass its self-test; ask again after Retry-After.",
        "model_unavailable": "The model went away while it worked, and is being started again.",
        "gallery_opening": "The gallery is being read for the first time since the service started; a large one takes "
        "minutes.",
        "record_unavailable": "The galleries' database cannot be reached; nothing that was acknowledged is lost.",
        "too_many_jobs": "As many paintings are unfinished as are taken on; ask again when one is done.",
    },
    504: {"timeout": "The answer took longer than the service lets a request take, and was given up."},
}  # fmt: skip


class Refusal(HTTPException):
    """A request that is answered with an error; raised anywhere below the application.

    Args:
        status: of HTTP.
        code: names the fault for programs.
        detail: what was expected and what came.
        headers: to send along.
    """

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.code = code


def problem(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """An error as a response.

    Args:
        members: what else programs are told, JSON values by names that no other member of a problem has.
    """
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, request_id=request_id)
    return JSONResponse({**(members or {}), **body.model_dump()}, status, headers, media_type=PROBLEM_JSON)


def internal_error(request_id: str) -> JSONResponse:
    """The answer to a fault of our own; what happened is in the log, under the request's id."""
    return problem(500, "internal", "the service failed; its log has more under this request_id", request_id)


async def _on_cnnray_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CnnrayError)
    if isinstance(error, RecordError):
        # what the database said names its host and its path, which are for the log
        logger.warning("request %s failed: %s", request.state.request_id, error)
        detail = "the galleries' database cannot be used now; the service's log has more under this request_id"
        return problem(error.http_status, error.code, detail, request.state.request_id, RETRY_SOON)
    if error.http_status == 503:
        setattr(request.state, OF_NO_PRESSURE, error.code == "gallery_opening")
        return problem(503, error.code, str(error), request.state.request_id, RETRY_SOON)
    if error.http_status >= 500:
        logger.error("request %s failed", request.state.request_id, exc_info=error)
        return internal_error(request.state.request_id)
    members = error.details if isinstance(error, GalleryError) else None
    return problem(error.http_status, error.code, str(error), request.state.request_id, members=members)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        return problem(error.status_code, error.code, error.detail, request.state.request_id, error.headers)
    detail = {
        404: f"path: {_absent(request)}",
        405: f"method: this path does not take {request.method[:20]!r}; the header Allow names those that it takes",
    }.get(error.status_code, f"body: {error.detail}")
    code = CODES.get(error.status_code, "bad_request")
    return problem(error.status_code, code, detail, request.state.request_id, error.headers)


def _absent(request: Request) -> str:
    """What to say of a path that leads nowhere: the model that would answer may not have been asked for."""
    for start, (name, option) in _BEHIND.items():
        if request.url.path.startswith(start) and name not in request.app.state.models:
            return f"this service was started without what answers here: cnnray serve up {option}"
    return "there is nothing at this one"


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem(422, "invalid_parameter", "; ".join(map(_told, error.errors()[:5])), request.state.request_id)


def _told(fault: Mapping[str, Any]) -> str:
    """A fault of a request that FastAPI found: where it is, what was expected, what came."""
    if fault["type"] == "json_invalid":
        return f"body: expected JSON, but at character {fault['loc'][-1]}: {fault['ctx']['error']}"
    where = " ".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}, got {str(fault['input'])[:100]!r}"


async def _on_back_pressure(request: Request, error: Exception) -> Response:
    detail = "as many requests are waiting for the model as its queue takes"
    return problem(503, "busy", detail, request.state.request_id, RETRY_SOON)


async def _on_lost_model(request: Request, error: Exception) -> Response:
    logger.warning("request %s lost its model: %s", request.state.request_id, error)
    detail = "the model went away while it worked on this request; it is being started again"
    return problem(503, "model_unavailable", detail, request.state.request_id, RETRY_SOON)


async def _on_fault(request: Request, error: Exception) -> Response:
    # Starlette raises the error again once this is sent, and the guard logs it.
    return internal_error(request.state.request_id)


HANDLERS = {
    CnnrayError: _on_cnnray_error,
    HTTPException: _on_http_exception,
    RequestValidationError: _on_invalid,
    BackPressureError: _on_back_pressure,
    RayActorError: _on_lost_model,
    DeploymentUnavailableError: _on_lost_model,
    Exception: _on_fault,
}
