"""What endpoints share: asking for several images at once, errors as answers, timings, faults, JSON in a header."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from cnnray.errors import CnnrayError, ImageError
from cnnray.serve.problems import RETRY_SOON, Refusal
from cnnray.serve.replica import Done, Overdue
from cnnray.serve.schemas import Fault, Timings

PNG = "image/png"
_MAX_HEADER = 6000  # bytes; servers and proxies refuse headers above 8 KiB


async def ask_one(model: Any, image: bytes, option: Any, *, patient: bool = False) -> Done:
    """What a model makes of an image.

    Args:
        model: its handle.
        patient: waits for its turn as long as that takes.

    Raises:
        Refusal: its turn did not come in time.
    """
    response = model.ask.remote(image, option, None if patient else time.time())
    try:
        done: Done = await response
    except asyncio.CancelledError:
        response.cancel()  # or the model would work on it for nobody
        raise
    if isinstance(done.result, Overdue):
        detail = f"the image waited {done.queue_ms / 1000:.1f} seconds and its turn had not come: too many are asking"
        raise Refusal(503, "busy", detail, RETRY_SOON)
    return done


async def ask_all(request: Request, name: str, images: Sequence[bytes], option: Any) -> list[Done]:
    """What the model of that name makes of each image, which wait in its queue together.

    Raises:
        ImageError: of an image alone; of several, a bad one has its error in its place.
        Refusal: the turn of the first did not come in time.
    """
    model = request.app.state.models[name]
    # the first one's turn decides whether there is time for the request; the others wait behind it
    asked = [
        asyncio.ensure_future(ask_one(model, image, option, patient=number > 0)) for number, image in enumerate(images)
    ]
    try:
        done: list[Done] = await asyncio.gather(*asked)
    except BaseException:  # `gather` leaves the others at work
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        raise
    if len(done) == 1 and isinstance(done[0].result, ImageError):
        raise done[0].result
    return done


def outcome(call: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """What a call answers, or its CnnrayError, which Ray would wrap if a deployment raised it; see `unless_error`."""
    try:
        return call(*args, **options)
    except CnnrayError as error:
        return error


def unless_error(answer: Any) -> Any:
    """The answer of a deployment; raises it where it is a CnnrayError."""
    if isinstance(answer, CnnrayError):
        raise answer
    return answer


def refuse_several(images: Sequence[bytes]) -> None:
    """Of several images no picture can be drawn.

    Raises:
        Refusal: there are several.
    """
    if len(images) > 1:
        raise Refusal(422, "one_image_to_draw", f"expected one image with draw=true, got {len(images)}")


def timings(done: Sequence[Done], began: float) -> Timings:
    """Of a request that came at `began` (time.perf_counter): the longest of its images, and its own."""
    return Timings(
        queue_ms=max(one.queue_ms for one in done),
        inference_ms=max(one.inference_ms for one in done),
        total_ms=1000 * (time.perf_counter() - began),
    )


def fault(error: ImageError) -> Fault:
    """The error of one of several images."""
    return Fault(code=error.code, detail=str(error))


def header(body: BaseModel, rows: str) -> str:
    """An answer as JSON in a header; without the images' field `rows` where that would be too long for one."""
    text = json.dumps(body.model_dump())
    if len(text) <= _MAX_HEADER:
        return text
    return json.dumps(body.model_dump(exclude={"images": {"__all__": {rows}}}))
