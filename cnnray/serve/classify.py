"""/v1/classify: the deployment that holds the classifier, and the endpoint in front of it."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from ray import serve

from cnnray.config import ServeConfig
from cnnray.errors import ImageError
from cnnray.infer import classify
from cnnray.serve.schemas import Classification, Guess, Timings
from cnnray.serve.uploads import OPENAPI_BODY, read_image

NAME = "classifier"
MAX_TOP_K = 1000

router = APIRouter()


@router.post(
    "/v1/classify",
    summary="Classify one image",
    openapi_extra={"requestBody": OPENAPI_BODY},
)
async def classify_image(
    request: Request,
    top_k: Annotated[int, Query(ge=1, le=MAX_TOP_K, description="classes wanted in `top`")] = 5,
) -> Classification:
    """The most probable classes of an image (JPEG, PNG, WebP, ...), sent as a form's field `file` or as the body."""
    began = time.perf_counter()
    image = await read_image(request)
    done: Done = await request.app.state.models[NAME].classify.remote(image, top_k)
    if isinstance(done.result, ImageError):
        raise done.result
    total = 1000 * (time.perf_counter() - began)
    return Classification(
        model=done.model,
        label=done.result.label,
        probability=done.result.probability,
        top=[Guess(label=label, probability=probability) for label, probability in done.result.top],
        batch_size=done.batch_size,
        timings=Timings(queue_ms=done.queue_ms, inference_ms=done.inference_ms, total_ms=total),
        request_id=request.state.request_id,
    )


@dataclass(frozen=True)
class Job:
    """One image in the queue of its replica; `came` in seconds of time.perf_counter."""

    image: bytes
    top_k: int
    came: float


@dataclass(frozen=True)
class Done:
    """What a replica made of a job, and the milliseconds that it waited and that its batch took."""

    model: str
    result: classify.Classification | ImageError
    batch_size: int
    queue_ms: float
    inference_ms: float


class Classifier:
    """A replica: the classifier behind a queue that makes batches; it exists only after a passed self-test."""

    def __init__(self, config: ServeConfig) -> None:
        device = "cuda" if config.gpu else "cpu"
        self._model = classify.Classifier.load(config.classifier, device=device)
        self._model.self_test()
        batch = serve.batch(max_batch_size=config.max_batch_size, batch_wait_timeout_s=config.batch_wait_ms / 1000)
        self._batched = batch(self._run)

    async def classify(self, image: bytes, top_k: int) -> Done:
        """Classify within a batch of whatever else is waiting."""
        done: Done = await self._batched(Job(image, top_k, time.perf_counter()))
        return done

    async def self_test(self) -> None:
        """Answer, or raise."""
        await asyncio.to_thread(self._model.self_test)

    async def describe(self) -> dict[str, Any]:
        """Fields of ModelInfo."""
        fields: dict[str, Any] = self._model.describe()
        return fields

    async def _run(self, jobs: list[Job]) -> list[Done]:
        began = time.perf_counter()
        top_k = max(job.top_k for job in jobs)
        results = await asyncio.to_thread(self._model.predict, [job.image for job in jobs], top_k)
        took = 1000 * (time.perf_counter() - began)
        return [
            Done(self._model.name, _first(result, job.top_k), len(jobs), 1000 * (began - job.came), took)
            for job, result in zip(jobs, results, strict=True)
        ]


def _first(result: classify.Classification | ImageError, top_k: int) -> classify.Classification | ImageError:
    return result if isinstance(result, ImageError) else replace(result, top=result.top[:top_k])


def build_deployment(config: ServeConfig) -> Any:
    """The deployment, bound to its options: bounded queues, one core or GPU to reserve per replica."""
    deployment = serve.deployment(
        name="Classifier",
        num_replicas=config.replicas,
        max_ongoing_requests=config.max_ongoing,
        max_queued_requests=config.max_queued,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(config.gpu)},
    )
    return deployment(Classifier).bind(config)
