"""A caller whose write cannot be submitted or confirmed receives what is certain, and no more."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from temporal_batching import BatchPolicy, MemorySink, WriteNotSubmitted
from temporal_batching.writers import writer
from tests.support.callers import FailingCaller
from tests.support.service import QUICK, count, entry, running
from tests.support.waiting import assert_eventually
from tests.support.ways import by_way_in


async def test_without_a_worker_on_the_batchers_queue_nothing_is_submitted(client: Client) -> None:
    async with running(client, MemorySink(), batcher=False) as service:
        caller = await service.start("activity", [entry()], timeout=2.0)
        with pytest.raises(WriteNotSubmitted):
            await service.writer.write("entries", {"n": 1}, timeout=timedelta(seconds=2))
        (result,) = await caller.result()
    assert result.error == "WriteNotSubmitted", result


async def test_without_a_batcher_worker_a_local_gateway_leaves_it_open_whether_it_arrived(client: Client) -> None:
    """The gateway's submission waits on the server for a worker; it may yet arrive."""
    sink = MemorySink()
    async with running(client, sink, batcher=False) as service:
        (result,) = await service.call("local", [entry()], timeout=2.0)
    assert result.error == "WriteNotConfirmed", result
    assert not sink.rows


async def test_once_handed_over_it_is_not_called_unsubmitted(client: Client) -> None:
    """The attempt that handed it over times out, the next finds no worker: the shard still has the request."""
    async with running(client, MemorySink()) as service:
        await service.handle.pause()
        caller = await service.start("activity", [entry()], timeout=4.0, attempt_timeout=1.0)

        async def handed_over() -> None:
            assert (await service.stats()).pending == 1

        await assert_eventually(handed_over)
        await service.stop_batcher()
        (result,) = await caller.result()
    assert result.error == "WriteNotConfirmed", result


async def test_signals_to_a_batcher_that_does_not_run_fail_after_retries(client: Client) -> None:
    async with running(client, MemorySink(), batcher=False) as service:
        (result,) = await service.call("signal", [entry()], timeout=2.5)
    assert result.error == "WriteNotSubmitted", result
    assert "2 attempts" in result.reason


async def test_a_batcher_that_comes_up_in_time_takes_the_signal(client: Client) -> None:
    async with running(client, MemorySink(), batcher=False) as service:
        caller = await service.start("signal", [entry()])
        await service.start_batcher()
        assert [result.outcome for result in await caller.result()] == ["written"]


async def test_a_batcher_that_comes_up_late_takes_the_signal_of_a_caller_that_still_waits(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "pause_before_retry", lambda _, **times: 0.05 if times["left"] > 1 else None)
    async with running(client, MemorySink(), batcher=False) as service:
        caller = await service.start("signal", [entry()], timeout=60.0)

        async def tried_often() -> None:
            events = [event async for event in caller.fetch_history_events()]
            assert count(events, EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED) > 8

        await assert_eventually(tried_often)
        await service.start_batcher()
        assert [result.outcome for result in await caller.result()] == ["written"]


async def test_a_worker_that_comes_up_in_time_takes_the_write(client: Client) -> None:
    async with running(client, MemorySink(), batcher=False) as service:
        callers = [await service.start(way_in, [entry()]) for way_in in ("activity", "local")]
        await service.start_batcher()
        for caller in callers:
            assert [result.outcome for result in await caller.result()] == ["written"]


@by_way_in("activity", "signal")
async def test_an_error_that_is_not_caught_fails_the_workflow_with_its_type(client: Client, way_in: str) -> None:
    async with running(client, MemorySink(reject=lambda _: "no")) as service:
        caller = await service.run(FailingCaller.run, service.job(way_in, [entry()]))
        with pytest.raises(WorkflowFailureError) as failure:
            await caller.result()
    cause = failure.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("WriteRejected", True)
    assert cause.details[0]["code"] == "constraint"


FULL = BatchPolicy(linger=QUICK.linger, max_pending=5, confirmation_timeout=timedelta(seconds=30))


@by_way_in("activity", "local")
async def test_a_write_by_activity_waits_while_the_buffer_is_full(client: Client, way_in: str) -> None:
    sink = MemorySink()
    async with running(client, sink, FULL) as service:
        await service.handle.pause()
        callers = [await service.start(way_in, [entry(n)]) for n in range(8)]

        async def turned_back() -> None:
            stats = await service.stats()
            assert stats.pending == 5

        await assert_eventually(turned_back)
        await service.handle.resume()
        results = [one for caller in callers for one in await caller.result()]
    assert [one.outcome for one in results] == ["written"] * 8
    assert len(sink.rows["entries"]) == 8


async def test_not_accepted_until_the_end_means_not_submitted(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, FULL) as service:
        await service.handle.pause()
        waiting = [await service.start("signal", [entry(n)]) for n in range(5)]

        async def full() -> None:
            assert (await service.stats()).pending == 5

        await assert_eventually(full)
        (result,) = await service.call("activity", [entry(9)], timeout=8.0)
        assert result.error == "WriteNotSubmitted", result
        assert "full" in result.reason
        await service.handle.resume()
        for caller in waiting:
            assert (await caller.result())[0].outcome == "written"
    assert {"n": 9} not in sink.rows["entries"]


async def test_a_write_by_signal_is_rejected_while_the_buffer_is_full(client: Client) -> None:
    async with running(client, MemorySink(), FULL) as service:
        await service.handle.pause()
        callers = [await service.start("signal", [entry(n)]) for n in range(8)]

        async def refused() -> None:
            assert (await service.stats()).refused == 3

        await assert_eventually(refused)
        await service.handle.resume()
        results = [one for caller in callers for one in await caller.result()]
    assert sorted(one.outcome for one in results) == ["rejected"] * 3 + ["written"] * 5
    assert {(one.error, one.code) for one in results if one.error} == {("WriteRejected", "overloaded")}
