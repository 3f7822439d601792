"""/v1/classify: the deployment that holds the classifier, and the endpoint in front of it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from cnnray.config import ServeConfig
from cnnray.errors import ImageError
from cnnray.infer import classify
from cnnray.serve.replica import Done, Job, Replica
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
    done: Done = await request.app.state.models[NAME].ask.remote(image, top_k)
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


class Classifier(Replica):
    """A replica of the classifier; the option of a job is its top_k."""

    def __init__(self, config: ServeConfig) -> None:
        model = classify.Classifier.load(config.classifier, device="cuda" if config.gpu else "cpu")
        super().__init__(model, config)
        self._predict = model.predict

    def answer(self, jobs: Sequence[Job]) -> list[Any]:
        """A Classification or ImageError for each job."""
        results = self._predict([job.image for job in jobs], max(job.option for job in jobs))
        return [_first(result, job.option) for job, result in zip(jobs, results, strict=True)]


def _first(result: classify.Classification | ImageError, top_k: int) -> classify.Classification | ImageError:
    return result if isinstance(result, ImageError) else replace(result, top=result.top[:top_k])
