"""/v1/detect: the deployment that holds the detector, and the endpoint in front of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from cnnray.config import SearchConfig, ServeConfig
from cnnray.errors import ImageError
from cnnray.infer import detect
from cnnray.ops.decode import decode
from cnnray.ops.draw import draw_boxes
from cnnray.ops.overlay import png
from cnnray.serve.answers import PNG, ask_all, fault, header, refuse_several, timings
from cnnray.serve.openapi import IMAGE, errors, figures, picture
from cnnray.serve.replica import Job, Replica
from cnnray.serve.schemas import Detections, Object, Searched
from cnnray.serve.uploads import MAX_IMAGES, OPENAPI_BODIES, read_images

NAME = "detector"
MAX_OBJECTS = 1000

router = APIRouter(tags=["objects"])


def search_of(
    confidence: Annotated[float, Query(ge=0.01, le=1, description="least score")] = 0.3,
    overlap: Annotated[float, Query(ge=0, le=1, description="largest IoU of two boxes of one class")] = 0.5,
    suppression: Annotated[Literal["hard", "soft"], Query(description="of repeated boxes")] = "hard",
    most: Annotated[int, Query(ge=1, le=MAX_OBJECTS, description="objects of an image")] = 300,
    slice: Annotated[
        int,
        Query(
            ge=0,
            le=4096,
            description="side in px of slices of large images, at least 64; 0: none",
            json_schema_extra={"anyOf": [{"const": 0}, {"minimum": 64}]},
        ),
    ] = 0,
) -> SearchConfig:
    """What a request asks for."""
    return SearchConfig(confidence=confidence, overlap=overlap, suppression=suppression, most=most, slice=slice)


@router.post(
    "/v1/detect",
    summary="The objects in one image or in several",
    openapi_extra={"requestBody": OPENAPI_BODIES},
    response_model=Detections,
    responses={
        200: {"content": picture(PNG), "headers": figures("x-detections", "Detections")},
        **errors(*IMAGE, "one_image_to_draw", "bad_option"),
    },
)
async def detect_objects(
    request: Request,
    search: Annotated[SearchConfig, Depends(search_of)],
    draw: Annotated[bool, Query(description="the image with its boxes as a PNG; for one image alone")] = False,
) -> Any:
    """Boxes, labels and scores, best first.

    Images (JPEG, PNG, WebP, ...) come as a form's field `file`, which may be there several times, or one as the body.
    Of several, a bad one has its error in its place and spoils no other. With `?draw=true` the answer is a PNG; its
    header X-Detections has the JSON, without the objects where they are too many for a header.
    """
    began = time.perf_counter()
    images = await read_images(request, MAX_IMAGES)
    if draw:
        refuse_several(images)
    done = await ask_all(request, NAME, images, (search, draw))
    body = Detections(
        model=done[0].model,
        images=[_searched(one.result) for one in done],
        batch_size=max(one.batch_size for one in done),
        timings=timings(done, began),
        request_id=request.state.request_id,
    )
    if not draw:
        return body
    return Response(done[0].result.content, media_type=PNG, headers={"x-detections": header(body, "objects")})


@dataclass(frozen=True)
class Drawn:
    """What was found in an image as it travels: rows of label, score and box, and a PNG (b"" where none is wanted)."""

    height: int
    width: int
    objects: tuple[tuple[str, float, tuple[float, ...]], ...]
    content: bytes


class Detector(Replica):
    """A replica of the detector; the option of a job is what is asked for, and whether to draw."""

    def __init__(self, config: ServeConfig) -> None:
        self._detector = detect.Detector.load(config.detector, device="cuda" if config.gpu else "cpu", join=True)
        super().__init__(self._detector, config)
        self._detector.warm_up()

    def answer(self, jobs: Sequence[Job]) -> list[Any]:
        """Drawn or ImageError for each job."""
        results = self._detector.predict([job.image for job in jobs], [job.option[0] for job in jobs])
        return [self._drawn(job, result) for job, result in zip(jobs, results, strict=True)]

    def _drawn(self, job: Job, result: detect.Detections | ImageError) -> Drawn | ImageError:
        if isinstance(result, ImageError):
            return result
        names, content = self._detector.classes, b""
        if job.option[1]:
            content = png(draw_boxes(decode(job.image), result.boxes_N4, result.labels_N, names, result.scores_N))
        rows = zip(result.labels_N.tolist(), result.scores_N.tolist(), result.boxes_N4.tolist(), strict=True)
        objects = tuple((names[label], score, tuple(box)) for label, score, box in rows)
        return Drawn(result.height, result.width, objects, content)


def _searched(result: Drawn | ImageError) -> Searched:
    if isinstance(result, ImageError):
        return Searched(error=fault(result))
    objects = [Object(label=label, score=score, box=list(box)) for label, score, box in result.objects]
    return Searched(height=result.height, width=result.width, objects=objects)
