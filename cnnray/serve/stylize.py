"""/v1/stylize: the deployment that holds the painter, and the endpoints in front of it."""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from numpy.typing import NDArray

from cnnray.config import ServeConfig
from cnnray.errors import CnnrayError, ImageError
from cnnray.infer import fast_stylize
from cnnray.ops.overlay import encode, jpeg
from cnnray.ops.style_pictures import draw_sample
from cnnray.serve.answers import ask_one, timings, unless_error
from cnnray.serve.openapi import IMAGE, MODEL, errors, figures, picture
from cnnray.serve.problems import Refusal
from cnnray.serve.replica import Job, Replica
from cnnray.serve.schemas import Stylized
from cnnray.serve.uploads import OPENAPI_BODY, read_image

NAME = "painter"
MAX_SIDE = 4096
TYPES = {"jpg": "image/jpeg", "png": "image/png"}
_PREVIEW_SIDE = 240

router = APIRouter(tags=["paintings"])


@router.post(
    "/v1/stylize",
    summary="One photo painted in a style, or in a blend of several",
    openapi_extra={"requestBody": OPENAPI_BODY},
    response_class=Response,
    responses={
        200: {"content": picture(*TYPES.values()), "headers": figures("x-stylize", "Stylized", required=True)},
        **errors(*IMAGE, "too_small", "bad_option", (404, "unknown_name")),
    },
)
async def stylize_image(
    request: Request,
    style: Annotated[
        list[str],
        Query(
            description="NAME, or NAME:SHARE; several are blended",
            max_length=16,
            examples=[["stained_glass"], ["stained_glass:0.7", "mosaic:0.3"]],
        ),
    ],
    strength: Annotated[float, Query(ge=0, le=1, description="share of the painting; the rest is the photo")] = 1.0,
    keep_colors: Annotated[bool, Query(description="only light and dark are painted")] = False,
    longest_side: Annotated[int, Query(ge=64, le=MAX_SIDE, description="px; larger photos are made smaller")] = 1024,
    format: Annotated[Literal["jpg", "png"], Query(description="of the painting")] = "jpg",
) -> Response:
    """The painting (a photo as JPEG, PNG, WebP, ... comes as a form's field `file` or as the body).

    The header X-Stylize has the model, the size, shares of the styles and timings as JSON. GET /v1/models lists the
    styles.
    """
    began = time.perf_counter()
    image = await read_image(request)
    wish = Wish(_shares(style), strength, keep_colors, longest_side, format)
    done = await ask_one(request.app.state.models[NAME], image, wish)
    painted: Painted = unless_error(done.result)
    body = Stylized(
        model=done.model,
        height=painted.height,
        width=painted.width,
        styles=wish.shares,
        batch_size=done.batch_size,
        timings=timings([done], began),
        request_id=request.state.request_id,
    )
    return Response(painted.content, media_type=TYPES[format], headers={"x-stylize": json.dumps(body.model_dump())})


@router.get(
    "/v1/stylize/styles/{style}",
    summary="What a style looks like",
    response_class=Response,
    responses={
        200: {"content": picture(TYPES["jpg"])},
        **errors(*MODEL, "not_found", "invalid_parameter", (404, "unknown_name")),
    },
)
async def preview_style(
    request: Request,
    style: Annotated[str, Path(max_length=100, description="its name", examples=["stained_glass"])],
) -> Response:
    """A small picture in that style, as JPEG."""
    content = unless_error(await request.app.state.models[NAME].preview.remote(style))
    return Response(content, media_type=TYPES["jpg"], headers={"cache-control": "max-age=3600"})


@dataclass(frozen=True)
class Wish:
    """The option of a job: share of each style, and the rest of what is asked."""

    shares: dict[str, float]
    strength: float
    keep_colors: bool
    longest_side: int
    format: str


@dataclass(frozen=True)
class Painted:
    """A painting as it travels: the file, its size in px."""

    content: bytes
    height: int
    width: int


class Painter(Replica):
    """A replica of the painter; the option of a job is a Wish."""

    def __init__(self, config: ServeConfig) -> None:
        self._stylizer = load_painter(config, device="cuda" if config.gpu else "cpu")
        super().__init__(self._stylizer, config)

    def answer(self, jobs: Sequence[Job]) -> list[Any]:
        """Painted, or the error of a photo or a wish, for each job; those of one size are painted together."""
        answers: list[Any] = [self._wrong(job.option.shares) for job in jobs]
        good = [at for at, wrong in enumerate(answers) if wrong is None]
        wishes: list[Wish] = [jobs[at].option for at in good]
        paintings = self._stylizer.predict(
            [jobs[at].image for at in good],
            [wish.shares for wish in wishes],
            strength=[wish.strength for wish in wishes],
            colors=[wish.keep_colors for wish in wishes],
            longest_side=[wish.longest_side for wish in wishes],
        )
        for at, wish, painting in zip(good, wishes, paintings, strict=True):
            answers[at] = painting if isinstance(painting, ImageError) else _painted(painting, wish.format)
        return answers

    async def preview(self, style: str) -> bytes | CnnrayError:
        """A JPEG in that style, or UnknownNameError."""
        wrong = self._wrong({style: 1.0})
        return await self.in_turn(self._preview, style) if wrong is None else wrong

    @functools.cache  # noqa: B019 (as many as there are styles, for as long as the replica lives)
    def _preview(self, style: str) -> bytes:
        (painting,) = self._stylizer.predict([draw_sample(_PREVIEW_SIDE)], style)
        assert not isinstance(painting, ImageError)
        return jpeg(painting)

    def _wrong(self, shares: Mapping[str, float]) -> CnnrayError | None:
        try:
            self._stylizer.shares(shares)
        except CnnrayError as error:
            return error
        return None


def load_painter(config: ServeConfig, *, device: str) -> fast_stylize.Stylizer:
    """What the options ask for.

    Raises:
        CheckpointError: absent, damaged or of another task.
    """
    uri = fast_stylize.SHIPPED if config.painter == "default" else config.painter
    return fast_stylize.Stylizer.load(uri, device=device)


def _painted(painting_HWC: NDArray[np.uint8], suffix: str) -> Painted:
    return Painted(encode(painting_HWC, suffix), *painting_HWC.shape[:2])


def _shares(given: Sequence[str]) -> dict[str, float]:
    """Shares by style of NAME or NAME:SHARE."""
    shares: dict[str, float] = {}
    for one in given:
        name, colon, share = one.rpartition(":")
        try:
            shares[name if colon else one] = float(share) if colon else 1.0
        except ValueError:
            detail = f"query style: expected NAME or NAME:SHARE, got {one[:100]!r}"
            raise Refusal(422, "invalid_parameter", detail) from None
    return shares
