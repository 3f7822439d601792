"""/v1/segment: the deployment that holds the segmenter, and the endpoint in front of it."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from cnnray.config import ServeConfig
from cnnray.errors import ImageError
from cnnray.infer import segment
from cnnray.ops.decode import decode
from cnnray.ops.overlay import overlay, png
from cnnray.serve.answers import ask_one
from cnnray.serve.openapi import IMAGE, errors, figures, picture
from cnnray.serve.replica import Job, Replica
from cnnray.serve.schemas import ClassShare, Segmentation, Timings
from cnnray.serve.uploads import OPENAPI_BODY, read_image

NAME = "segmenter"
PNG = "image/png"

router = APIRouter(tags=["segments"])


@router.post(
    "/v1/segment",
    summary="The class of every pixel of one image",
    openapi_extra={"requestBody": OPENAPI_BODY},
    response_model=Segmentation,
    responses={
        200: {"content": picture(PNG), "headers": figures("x-segmentation", "Segmentation")},
        **errors(*IMAGE),
    },
)
async def segment_image(
    request: Request,
    draw: Annotated[bool, Query(description="the image with its classes in colour, in place of the class map")] = False,
    format: Annotated[Literal["png", "json"], Query(description="json: the figures without a picture")] = "png",
) -> Any:
    """A PNG of the image's size (JPEG, PNG, WebP, ... sent as a form's field `file` or as the body).

    Each pixel has the value of its class in the masks that were trained on. The header X-Segmentation has the figures
    as JSON, as `?format=json` gives them.
    """
    began = time.perf_counter()
    image = await read_image(request)
    done = await ask_one(request.app.state.models[NAME], image, "json" if format == "json" else draw)
    if isinstance(done.result, ImageError):
        raise done.result
    found: Drawn = done.result
    total = 1000 * (time.perf_counter() - began)
    body = Segmentation(
        model=done.model,
        height=found.height,
        width=found.width,
        classes=[ClassShare(label=label, value=value, share=share) for label, value, share in found.shares],
        confidence=found.confidence,
        batch_size=done.batch_size,
        timings=Timings(queue_ms=done.queue_ms, inference_ms=done.inference_ms, total_ms=total),
        request_id=request.state.request_id,
    )
    if format == "json":
        return body
    return Response(found.content, media_type=PNG, headers={"x-segmentation": json.dumps(body.model_dump())})


@dataclass(frozen=True)
class Drawn:
    """A segmentation as it travels: the PNG (b"" where none was asked for), (name, value, share) of every class."""

    content: bytes
    height: int
    width: int
    shares: tuple[tuple[str, int, float], ...]
    confidence: float


class Segmenter(Replica):
    """A replica of the segmenter; the option of a job is "json", or whether to draw over the image."""

    def __init__(self, config: ServeConfig) -> None:
        self._segmenter = segment.Segmenter.load(config.segmenter, device="cuda" if config.gpu else "cpu", join=True)
        super().__init__(self._segmenter, config)
        self._segmenter.warm_up()

    def answer(self, jobs: Sequence[Job]) -> list[Any]:
        """Drawn or ImageError for each job."""
        results = self._segmenter.predict([job.image for job in jobs])
        return [self._drawn(job, result) for job, result in zip(jobs, results, strict=True)]

    def _drawn(self, job: Job, result: segment.Segmentation | ImageError) -> Drawn | ImageError:
        if isinstance(result, ImageError):
            return result
        content = b""
        if job.option is True:
            content = png(overlay(decode(job.image), result.classes_HW, len(self._segmenter.classes)))
        elif job.option is False:
            content = self._segmenter.mask_png(result)
        values = self._segmenter.card.input["values"]
        shares = tuple((name, value, share) for (name, share), value in zip(result.shares, values, strict=True))
        height, width = result.classes_HW.shape
        return Drawn(content, height, width, shares, result.confidence)
