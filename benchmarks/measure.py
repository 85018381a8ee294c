"""One way of writing, measured: warm-up, the server's rate while idle, the load, and the differences."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from temporalio.client import Client

from benchmarks import classic
from benchmarks.callers import CALLERS_QUEUE, TABLE, Caller, Job
from benchmarks.histories import Histories, of_batchers, of_callers
from benchmarks.servers import Postgres, PostgresCounters, Temporal, fresh_temporal
from benchmarks.worker import WorkerConfig
from temporal_batching import BatchClient, Record, WriteError
from temporal_batching.embedded import stop
from temporal_batching.routing import batcher_workflow_id

WAYS = {
    "direct": "own worker, one insert each, activity started eagerly",
    "in-process": "own worker coalesces in memory, nothing durable",
    "classic": "signal in, one activity per batch, signal out from the batcher",
    "signal": "ours, signal door",
    "activity": "ours, activity door, gateway on the batcher's worker",
    "local": "ours, activity door, gateway in the caller's worker",
    "write_many": "ours, from a program, many at a time",
}
OURS = ("signal", "activity", "local", "write_many")
SETTLE_SECONDS = 1.5
"""What the server does after a workflow has closed (visibility, clean-up) belongs to the cost."""
STALL_SECONDS = 60.0
"""A way whose confirmations stop coming for so long has failed."""
SAMPLED_CALLERS = 20


@dataclass(frozen=True)
class Load:
    """How much is written, by how many callers side by side."""

    writes: int = 2_000
    callers: int = 400
    batch_size: int = 100
    linger: float = 20.0
    warm_up: int = 200
    idle_seconds: float = 6.0
    record_bytes: int = 200
    shards: int = 1


@dataclass
class Result:
    """What one way of writing cost. Figures named ``per_write`` have the idle rate taken off."""

    way: str
    writes: int
    seconds: float
    persistence_per_write: float
    frontend_per_write: float
    service_per_write: float
    actions_metric_per_write: float
    actions_per_write: float
    actions_of: dict[str, float]
    caller_events: float
    caller_bytes: float
    batcher_events_per_write: float
    batcher_bytes_per_write: float
    batcher_runs: int
    transactions_per_write: float
    commits_per_write: float
    wal_bytes_per_write: float
    wal_fsyncs_per_write: float
    cpu_ms_per_write: dict[str, float]
    worker_peak_mb: float
    latency: dict[str, float]
    delivery: dict[str, float]
    writes_per_second: float
    idle_persistence_per_second: float
    persistence_of: dict[str, float] = field(default_factory=dict)
    frontend_of: dict[str, float] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass
class _Counters:
    at: float
    temporal: dict[str, Counter[str]]
    postgres: PostgresCounters
    cpu: dict[str, float]


class WorkerProcess:
    """The workers' process, and the confirmations it reports."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self.latencies: list[float] = []
        self.deliveries: list[float] = []
        self.on_confirmed: Callable[[], None] = lambda: None
        self._usage = psutil.Process(process.pid)
        self.peak_rss = 0
        self._reader = asyncio.create_task(self._read())

    async def ready(self) -> None:
        await asyncio.wait_for(self._ready.wait(), 60)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self._ready.set()
                continue
            self.latencies.append(message["latency"])
            if message["delivery"] is not None:
                self.deliveries.append(message["delivery"])
            if len(self.latencies) % 50 == 0:
                self.look()
            self.on_confirmed()

    def look(self) -> None:
        self.peak_rss = max(self.peak_rss, self._usage.memory_info().rss)

    def forget(self) -> None:
        self.latencies.clear()
        self.deliveries.clear()

    def cpu(self) -> float:
        times = self._usage.cpu_times()
        return float(times.user + times.system)

    async def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 15)
        except TimeoutError:
            await stop(self._process)
        self._reader.cancel()


@asynccontextmanager
async def worker_process(config: WorkerConfig, log: Path) -> AsyncIterator[WorkerProcess]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.worker",
            config.to_json(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    worker = WorkerProcess(process)
    try:
        await worker.ready()
        yield worker
    finally:
        await worker.close()


class Measurement:
    """One way, one load, on servers that nobody else uses."""

    def __init__(
        self, way: str, load: Load, temporal: Temporal, postgres: Postgres, client: Client, database: str
    ) -> None:
        self.way = way
        self.load = load
        self.temporal = temporal
        self.postgres = postgres
        self.client = client
        self.database = database
        self.started = 0
        self.progress: Callable[[int], None] = lambda done: None

    async def run(self, worker: WorkerProcess) -> tuple[Result, _Counters]:
        await self.write(worker, self.load.warm_up)
        await asyncio.sleep(SETTLE_SECONDS)
        quiet = await self.counters(worker)
        await asyncio.sleep(self.load.idle_seconds)
        idle = _difference(quiet, await self.counters(worker))
        # The connections' statistics reach the server with their first transaction after a second of rest.
        await self.write(worker, max(100, self.load.batch_size))
        histories = await self.batchers()
        await asyncio.sleep(SETTLE_SECONDS)
        worker.forget()
        first = self.started
        before = await self.counters(worker)
        seconds = await self.write(worker, self.load.writes)
        latencies, deliveries = sorted(worker.latencies), sorted(worker.deliveries)
        await asyncio.sleep(SETTLE_SECONDS)
        cost = _difference(before, await self.counters(worker))
        worker.look()
        sample = list(range(first, self.started, max(1, self.load.writes // SAMPLED_CALLERS)))
        callers = Histories()
        if self.way != "write_many":
            callers = await of_callers(self.client, [_caller_id(n) for n in sample])
        batchers = (await self.batchers()).minus(histories)
        return self._result(seconds, idle, cost, callers, batchers, latencies, deliveries, worker), before

    def _result(
        self,
        seconds: float,
        idle: _Counters,
        cost: _Counters,
        callers: Histories,
        batchers: Histories,
        latencies: list[float],
        deliveries: list[float],
        worker: WorkerProcess,
    ) -> Result:
        writes = self.load.writes

        def per_write(kind: str) -> dict[str, float]:
            operations = cost.temporal[kind] | idle.temporal[kind]
            scale = cost.at / idle.at
            each = {o: (cost.temporal[kind][o] - scale * idle.temporal[kind][o]) / writes for o in operations}
            return {
                o: round(value, 4) for o, value in sorted(each.items(), key=lambda i: -i[1]) if abs(value) >= 0.0005
            }

        persistence, frontend, metric = per_write("persistence"), per_write("frontend"), per_write("action")
        sampled = max(1, callers.runs)
        actions = {name: count / sampled for name, count in callers.actions.items()}
        for name, count in batchers.actions.items():
            actions[name] = actions.get(name, 0.0) + count / writes
        standalone = sum(v for name, v in metric.items() if "StartActivityExecution" in name)
        if standalone:
            actions["standalone activity"] = standalone
        pg = cost.postgres
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
            batcher_runs=batchers.runs,
            transactions_per_write=pg.writing_transactions / writes,
            commits_per_write=0.0,
            wal_bytes_per_write=pg.wal_bytes / writes,
            wal_fsyncs_per_write=0.0,
            cpu_ms_per_write={name: 1000 * value / writes for name, value in cost.cpu.items()},
            worker_peak_mb=worker.peak_rss / 2**20,
            latency=quantiles(latencies),
            delivery=quantiles(deliveries),
            writes_per_second=writes / seconds,
            idle_persistence_per_second=sum(idle.temporal["persistence"].values()) / idle.at,
            persistence_of=persistence,
            frontend_of=frontend,
            load=vars(self.load).copy(),
        )

    async def counters(self, worker: WorkerProcess) -> _Counters:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = {
            "temporal": self.temporal.cpu(),
            "postgres": self.postgres.cpu(),
            "workers": worker.cpu(),
            "driver": usage.ru_utime + usage.ru_stime,
        }
        return _Counters(time.monotonic(), await self.temporal.counters(), self.postgres.counters(self.database), cpu)

    async def batchers(self) -> Histories:
        if self.way == "classic":
            return await of_batchers(self.client, [classic.WORKFLOW_ID])
        if self.way in OURS:
            return await of_batchers(self.client, [batcher_workflow_id("main", n) for n in range(self.load.shards)])
        return Histories()

    async def write(self, worker: WorkerProcess, writes: int) -> float:
        """Makes the writes, and returns how long it took until the last one was confirmed."""
        start = time.monotonic()
        if self.way == "write_many":
            await self._write_many(worker, writes)
        else:
            await self._write_by_callers(worker, writes)
        return time.monotonic() - start

    async def _write_many(self, worker: WorkerProcess, writes: int) -> None:
        writer = BatchClient(self.client, shards=self.load.shards)
        results = await writer.write_many([Record(TABLE, self._row(n)) for n in range(writes)])
        failed = [result for result in results if isinstance(result, WriteError)]
        if failed:
            raise RuntimeError(f"{len(failed)} of {writes} writes failed, the first with: {failed[0]}")
        self.started += writes
        self.progress(writes)

    async def _write_by_callers(self, worker: WorkerProcess, writes: int) -> None:
        slots = asyncio.Semaphore(self.load.callers)
        already = len(worker.latencies)
        moved = asyncio.Event()

        def confirmed() -> None:
            slots.release()
            moved.set()
            self.progress(len(worker.latencies) - already)

        worker.on_confirmed = confirmed
        starting: set[asyncio.Task[None]] = set()
        for _ in range(writes):
            await asyncio.wait_for(slots.acquire(), STALL_SECONDS)
            task = asyncio.create_task(self._start(self.started))
            self.started += 1
            starting.add(task)
            task.add_done_callback(starting.discard)
        await asyncio.gather(*starting)
        while (done := len(worker.latencies) - already) < writes:
            moved.clear()
            try:
                await asyncio.wait_for(moved.wait(), STALL_SECONDS)
            except TimeoutError:
                raise RuntimeError(f"{writes - done} of {writes} writes not confirmed in {STALL_SECONDS:g} s") from None

    async def _start(self, number: int) -> None:
        job = Job(self.way, self._row(number), self.load.shards)
        await self.client.start_workflow(Caller.run, job, id=_caller_id(number), task_queue=CALLERS_QUEUE)

    def _row(self, number: int) -> dict[str, Any]:
        row = {"account": f"a-{number % 50}", "amount": f"{number % 1000}.50", "at": "2026-01-31T09:30:00+00:00"}
        return {**row, "note": "x" * max(1, self.load.record_bytes - len(json.dumps(row)) - 12)}


def _caller_id(number: int) -> str:
    return f"caller-{number}"


def _difference(before: _Counters, after: _Counters) -> _Counters:
    temporal = {kind: Counter(counts) for kind, counts in after.temporal.items()}
    for kind, counts in before.temporal.items():
        temporal[kind].subtract(counts)
    postgres = PostgresCounters(
        *(a - b for a, b in zip(vars(after.postgres).values(), vars(before.postgres).values(), strict=True))
    )
    cpu = {name: after.cpu[name] - before.cpu[name] for name in after.cpu}
    return _Counters(after.at - before.at, temporal, postgres, cpu)


def quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}


async def measure(
    way: str, load: Load, postgres: Postgres, progress: Callable[[int], None] = lambda done: None
) -> Result:
    """Measures one way on a Temporal and a database of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        async with fresh_temporal(directory) as temporal:
            client = await Client.connect(temporal.address)
            database = await postgres.fresh_database()
            config = WorkerConfig(way, temporal.address, database, load.batch_size, load.linger, load.shards)
            log = directory / "worker.log"
            measurement = Measurement(way, load, temporal, postgres, client, database)
            measurement.progress = progress
            try:
                async with worker_process(config, log) as worker:
                    result, before = await measurement.run(worker)
            except Exception as err:
                words = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{way}: {type(err).__name__} {err}\n{words}") from err
            # The workers' connections are closed now: every statistic of theirs has arrived.
            await asyncio.sleep(0.2)
            after = postgres.counters(database)
            result = replace(
                result,
                commits_per_write=(after.commits - before.postgres.commits) / load.writes,
                wal_fsyncs_per_write=(after.wal_fsyncs - before.postgres.wal_fsyncs) / load.writes,
            )
            rows = postgres.rows(database)
            if rows != measurement.started:
                result.problem = f"{rows} rows for {measurement.started} writes"
            return result
