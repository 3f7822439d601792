"""Dynamic batching: what waits for a model when it becomes free goes through it together.

Serve's own batching closes a batch some milliseconds after its first item came, also while the model is busy; under a
steady load its batches stay small and wait behind each other.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")


class Batcher(Generic[J, R]):
    """A queue in front of a model that works on one batch after the other; used in one event loop.

    A model that is idle begins at once with what comes, unless the batch before had several jobs: then others that
    were answered together with this one's sender will come again soon, and it waits for as many as there were.

    Args:
        run: makes one result for each job of a batch, in their order.
        most: jobs in a batch.
        wait_s: longest that an idle model waits for company.
        refuse: is shown a job as it comes, with how many wait, and when its turn has come, with 0; where it waits too
            long, gives the result of it, and no time is spent on it, else None.
    """

    def __init__(
        self,
        run: Callable[[list[J]], Awaitable[Sequence[R]]],
        *,
        most: int,
        wait_s: float,
        refuse: Callable[[J, int], R | None] = lambda job, before: None,
    ) -> None:
        self._run, self._most, self._wait_s, self._refuse = run, most, wait_s, refuse
        self._waiting: deque[tuple[J, asyncio.Future[R]]] = deque()
        self._last = 1
        self._came = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, job: J) -> R:
        """The result of a job; raises what `run` raised for its batch. A job whose asker is gone is not worked on."""
        refused = self._refuse(job, len(self._waiting))
        if refused is not None:
            return refused
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        self._came.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        await self._company()
        while batch := self._next():
            self._last = len(batch)
            jobs, futures = [job for job, _ in batch], [future for _, future in batch]
            try:
                results = await self._run(jobs)
            except Exception as error:
                _end(futures, [error] * len(futures))
            else:
                _end(futures, results)

    async def _company(self) -> None:
        """Wait for others, where the batch before had some."""
        expected = min(self._last, self._most)
        try:
            async with asyncio.timeout(self._wait_s):
                while len(self._waiting) < expected:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            pass

    def _next(self) -> list[tuple[J, asyncio.Future[R]]]:
        batch: list[tuple[J, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._most:
            job, future = self._waiting.popleft()
            if future.done():
                continue
            refused = self._refuse(job, 0)
            if refused is not None:
                future.set_result(refused)
            else:
                batch.append((job, future))
        return batch


def _end(futures: Sequence[asyncio.Future[R]], outcomes: Sequence[R | Exception]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():  # its asker went away meanwhile
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
