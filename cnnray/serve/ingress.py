"""The HTTP application: what every model shares (health, readiness, errors), and the deployment that runs it."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi_offline import FastAPIOffline
from ray.serve.exceptions import BackPressureError
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from cnnray import __version__
from cnnray.config import MODELS, ServeConfig
from cnnray.errors import RecordError
from cnnray.serve import (
    classify,
    detect,
    faces,
    galleries,
    gallery_routes,
    metrics,
    segment,
    stylize,
    stylize_job_routes,
    stylize_jobs,
)
from cnnray.serve.access import Access, ByKey, ByPlace, is_loopback
from cnnray.serve.console import console_router
from cnnray.serve.guard import Guard
from cnnray.serve.key_ring import KeyRing
from cnnray.serve.metrics import RequestMetrics
from cnnray.serve.openapi import MODEL, describe, errors
from cnnray.serve.problems import HANDLERS, RETRY_SOON, Refusal
from cnnray.serve.schemas import ModelInfo, Models, Status

SELF_TEST_SECONDS = 5.0
_CORS: dict[str, Any] = {
    "allow_methods": ("GET", "POST", "PATCH", "DELETE"),
    "allow_headers": ("authorization", "content-type", "idempotency-key", "x-request-id"),
    "expose_headers": ("retry-after", "x-request-id", "x-detections", "x-faces", "x-segmentation", "x-stylize"),
}
ROUTERS = {part.NAME: part.router for part in (classify, detect, segment, faces, stylize)}
_STORES = {galleries.NAME: gallery_routes.router, stylize_jobs.NAME: stylize_job_routes.router}

router = APIRouter(tags=["service"])


@router.get("/v1/health", summary="Whether the process lives", responses=errors(open=True))
async def get_health() -> Status:
    """Always "ok": an answer is the answer."""
    return Status(status="ok")


@router.get("/v1/ready", summary="Whether every model answers", responses=errors("not_ready", open=True))
async def get_readiness(request: Request) -> Status:
    """ "ready" when every model just passed a self-test, or passed one before and is too busy for another; else 503.

    Models that go when nobody asks them are not woken for it: they passed a self-test when they were deployed. The
    galleries' self-test reads their database, that of the painting jobs looks for their folder.
    """
    passed: set[str] = request.app.state.passed
    for name, handle in request.app.state.models.items():
        if name in request.app.state.sleepers:
            continue
        try:
            async with asyncio.timeout(SELF_TEST_SECONDS):
                await handle.self_test.remote()
            passed.add(name)
        except Exception as error:  # whatever it is, the model did not answer
            if isinstance(error, BackPressureError) and name in passed:
                continue
            passed.discard(name)
            detail = f"{name}: no answer to a self-test within {SELF_TEST_SECONDS:g} seconds"
            if isinstance(error, RecordError):
                detail = f"{name}: the database cannot be used now; the service's log has more"
            raise Refusal(503, "not_ready", detail, RETRY_SOON) from error
    return Status(status="ready")


@router.get("/v1/models", summary="The models behind the service", responses=errors(*MODEL))
async def list_models(request: Request) -> Models:
    """Name, task, weights and measured quality of every model."""
    state, found = request.app.state, []
    for name, handle in state.models.items():
        if name in _STORES:
            continue
        if name not in state.sleepers or name not in state.described:  # who asks for this list need not wake anybody
            state.described[name] = await handle.describe.remote()
        found.append(ModelInfo(**state.described[name]))
    return Models(models=found)


@router.get(
    "/metrics",
    summary="Counters and latencies for Prometheus",
    response_class=PlainTextResponse,
    responses=errors(),
)
async def get_metrics() -> PlainTextResponse:
    """Of all replicas on all nodes, in Prometheus' text form; some seconds old."""
    return PlainTextResponse(await metrics.gather(), media_type=metrics.TYPE)


def build_api(models: Mapping[str, Any], sleepers: Collection[str] = ()) -> FastAPI:
    """The FastAPI application over models (and galleries) by name, each a handle whose methods have `.remote`.

    `sleepers` are names of models whose last replica ends when nobody asks it.

    Its documentation page at /docs needs no internet: Swagger UI comes from the package fastapi-offline.
    """
    app = FastAPIOffline(
        title="cnnray",
        version=__version__,
        description="Trained vision models over HTTP.",
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    # A redirect to the path without its last "/" would turn an escaped "../" as an id into the path above it.
    app.router.redirect_slashes = False
    app.state.models, app.state.passed = dict(models), set()
    app.state.sleepers, app.state.described = frozenset(sleepers), {}
    app.include_router(router)
    app.include_router(console_router())
    for name in models:
        app.include_router((ROUTERS | _STORES)[name])
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    describe(app)
    return app


class Ingress:
    """The deployment that speaks HTTP: the application behind its guard."""

    def __init__(self, config: ServeConfig, models: Mapping[str, Any]) -> None:
        self._config, self._models = config, models

    def __serve_build_asgi_app__(self) -> ASGIApp:
        config, counts = self._config, RequestMetrics()
        guard = Guard(
            build_api(self._models, {name for name in MODELS if config.replica_range(name)[0] == 0}),
            _access(config),
            max_body_bytes=int(config.max_body_mb * 2**20),
            max_in_flight=max_in_flight(config),
            timeout_s=config.timeout_s,
            count=counts.count,
            count_refused=counts.count_refused if config.proxy == "haproxy" else None,
        )
        if not config.cors_origins:
            return guard
        # around the guard: a browser asks whether it may ask without showing the key
        return CORSMiddleware(guard, allow_origins=config.cors_origins, **_CORS)


def _access(config: ServeConfig) -> Access:
    if config.keys:
        return ByKey(KeyRing(config.keys, config.most_replicas))
    return ByPlace(local=is_loopback(config.host), origins=config.cors_origins)


def max_in_flight(config: ServeConfig) -> int:
    """Requests with a body at once: as many as a model takes, and as many again whose bodies are still coming in."""
    return 2 * (config.most_replicas * config.max_ongoing + config.max_queued)
