"""Asking a model for several images: what becomes of the others when there is no time for the first."""

import asyncio
from types import SimpleNamespace

import pytest

from cnnray.serve.answers import ask_all
from cnnray.serve.batching import Batcher
from cnnray.serve.problems import Refusal
from cnnray.serve.replica import Done, Overdue


class Response:
    """As Serve's: goes on when whoever awaits it is cancelled, until it is cancelled itself."""

    def __init__(self, work):
        self._task = asyncio.ensure_future(work)

    def __await__(self):
        return asyncio.shield(self._task).__await__()

    def cancel(self):
        self._task.cancel()


class Model:
    """A replica's queue behind a handle; a batch takes 20 ms, and only `room` jobs may wait when one comes."""

    def __init__(self, room):
        self.worked_on, self.room = [], room
        self.ask = SimpleNamespace(remote=lambda *job: Response(self._batcher().ask(job)))
        self._made = None

    def _batcher(self):
        self._made = self._made or Batcher(self._run, most=4, wait_s=0.0, refuse=self._refuse)
        return self._made

    async def _run(self, jobs):
        self.worked_on += [image for image, _, _ in jobs]
        await asyncio.sleep(0.02)
        return [Done("m", image, len(jobs), 0.0, 0.0) for image, _, _ in jobs]

    def _refuse(self, job, before):
        return Done("m", Overdue(), 0, 0.0, 0.0) if job[2] is not None and before >= self.room else None


def ask(models, *requests):
    async def main():
        asked = []
        for images in requests:
            request = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(models=models)))
            asked.append(asyncio.ensure_future(ask_all(request, "m", images, None)))
            await asyncio.sleep(0)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.2)  # whatever still waits would be worked on
        return answers

    return asyncio.run(main())


def test_all_images_are_answered_in_their_order():
    model = Model(room=100)
    (answer,) = ask({"m": model}, [b"%d" % number for number in range(9)])
    assert [done.result for done in answer] == model.worked_on == [b"%d" % number for number in range(9)]


def test_a_request_that_is_refused_costs_the_model_nothing():
    model = Model(room=3)
    first, second, third = ask({"m": model}, [b"a"] * 8, [b"b"] * 8, [b"c"] * 8)
    assert len(first) == 8
    for refused in (second, third):
        assert isinstance(refused, Refusal) and refused.code == "busy"
    assert model.worked_on == [b"a"] * 8


def test_a_caller_who_is_gone_costs_the_model_nothing():
    model = Model(room=100)

    async def main():
        request = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(models={"m": model})))
        asked = asyncio.ensure_future(ask_all(request, "m", [b"a"] * 40, None))
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0.2)

    asyncio.run(main())
    assert 0 < len(model.worked_on) <= 8
