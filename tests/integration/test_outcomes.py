"""Every caller gets its own outcome, and many callers become few batches, whichever way in they use."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client

from temporal_batching import BatchClient, BatchPolicy, MemorySink, WriteRejected
from tests.support.callers import EVERY_WAY_IN, Write
from tests.support.service import entry, running
from tests.support.waiting import assert_eventually
from tests.support.ways import by_every_way_in, by_way_in


@by_every_way_in
async def test_many_callers_become_few_batches_and_each_receives_its_own_outcome(client: Client, way_in: str) -> None:
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] % 2 else None)
    async with running(client, sink, BatchPolicy(linger=timedelta(seconds=2))) as service:
        results = await service.call_each(way_in, [entry(n) for n in range(12)])
    assert [one.outcome for one in results] == ["written", "rejected"] * 6
    assert [one.error for one in results] == [None, "WriteRejected"] * 6
    assert sorted(row["n"] for row in sink.rows["entries"]) == list(range(0, 12, 2))
    # As many as the callers need seconds to start, on a machine that other tests use too.
    assert len(sink.batches) <= 6
    sizes = {batch.id: len(batch) for batch in sink.batches}
    assert all(one.batch_size == sizes[one.batch_id] for one in results)


async def test_records_of_one_request_are_written_together_or_not_at_all(client: Client) -> None:
    def reject(request: object) -> str | None:
        return "too many" if len(request.records) > 2 else None  # type: ignore[attr-defined]

    sink = MemorySink(reject=reject)
    pair = Write([["entries", {"n": 1}], ["balances", {"n": 1}]])
    triple = Write([["entries", {"n": 2}], ["balances", {"n": 2}], ["entries", {"n": 3}]])
    async with running(client, sink) as service:
        received = await asyncio.gather(*(service.call(way_in, [pair, triple]) for way_in in EVERY_WAY_IN))
    assert [[one.outcome for one in results] for results in received] == [["written", "rejected"]] * len(EVERY_WAY_IN)
    assert sink.rows == {table: [{"n": 1}] * len(EVERY_WAY_IN) for table in ("entries", "balances")}


@by_way_in("activity", "local")
async def test_while_an_id_is_pending_with_other_records_the_ledger_is_waited_for(client: Client, way_in: str) -> None:
    """The buffer knows one of two contents; which one the id belongs to only the ledger knows."""
    sink = MemorySink()
    async with running(client, sink) as service:
        mine, other = (Write([["entries", {"n": n}]], request_id="r") for n in (1, 2))
        assert (await service.call(way_in, [mine]))[0].outcome == "written"
        await service.handle.pause()
        thief = await service.start("signal", [other])

        async def pending() -> None:
            assert (await service.stats()).pending == 1

        await assert_eventually(pending)
        updates = (await service.stats()).run_updates
        again = await service.start(way_in, [mine])

        async def rejected_as_busy() -> None:
            assert (await service.stats()).run_updates > updates

        await assert_eventually(rejected_as_busy)
        await service.handle.resume()
        assert (await again.result())[0].outcome == "duplicate"
        assert (await thief.result())[0].code == "id_reused"
    assert sink.rows["entries"] == [{"n": 1}]


@by_way_in("activity", "local")
async def test_a_rejection_that_comes_between_two_attempts_of_its_caller_is_not_lost(
    client: Client, way_in: str
) -> None:
    sink = MemorySink(reject=lambda _: "no")
    async with running(client, sink) as service:
        await service.handle.pause()
        caller = await service.start(way_in, [entry(1)], timeout=20.0, attempt_timeout=1.0)

        async def is_between_two_attempts() -> None:
            pending = (await caller.describe()).raw_description.pending_activities
            # Two seconds of pause before the third attempt: enough for a flush.
            wanted = (3, PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED)
            assert [(one.attempt, one.state) for one in pending] == [wanted]

        await assert_eventually(is_between_two_attempts)
        await service.handle.resume()
        (result,) = await caller.result()
    assert (result.error, result.outcome) == ("WriteRejected", "rejected")


async def test_nor_is_one_that_comes_between_two_attempts_of_a_program(client: Client) -> None:
    sink = MemorySink(reject=lambda _: "no")
    async with running(client, sink) as service:
        await service.handle.pause()
        second = timedelta(seconds=1)
        program = BatchClient(client, service.name, task_queue=service.queue, attempt_timeout=second)
        write = asyncio.create_task(program.write("entries", {"n": 1}, timeout=20 * second))

        async def is_between_two_attempts() -> None:
            query = f"TaskQueue = '{service.queue}' AND ExecutionStatus = 'Running'"
            found = [one.activity_id async for one in client.list_activities(query)]
            states = [await client.get_activity_handle(one).describe() for one in found]
            wanted = (3, int(PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED))
            assert [(state.attempt, int(state.run_state or 0)) for state in states] == [wanted]

        await assert_eventually(is_between_two_attempts)
        await service.handle.resume()
        with pytest.raises(WriteRejected):
            await write


async def test_the_ledgers_status_is_the_outcome_that_the_caller_received(client: Client) -> None:
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] % 2 else None)
    async with running(client, sink) as service:
        writes = [entry(n) for n in range(4)]
        received = await asyncio.gather(*(service.call(way_in, writes) for way_in in EVERY_WAY_IN))
    results = [one for part in received for one in part]
    assert [one.outcome for one in results] == ["written", "rejected"] * 2 * len(EVERY_WAY_IN)
    assert {one.request_id: one.outcome for one in results} == {
        one.request_id: sink.ledger[one.request_id].status.value for one in results
    }
