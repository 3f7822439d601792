"""What the clients ask about pictures that the service paints in the background, as `cnnray.client.calls`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from cnnray.client.answers import read
from cnnray.client.call import Call, Image, idempotent, json_of
from cnnray.client.calls import content_of
from cnnray.errors import OptionError, ServiceError

_ALL = "/v1/stylize/jobs"


@dataclass(frozen=True)
class StylizeJob:
    """A painting job.

    Attributes:
        id: names it.
        state: "queued", "running", "done" or "failed".
        created: seconds since 1970.
        step, steps: done, and to do in all.
        height, width: of the painting now, px; it grows.
        loss, style, content, variation: weighed sum, and its parts; None before the first step.
        seconds_left: estimated; None before the first steps.
        code, error: of what made it fail; "" else.
    """

    id: str
    state: str
    created: float
    step: int
    steps: int
    height: int
    width: int
    loss: float | None
    style: float | None
    content: float | None
    variation: float | None
    seconds_left: float | None
    code: str
    error: str

    @property
    def finished(self) -> bool:
        """Whether nothing more is going to change."""
        return self.state in ("done", "failed")


def start_stylize_job(
    content: Image, styles: Sequence[Image], mask: Image | None, key: str, settings: Mapping[str, Any]
) -> Call[StylizeJob]:
    """See `Client`, as of all functions here; all attempts of the call have one idempotency key."""
    if not styles:
        raise OptionError("expected at least one style")
    parts: list[tuple[str, str, Image]] = [("file", "content", content)]
    parts += [("style", f"style{number}", style) for number, style in enumerate(styles)]
    parts += [] if mask is None else [("mask", "mask", mask)]
    return Call(method="POST", path=_ALL, params=settings, headers=idempotent(key), parts=parts, read=_job_of)


def stylize_jobs(most: int) -> Call[list[StylizeJob]]:
    """The newest ones."""

    def listed(answer: httpx.Response) -> list[StylizeJob]:
        return [read(StylizeJob, job) for job in json_of(answer).get("jobs", [])]

    return Call(method="GET", path=_ALL, params={"most": most}, read=listed)


def stylize_job(id: str) -> Call[StylizeJob]:
    """How far it is."""
    return Call(method="GET", path=_place(id), read=_job_of)


def stylize_preview(id: str) -> Call[bytes]:
    """The painting as it stands."""
    return Call(method="GET", path=f"{_place(id)}/preview", read=content_of)


def stylize_picture(id: str) -> Call[bytes]:
    """The finished painting."""
    return Call(method="GET", path=f"{_place(id)}/picture", read=content_of)


def delete_stylize_job(id: str) -> Call[None]:
    """End it; one that is not there is as good as ended."""

    def gone(error: ServiceError) -> None:
        if error.code != "no_job":
            raise error

    return Call(method="DELETE", path=_place(id), read=lambda _: None, recover=gone)


def is_painted(job: StylizeJob) -> bool:
    """Whether the painting is there; False while it is being made.

    Raises:
        ServiceError: it will never be.
    """
    if job.state == "failed":
        raise ServiceError(f"the painting job {job.id} failed: {job.error}", code=job.code)
    return job.finished


def _job_of(answer: httpx.Response) -> StylizeJob:
    return read(StylizeJob, json_of(answer))


def _place(id: str) -> str:
    if not id:
        raise OptionError("expected the id of a job, got ''")
    return f"{_ALL}/{quote(id, safe='')}"
