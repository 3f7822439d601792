"""The deployment that keeps painting jobs: it takes them, has Ray tasks paint them, and outlives none of them.

All that there is of a job is in its folder. Where a task's process dies, Ray runs it again; where this replica dies,
its tasks end with it, and the next one goes on with all that are unfinished.
"""

import asyncio
import logging
import threading
import time
from typing import Any

import ray
from ray import serve

from cnnray.config import ServeConfig
from cnnray.errors import JobError
from cnnray.infer.stylize_job import paint_job
from cnnray.infer.stylize_jobs import StylizeJobs
from cnnray.serve.answers import outcome
from cnnray.serve.replica import queues

NAME = "stylize_jobs"
_TEND_SECONDS = 0.5
_SWEEP_SECONDS = 600.0
_RETRIES = 3  # of a task whose process dies
_AGAIN_SECONDS = 30.0  # after a disk that was full, say

logger = logging.getLogger("ray.serve")


class Jobs:
    """The replica: `StylizeJobs` in threads, and in one more what starts and looks after their tasks."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._jobs = StylizeJobs(
            config.stylize_jobs, most=config.stylize_jobs_most, keep_hours=config.stylize_jobs_keep_h
        )
        self._task: Any = ray.remote(max_retries=_RETRIES, num_cpus=1, num_gpus=int(config.gpu))(paint_job)
        self._running: dict[str, Any] = {}
        self._not_before: dict[str, float] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._tend, daemon=True).start()

    async def ask(self, what: str, /, *args: Any) -> Any:
        """What a method of `StylizeJobs` answers, or its error, which Ray would wrap if it were raised."""
        return await asyncio.to_thread(outcome, getattr(self._jobs, what), *args)

    async def self_test(self) -> None:
        """Look at the folder, or raise StorageError."""
        await asyncio.to_thread(self._jobs.unfinished)

    def _tend(self) -> None:
        swept = -_SWEEP_SECONDS
        while not self._ended.wait(_TEND_SECONDS):
            try:
                self._reap()
                self._cancel()
                self._start()
                if time.monotonic() - swept > _SWEEP_SECONDS:
                    swept = time.monotonic()
                    self._jobs.sweep()
            except Exception:  # of whatever kind: without this thread no job would be painted
                logger.exception("painting jobs: upkeep failed")

    def _reap(self) -> None:
        """Look at what has ended."""
        for id, task in list(self._running.items()):
            if ray.wait([task], timeout=0)[0]:
                del self._running[id]
                self._judge(id, task)

    def _cancel(self) -> None:
        """Stop what was deleted, also what waits for a core; a job that is done may still be tidying up."""
        for id, task in self._running.items():
            if isinstance(outcome(self._jobs.get, id), JobError):
                ray.cancel(task)

    def _judge(self, id: str, task: Any) -> None:
        try:
            ray.get(task)
        except ray.exceptions.TaskCancelledError:
            return
        except ray.exceptions.RayTaskError as error:
            logger.warning("painting job %s waits %g s: %s", id, _AGAIN_SECONDS, error)
            self._not_before[id] = time.monotonic() + _AGAIN_SECONDS
        except ray.exceptions.RayError as error:
            logger.error("painting job %s failed: %s", id, error)
            self._jobs.fail(id, "crashed", f"its process died {_RETRIES + 1} times; the service's log has more")

    def _start(self) -> None:
        device = "cuda" if self._config.gpu else "cpu"
        for job in self._jobs.unfinished():
            if len(self._running) >= self._config.stylize_jobs_at_once:
                return
            if job.id not in self._running and time.monotonic() >= self._not_before.get(job.id, 0.0):
                self._running[job.id] = self._task.remote(self._jobs.folder, job.id, device)

    def __del__(self) -> None:
        self._ended.set()


def deploy(config: ServeConfig) -> Any:
    """The deployment, bound to its options: one replica, since one keeps the folder; tasks reserve what they take."""
    deployment = serve.deployment(
        name="StylizeJobs",
        num_replicas=1,
        **queues(config),
        ray_actor_options={"num_cpus": 0},
    )
    return deployment(Jobs).bind(config)
