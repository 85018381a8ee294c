"""A caller that is cancelled withdraws its write; a caller that dies affects no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import CancelledError

from temporal_batching import BatchPolicy, MemorySink, Outcome
from temporal_batching.sinks.base import Batch
from tests.support.callers import EVERY_WAY_IN, Caller, Carry, Continuer, Listener, Write
from tests.support.service import QUICK, Service, entry, running
from tests.support.waiting import assert_eventually
from tests.support.ways import by_nexus_too

LONG = BatchPolicy(linger=timedelta(minutes=10))


async def pending(service: Service, number: int) -> None:
    async def check() -> None:
        assert (await service.stats()).pending == number

    await assert_eventually(check)


async def test_cancelled_while_pending_is_never_written(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        callers = [await service.start(way_in, [entry(1)]) for way_in in EVERY_WAY_IN]
        await pending(service, 4)
        neighbours = [await service.start(way_in, [entry(2)]) for way_in in EVERY_WAY_IN]
        await pending(service, 8)
        for number, caller in enumerate(callers, 1):
            await caller.cancel()
            with pytest.raises(WorkflowFailureError) as failure:
                await caller.result()
            assert isinstance(failure.value.cause, CancelledError)
            await pending(service, 8 - number)
        await service.handle.flush()
        assert [(await neighbour.result())[0].outcome for neighbour in neighbours] == ["written"] * 4
        assert (await service.stats()).outcomes == {"rejected": 4, "written": 4}
    assert sink.rows["entries"] == [{"n": 2}] * 4


async def test_cancelled_in_flight_the_outcome_stands(client: Client) -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    class Gated(MemorySink):
        async def write(self, batch: Batch) -> Sequence[Outcome]:
            started.set()
            await gate.wait()
            return await super().write(batch)

    sink = Gated()
    async with running(client, sink) as service:
        await service.handle.pause()
        callers = [await service.start(way_in, [entry(1)]) for way_in in EVERY_WAY_IN]
        await pending(service, 4)
        await service.handle.resume()
        await started.wait()
        assert (await service.stats()).in_flight == 4
        for caller in callers:
            await caller.cancel()
            with pytest.raises(WorkflowFailureError):
                await caller.result()
        gate.set()

        async def settled() -> None:
            assert (await service.stats()).outcomes == {"written": 4}

        await assert_eventually(settled)
    assert sink.rows["entries"] == [{"n": 1}] * 4


@by_nexus_too
async def test_an_id_that_was_withdrawn_too_late_is_a_duplicate_for_the_next_caller(
    client: Client, way_in: str
) -> None:
    """A cancellation that comes after the commit must not make a written id look withdrawn."""
    sink = MemorySink()
    async with running(client, sink) as service:
        write = Write([["entries", {"n": 1}]], request_id=f"{service.name}-1")
        assert (await service.call(way_in, [write]))[0].outcome == "written"
        await service.shard().signal("withdraw_write_request", args=[write.request_id, "somebody-else"])
        (again,) = await service.call(way_in, [write])
        assert (again.outcome, again.error) == ("duplicate", None)


@by_nexus_too
async def test_one_of_two_callers_with_the_same_id_may_leave(client: Client, way_in: str) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        write = Write([["entries", {"n": 1}]], request_id=f"{service.name}-1")
        leaves = await service.start(way_in, [write])
        await pending(service, 1)
        stays = await service.start(way_in, [write])
        other = await service.start(way_in, [entry(2)])
        await pending(service, 2)

        async def attached() -> None:  # two addresses for one request
            assert (await service.stats()).pending_bytes > 3 * 200

        await assert_eventually(attached)
        await leaves.cancel()
        with pytest.raises(WorkflowFailureError):
            await leaves.result()
        await service.handle.flush()
        assert (await stays.result())[0].outcome in ("written", "duplicate")
        assert (await other.result())[0].outcome == "written"
    assert sorted(row["n"] for row in sink.rows["entries"]) == [1, 2]


async def test_terminated_callers_do_not_disturb(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        gone = [await service.start(way_in, [entry(1)]) for way_in in EVERY_WAY_IN]
        callers = [await service.start(way_in, [entry(2)]) for way_in in EVERY_WAY_IN]
        await pending(service, 8)
        for caller in gone:
            await caller.terminate()
        await service.handle.flush()
        for caller in callers:
            assert (await caller.result())[0].outcome == "written"
        stats = await service.stats()
    assert stats.outcomes == {"written": 8}
    assert (stats.undelivered, stats.flush_failures) == (0, 0)


async def test_a_caller_that_continues_as_new_before_its_confirmation_is_still_notified(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        jobs = [
            service.job(way_in, [Write([["entries", {"n": 1}]], request_id=f"{service.name}-{way_in}")])
            for way_in in EVERY_WAY_IN
        ]
        callers = [await service.run(Continuer.run, Carry(job)) for job in jobs]
        await pending(service, 4)
        for caller in callers:
            await caller.signal(Continuer.go_on)

        async def all_asked_again() -> None:
            for caller in callers:
                description = await client.get_workflow_handle(caller.id).describe()
                assert description.run_id != caller.first_execution_run_id

        await assert_eventually(all_asked_again)

        async def flushed() -> None:
            await service.handle.flush()
            for caller in callers:
                assert (await client.get_workflow_handle(caller.id).describe()).status != 1

        await assert_eventually(flushed)
        for caller in callers:
            assert (await caller.result())[0].outcome in ("written", "duplicate")
    assert sink.rows["entries"] == [{"n": 1}] * 4


async def test_a_withdrawal_that_overtakes_its_request_is_remembered(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, QUICK) as service:
        request = {
            "request_id": "r",
            "records": [{"table": "entries", "values": {"n": 1}}],
            "reply_to": {"workflow_id": "w"},
        }
        await service.shard().signal("withdraw_write_request", args=["r", "w"])
        await service.shard().signal("add_write_request", request)

        async def refused() -> None:
            assert (await service.stats()).outcomes == {"rejected": 1}

        await assert_eventually(refused)
    assert not sink.rows


@by_nexus_too
async def test_a_withdrawal_after_the_write_does_not_meet_the_next_run_of_the_same_workflow(
    client: Client, way_in: str
) -> None:
    """Cancelled while its worker was down and its write was done; then started again under the same ids."""
    sink = MemorySink()
    async with running(client, sink) as service:
        write = Write([["entries", {"n": 1}]], request_id=f"{service.name}-1")
        await service.handle.pause()
        job = service.job(way_in, [write])
        first = await service.run(Caller.run, job, workflow_id=f"{service.name}-caller")
        await pending(service, 1)
        await service.stop_callers()
        await service.handle.resume()

        async def written() -> None:
            assert sink.rows.get("entries") == [{"n": 1}]

        await assert_eventually(written)
        await first.cancel()
        await service.start_callers()
        with contextlib.suppress(WorkflowFailureError):  # it may find its confirmation first
            await first.result()
        await service.shard().signal(
            "withdraw_write_request", args=[write.request_id, first.id, first.first_execution_run_id]
        )
        second = await service.run(Caller.run, job, workflow_id=first.id)
        (result,) = await second.result()
    assert (result.outcome, result.error) == ("duplicate", None)


async def test_a_withdrawal_before_its_request_does_not_meet_later_runs(client: Client) -> None:
    async with running(client, MemorySink()) as service:

        async def write(way_in: str) -> None:
            write = Write([["entries", {"n": 1}]], request_id=f"{service.name}-{way_in}")
            workflow_id = f"{service.name}-caller-{way_in}"
            for args in ([write.request_id, workflow_id, "an-earlier-run"], [write.request_id, workflow_id]):
                await service.shard().signal("withdraw_write_request", args=args)
            await service.shard().signal("withdraw_write_request", args=[write.request_id])
            caller = await service.run(Caller.run, service.job(way_in, [write]), workflow_id=workflow_id)
            (result,) = await caller.result()
            assert (result.outcome, result.error) == ("written", None), way_in

        await asyncio.gather(*map(write, EVERY_WAY_IN))


async def test_a_request_that_was_withdrawn_before_it_came_gets_the_ledgers_word(client: Client) -> None:
    """The same caller, the same id: an earlier submission of it was written."""
    sink = MemorySink()
    async with running(client, sink, QUICK) as service:
        listener = await service.run(Listener.run, 2)
        request = {
            "request_id": "r",
            "records": [{"table": "entries", "values": {"n": 1}}],
            "reply_to": {"workflow_id": listener.id},
        }
        await service.shard().signal("add_write_request", request)

        async def written() -> None:
            assert (await service.stats()).outcomes == {"written": 1}

        await assert_eventually(written)
        await service.shard().signal("withdraw_write_request", args=["r", listener.id])
        await service.shard().signal("add_write_request", request)
        first, second = await listener.result()
    assert (first["outcome"], second["outcome"]) == ("written", "duplicate")
