"""A workflow writes many requests at once: few activities, one result for each, nothing too large for Temporal."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import pytest
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from temporal_batching import BatchPolicy, MemorySink, SqlSink
from temporal_batching.audit import audit
from tests.support.databases import TestDatabase
from tests.support.many_callers import OneOfMany, OneResult
from tests.support.service import QUICK, Service, running
from tests.support.waiting import assert_eventually

GATEWAYS = ("batcher", "local")
TASK_FAILED: Final = "workflow_task_failed_event_attributes"


async def activities(service: Service, caller: WorkflowHandle[Any, Any]) -> Counter[str]:
    """The activities that a caller scheduled, by type."""
    events = [event async for event in service.client.get_workflow_handle(caller.id).fetch_history_events()]
    failed = [event.workflow_task_failed_event_attributes.cause for event in events if event.HasField(TASK_FAILED)]
    # The server's answer to a workflow that ends while an event arrives: the task is done again.
    assert set(failed) <= {WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND}
    return Counter(
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    )


async def pending(service: Service, number: int) -> None:
    async def check() -> None:
        assert sum(one.pending for one in await service.handle.stats()) == number

    await assert_eventually(check)


def outcomes(results: list[OneResult]) -> Counter[str]:
    return Counter(one.outcome for one in results)


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize(("uncached", "rows"), [(False, 1_000), (True, 300)], ids=["cached", "uncached"])
async def test_a_thousand_rows_cost_about_ten_activities_and_each_has_its_result_in_order(
    client: Client, gateway: str, uncached: bool, rows: int
) -> None:
    sink = MemorySink(reject=lambda request: "no" if request.records[0].values["n"] % 10 == 3 else None)
    options: dict[str, Any] = {"worker_options": {"max_cached_workflows": 0}} if uncached else {}
    async with running(client, sink, QUICK, **options) as service:
        wrong = [OneOfMany("", {"n": 1}), OneOfMany("entries", {"n": -1})]
        caller = await service.start_many(requests=wrong, count=rows, keys=7, gateway=gateway)
        results: list[OneResult] = await caller.result()
        scheduled = await activities(service, caller)
    assert set(scheduled) == {"batch_write_many"}
    assert scheduled.total() <= rows // 100 + 2
    assert [one.request_id for one in results[2:]] == [f"{service.name}-{n}" for n in range(rows)]
    assert [one.outcome for one in results[:2]] == ["WriteRejected", "written"]
    assert [one.outcome for one in results[2:]] == ["rejected" if n % 10 == 3 else "written" for n in range(rows)]
    numbers = [row["n"] for row in sink.rows["entries"] if row["n"] >= 0]
    assert sorted(numbers) == [n for n in range(rows) if n % 10 != 3]
    for key in range(7):
        of_key = [n for n in numbers if n % 7 == key]
        assert of_key == sorted(of_key), "parcels of one key overtook each other"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_large_rows_in_several_calls_are_never_too_much_for_one_workflow_task(
    client: Client, gateway: str
) -> None:
    """Twelve parcels of 400 KB in one workflow task would end the caller, by termination."""
    sink = MemorySink()
    async with running(client, sink, QUICK) as service:
        caller = await service.start_many(count=40, padding=39_000, calls=3, gateway=gateway)
        results: list[OneResult] = await caller.result()
        scheduled = await activities(service, caller)
    assert outcomes(results) == {"written": 120}
    assert len(sink.rows["entries"]) == 120
    assert scheduled["batch_write_many"] >= 12


async def test_rows_that_nearly_fill_a_request_each_are_written_one_by_one(client: Client) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=QUICK.linger, max_batch_bytes=1_500_000)
    async with running(client, sink, policy) as service:
        caller = await service.start_many(count=4, padding=1_400_000)
        assert outcomes(await caller.result()) == {"written": 4}


async def test_parcels_too_large_for_the_limits_in_force_are_cut_again(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, BatchPolicy(linger=QUICK.linger, max_batch_size=30)) as service:
        caller = await service.start_many(count=100, keys=1)
        results: list[OneResult] = await caller.result()
        scheduled = await activities(service, caller)
        knows = await service.start_many(count=100, keys=1, max_batch_size=30)
        again: list[OneResult] = await knows.result()
        cut_once = await activities(service, knows)
    assert (outcomes(results), outcomes(again)) == ({"written": 100}, {"duplicate": 100})
    assert [row["n"] for row in sink.rows["entries"]] == list(range(100))
    assert (scheduled["batch_write_many"], cut_once["batch_write_many"]) == (7, 4)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_caller_that_is_cancelled_withdraws_all_its_parcels(client: Client, gateway: str) -> None:
    sink = MemorySink()
    async with running(client, sink, QUICK, shards=3) as service:
        await service.handle.pause()
        leaves = await service.start_many(count=60, keys=20, gateway=gateway)
        bare = await service.start_many(requests=[OneOfMany("entries", {"n": -1})] * 15, gateway=gateway)
        await pending(service, 75)
        stays = await service.start_many(requests=[OneOfMany("entries", {"n": 7})])
        await pending(service, 76)
        for caller in (leaves, bare):
            await caller.cancel()
            with pytest.raises(WorkflowFailureError) as failure:
                await caller.result()
            assert isinstance(failure.value.cause, CancelledError)
        await pending(service, 1)
        await service.handle.resume()
        assert outcomes(await stays.result()) == {"written": 1}
        scheduled = await activities(service, leaves)
    assert scheduled["batch_withdraw"] == scheduled["batch_write_many"] >= 3
    assert sink.rows["entries"] == [{"n": 7}]


async def test_a_writer_with_the_wrong_number_of_shards_has_each_request_rejected(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, QUICK, shards=4) as service:
        caller = await service.start_many(count=20, keys=20, shards=1)
        results: list[OneResult] = await caller.result()
        without_keys = await service.start_many(count=20, shards=1)
        assert outcomes(await without_keys.result()) == {"written": 20}
    assert {(one.outcome, one.code) for one in results} == {("rejected", "invalid")}
    assert all("shards=4" in (one.reason or "") for one in results)
    assert len(sink.rows["entries"]) == 20


async def test_what_nobody_takes_or_nobody_writes_in_time_says_so_for_each(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, QUICK) as service:
        nowhere = await service.start_many(count=150, queue=f"{service.name}-nowhere", timeout=1.0)
        assert outcomes(await nowhere.result()) == {"WriteNotSubmitted": 150}
        await service.handle.pause()
        late = await service.start_many(count=150, timeout=8.0)
        assert outcomes(await late.result()) == {"expired": 150}
    assert not sink.rows


async def test_in_a_database_each_is_written_once_whatever_becomes_of_its_neighbours(
    client: Client, database: TestDatabase
) -> None:
    database.execute("CREATE TABLE entries (n INTEGER PRIMARY KEY, text VARCHAR(20))")
    async with running(client, SqlSink(database.url), QUICK, shards=2) as service:
        wrong = [
            OneOfMany("nowhere", {"n": 1}, f"{service.name}-table"),
            OneOfMany("entries", {"n": 5_000, "text": "first"}, f"{service.name}-first", "k"),
            OneOfMany("entries", {"n": 5_000, "text": "clash"}, f"{service.name}-clash", "k"),
        ]
        job: dict[str, Any] = {"requests": wrong, "count": 120, "keys": 9}
        first, second = await asyncio.gather(service.start_many(**job), service.start_many(**job))
        results: list[list[OneResult]] = [await first.result(), await second.result()]
        report = await audit(
            client,
            database.url,
            batcher=service.name,
            task_queue=service.queue,
            query=f"WorkflowId IN ('{first.id}', '{second.id}')",
        )
    for one in results:
        assert [(result.outcome, result.code) for result in one[:1]] == [("rejected", "unknown_table")]
        assert one[1].outcome in ("written", "duplicate")
        assert (one[2].outcome, one[2].code) == ("rejected", "constraint")
        assert {result.outcome for result in one[3:]} <= {"written", "duplicate"}
    assert database.scalar("SELECT count(*) FROM entries") == 121
    assert report.holds, report.violations
