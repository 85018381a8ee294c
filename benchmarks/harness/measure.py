"""One way of writing, measured: warm-up, the server's rate while idle, then each load, and the differences."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import statistics
import string
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.harness import classic
from benchmarks.harness.callers import CALLERS_QUEUE, TABLE, Caller, Job
from benchmarks.harness.databases import BenchDatabase, DatabaseCounters
from benchmarks.harness.histories import Histories, of_batchers, of_callers
from benchmarks.harness.servers import Temporal, fresh_temporal
from benchmarks.harness.worker import WorkerConfig, connect
from benchmarks.harness.worker_process import WorkerProcess, worker_process
from benchmarks.report import Result
from temporal_batching import (
    BatchClient,
    BatcherHandle,
    BatcherNotRunning,
    GatewayPlugin,
    OutcomeKind,
    Record,
    WriteError,
)
from temporal_batching.routing import batcher_workflow_id

WAYS = {
    "direct": "one activity and one INSERT per write, in the caller's worker, started eagerly",
    "in-process": "the caller's worker coalesces in memory, nothing durable",
    "classic": "a signal to a plain batcher workflow, one activity per batch, a signal back",
    "signal": "Temporal Batching, by signal",
    "activity": "Temporal Batching, by activity, gateway in the batcher's worker",
    "local": "Temporal Batching, by activity, gateway in the caller's worker",
    "write_many": "Temporal Batching, many writes at a time from a program",
    "workflow_many": "Temporal Batching, many writes at a time from a workflow",
}
MANY = ("write_many", "workflow_many")
OURS = ("signal", "activity", "local", "write_many", "workflow_many")
STALL_SECONDS = 45.0
"""A way whose confirmations stop coming for so long has failed."""
SAMPLED_CALLERS = 20
CHUNK = 20_000
"""Writes of one call of `write_many`: what the program itself must hold."""
MEMORY_SAMPLES = 240
TEXT = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=300_000))
"""What records are filled with: of one letter alone, everything on the way would compress them to nothing."""


@dataclass(frozen=True)
class Load:
    """How much is written, by how many callers concurrently.

    Attributes:
        writes: Writes measured, one record each.
        callers: At most so many wait at the same time.
        records_per_caller: Writes of each caller, by ``workflow_many``.
        batch_size: Records in a batch, at most.
        linger: Seconds a write waits for a fuller batch, at most.
        warm_up: Writes before.
        idle_seconds: How long the server is watched while there are no writes; its rate is subtracted.
        record_bytes: JSON of one record's values.
        shards: Of our batcher.
        own_gateway: Whether the program of ``write_many`` runs the gateway itself, so that no flush finds a parcel's
            content in its own process.
        in_flight: Batches of one shard that are flushed at the same time; 0 for the library's default.
        rate: New callers per second; None for as fast as they come back.
        settle_seconds: How long the server is given for what it does after a workflow has closed (visibility,
            clean-up), which belongs to the cost.
        exact_fsyncs: Whether to write once more before the load, so that the fsyncs of the warm-up are not counted.
    """

    writes: int = 2_000
    callers: int = 400
    records_per_caller: int = 1
    batch_size: int = 100
    linger: float = 20.0
    warm_up: int = 200
    idle_seconds: float = 6.0
    record_bytes: int = 200
    shards: int = 1
    own_gateway: bool = False
    in_flight: int = 0
    rate: float | None = None
    settle_seconds: float = 1.5
    exact_fsyncs: bool = True


@dataclass
class _Counters:
    at: float
    temporal: dict[str, Counter[str]]
    database: DatabaseCounters
    sink: dict[str, int]
    cpu: dict[str, float]


class Measurement:
    """One way, one load after the other, on servers that serve nothing else."""

    def __init__(self, way: str, load: Load, temporal: Temporal, database: BenchDatabase, client: Client) -> None:
        self.way = way
        self.load = load
        self.temporal = temporal
        self.database = database
        self.client = client
        self.started = 0
        self.written = 0
        self._prepared: list[Record] = []
        self.progress: Callable[[int], None] = lambda done: None
        self._done = 0
        self._idle: _Counters | None = None

    async def warm_up(self, worker: WorkerProcess) -> None:
        """Brings everything up, and watches the server while there are no writes."""
        progress, self.progress = self.progress, lambda done: None
        if self.way in OURS:
            await self._batchers_up()
        # Full batches: what is left of one would wait for the linger.
        one = self.load.records_per_caller
        full = self.load.batch_size if self.way not in MANY and self.load.linger else one
        await self.write(worker, _whole(self.load.warm_up, full))
        await asyncio.sleep(self.load.settle_seconds)
        quiet = await self.counters(worker)
        await asyncio.sleep(self.load.idle_seconds)
        self._idle = _difference(quiet, await self.counters(worker))
        # PostgreSQL's connections hand in their statistics with their first transaction after a second of rest.
        if self.load.exact_fsyncs:
            await self.write(worker, _whole(20, full))
        self.progress = progress

    async def run(self, worker: WorkerProcess, load: Load) -> tuple[Result, DatabaseCounters]:
        """Returns the result, and the database's counters as the load began."""
        self.load = load
        histories = await self.batchers()
        await asyncio.sleep(load.settle_seconds)
        worker.forget()
        first = self.started
        if self.way == "write_many":
            # What it takes to make up rows is no cost of writing them.
            self._prepared = [Record(TABLE, make_row(number, self.load.record_bytes)) for number in range(load.writes)]
        before = await self.counters(worker)
        async with self._memory(worker) as memory:
            seconds = await self.write(worker, load.writes)
        latencies, stages = list(worker.latencies), {name: list(v) for name, v in worker.stages.items()}
        await asyncio.sleep(load.settle_seconds)
        cost = _difference(before, await self.counters(worker))
        callers = Histories()
        if self.way != "write_many":
            sample = range(first, self.started, max(1, (self.started - first) // SAMPLED_CALLERS))
            callers = await of_callers(self.client, [_caller_id(n) for n in sample])
        batchers = (await self.batchers()).minus(histories)
        result = self._result(seconds, cost, callers, batchers)
        result.latency = quantiles(latencies)
        result.stages = {name: quantiles(values) for name, values in stages.items() if values}
        result.memory = memory
        return result, before.database

    def _result(self, seconds: float, cost: _Counters, callers: Histories, batchers: Histories) -> Result:
        writes, idle = self.load.writes, self._idle
        assert idle is not None

        def per_write(kind: str) -> dict[str, float]:
            operations = cost.temporal[kind] | idle.temporal[kind]
            scale = cost.at / idle.at
            each = {o: (cost.temporal[kind][o] - scale * idle.temporal[kind][o]) / writes for o in operations}
            return {
                o: round(value, 5) for o, value in sorted(each.items(), key=lambda i: -i[1]) if abs(value) >= 0.00005
            }

        persistence, frontend, metric = per_write("persistence"), per_write("frontend"), per_write("action")
        sampled = max(1, callers.runs) * self.load.records_per_caller
        actions = {name: count / sampled for name, count in callers.actions.items()}
        for name, count in batchers.actions.items():
            actions[name] = actions.get(name, 0.0) + count / writes
        standalone = sum(v for name, v in metric.items() if "StartActivityExecution" in name)
        if standalone:
            actions["standalone activity"] = standalone
        transactions = cost.database.writing_transactions
        return Result(
            way=self.way,
            writes=writes,
            seconds=seconds,
            persistence_per_write=sum(persistence.values()),
            frontend_per_write=sum(frontend.values()),
            service_per_write=sum(per_write("service").values()),
            actions_metric_per_write=sum(metric.values()),
            actions_per_write=sum(actions.values()),
            actions_of={name: round(value, 4) for name, value in actions.items()},
            caller_events=callers.events / sampled,
            caller_bytes=callers.size / sampled,
            batcher_events_per_write=batchers.events / writes,
            batcher_bytes_per_write=batchers.size / writes,
            # The runs that were there at the start took part too.
            batcher_runs=batchers.runs + (self.load.shards if self.way in OURS else 0),
            transactions_per_write=(cost.sink["transactions"] if transactions is None else transactions) / writes,
            statements_per_write=cost.sink["statements"] / writes,
            wal_bytes_per_write=_each(cost.database.wal_bytes, writes),
            wal_fsyncs_per_write=None,
            cpu_ms_per_write={name: 1000 * value / writes for name, value in cost.cpu.items()},
            latency={},
            stages={},
            writes_per_second=writes / seconds,
            idle_persistence_per_second=sum(idle.temporal["persistence"].values()) / idle.at,
            persistence_of=persistence,
            frontend_of=frontend,
            load=vars(self.load).copy(),
        )

    async def counters(self, worker: WorkerProcess) -> _Counters:
        sink = await worker.counters()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = {
            "temporal": self.temporal.cpu(),
            "workers": worker.cpu(),
            "database": self.database.cpu(),
            "driver": usage.ru_utime + usage.ru_stime,
        }
        return _Counters(time.monotonic(), await self.temporal.counters(), self.database.counters(), sink, cpu)

    async def _batchers_up(self) -> None:
        """A program that writes before there is a shard to ask cannot know how large a batch may be."""
        handle = BatcherHandle(self.client, shards=self.load.shards)
        async with asyncio.timeout(STALL_SECONDS):
            while True:
                with suppress(BatcherNotRunning):
                    await handle.stats()
                    return
                await asyncio.sleep(0.2)

    async def batchers(self) -> Histories:
        if self.way == "classic":
            return await of_batchers(self.client, [classic.WORKFLOW_ID])
        if self.way in OURS:
            return await of_batchers(self.client, [batcher_workflow_id("main", n) for n in range(self.load.shards)])
        return Histories()

    @asynccontextmanager
    async def _memory(self, worker: WorkerProcess) -> AsyncIterator[list[list[float]]]:
        """Looks at the processes' memory all along: often at first, then so that the samples stay few."""
        samples: list[list[float]] = []
        start = time.monotonic()

        async def look() -> None:
            pause = 0.1
            while True:
                resident = [round(size / 2**20, 1) for size in (worker.memory(), self.temporal.memory())]
                samples.append([round(time.monotonic() - start, 2), self._done, *resident])
                if len(samples) >= MEMORY_SAMPLES:
                    del samples[1::2]
                    pause *= 2
                await asyncio.sleep(pause)

        task = asyncio.create_task(look())
        try:
            yield samples
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def write(self, worker: WorkerProcess, writes: int) -> float:
        """Makes the writes, and returns how long it took until the last one was confirmed."""
        start = time.monotonic()
        self._done = 0
        if self.way == "write_many":
            for done in range(0, writes, CHUNK):
                await self._write_many(min(CHUNK, writes - done))
        else:
            await self._write_by_callers(worker, writes)
        return time.monotonic() - start

    def _confirmed(self, done: int) -> None:
        self._done = done
        self.progress(done)

    async def _write_many(self, writes: int) -> None:
        queue = CALLERS_QUEUE if self.load.own_gateway else None
        writer = BatchClient(self.client, shards=self.load.shards, task_queue=queue)
        records = self._prepared[:writes] or [
            Record(TABLE, make_row(number, self.load.record_bytes)) for number in range(writes)
        ]
        del self._prepared[:writes]
        results = await writer.write_many(records)
        failed = [r for r in results if isinstance(r, WriteError) or r.outcome != OutcomeKind.WRITTEN]
        if failed:
            raise RuntimeError(f"{len(failed)} of {writes} writes failed, the first with: {failed[0]}")
        self.written += writes
        self._confirmed(self._done + writes)

    async def _write_by_callers(self, worker: WorkerProcess, writes: int) -> None:
        slots = asyncio.Semaphore(self.load.callers)
        already = len(worker.latencies)
        moved = asyncio.Event()

        def confirmed() -> None:
            slots.release()
            moved.set()
            self._confirmed((len(worker.latencies) - already) * self.load.records_per_caller)

        worker.on_confirmed = confirmed
        begin = time.monotonic()
        async with asyncio.TaskGroup() as starting:
            callers = writes // self.load.records_per_caller
            for number in range(callers):
                if self.load.rate is not None:
                    await asyncio.sleep(max(0.0, begin + number / self.load.rate - time.monotonic()))
                try:
                    await asyncio.wait_for(slots.acquire(), STALL_SECONDS)
                except TimeoutError:
                    raise RuntimeError(f"no confirmation in {STALL_SECONDS:g} s, {number} callers started") from None
                starting.create_task(self._start(self.started))
                self.started += 1
                self.written += self.load.records_per_caller
        while (done := len(worker.latencies) - already) < callers:
            moved.clear()
            try:
                await asyncio.wait_for(moved.wait(), STALL_SECONDS)
            except TimeoutError:
                raise RuntimeError(
                    f"{callers - done} of {callers} callers not confirmed in {STALL_SECONDS:g} s"
                ) from None

    async def _start(self, number: int) -> None:
        job = Job(self.way, make_row(number, self.load.record_bytes), self.load.shards, self.load.records_per_caller)
        await self.client.start_workflow(Caller.run, job, id=_caller_id(number), task_queue=CALLERS_QUEUE)


def make_row(number: int, record_bytes: int) -> dict[str, Any]:
    """A row of so many bytes as JSON, different for each number."""
    row = {"account": f"a-{number % 50}", "amount": f"{number % 1000}.50", "at": "2026-01-31T09:30:00+00:00"}
    length = max(1, record_bytes - len(json.dumps(row)) - 12)
    start = number * 97 % (len(TEXT) - length)
    return {**row, "note": TEXT[start : start + length]}


def _caller_id(number: int) -> str:
    return f"caller-{number}"


def _whole(writes: int, full: int) -> int:
    """So many writes, or some more, so that no batch stays unfilled."""
    return -(-writes // full) * full


def _each(total: int | None, writes: int) -> float | None:
    return None if total is None else total / writes


def _difference(before: _Counters, after: _Counters) -> _Counters:
    temporal = {kind: Counter(counts) for kind, counts in after.temporal.items()}
    for kind, counts in before.temporal.items():
        temporal[kind].subtract(counts)
    database = DatabaseCounters(
        *(
            None if a is None or b is None else a - b
            for a, b in zip(vars(after.database).values(), vars(before.database).values(), strict=True)
        )
    )
    cpu = {name: after.cpu[name] - before.cpu[name] for name in after.cpu}
    sink = {name: after.sink[name] - before.sink[name] for name in after.sink}
    return _Counters(after.at - before.at, temporal, database, sink, cpu)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}


async def measure(
    way: str, loads: Sequence[Load], database: BenchDatabase, progress: Callable[[int], None] = lambda done: None
) -> list[Result]:
    """Measures one way on a Temporal and a database of its own, under one load after the other.

    The batcher's limits are those of the first load.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        async with fresh_temporal(directory) as temporal:
            client = await connect(temporal.address)
            url = await database.fresh()
            first = loads[0]
            config = WorkerConfig(
                way, temporal.address, url, first.batch_size, first.linger, first.shards, first.in_flight
            )
            log = directory / "worker.log"
            measurement = Measurement(way, first, temporal, database, client)
            measurement.progress = progress
            results: list[Result] = []
            try:
                async with worker_process(config, log) as worker, _gateway(client, first):
                    await measurement.warm_up(worker)
                    for load in loads:
                        result, before = await measurement.run(worker, load)
                        results.append(result)
            except Exception as err:
                words = log.read_text(errors="replace")[-1500:]
                raise RuntimeError(f"{type(err).__name__} {_inner(err)} {words}".strip()) from err
            # The workers' connections are closed now: every statistic of theirs has arrived.
            await asyncio.sleep(0.2)
            fsyncs = database.counters().wal_fsyncs
            if len(loads) == 1 and load.exact_fsyncs and fsyncs is not None and before.wal_fsyncs is not None:
                results[-1] = replace(results[-1], wal_fsyncs_per_write=(fsyncs - before.wal_fsyncs) / load.writes)
            rows = database.rows(url)
            if rows != measurement.written:
                results[-1].problem = f"{rows} rows for {measurement.written} writes"
            return results


@asynccontextmanager
async def _gateway(client: Client, load: Load) -> AsyncIterator[None]:
    """The program's own gateway, if it has one."""
    if not load.own_gateway:
        yield
        return
    async with Worker(client, task_queue=CALLERS_QUEUE, plugins=[GatewayPlugin(shards=load.shards)]):
        yield


def _inner(err: BaseException) -> str:
    """What a group of exceptions is about."""
    while isinstance(err, BaseExceptionGroup):
        err = err.exceptions[0]
    return str(err)
