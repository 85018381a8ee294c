"""The limits as they are without a setting, on a server that skips time.

It does not skip while an activity is open, so what waits here goes by signal.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from temporal_batching import BatchPolicy, MemorySink
from tests.support.callers import WAYS_IN
from tests.support.service import Service, entry, running
from tests.support.waiting import assert_eventually


async def lifetime(caller: WorkflowHandle[Any, Any]) -> float:
    """Seconds from a caller's start to its end, as the server counts them."""
    description = await caller.describe()
    assert description.close_time is not None
    return (description.close_time - description.start_time).total_seconds()


async def age(env: WorkflowEnvironment, caller: WorkflowHandle[Any, Any]) -> timedelta:
    """The time since a caller's start, as the server counts it."""
    return await env.get_current_time() - (await caller.describe()).start_time


async def pending(service: Service, requests: int) -> None:
    assert (await service.stats()).pending == requests


HOUR = timedelta(hours=1)


async def test_a_single_request_waits_20_seconds_for_more(skipping: WorkflowEnvironment) -> None:
    async with running(skipping.client, MemorySink(), BatchPolicy(), longest_caller=HOUR) as service:
        # Once a caller has ended, the server would go on skipping, up to the end of the shard's years.
        with skipping.auto_time_skipping_disabled():
            caller = await service.start("signal", [entry(1), entry(2)], timeout=120.0)
            await assert_eventually(lambda: pending(service, 2))
            await skipping.sleep(timedelta(seconds=19) - await age(skipping, caller))
            await pending(service, 2)
            await skipping.sleep(timedelta(seconds=2))
            results = await caller.result()
            stats = await service.stats()
    assert [one.outcome for one in results] == ["written"] * 2
    assert stats.batches_by_trigger == {"linger": 1}


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_a_hundred_requests_do_not_wait(skipping: WorkflowEnvironment, way_in: str) -> None:
    sink = MemorySink()
    async with running(skipping.client, sink, BatchPolicy(), longest_caller=HOUR) as service:
        with skipping.auto_time_skipping_disabled():
            results = await service.call(way_in, [entry(n) for n in range(100)], timeout=120.0)
            stats = await service.stats()
    assert {one.outcome for one in results} == {"written"}
    assert [len(batch) for batch in sink.batches] == [100]
    assert stats.batches_by_trigger == {"count": 1}


async def test_two_minutes_without_a_batch_end_a_write(skipping: WorkflowEnvironment) -> None:
    sink = MemorySink()
    async with running(skipping.client, sink, BatchPolicy(), longest_caller=HOUR) as service:
        await service.handle.pause()
        caller = await service.start("signal", [entry(1)], timeout=120.0)
        (result,) = await caller.result()
        assert 110 <= await lifetime(caller) <= 121
    assert result.error == "WriteExpired", result
    assert not sink.batches


async def test_a_batcher_that_never_comes_up_is_signalled_until_the_deadline_is_near(
    skipping: WorkflowEnvironment,
) -> None:
    async with running(skipping.client, MemorySink(), batcher=False, longest_caller=HOUR) as service:
        caller = await service.start("signal", [entry(1)], timeout=120.0)
        (result,) = await caller.result()
        assert 113 <= await lifetime(caller) <= 116, "the deadline is 5 s before the timeout"
    assert result.error == "WriteNotSubmitted"
    assert "15 attempts" in result.reason


async def test_no_deadline_of_its_own_means_two_minutes(skipping: WorkflowEnvironment) -> None:
    async with running(skipping.client, MemorySink(), BatchPolicy(), longest_caller=HOUR) as service:
        await service.handle.pause()
        wire = {"request_id": "r", "records": [{"table": "entries", "values": {"n": 1}}]}
        await service.shard().signal("add_write_request", wire)
        await skipping.sleep(timedelta(seconds=118))
        assert (await service.stats()).pending == 1
        await skipping.sleep(timedelta(seconds=4))
        assert (await service.stats()).outcomes == {"expired": 1}
