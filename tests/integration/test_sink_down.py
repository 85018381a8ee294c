"""A sink that is unavailable costs time and nothing else; a deadline is kept all the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from temporal_batching import BatchPolicy, MemorySink, Outcome, Sink
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch
from tests.support.callers import WAYS_IN, CallerResult, Write
from tests.support.service import QUICK, Service, entry, running
from tests.support.waiting import assert_eventually

DOWN = 1_000_000


async def one_batch(service: Service, writes: int, **options: Any) -> list[list[CallerResult]]:
    """What a caller by each way in receives, whose writes are all in one batch."""
    await service.handle.pause()
    callers = [
        await service.start(way_in, [entry(10 * number + n) for n in range(writes)], **options)
        for number, way_in in enumerate(WAYS_IN)
    ]

    async def pending() -> None:
        assert (await service.stats()).pending == writes * len(WAYS_IN)

    await assert_eventually(pending)
    await service.handle.resume()
    return [await caller.result() for caller in callers]


async def test_a_failed_batch_is_retried_until_the_sink_is_available(client: Client) -> None:
    sink = MemorySink()
    sink.fail_next(3)
    async with running(client, sink) as service:
        results = await one_batch(service, 2)
        stats = await service.stats()
    assert [[one.outcome for one in part] for part in results] == [["written"] * 2] * len(WAYS_IN)
    assert (stats.breaker, stats.sink_error, stats.pending) == ("closed", None, 0)
    assert stats.flush_failures >= 3
    assert sorted(row["n"] for row in sink.rows["entries"]) == [0, 1, 10, 11, 20, 21]


async def test_the_breaker_opens_and_requests_keep_coming_in(client: Client) -> None:
    sink = MemorySink()
    sink.fail_next(DOWN, error=SinkUnavailable("no database today", in_doubt=False))
    async with running(client, sink) as service:
        first = await service.start("activity", [entry(1)])

        async def opened() -> None:
            stats = await service.stats()
            assert (stats.breaker, stats.sink_error) == ("open", "no database today")

        await assert_eventually(opened)
        second = await service.start("signal", [entry(2)])

        async def both_wait() -> None:
            assert (await service.stats()).pending == 2

        await assert_eventually(both_wait)
        sink.stop_failing()
        assert [(await caller.result())[0].outcome for caller in (first, second)] == ["written", "written"]
    assert [row["n"] for row in sink.rows["entries"]] == [1, 2]


async def test_a_commit_whose_answer_was_lost_is_not_repeated(client: Client) -> None:
    sink = MemorySink()
    sink.fail_next(2, committed=True)
    async with running(client, sink) as service:
        results = await one_batch(service, 1)
    assert [one.outcome for (one,) in results] == ["written"] * len(WAYS_IN)
    assert sorted(row["n"] for row in sink.rows["entries"]) == [0, 10, 20]


async def test_past_its_deadline_while_paused_a_request_expires_and_is_never_written(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink) as service:
        await service.handle.pause()
        callers = await asyncio.gather(*(service.start(way_in, [entry(1)], timeout=8.0) for way_in in WAYS_IN))
        late = [(await caller.result())[0] for caller in callers]
        await service.handle.resume()
        (later,) = await service.call("activity", [entry(2)])
        stats = await service.stats()
    assert [(result.error, result.outcome) for result in late] == [("WriteExpired", "expired")] * 3
    assert later.outcome == "written"
    assert sink.rows["entries"] == [{"n": 2}]
    assert stats.outcomes == {"expired": 3, "written": 1}


async def test_an_attempt_that_committed_has_the_last_word_over_the_deadline(client: Client) -> None:
    """No caller receives `expired` for a request that is in the database."""

    class LosesAnswers(MemorySink):
        up = False

        async def write(self, batch: Batch) -> Sequence[Outcome]:
            outcomes = await super().write(batch)
            if not self.up:
                raise SinkUnavailable("the answer was lost", in_doubt=True)
            return outcomes

        async def fence(self, batch: Batch) -> Sequence[Outcome]:
            if not self.up:
                raise SinkUnavailable("still down", in_doubt=True)
            return await super().fence(batch)

    sink = LosesAnswers()
    pause = timedelta(milliseconds=300)
    async with running(client, sink, BatchPolicy(linger=QUICK.linger, retry_initial=pause, retry_max=pause)) as service:
        # One batch: what waits behind another one's attempt is in no doubt, and expires.
        results = await one_batch(service, 1, timeout=10.0)
        assert [one.error for (one,) in results] == ["WriteNotConfirmed"] * len(WAYS_IN), results
        sink.up = True

        async def settled() -> None:
            assert (await service.stats()).outcomes == {"written": len(WAYS_IN)}

        await assert_eventually(settled)
    assert sorted(row["n"] for row in sink.rows["entries"]) == [0, 10, 20]


async def test_a_sink_that_breaks_on_one_request_keeps_that_one_waiting_and_fences_it_at_its_deadline(
    client: Client,
) -> None:
    class Fragile(MemorySink):
        async def write(self, batch: Batch) -> Sequence[Outcome]:
            if any(record.values["n"] == 3 for request in batch for record in request.records):
                raise ZeroDivisionError("three")
            return await super().write(batch)

    sink = Fragile()
    async with running(client, sink) as service:
        results = await service.call("activity", [entry(n) for n in range(6)], timeout=8.0)
        stats = await service.stats()
    assert [one.outcome for one in results] == ["written"] * 3 + ["expired"] + ["written"] * 2
    assert stats.sink_errors >= 1
    assert sorted(row["n"] for row in sink.rows["entries"]) == [0, 1, 2, 4, 5]


async def test_a_sink_that_miscounts_is_not_believed(client: Client) -> None:
    class Miscounts(Sink):
        calls = 0

        async def write(self, batch: Batch) -> Sequence[Outcome]:
            self.calls += 1
            return [Outcome.written()] * (len(batch) + (self.calls == 1))

    async with running(client, Miscounts()) as service:
        (result,) = await service.call("activity", [entry(1)])
        stats = await service.stats()
    assert result.outcome == "written"
    assert (stats.sink_errors, stats.retries, stats.flush_failures) == (1, 1, 0)


async def test_a_flush_that_hangs_is_given_up_and_retried(client: Client) -> None:
    class Hangs(MemorySink):
        calls = 0

        async def write(self, batch: Batch) -> Sequence[Outcome]:
            self.calls += 1
            if self.calls == 1:
                await asyncio.Event().wait()
            return await super().write(batch)

    policy = BatchPolicy(linger=QUICK.linger, retry_initial=QUICK.retry_initial, flush_timeout=timedelta(seconds=1))
    sink = Hangs()
    options: dict[str, Any] = {"graceful_shutdown_timeout": timedelta(seconds=0)}
    async with running(client, sink, policy, worker_options=options) as service:
        (result,) = await service.call("activity", [entry(1)])
    assert result.outcome == "written"
    assert sink.rows["entries"] == [{"n": 1}]


async def test_however_often_a_batch_is_tried_it_enters_history_once(client: Client) -> None:
    """A run that holds more than it can carry over stays until the sink is back: its history must not fill up."""
    sink = MemorySink()
    sink.fail_next(DOWN, error=SinkUnavailable("down", in_doubt=False))
    soon = timedelta(milliseconds=20)
    policy = BatchPolicy(linger=QUICK.linger, retry_initial=soon, retry_max=soon)
    text = "x" * 200_000
    writes = [Write([["entries", {"n": n, "text": text}]]) for n in range(7)]
    async with running(client, sink, policy) as service:
        await service.handle.pause()  # or slow arrivals make more batches, and each enters history once
        callers = [await service.start("activity", [write], timeout=80.0) for write in writes]
        tried = 0

        async def all_wait() -> None:
            assert (await service.stats()).pending == len(writes)

        await assert_eventually(all_wait)
        await service.handle.resume()

        async def tries(most: int) -> None:
            stats = await service.stats()
            assert stats.pending == len(writes) - stats.in_flight
            assert stats.flush_failures - tried >= most

        await assert_eventually(lambda: tries(5), every=0.2)
        before, tried = await _history_bytes(service), (await service.stats()).flush_failures
        await assert_eventually(lambda: tries(10), every=0.2)
        grown = await _history_bytes(service) - before
        sink.stop_failing()
        result = [(await caller.result())[0].outcome for caller in callers]
    assert grown < 200_000, "less than one request for ten tries of a batch of five"
    assert result == ["written"] * len(writes)
    assert sorted(row["n"] for row in sink.rows["entries"]) == list(range(len(writes)))


async def _history_bytes(service: Service) -> int:
    description = await service.shard().describe()
    return description.raw_description.workflow_execution_info.history_size_bytes


async def test_each_try_of_an_outage_is_one_line_in_the_workers_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MemorySink()
    sink.fail_next(3, error=SinkUnavailable("the server is away\nand says so\n\ton three lines", in_doubt=False))
    with caplog.at_level(logging.INFO):
        async with running(client, sink, QUICK) as service:
            assert [one.outcome for one in await service.call("activity", [entry(1)])] == ["written"]
            batch_id = f"{service.name}-0."
    printed = [logging.Formatter().format(record) for record in caplog.records]
    lines = [text for text in printed if "the server is away" in text]
    assert len(lines) == 3, "\n".join(lines)
    assert all("the server is away and says so on three lines" in text and batch_id in text for text in lines)
    assert not [text for text in lines if "\n" in text]
