"""The queue in front of a model, with a model that takes as long as the test says."""

import asyncio

import pytest

from cnnray.serve.batching import Batcher


class Model:
    """Doubles numbers; keeps the batches that it saw, and works on each until the test lets it go on."""

    def __init__(self, **options):
        self.batches, self.go = [], asyncio.Event()
        self.batcher = Batcher(self.run, **{"most": 4, "wait_s": 0.05} | options)

    async def run(self, jobs):
        self.batches.append(jobs)
        await self.go.wait()
        return [2 * job for job in jobs]

    def ask(self, *jobs):
        return [asyncio.ensure_future(self.batcher.ask(job)) for job in jobs]


def test_what_waits_while_the_model_works_goes_together_and_never_more_than_fit():
    async def scenario():
        model = Model()
        asked = model.ask(1)
        await asyncio.sleep(0.01)
        asked += model.ask(2, 3, 4, 5, 6, 7)
        await asyncio.sleep(0.01)
        model.go.set()
        assert await asyncio.gather(*asked) == [2, 4, 6, 8, 10, 12, 14]
        assert model.batches == [[1], [2, 3, 4, 5], [6, 7]]

    asyncio.run(scenario())


def test_one_after_the_other_never_waits_for_company():
    async def scenario():
        model = Model(wait_s=60)
        model.go.set()
        async with asyncio.timeout(5):
            for number in range(20):
                assert await model.batcher.ask(number) == 2 * number
        assert model.batches == [[number] for number in range(20)]

    asyncio.run(scenario())


def test_after_a_batch_an_idle_model_waits_for_as_many_as_there_were():
    async def scenario():
        model = Model(wait_s=60)
        model.go.set()
        await asyncio.gather(*model.ask(1, 2, 3))
        assert model.batches == [[1, 2, 3]] or model.batches == [[1], [2, 3]]
        model.batches.clear()
        first = model.ask(4)
        await asyncio.sleep(0.02)
        assert model.batches == []  # there is company to come
        async with asyncio.timeout(5):
            await asyncio.gather(*first, *model.ask(5, 6))
        assert sum(model.batches, []) == [4, 5, 6] and len(model.batches[0]) > 1

    asyncio.run(scenario())


def test_company_that_does_not_come_is_not_waited_for_long():
    async def scenario():
        model = Model(wait_s=0.01)
        model.go.set()
        await asyncio.gather(*model.ask(1, 2, 3, 4))
        async with asyncio.timeout(1):
            assert await model.batcher.ask(5) == 10

    asyncio.run(scenario())


def test_a_fault_is_everyones_of_its_batch_and_nobody_elses():
    async def scenario():
        async def run(jobs):
            if 3 in jobs:
                raise RuntimeError("three")
            await asyncio.sleep(0.01)
            return jobs

        batcher = Batcher(run, most=2, wait_s=0)
        asked = [asyncio.ensure_future(batcher.ask(job)) for job in (1, 2, 3, 4, 5)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(one) for one in found if isinstance(one, Exception)] == ["three", "three"]
        assert found[0] == 1 and found[-1] == 5
        assert await batcher.ask(6) == 6

    asyncio.run(scenario())


def test_jobs_whose_askers_are_gone_are_passed_over():
    async def scenario():
        model = Model()
        first = model.ask(1)
        await asyncio.sleep(0.01)
        gone, stays = model.ask(2, 3)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.go.set()
        assert await asyncio.gather(*first, stays) == [2, 6]
        assert model.batches == [[1], [3]]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(scenario())


def test_who_leaves_while_the_model_works_spoils_nothing():
    async def scenario():
        model = Model()
        leaving, staying = model.ask(1), None
        await asyncio.sleep(0.01)
        staying = model.ask(2)
        leaving[0].cancel()
        model.go.set()
        assert await staying[0] == 4

    asyncio.run(scenario())


def test_jobs_that_waited_too_long_are_refused_without_work():
    async def scenario():
        late = set()
        model = Model(refuse=lambda job, before: -job if job in late else None)
        asked = model.ask(1)
        await asyncio.sleep(0.01)
        asked += model.ask(2, 3, 4)
        late |= {1, 3}
        model.go.set()
        assert await asyncio.gather(*asked) == [2, 4, -3, 8]
        assert model.batches == [[1], [2, 4]]

    asyncio.run(scenario())


def test_jobs_that_would_wait_too_long_are_refused_as_they_come():
    async def scenario():
        model = Model(refuse=lambda job, before: -job if before >= 2 else None)
        asked = model.ask(1)
        await asyncio.sleep(0.01)
        asked += model.ask(2, 3, 4)
        await asyncio.sleep(0.01)
        assert asked[3].done() and asked[3].result() == -4
        model.go.set()
        assert await asyncio.gather(*asked) == [2, 4, 6, -4]

    asyncio.run(scenario())
