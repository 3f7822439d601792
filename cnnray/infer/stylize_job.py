"""One job of `cnnray.infer.stylize_jobs` while it is painted: in any process that reaches the folder."""

import logging
import time
import uuid
from dataclasses import replace
from typing import Any

from cnnray import files
from cnnray.errors import CheckpointError, CnnrayError, StorageError
from cnnray.infer.style_state import load_style_state, save_style_state
from cnnray.infer.stylize import StyleOptimizer, StyleStep
from cnnray.infer.stylize_jobs import (
    OWNER,
    PREVIEW,
    REQUEST,
    STATE,
    STYLIZED,
    StylizeRequest,
    read_progress,
    write_progress,
)
from cnnray.ops.overlay import jpeg, png

SECONDS = 1.0  # from one report to the next, and as long a deleted job is painted on
SAVE_SECONDS = 5.0  # from one state and preview to the next: what a death costs

_LOSSES = ("loss", "style", "content", "variation")

logger = logging.getLogger("cnnray")


class _NotOurs(Exception):
    """The job was deleted, or another process paints it now."""


def paint_job(folder: str, id: str, device: str = "auto") -> None:
    """Paint a job to its end, from where it stands; nothing happens if it is finished or gone.

    It stops without a word where the job is deleted or another process takes it over. What cannot be painted is told
    in the job's progress.

    Args:
        folder: of the jobs, absolute.
        device: see `cnnray.nn.device.choose_device`.

    Raises:
        StorageError: the folder cannot be used; the job stands as it did.
    """
    job = read_progress(folder, id)
    if job is None or job.finished:
        return
    try:
        _Painting(folder, id, device).run()
    except _NotOurs:
        return
    except StorageError:
        raise
    except CnnrayError as error:
        job = read_progress(folder, id) or job
        write_progress(folder, replace(job, state="failed", code=error.code, error=str(error), seconds_left=None))


class _Painting:
    """The optimiser of a job, and what it reports."""

    def __init__(self, folder: str, id: str, device: str) -> None:
        self._folder, self._id, self._token = folder, id, uuid.uuid4().hex
        request = StylizeRequest.load(self._path(REQUEST))
        if request is None:
            raise _NotOurs
        self._optimizer = StyleOptimizer(**request.decoded(), config=replace(request.config, device=device))
        self._steps = request.config.steps
        files.write_bytes(self._path(OWNER), self._token.encode())
        self._restore()
        self._begun, self._first = time.monotonic(), self._optimizer.num_done
        self._reported = self._saved = time.monotonic()

    def run(self) -> None:
        self._report(None)
        result = self._optimizer.run(self._after)
        self._check()
        files.write_bytes(self._path(STYLIZED), png(result.image_HWC))
        files.write_bytes(self._path(PREVIEW), jpeg(result.image_HWC))
        self._report(result.losses, state="done")
        files.remove(self._path(STATE))

    def _restore(self) -> None:
        try:
            state = load_style_state(self._path(STATE))
        except CheckpointError as error:
            logger.warning("%s; job %s is painted from the start", error, self._id)
            state = None
        if state is not None:
            self._optimizer.restore(state)

    def _after(self, row: StyleStep) -> None:
        now = time.monotonic()
        if now - self._reported < SECONDS:
            return
        self._check()
        if now - self._saved >= SAVE_SECONDS or not files.exists(self._path(PREVIEW)):
            save_style_state(self._path(STATE), self._optimizer.state())
            files.write_bytes(self._path(PREVIEW), jpeg(self._optimizer.picture))
            self._saved = time.monotonic()
        self._report(row)
        self._reported = time.monotonic()

    def _report(self, row: StyleStep | None, state: str = "running") -> None:
        job = read_progress(self._folder, self._id)
        if job is None:
            raise _NotOurs
        optimizer = self._optimizer
        height, width = optimizer.sizes[0] if row is None else (row.height, row.width)
        facts: dict[str, Any] = {} if row is None else {name: getattr(row, name) for name in _LOSSES}
        facts |= {"step": optimizer.num_done, "steps": optimizer.num_steps, "height": height, "width": width}
        left = 0.0 if state == "done" else self._seconds_left()
        write_progress(self._folder, replace(job, state=state, seconds_left=left, **facts))

    def _seconds_left(self) -> float | None:
        """By the pixels of the steps that are to come."""
        costs = [height * width for height, width in self._optimizer.sizes for _ in range(self._steps)]
        done = sum(costs[self._first : self._optimizer.num_done])
        if not done:
            return None
        return round((time.monotonic() - self._begun) * sum(costs[self._optimizer.num_done :]) / done, 1)

    def _check(self) -> None:
        """Raises _NotOurs."""
        try:
            ours = files.read_bytes(self._path(OWNER)).decode() == self._token
        except FileNotFoundError:
            ours = False
        if not ours or not files.exists(self._path(REQUEST)):
            raise _NotOurs

    def _path(self, name: str) -> str:
        return files.join(self._folder, self._id, name)
