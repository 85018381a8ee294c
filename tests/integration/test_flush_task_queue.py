"""Flushes on a task queue of their own: other workers than the batcher's, a rate limit, and what goes wrong there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_batching import BatcherHandle, BatcherPlugin, BatchPolicy, FlushPlugin, MemorySink, Record, SqlSink
from temporal_batching.batcher import flush_failures
from temporal_batching.contract import ACTIVITY_FLUSH, Outcome, ReturnedRow
from temporal_batching.health import Finding, check
from temporal_batching.sinks.base import Batch
from temporal_batching.testing.servers import find_temporal
from tests.support.callers import EVERY_WAY_IN, Write
from tests.support.databases import TestDatabase
from tests.support.service import QUICK, Service, entry, running
from tests.support.waiting import assert_eventually

NO_LINGER = BatchPolicy(linger=timedelta(0), max_batch_size=1, retry_initial=timedelta(seconds=0.1))


def flushes(events: list[HistoryEvent]) -> list[HistoryEvent]:
    scheduled = [event for event in events if event.HasField("activity_task_scheduled_event_attributes")]
    return [
        event
        for event in scheduled
        if event.activity_task_scheduled_event_attributes.activity_type.name == ACTIVITY_FLUSH
    ]


async def queues(service: Service) -> set[str]:
    """The task queues that the shard has sent flushes to."""
    return {event.activity_task_scheduled_event_attributes.task_queue.name for event in flushes(await service.events())}


def levels(findings: list[Finding]) -> dict[str, str]:
    return {one.subject: str(one.level) for one in findings}


async def test_workers_of_their_own_flush_what_came_by_every_way_in(client: Client, database: TestDatabase) -> None:
    """The batcher's workers have no sink: not for a write, a retry, a reference to a parcel, or a returned value."""
    database.execute("CREATE TABLE entries (n integer PRIMARY KEY, text varchar(20) DEFAULT 'set')")
    async with running(client, SqlSink(database.url), flush_apart=True) as service:
        for number, way_in in enumerate(EVERY_WAY_IN):
            written = Write([["entries", {"n": number}, ["text"]]])
            (result,) = await service.call(way_in, [written])
            assert (result.outcome, result.returned) == ("written", [{"text": "set"}])
        records = [Record("entries", {"n": n}, returning=["text"]) for n in range(100, 130)]
        results = await service.writer.write_many(records)
        assert [one.outcome for one in results] == ["written"] * 30  # type: ignore[union-attr]
        assert await queues(service) == {service.flush_queue}
        assert (await service.stats()).flush_task_queue == service.flush_queue
        found = levels(await check(service.client, service.handle))
        assert {found[subject] for subject in ("queue", "flush queue", "worker", "sink", "ledger")} == {"ok"}
    assert database.scalar("SELECT count(*) FROM entries") == len(EVERY_WAY_IN) + 30


class ReturnsMuch(MemorySink):
    """Returns more than it is sent: a parcel ends long before a receipt of what was sent with it is full."""

    read = 0

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        outcomes = await super().write(batch)
        return [replace(outcome, returned=[{"text": "x" * 9_000}]) for outcome in outcomes]

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        self.read += len(request_ids)
        return {request_id: [{"text": "x" * 9_000}] for request_id in request_ids}


async def test_what_one_receipt_does_not_hold_is_read_from_the_workers_that_flush(client: Client) -> None:
    policy = BatchPolicy(linger=timedelta(milliseconds=100), max_batch_size=200)
    sink = ReturnsMuch()
    async with running(client, sink, policy, flush_apart=True) as service:
        records = [Record("entries", {"n": n, "text": ""}, returning=["text"]) for n in range(150)]
        results = await service.writer.write_many(records)
        assert {len(one.returned[0]["text"]) for one in results} == {9_000}  # type: ignore[union-attr, index]
    assert 0 < sink.read < len(records)


async def test_a_worker_with_a_sink_polls_the_queue_itself_and_a_shard_that_a_gateway_starts_is_told(
    client: Client,
) -> None:
    sink = MemorySink()
    queue = "flushes-of-their-own"
    options = {"flush_task_queue": queue, "start_shards": False}
    async with running(client, sink, plugin_options=options) as service:
        assert [one.outcome for one in await service.call("local", [entry(1)])] == ["written"]
        assert await queues(service) == {queue}
        # An operator who starts it knows the policy and not the queue.
        await service.shard().terminate()
        await service.handle.start(QUICK)
        assert [one.outcome for one in await service.call("signal", [entry(2)])] == ["written"]
        assert (await service.stats()).flush_task_queue == queue
        found = levels(await check(client, service.handle))
        assert {found[subject] for subject in ("flush queue", "worker", "sink", "ledger")} == {"ok"}
        # Back on the batcher's own queue, over the operator's policy.
        await service.handle.configure(NO_LINGER)
        await BatcherHandle(client, service.name, task_queue=service.queue, flush_task_queue="").announce(QUICK)
        assert [one.outcome for one in await service.call("activity", [entry(3)])] == ["written"]
        assert await queues(service) == {queue, service.queue}
        assert (await service.stats()).policy["linger"] == 0


async def test_a_queue_that_no_worker_polls_is_named_and_nothing_is_lost(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush_failures, "UNTAKEN_AFTER", timedelta(seconds=1))
    async with running(client, MemorySink(), NO_LINGER) as service:

        def announcing(flush_task_queue: str) -> BatcherHandle:
            return BatcherHandle(client, service.name, task_queue=service.queue, flush_task_queue=flush_task_queue)

        await announcing(service.flush_queue).announce(NO_LINGER)
        waiting = await service.start("activity", [entry(1)], timeout=80.0)

        async def named() -> None:
            stats = await service.stats()
            assert (stats.breaker, service.flush_queue in (stats.sink_error or "")) == ("open", True)

        await assert_eventually(named)
        found = await check(client, service.handle)
        (queue,) = [one for one in found if one.subject == "flush queue"]
        assert (queue.level, f"no worker polls '{service.flush_queue}', so nothing is written" in queue.text) == (
            "failed",
            True,
        )
        # One of another batcher on this queue refuses the flush, and says so.
        other = FlushPlugin(MemorySink(), name="other")
        async with Worker(client, task_queue=service.flush_queue, plugins=[other]):

            async def refused() -> None:
                assert "'other'" in ((await service.stats()).sink_error or "")

            await assert_eventually(refused)
        await announcing("").announce(NO_LINGER)
        assert [one.outcome for one in await waiting.result()] == ["written"]


async def test_temporals_own_rate_limit_of_the_queue_holds_for_all_flushes(client: Client) -> None:
    async with running(client, MemorySink(), NO_LINGER, flush_apart=True) as service:
        address = client.service_client.config.target_host
        process = await asyncio.create_subprocess_exec(
            *(str(find_temporal()), "task-queue", "config", "set", "--address", address),
            *("--task-queue", service.flush_queue, "--task-queue-type", "activity"),
            *("--queue-rps-limit", "2", "--queue-rps-limit-reason", "the database takes no more"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
        results = await service.call("activity", [entry(n) for n in range(10)], timeout=80.0)
        assert [one.outcome for one in results] == ["written"] * 10
        events = await service.events()
        started = [event for event in events if event.HasField("activity_task_started_event_attributes")]
        moments = sorted(event.event_time.ToNanoseconds() / 1e9 for event in started)
        assert len(flushes(events)) == len(moments) == 10
        # Each of the queue's four partitions lets one go at once; the others come at two a second.
        assert moments[-1] - moments[0] >= 1.5
        assert (await service.stats()).flush_failures == 0


async def test_a_plugin_of_the_client_adds_its_second_worker_once(client: Client) -> None:
    async with running(client, MemorySink(), batcher=False) as service:
        plugin = BatcherPlugin(service.sink, policy=QUICK, name=service.name, flush_task_queue=service.flush_queue)
        config = client.config()
        config["plugins"] = [*config["plugins"], plugin]
        async with Worker(Client(**config), task_queue=service.queue):
            assert [one.outcome for one in await service.call("activity", [entry(1)])] == ["written"]
            assert await queues(service) == {service.flush_queue}


async def test_a_worker_that_stops_finishes_the_flush_on_the_other_queue(client: Client) -> None:
    class Slow(MemorySink):
        def __init__(self) -> None:
            super().__init__()
            self.writing, self.may_write = asyncio.Event(), asyncio.Event()

        async def write(self, batch):  # type: ignore[no-untyped-def]
            self.writing.set()
            await self.may_write.wait()
            return await super().write(batch)

    sink = Slow()
    options = {"flush_task_queue": "finishes-its-flush"}
    async with running(client, sink, NO_LINGER, plugin_options=options) as service:
        caller = await service.start("activity", [entry(1)])
        await sink.writing.wait()
        stopping = asyncio.create_task(service.stop_batcher())
        await asyncio.sleep(0)
        sink.may_write.set()
        await stopping
        assert [one.outcome for one in await caller.result()] == ["written"]


def test_a_batcher_without_sink_or_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="without a sink, flush_task_queue names"):
        BatcherPlugin(None)
    with pytest.raises(ValueError, match="flush_task_queue ' ': a name"):
        BatcherPlugin(MemorySink(), flush_task_queue=" ")


async def test_the_workers_own_queue_is_no_queue_of_its_own(client: Client) -> None:
    with pytest.raises(ValueError, match="is this worker's own task queue"):
        Worker(client, task_queue="q", plugins=[BatcherPlugin(MemorySink(), flush_task_queue="q")])
