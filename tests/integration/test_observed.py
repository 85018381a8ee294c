"""Metrics and probes of a real worker, through an outage of its database; and a check of all that a batcher needs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from temporal_batching import BatcherHandle, BatcherPlugin, MemorySink, SqlSink
from temporal_batching.health import Finding, check
from temporal_batching.metrics import METRICS
from temporal_batching.testing.servers import free_port
from tests.support.databases import TestDatabase
from tests.support.observing import get, observed, unreachable
from tests.support.service import QUICK, entry, running
from tests.support.waiting import assert_eventually


async def test_metrics_move_and_probes_tell_while_the_database_is_down(
    client: Client, postgresql: TestDatabase
) -> None:
    async with observed(client, postgresql) as worker:
        service = worker.service

        async def ready() -> None:
            status, body = await worker.probe("/readyz")
            assert status == 200, body

        async def asked() -> None:
            assert await worker.value("batching_shard_up") == 1

        await assert_eventually(ready)
        await assert_eventually(asked)  # a counter grows by what comes after the first answer of its shard
        results = await service.call("activity", [entry(n) for n in (1, 2, 3, 5000)])
        assert [one.outcome for one in results] == ["written", "written", "written", "rejected"]

        async def counted() -> None:
            assert await worker.value("batching_shard_requests_total", outcome="written") == 3
            assert await worker.value("batching_shard_requests_total", outcome="rejected") == 1
            assert await worker.value("batching_shard_up") == 1

        await assert_eventually(counted)
        # Every metric is there, before anything has gone wrong: an alert needs the zero that comes before the one.
        published = await worker.scraped()
        families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in published}
        assert {metric.name for metric in METRICS} <= families
        written = await worker.value("batching_flushes_total", result="settled")
        assert await worker.value("batching_batch_records_sum") == 4
        assert await worker.value("batching_write_seconds_count") == written
        assert await worker.value("batching_sink_rows_total") >= 3

        with unreachable(postgresql):
            waiting = await service.start("signal", [entry(7)])

            async def seen() -> None:
                assert await worker.value("batching_shard_breaker_open") == 1
                assert await worker.value("batching_shard_pending_requests") == 1
                assert await worker.value("batching_shard_oldest_request_seconds") > 0
                assert await worker.value("batching_shard_flush_failures_total") >= 2
                assert await worker.value("batching_flushes_total", result="failed") >= 2
                status, body = await worker.probe("/readyz")
                assert (status, "sink: not ready, postgresql: " in body) == (503, True), body

            await assert_eventually(seen)
            assert await worker.probe("/healthz") == (200, "alive\n")
            found = await check(service.client, service.handle, sink=SqlSink(postgresql.url, create_ledger=False))
            assert [(one.subject, one.level) for one in found if one.level != "ok"] == [
                ("shard 0", "failed"),
                ("sink", "failed"),
                ("sink", "failed"),
            ]
        assert [one.outcome for one in await waiting.result()] == ["written"]
        await assert_eventually(ready)

        async def over() -> None:
            assert await worker.value("batching_shard_breaker_open") == 0
            assert await worker.value("batching_shard_pending_requests") == 0

        await assert_eventually(over)
        assert await worker.value("batching_wait_seconds_sum") > 0.1

        await service.shard().terminate()

        async def silent() -> None:
            assert await worker.value("batching_shard_up") == 0
            assert math.isnan(await worker.value("batching_shard_breaker_open"))

        await assert_eventually(silent)


async def test_a_worker_is_alive_before_its_sink_is_open_and_not_ready_once_it_is_to_stop(client: Client) -> None:
    class Slow(MemorySink):
        def __init__(self) -> None:
            super().__init__()
            self.may_open, self.may_close = asyncio.Event(), asyncio.Event()

        async def open(self) -> None:
            await self.may_open.wait()

        async def close(self) -> None:
            await self.may_close.wait()

    sink, address = Slow(), f"127.0.0.1:{free_port()}"
    queue = f"health-{free_port()}"
    plugin = BatcherPlugin(sink, name=queue, start_shards=False, health=address)
    worker = Worker(client, task_queue=queue, plugins=[plugin])
    running_worker = asyncio.create_task(worker.run())

    async def says(status: int, detail: str) -> None:
        code, body = await get(f"http://{address}/readyz")
        assert (code, detail in body) == (status, True), body

    async def alive() -> None:
        assert (await get(f"http://{address}/healthz"))[0] == 200

    await assert_eventually(alive)
    await says(503, "the worker is starting")
    sink.may_open.set()
    await assert_eventually(lambda: says(200, "polling: ok"))
    running_worker.cancel()
    await assert_eventually(lambda: says(503, "the worker is stopping"))
    assert (await get(f"http://{address}/healthz"))[0] == 200
    sink.may_close.set()
    await asyncio.wait([running_worker])


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.subject, one.level.value) for one in findings if one.level != "ok"]


async def test_a_check_finds_nothing_in_good_order_and_a_flush_that_is_given_up_before_its_sink_gives_up(
    client: Client, database: TestDatabase
) -> None:
    database.execute("CREATE TABLE entries (n int)")
    async with running(client, SqlSink(database.url), QUICK, shards=2) as service:
        await service.call("nexus", [entry(n) for n in range(3)])
        found = await check(client, service.handle, sink=SqlSink(database.url, create_ledger=False))
        await service.handle.configure(replace(QUICK, flush_timeout=timedelta(seconds=20)))
        (given_up,) = (one for one in await check(client, service.handle) if one.level == "warning")
    assert "a write may take 25 s, and a flush is given up after 20 s" in given_up.text
    assert bad(found) == []
    subjects = [one.subject for one in found]
    assert subjects == [
        *("temporal", "features", "queue", "nexus", "shard 0", "shard 1", "worker", "sink", "sink", "ledger", "clocks")
    ]
    assert found[3].text == f"batcher-{service.name} leads to '{service.queue}'"
    assert ("the database" in found[-1].text) == (database.dialect != "sqlite")


async def test_a_check_names_what_is_missing(client: Client, sqlite: TestDatabase, postgresql: TestDatabase) -> None:
    nothing = BatcherHandle(client, "nobodys", task_queue="nobodys")
    found = await check(client, nothing)
    assert bad(found) == [
        ("queue", "failed"),
        ("shard 0", "failed"),
        ("worker", "skipped"),
        ("sink", "skipped"),
        ("clocks", "skipped"),
    ]
    assert "no worker polls 'nobodys' for workflow or activity tasks" in found[2].text
    assert "--name batcher-nobodys --target-namespace default --target-task-queue nobodys`" in found[3].text
    assert "`temporal-batching start --name nobodys --shards 1`" in found[4].text

    sqlite.execute("CREATE TABLE entries (n int)")
    async with running(client, SqlSink(sqlite.url), QUICK) as service:
        await service.call("activity", [entry(1)])
        # A shard more than there are; another queue; a worker with another database.
        more = BatcherHandle(client, service.name, shards=2, task_queue=service.queue)
        assert bad(await check(client, more)) == [("shard 1", "failed")]
        other = BatcherHandle(client, service.name, task_queue=service.callers_queue)
        (wrong,) = [one for one in await check(client, other) if one.subject == "shard 0"]
        assert f"runs on the task queue '{service.queue}'" in wrong.text
        await service.handle.pause()
        await service.stop_batcher()
        await service.start_batcher(sink=SqlSink(postgresql.url))
        found = await check(client, service.handle)
        assert bad(found) == [("shard 0", "warning"), ("ledger", "failed")]
        assert "adopt-ledger" in found[-2].text
    async with running(client, LacksPrivilege()) as service:
        (table,) = [one for one in await check(client, service.handle, sink=MemorySink()) if one.subject == "tables"]
        assert (str(table.level), "this role lacks INSERT on entries" in table.text) == ("failed", True)


class LacksPrivilege(MemorySink):
    async def check_tables(self) -> Sequence[str]:
        return ["this role lacks INSERT on entries"]


async def test_nobody_is_asked_for_metrics_that_nobody_publishes(client: Client) -> None:
    """Every question is an action that somebody pays for."""
    options = {"metrics_interval": timedelta(seconds=1)}
    async with running(client, MemorySink(), QUICK, plugin_options=options):
        names = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
    assert "announce_until_running" in names
    assert "publish_stats" not in names
