"""What the replicas of every model share: a queue that makes batches, a self-test, a description."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ray import serve

from cnnray.config import ServeConfig
from cnnray.serve.batching import Batcher
from cnnray.serve.metrics import BatchMetrics

# Torch asks for huge pages then, and looks for this when it first makes a tensor. Activations of a batch are given back
# and asked for again all the time; a replica otherwise takes a hundred thousand page faults a second.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

R = TypeVar("R")

_SCALE_UP_SECONDS = 3.0
_RECENT = 0.2  # weight of the last batch in what a job takes


class Model(Protocol):
    """A model of `cnnray.infer`."""

    @property
    def name(self) -> str:
        """Changes when the weights do."""

    def describe(self) -> dict[str, Any]:
        """Fields of ModelInfo."""

    def self_test(self) -> None:
        """Answer, or raise."""


@dataclass(frozen=True)
class Job:
    """One image in the queue of its replica.

    Attributes:
        image, option: as the model has them.
        came: when it came to the replica, in seconds of time.perf_counter.
        asked: when its request came to the service, in seconds of time.time; None has no end of its patience.
    """

    image: bytes
    option: Any
    came: float
    asked: float | None = None


class Overdue:
    """In place of a result: the job waited so long for its turn that nothing was made of it."""


@dataclass(frozen=True)
class Done:
    """What a replica made of a job (or the image's error), and the milliseconds that it waited and its batch took."""

    model: str
    result: Any
    batch_size: int
    queue_ms: float
    inference_ms: float


class Replica:
    """A model behind a queue that makes batches; it exists only after a passed self-test.

    One thread does all its work. In a pool the model would now and then meet a thread that it has not been in, and what
    torch keeps for each, up to 8 MB, would be there once more.
    """

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.model = model
        self._metrics = BatchMetrics(type(self).__name__)
        self._thread = ThreadPoolExecutor(1, type(self).__name__)
        self._thread.submit(model.self_test).result()
        self._max_wait_s, self._max_queued = config.max_wait_s, config.max_queued
        self._job_s = 0.0  # that a job took lately
        self._batcher = Batcher(
            self._run,
            most=config.max_batch_size,
            wait_s=config.batch_wait_ms / 1000,
            refuse=self._refuse,
        )

    def answer(self, jobs: Sequence[Job]) -> list[Any]:
        """One result for each job, or its ImageError; in the replica's thread."""
        raise NotImplementedError

    async def ask(self, image: bytes, option: Any, asked: float | None = None) -> Done:
        """Answer within a batch of whatever else is waiting; `asked` as of `Job`."""
        return await self._batcher.ask(Job(image, option, time.perf_counter(), asked))

    async def in_turn(self, call: Callable[..., R], *args: Any) -> R:
        """What it returns, or raises, in the replica's thread, after what is at work there."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    async def self_test(self) -> None:
        """Answer after the batch that is at work, or raise."""
        await self.in_turn(self.model.self_test)

    async def describe(self) -> dict[str, Any]:
        """Fields of ModelInfo."""
        return self.model.describe()

    async def _run(self, jobs: list[Job]) -> list[Done]:
        began = time.perf_counter()
        results = await self.in_turn(self.answer, jobs)
        took, waited = 1000 * (time.perf_counter() - began), [1000 * (began - job.came) for job in jobs]
        self._metrics.count(waited, took)
        self._job_s += _RECENT * (took / 1000 / len(jobs) - self._job_s)
        return [
            Done(self.model.name, result, len(jobs), queue_ms, took)
            for result, queue_ms in zip(results, waited, strict=True)
        ]

    def _refuse(self, job: Job, before: int) -> Done | None:
        """The end of a job that has waited too long, or will have when `before` others are done."""
        if job.asked is None:
            return None
        waits = time.time() - job.asked + before * self._job_s
        if before < self._max_queued and waits <= self._max_wait_s:
            return None
        return Done(self.model.name, Overdue(), 0, 1000 * (time.perf_counter() - job.came), 0.0)


def deploy(name: str, replica: type[Replica], config: ServeConfig) -> Any:
    """The deployment of the model of that option: bounded queues, and what a replica reserves."""
    deployment = serve.deployment(
        name=replica.__name__,
        max_surge_percent=config.max_surge_percent,
        ray_actor_options={"num_cpus": 1, "num_gpus": config.gpu_share * config.gpu},
        **queues(config),
        **scaling(config, *config.replica_range(name)),
    )
    return deployment(replica).bind(config)


def queues(config: ServeConfig) -> dict[str, Any]:
    """Options of a deployment whose replicas hold what waits: theirs is the queue that knows how long the wait is.

    Serve's, in front of a replica, asks a full one again after ever longer pauses, in which it stands idle.
    """
    return {
        "max_ongoing_requests": config.max_ongoing + config.max_queued,
        "max_queued_requests": config.max_queued,
    }


def scaling(config: ServeConfig, low: int, high: int) -> dict[str, Any]:
    """Options of a deployment: so many replicas, or as many as what waits for them asks for.

    Half of a batch for each replica is aimed at: more wait, and there will be a full batch for one more.
    """
    if low == high:
        return {"num_replicas": low}
    return {
        "autoscaling_config": {
            "min_replicas": low,
            "initial_replicas": max(1, low),  # whatever is wrong with a model shows when it is deployed
            "max_replicas": high,
            "target_ongoing_requests": max(1.0, min(config.max_batch_size, config.max_ongoing) / 2),
            "upscale_delay_s": _SCALE_UP_SECONDS,
            "downscale_delay_s": config.scale_down_s,
            "downscale_to_zero_delay_s": 10 * config.scale_down_s,
        }
    }
