"""/v1/stylize/jobs: pictures painted in the style of any others by optimisation, in the background."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from cnnray.config import StylizeConfig
from cnnray.infer.stylize_jobs import JobProgress, StylizeRequest
from cnnray.serve import examples
from cnnray.serve.answers import unless_error
from cnnray.serve.openapi import IMAGE, MODEL, errors, picture
from cnnray.serve.stylize_jobs import NAME
from cnnray.serve.uploads import openapi_grouped, read_grouped_images

MAX_STYLES = 4
_PATH = "/v1/stylize/jobs"
_JOB = _PATH + "/{job}"
_FIELDS = {"file": 1, "style": MAX_STYLES, "mask": 1}
_NEEDED = ("file", "style")
_DEFAULT = StylizeConfig()
_WEIGHTS: dict[str, JsonValue] = {"items": {"type": "number", "minimum": 0}}
_ONE = (*MODEL, "not_found", "invalid_parameter", "no_job")  # codes of the endpoints of one job
_LOCATION = {"location": {"description": "path of the job", "required": True, "schema": {"type": "string"}}}
Job = Annotated[str, Path(max_length=100, description="its id", examples=[examples.EXAMPLE_JOB_ID])]

router = APIRouter(tags=["painting jobs"])


class StylizeJob(BaseModel):
    """A painting job."""

    model_config = ConfigDict(json_schema_extra=examples.shown(examples.stylize_job))

    id: str
    state: Literal["queued", "running", "done", "failed"]
    created: float = Field(description="seconds since 1970")
    step: int = Field(description="steps that are done")
    steps: int = Field(description="of all")
    height: int = Field(description="of the painting now, px; it grows; 0 before the start")
    width: int
    loss: float | None = Field(description="weighed sum of the three; none before the first step")
    style: float | None = Field(description="loss: how far it is from the style, as a share of it")
    content: float | None = Field(description="loss: how far it is from the photo, as a share of it")
    variation: float | None = Field(description="loss: how much neighbouring pixels differ")
    seconds_left: float | None = Field(description="estimated; none before the first steps")
    code: str = Field(description='of the fault that made it fail, else ""')
    error: str = Field(description='what made it fail, else ""')
    preview: str = Field(description="path of the painting as it stands, a JPEG")
    picture: str = Field(description="path of the finished painting, a PNG")


class StylizeJobs(BaseModel):
    """Painting jobs, newest first."""

    model_config = ConfigDict(json_schema_extra=examples.shown({"jobs": [examples.stylize_job]}))

    jobs: list[StylizeJob]


def _from_to(least: float, most: float | None = None) -> dict[str, JsonValue]:
    """What the document says of a number that `StylizeConfig` checks."""
    return {"minimum": least} if most is None else {"minimum": least, "maximum": most}


def settings_of(
    size: Annotated[int, Query(ge=32, le=2048, description="longer side of the painting at most, px")] = _DEFAULT.size,
    steps: Annotated[int, Query(ge=1, le=1000, description="at each size of the pyramid")] = _DEFAULT.steps,
    pyramid: Annotated[int, Query(ge=1, le=6, description="sizes painted, coarse to fine")] = _DEFAULT.pyramid,
    style_weight: Annotated[
        list[float],
        Query(
            max_length=MAX_STYLES,
            description="of each style; alike without",
            examples=[[1.0], [2.0, 1.0]],
            json_schema_extra=_WEIGHTS,
        ),
    ] = [],  # noqa: B006 (FastAPI copies it)
    style_scale: Annotated[
        float, Query(description="longer side of the styles, of the photo's", json_schema_extra=_from_to(0.1, 10))
    ] = 1.0,
    style_loss: Annotated[
        float, Query(description="weight of the style's loss", json_schema_extra=_from_to(0))
    ] = _DEFAULT.style_loss,
    content_loss: Annotated[
        float, Query(description="weight of the photo's loss", json_schema_extra=_from_to(0))
    ] = _DEFAULT.content_loss,
    variation_loss: Annotated[
        float, Query(description="weight of the total variation", json_schema_extra=_from_to(0))
    ] = _DEFAULT.variation_loss,
    start: Annotated[Literal["content", "noise"], Query(description="what is gone on from")] = "content",
    keep_colors: Annotated[bool, Query(description="only light and dark are painted")] = False,
    optimizer: Annotated[Literal["adam", "lbfgs"], Query(description="lbfgs: smoother, and slower")] = "adam",
    lr: Annotated[float, Query(gt=0, le=1, description="of Adam, shares of the range of a pixel")] = _DEFAULT.lr,
    seed: Annotated[int, Query(ge=0, lt=2**31, description="of the noise")] = 0,
) -> StylizeConfig:
    """What a request asks for; `StylizeConfig` says more of each."""
    return StylizeConfig(
        size=size,
        steps=steps,
        pyramid=pyramid,
        style_weight=tuple(style_weight),
        style_scale=style_scale,
        style_loss=style_loss,
        content_loss=content_loss,
        variation_loss=variation_loss,
        start=start,
        keep_colors=keep_colors,
        optimizer=optimizer,
        lr=lr,
        seed=seed,
    )


@router.post(
    _PATH,
    status_code=202,
    summary="Have a photo painted in the style of pictures",
    openapi_extra={"requestBody": openapi_grouped(_FIELDS, _NEEDED)},
    responses={
        202: {"headers": _LOCATION},
        **errors(*IMAGE, "too_many_files", "bad_option", "key_reused", "too_many_jobs"),
    },
)
async def start_job(
    request: Request,
    response: Response,
    settings: Annotated[StylizeConfig, Depends(settings_of)],
    idempotency_key: Annotated[
        str,
        Header(
            max_length=255,
            description="a request that comes again with the same one is the same job",
            examples=["order-77"],
        ),
    ] = "",
) -> StylizeJob:
    """A job, which goes on whatever happens to this connection or to a machine of the service.

    A form has the photo as `file`, one to four pictures as `style`, and maybe a grey picture as `mask`: white is
    painted, black stays as it is.
    """
    images = await read_grouped_images(request, _FIELDS, _NEEDED)
    (content,), styles, masks = images["file"], tuple(images["style"]), images["mask"]
    wish = StylizeRequest(content, styles, settings, masks[0] if masks else None)
    job = _shown(await _ask(request, "create", wish, idempotency_key))
    response.headers["location"] = f"{_PATH}/{job.id}"
    return job


@router.get(_PATH, summary="The painting jobs", responses=errors(*MODEL, "invalid_parameter"))
async def list_jobs(
    request: Request, most: Annotated[int, Query(ge=1, le=1000, description="jobs wanted")] = 100
) -> StylizeJobs:
    """Newest first; finished ones for as long as they are kept."""
    jobs: list[JobProgress] = await _ask(request, "jobs")
    return StylizeJobs(jobs=[_shown(job) for job in reversed(jobs[-most:])])


@router.get(_JOB, summary="How far a painting job is", responses=errors(*_ONE))
async def describe_job(request: Request, job: Job) -> StylizeJob:
    """Steps, losses, an estimate of what is left; 404 no_job."""
    return _shown(await _ask(request, "get", job))


@router.get(
    _JOB + "/preview",
    summary="A painting as it stands",
    response_class=Response,
    responses={200: {"content": picture("image/jpeg")}, **errors(*_ONE, "not_finished")},
)
async def preview_job(request: Request, job: Job) -> Response:
    """A JPEG, of the size that is painted now; 409 not_finished before there is one."""
    return Response(await _ask(request, "preview", job), media_type="image/jpeg", headers={"cache-control": "no-store"})


@router.get(
    _JOB + "/picture",
    summary="A finished painting",
    response_class=Response,
    responses={200: {"content": picture("image/png")}, **errors(*_ONE, "not_finished")},
)
async def picture_job(request: Request, job: Job) -> Response:
    """A PNG; 409 not_finished before."""
    return Response(await _ask(request, "picture", job), media_type="image/png")


@router.delete(
    _JOB,
    status_code=204,
    summary="End a painting job and remove it",
    response_class=Response,
    responses=errors(*_ONE),
)
async def delete_job(request: Request, job: Job) -> Response:
    """With all of its pictures; who paints it stops within a second or two."""
    await _ask(request, "delete", job)
    return Response(status_code=204)


async def _ask(request: Request, what: str, /, *args: Any) -> Any:
    return unless_error(await request.app.state.models[NAME].ask.remote(what, *args))


def _shown(job: JobProgress) -> StylizeJob:
    place = f"{_PATH}/{job.id}"
    return StylizeJob(**asdict(job), preview=f"{place}/preview", picture=f"{place}/picture")
