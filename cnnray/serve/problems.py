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
RETRY_SOON = {"retry-after": "1"}
CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


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
        return problem(503, error.code, str(error), request.state.request_id, RETRY_SOON)
    if error.http_status >= 500:
        logger.error("request %s failed", request.state.request_id, exc_info=error)
        return internal_error(request.state.request_id)
    members = error.details if isinstance(error, GalleryError) else None
    return problem(error.http_status, error.code, str(error), request.state.request_id, members=members)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = error.code if isinstance(error, Refusal) else CODES.get(error.status_code, "error")
    return problem(error.status_code, code, str(error.detail), request.state.request_id, error.headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = (
        f"{' '.join(str(part) for part in fault['loc'])}: {fault['msg']}, got {str(fault['input'])[:100]!r}"
        for fault in error.errors()[:5]
    )
    return problem(422, "invalid_parameter", "; ".join(faults), request.state.request_id)


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
