"""The client's calls about pictures that the service paints in the background."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cnnray.client.answers import read
from cnnray.client.connection import Connection, Image, content_of
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


class StylizeJobClient(Connection):
    """Painting jobs of a service; see `Client`.

    All methods raise ServiceError where the service refuses or does not answer: "no_job", "not_finished",
    "too_many_jobs", "key_reused", or the codes of bad pictures and options; StorageError for a file that cannot be
    read.
    """

    def start_stylize_job(
        self, content: Image, styles: Sequence[Image], mask: Image | None = None, *, key: str = "", **settings: Any
    ) -> StylizeJob:
        """Have a photo painted; the service goes on with it by itself.

        Args:
            content: the photo's encoded file, or its path.
            styles: one to four pictures with the style.
            mask: a grey picture: white is painted, black stays as it is; None paints all.
            key: asking again under the same key gives the same job; without one, each call makes a job of its own, also
                if it is tried again because an answer was lost.
            settings: size, steps, pyramid, style_weight, style_scale, style_loss, content_loss, variation_loss, start,
                keep_colors, optimizer, seed; see `cnnray.config.StylizeConfig`.

        Raises:
            OptionError: no style.
        """
        if not styles:
            raise OptionError("expected at least one style")
        parts = [("file", ("content", content_of(content)))]
        parts += [("style", (f"style{number}", content_of(style))) for number, style in enumerate(styles)]
        parts += [] if mask is None else [("mask", ("mask", content_of(mask)))]
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        return read(StylizeJob, self._call("POST", _ALL, files=parts, params=settings, headers=headers))

    def stylize_jobs(self, most: int = 100) -> list[StylizeJob]:
        """Newest first."""
        return [read(StylizeJob, job) for job in self._call("GET", _ALL, params={"most": most}).get("jobs", [])]

    def stylize_job(self, id: str) -> StylizeJob:
        """How far it is."""
        return read(StylizeJob, self._call("GET", _place(id)))

    def stylize_preview(self, id: str) -> bytes:
        """The painting as it stands, a JPEG."""
        return self._retried("GET", f"{_place(id)}/preview").content

    def stylize_picture(self, id: str) -> bytes:
        """The finished painting, a PNG."""
        return self._retried("GET", f"{_place(id)}/picture").content

    def delete_stylize_job(self, id: str) -> None:
        """End it and remove its pictures; one that is not there, or no longer, is no error."""
        try:
            self._retried("DELETE", _place(id))
        except ServiceError as error:
            if error.code != "no_job":
                raise

    def wait_stylize_job(
        self, id: str, on_progress: Callable[[StylizeJob], None] | None = None, *, seconds: float = 1.0
    ) -> bytes:
        """The painting, a PNG, as soon as it is finished.

        Args:
            on_progress: called with the job as it stands, each time that it is looked at.
            seconds: from one look to the next.

        Raises:
            ServiceError: the job failed; its code and sentence.
        """
        while True:
            job = self.stylize_job(id)
            if on_progress is not None:
                on_progress(job)
            if job.state == "failed":
                raise ServiceError(f"the painting job {id} failed: {job.error}", code=job.code)
            if job.finished:
                return self.stylize_picture(id)
            time.sleep(seconds)


def _place(id: str) -> str:
    if not id:
        raise OptionError("expected the id of a job, got ''")
    return f"{_ALL}/{quote(id, safe='')}"
