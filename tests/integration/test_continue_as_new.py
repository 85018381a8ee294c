"""A shard continues as new while messages stream in: nothing is lost, nothing is written twice, all is carried over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus

import temporal_batching.batcher.workflow as batcher
from temporal_batching import BatchPolicy, MemorySink
from temporal_batching.batcher.shards import retry_while_not_ready
from temporal_batching.errors import SinkUnavailable
from temporal_batching.routing import batcher_workflow_id
from tests.support.callers import WAYS_IN, Listener, Write
from tests.support.service import QUICK, Service, count, entry, running
from tests.support.waiting import assert_eventually
from tests.support.ways import by_way_in

LONG = BatchPolicy(linger=timedelta(minutes=10))


async def runs(service: Service, shard: int = 0) -> list[list[HistoryEvent]]:
    """The history of every run of a shard, the oldest first."""
    found: list[list[HistoryEvent]] = []
    run_id: str | None = (await service.shard(shard).describe()).run_id
    while run_id:
        events = await service.events(shard, run_id=run_id)
        found.insert(0, events)
        run_id = events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return found


def request(number: int, **fields: Any) -> dict[str, Any]:
    return {"request_id": f"r-{number}", "records": [{"table": "entries", "values": {"n": number}}], **fields}


async def stream(service: Service, way: str, numbers: range, *, many: int = 1) -> None:
    """Sends requests one message after the other."""
    for start in range(numbers.start, numbers.stop, many):
        part = [request(n) for n in range(start, min(start + many, numbers.stop))]
        if way == "signal":
            await service.shard().signal("add_write_request", part)
        else:
            result = await retry_while_not_ready(lambda part=part: service.shard().execute_update("submit", part))  # type: ignore[misc]
            assert not result["refused"], result


async def test_signals_and_updates_stream_in_while_it_continues_as_new(continuing_client: Client) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=timedelta(milliseconds=20), max_batch_size=25)
    async with running(continuing_client, sink, policy) as service:
        await asyncio.gather(
            *(stream(service, "signal", range(start, start + 40)) for start in range(0, 160, 40)),
            *(stream(service, "update", range(start, start + 24), many=3) for start in range(1_000, 1_096, 24)),
        )
        callers = await asyncio.gather(*(service.call(way_in, [entry(2_000)] * 8) for way_in in WAYS_IN))

        async def settled() -> None:
            assert (await service.stats()).dedup_ids == 0

        await assert_eventually(settled, within=90)
        stats = await service.stats()
        histories = await runs(service)
    # An update that was sent again may have arrived before: its requests are duplicates then.
    assert set(stats.outcomes) <= {"written", "duplicate"}
    assert stats.outcomes["written"] == 280
    assert {one.outcome for part in callers for one in part} == {"written"}
    assert Counter(row["n"] for row in sink.rows["entries"]) == {
        **dict.fromkeys([*range(160), *range(1_000, 1_096)], 1),
        2_000: 24,
    }
    assert stats.continue_as_new == len(histories) - 1
    assert stats.continue_as_new >= 3
    failed = [task_failures(events) for events in histories]
    assert set().union(*failed) <= {
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,  # over 100 messages during one task
    }
    # Measured: 2 or 3 attempts and up to 133 events, also at a load of 8; a run that never gets away costs hundreds.
    assert max(sum(f.values()) for f in failed) <= 12, "a run must not fight long for its end"
    assert max(len(events) for events in histories) < 600, "a run goes on though it should end"


def task_failures(events: list[HistoryEvent]) -> Counter[Any]:
    return Counter(
        event.workflow_task_failed_event_attributes.cause
        for event in events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
    )


async def test_what_is_pending_is_carried_over_and_its_callers_are_notified(continuing_client: Client) -> None:
    sink = MemorySink()
    async with running(continuing_client, sink, LONG) as service:
        await service.handle.configure(BatchPolicy(linger=timedelta(minutes=10), max_batch_size=77))
        await service.handle.pause()
        callers = [await service.start(way_in, [entry(1), entry(2)], timeout=60.0) for way_in in WAYS_IN]

        async def pending() -> None:
            assert (await service.stats()).pending == 6

        await assert_eventually(pending)
        before = await service.stats()
        await stir(service, until=before.continue_as_new + 2)
        stats = await service.stats()
        assert (stats.pending, stats.dedup_ids, stats.paused) == (6, 6, True)
        assert stats.policy["max_batch_size"] == 77
        assert stats.malformed > before.malformed
        await service.stop_batcher()
        await service.start_batcher(policy=BatchPolicy(max_batch_size=66))
        assert (await service.stats()).policy["max_batch_size"] == 77, "the operator's word was forgotten"
        await service.handle.resume()
        await service.handle.flush()
        for caller in callers:
            assert [one.outcome for one in await caller.result()] == ["written"] * 2
    assert sorted(row["n"] for row in sink.rows["entries"]) == [1, 1, 1, 2, 2, 2]


async def stir(service: Service, *, until: int) -> None:
    """Makes history without writing anything, until the shard has continued as new so often."""
    async with asyncio.timeout(20):
        while (await service.stats()).continue_as_new < until:
            for _ in range(5):
                await service.shard().signal("stir")


async def test_a_batch_that_was_set_back_keeps_its_id_and_what_it_knows(continuing_client: Client) -> None:
    """It may have committed: under another id its rows would be called duplicates of somebody else's."""
    sink = MemorySink()
    sink.fail_next(1, committed=True)
    sink.fail_next(1_000, error=SinkUnavailable("down"))
    async with running(continuing_client, sink) as service:
        caller = await service.start("activity", [entry(1)], timeout=60.0)

        async def set_back() -> None:
            assert (await service.stats()).breaker == "open"

        await assert_eventually(set_back)
        await stir(service, until=2)
        stats = await service.stats()
        assert (stats.breaker, stats.sink_error) == ("open", "down")
        assert stats.pending + stats.in_flight == 1, "waiting, or just now in a probe"
        assert stats.flush_failures >= 2
        sink.stop_failing()
        (result,) = await caller.result()
        again = await service.call("activity", [Write([["entries", {"n": 1}]], request_id=result.request_id)])
    assert result.outcome == "written"
    assert result.batch_id == sink.batches[0].id
    assert again[0].outcome == "duplicate"
    assert sink.rows["entries"] == [{"n": 1}]


async def test_answers_not_delivered_yet_are_carried_over(continuing_client: Client) -> None:
    """Hundreds of requests expire at once, in a run that is about to end; each caller receives its outcome."""
    async with running(continuing_client, MemorySink(), LONG) as service:
        await service.handle.pause()
        listeners = [await service.run(Listener.run, 50) for _ in range(6)]
        deadline = time.time() + 2.0
        for number, listener in enumerate(listeners):
            numbers = range(50 * number, 50 * (number + 1))
            to = {"workflow_id": listener.id}
            part = [request(n, reply_to=to, expires_at=deadline) for n in numbers]
            await service.shard().signal("add_write_request", part)
        while time.time() < deadline + 0.5:
            await service.shard().signal("stir")
        received = [answer for listener in listeners for answer in await listener.result()]
        stats = await service.stats()
    assert Counter(answer["outcome"] for answer in received) == {"expired": 300}
    assert len({answer["request_id"] for answer in received}) == 300
    assert stats.outcomes == {"expired": 300}
    assert stats.continue_as_new > 1


async def test_an_idle_batcher_adds_no_history(client: Client) -> None:
    async with running(client, MemorySink(), BatchPolicy(linger=timedelta(milliseconds=300))) as service:
        await service.call("activity", [entry(1)])
        await service.call("signal", [entry(2)])

        async def quiet() -> None:
            first = len(await service.events())
            await asyncio.sleep(1.0)  # what must not happen has no condition to wait for
            assert len(await service.events()) == first

        await assert_eventually(quiet)
        events = await service.events()
        started = count(events, EventType.EVENT_TYPE_TIMER_STARTED)
        ended = count(events, EventType.EVENT_TYPE_TIMER_FIRED) + count(events, EventType.EVENT_TYPE_TIMER_CANCELED)
        assert started == ended, "a timer runs though nothing is pending"
        assert len(events) < 50


async def test_what_waits_does_not_spin(client: Client) -> None:
    """One timer for what waits, however many messages come in; none is set again and again."""
    async with running(client, MemorySink(), LONG) as service:
        for n in range(20):
            await service.shard().signal("add_write_request", request(n))
        await service.handle.pause()
        await service.handle.resume()
        await service.handle.pause()
        await asyncio.sleep(1.0)  # what must not happen has no condition to wait for
        events = await service.events()
    assert count(events, EventType.EVENT_TYPE_TIMER_STARTED) <= 2
    assert len(events) < 20 * 4 + 40


@by_way_in("activity", "signal")
async def test_runs_that_settle_nothing_end_in_one_that_stays_and_flushes(tiny_client: Client, way_in: str) -> None:
    """If Temporal suggests to every run to end before it did anything, the eleventh writes first."""
    sink = MemorySink()
    async with running(tiny_client, sink, LONG) as service:
        (result,) = await service.call(way_in, [entry(1)], timeout=60.0)
        assert result.outcome == "written"

        async def settled() -> None:
            stats = await service.stats()
            assert stats.outcomes == {"written": 1}

        await assert_eventually(settled)
        stats = await service.stats()
        assert stats.continue_as_new >= 10
        await quiet(service)
        assert (await service.shard().describe()).status == WorkflowExecutionStatus.RUNNING


async def test_a_runaway_that_is_paused_stays_and_says_so(tiny_client: Client) -> None:
    async with running(tiny_client, MemorySink(), LONG) as service:
        await service.handle.pause()
        caller = await service.start("signal", [entry(1)], timeout=60.0)

        async def stopped() -> None:
            stats = await service.stats()
            assert (stats.idle_cycles, stats.pending, stats.suggested) == (10, 1, True)

        await assert_eventually(stopped)
        await quiet(service)
        await service.handle.resume()
        assert (await caller.result())[0].outcome == "written"


async def quiet(service: Service) -> None:
    async def check() -> None:
        handle = service.client.get_workflow_handle(batcher_workflow_id(service.name, 0))
        first = await handle.describe()
        await asyncio.sleep(0.7)  # what must not happen has no condition to wait for
        then = await handle.describe()
        assert (first.run_id, first.history_length) == (then.run_id, then.history_length)

    await assert_eventually(check)


async def test_a_sink_that_is_down_does_not_make_a_shard_cycle(continuing_client: Client) -> None:
    """Each probe makes history, so runs end; the probes' pauses bound how often."""
    sink = MemorySink()
    sink.fail_next(1_000_000, error=SinkUnavailable("down", in_doubt=False))
    policy = BatchPolicy(
        linger=QUICK.linger, retry_initial=timedelta(milliseconds=10), retry_max=timedelta(milliseconds=100)
    )
    async with running(continuing_client, sink, policy) as service:
        caller = await service.start("activity", [entry(1)], timeout=60.0)

        async def cycled() -> None:
            assert (await service.stats()).continue_as_new >= 2

        await assert_eventually(cycled, within=30)
        stats = await service.stats()
        assert stats.flush_failures >= 3 * stats.continue_as_new
        sink.stop_failing()
        assert (await caller.result())[0].outcome == "written"


async def test_a_run_that_holds_too_much_to_end_refuses_before_its_history_is_full(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "MAX_SIGNALS_PER_RUN", 1)
    monkeypatch.setattr(batcher, "MAX_HISTORY_BYTES", 1_500_000)
    policy = BatchPolicy(linger=QUICK.linger)
    async with running(client, MemorySink(), policy) as service:
        await service.handle.pause()
        writes = [Write([["entries", {"n": n, "text": "x" * 150_000}]]) for n in range(16)]
        # Each caller signals one after the other.
        callers = [await service.start("signal", writes[n : n + 4], timeout=60.0) for n in range(0, 16, 4)]

        async def refused() -> None:
            stats = await service.stats()
            assert stats.pending + stats.refused == len(writes)

        await assert_eventually(refused, within=30)
        pending = (await service.stats()).pending
        await service.handle.resume()
        results = [one for caller in callers for one in await caller.result()]
    # How many of them are in history before the shard reads the first is the machine's to say.
    assert pending < len(writes)
    expected = Counter(written=pending, overloaded=len(writes) - pending)
    assert Counter(one.code or one.outcome for one in results) == expected
