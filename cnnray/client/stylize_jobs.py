"""The client's calls about pictures that the service paints in the background."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from cnnray.client import stylize_calls as calls
from cnnray.client.call import Image
from cnnray.client.connection import Connection
from cnnray.client.stylize_calls import StylizeJob


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
        return self._send(calls.start_stylize_job(content, styles, mask, key, settings))

    def stylize_jobs(self, most: int = 100) -> list[StylizeJob]:
        """Newest first."""
        return self._send(calls.stylize_jobs(most))

    def stylize_job(self, id: str) -> StylizeJob:
        """How far it is."""
        return self._send(calls.stylize_job(id))

    def stylize_preview(self, id: str) -> bytes:
        """The painting as it stands, a JPEG."""
        return self._send(calls.stylize_preview(id))

    def stylize_picture(self, id: str) -> bytes:
        """The finished painting, a PNG."""
        return self._send(calls.stylize_picture(id))

    def delete_stylize_job(self, id: str) -> None:
        """End it and remove its pictures; one that is not there, or no longer, is no error."""
        self._send(calls.delete_stylize_job(id))

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
            if calls.is_painted(job):
                return self.stylize_picture(id)
            time.sleep(seconds)
