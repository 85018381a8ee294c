"""Without a cache every workflow task replays its run from the start: what is not deterministic would show."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from temporal_batching import BatchPolicy, MemorySink
from tests.support.callers import WAYS_IN, Listener
from tests.support.service import QUICK, count, entry, running
from tests.support.waiting import assert_eventually

UNCACHED = {"max_cached_workflows": 0}


async def test_writes_that_fail_and_succeed(client: Client) -> None:
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] % 2 else None)
    sink.fail_next(2)
    policy = BatchPolicy(linger=QUICK.linger, retry_initial=QUICK.retry_initial, max_batch_size=4)
    async with running(client, sink, policy, worker_options=UNCACHED) as service:
        writes = [entry(n) for n in range(6)]
        received = await asyncio.gather(*(service.call(way_in, writes) for way_in in WAYS_IN))
        events = await service.events()
    assert [[one.outcome for one in results] for results in received] == [["written", "rejected"] * 3] * len(WAYS_IN)
    assert count(events, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED) == 0


async def test_operating_withdrawing_and_expiring(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, worker_options=UNCACHED) as service:
        await service.handle.pause()
        leaving = [await service.start(way_in, [entry(1)]) for way_in in WAYS_IN]

        async def pending() -> None:
            assert (await service.stats()).pending == len(WAYS_IN)

        await assert_eventually(pending)
        for caller in leaving:
            await caller.cancel()
        late = await asyncio.gather(*(service.call(way_in, [entry(2)], timeout=8.0) for way_in in WAYS_IN))
        await service.handle.configure(BatchPolicy(linger=timedelta(milliseconds=50), max_batch_size=3))
        await service.handle.resume()
        writes = [entry(n) for n in range(3, 6)]
        received = await asyncio.gather(*(service.call(way_in, writes) for way_in in WAYS_IN))
        await service.handle.drain()
        stats = await service.stats()
        events = await service.events()
    # The second is for a caller whose confirmation is late on a slow machine: every task replays its run here.
    assert {one.error for (one,) in late} <= {"WriteExpired", "WriteNotConfirmed"}
    assert {one.outcome for results in received for one in results} == {"written"}
    assert stats.outcomes == {"rejected": 3, "expired": 3, "written": 9}
    assert count(events, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED) == 0


async def test_continuing_as_new_with_much_to_carry(continuing_client: Client) -> None:
    sink = MemorySink()
    sink.fail_next(3)
    async with running(continuing_client, sink, worker_options=UNCACHED) as service:
        listener = await service.run(Listener.run, 1)
        jobs = [service.call(way_in, [entry(n) for n in range(20)]) for way_in in WAYS_IN * 2]
        bad = {"request_id": "bad", "records": [], "reply_to": {"workflow_id": listener.id}}
        for _ in range(30):
            await service.shard().signal("stir")
        await service.shard().signal("add_write_request", bad)
        results = [one for part in await asyncio.gather(*jobs) for one in part]
        received = await listener.result()
        stats = await service.stats()
    assert {one.outcome for one in results} == {"written"}
    assert [answer["code"] for answer in received] == ["invalid"]
    assert stats.continue_as_new >= 1
    assert stats.outcomes == {"written": 120, "rejected": 1}
