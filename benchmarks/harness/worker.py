"""The workers of one way of writing, in a process of their own: ``python -m benchmarks.harness.worker '<JSON>'``.

Says ``ready`` on standard output, then a line for every confirmation. A line on its standard input asks for its
counters; the end of its input ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from temporalio import activity
from temporalio.client import Client, GrpcCompression
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from benchmarks.harness import classic, hot_row, recorder
from benchmarks.harness.callers import CALLERS_QUEUE, TABLE, Caller, Regular
from temporal_batching import BatcherPlugin, BatchPolicy, GatewayPlugin, Outcome, Record, Sink, SqlSink, WriteRequest
from temporal_batching.collector import collect_less_often
from temporal_batching.contract import DEFAULT_TASK_QUEUE
from temporal_batching.sinks.base import Batch

SLOTS = 2_000
"""Activities of a caller's worker side by side: no way of writing waits for a slot."""
DIRECT_CONNECTIONS = 10
POOL_SECONDS = 300.0


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a worker's process.

    Attributes:
        connections: To the database, at most; 0 for `DIRECT_CONNECTIONS`, or the sink's default.
        table: Where the callers write.
        autocommit: Whether ``direct`` sends its statement alone, without BEGIN and COMMIT.
    """

    way: str
    address: str
    database: str
    batch_size: int = 100
    linger: float = 20.0
    shards: int = 1
    in_flight: int = 0
    connections: int = 0
    table: str = TABLE
    autocommit: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def policy(self) -> BatchPolicy:
        return BatchPolicy(
            max_batch_size=self.batch_size,
            max_batch_records=max(1_000, self.batch_size),
            linger=timedelta(seconds=self.linger),
            max_in_flight=self.in_flight or BatchPolicy().max_in_flight,
        )


async def connect(address: str) -> Client:
    """A client without gzip: on one machine it costs CPU and saves nothing. The same for every way."""
    return await Client.connect(address, grpc_compression=GrpcCompression.NONE)


class TimedSink(Sink):
    """Our sink, with a look at the clock before and after each batch."""

    takes_references = True
    operations = SqlSink.operations

    def __init__(self, sink: SqlSink) -> None:
        self._sink = sink

    async def open(self) -> None:
        await self._sink.open()

    async def close(self) -> None:
        await self._sink.close()

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        start = time.time()
        outcomes = await self._sink.write(batch)
        recorder.flushed(batch.id, start, time.time())
        return outcomes

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        return await self._sink.fence(batch)

    @property
    def statements(self) -> int:
        return self._sink.counters.statements

    @property
    def transactions(self) -> int:
        return self._sink.counters.transactions


class DirectWriter:
    """An activity that inserts its row, or adds to the hot one, in a transaction of its own, without a ledger."""

    def __init__(self, config: WorkerConfig) -> None:
        # SQLite has one writer: the others wait for it in the driver.
        waits = {"timeout": 60} if config.database.startswith("sqlite") else {}
        connections = config.connections or DIRECT_CONNECTIONS
        self._engine = sa.create_engine(
            config.database,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            connect_args=waits,
            execution_options={"isolation_level": "AUTOCOMMIT"} if config.autocommit else {},
        )
        self._threads = ThreadPoolExecutor(connections)
        self._statement: sa.Executable
        if config.table == TABLE:
            self._statement = sa.insert(sa.Table(TABLE, sa.MetaData(), autoload_with=self._engine))
        else:
            self._statement = sa.text(hot_row.ADD)
        self.statements = 0
        self.transactions = 0

    @activity.defn(name="insert_row")
    async def insert_row(self, row: dict[str, Any]) -> None:
        start, end = await asyncio.get_running_loop().run_in_executor(self._threads, self._write, row)
        self.statements += 1
        self.transactions += 1
        recorder.flushed(activity.info().workflow_id or "", start, end)

    def _write(self, row: dict[str, Any]) -> tuple[float, float]:
        start = time.time()
        with self._engine.begin() as connection:
            connection.execute(self._statement, [row])
        return start, time.time()


class CoalescingWriter:
    """An activity whose rows are gathered in the worker's memory: nothing durable, and nothing across workers."""

    def __init__(self, sink: Sink, batch_size: int, linger: float) -> None:
        self._sink = sink
        self._batch_size = batch_size
        self._linger = linger
        self._waiting: list[tuple[WriteRequest, str, asyncio.Future[None]]] = []
        self._full = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None

    @activity.defn(name="insert_row")
    async def insert_row(self, row: dict[str, Any]) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((_request(row), activity.info().workflow_id or "", done))
        if len(self._waiting) >= self._batch_size:
            self._full.set()
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._batch_size:
                self._full.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._linger)
            part = self._waiting[: self._batch_size]
            del self._waiting[: len(part)]
            start = time.time()
            await self._sink.write(Batch([request for request, _, _ in part], id=str(uuid.uuid4())))
            end = time.time()
            for _, caller, done in part:
                recorder.flushed(caller, start, end)
                if not done.done():
                    done.set_result(None)
        self._flushing = None


class ClassicFlusher:
    """The activity of the classic batcher."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @activity.defn(name=classic.ACTIVITY_FLUSH)
    async def flush(self, batch_id: str, rows: list[dict[str, Any]]) -> None:
        await self._sink.write(Batch([_request(row) for row in rows], id=batch_id))


def _request(row: dict[str, Any]) -> WriteRequest:
    return WriteRequest(str(uuid.uuid4()), [Record(TABLE, row)])


def callers_worker(
    client: Client, activities: Sequence[Callable[..., Any]] = (), plugins: Sequence[Any] = ()
) -> Worker:
    return Worker(
        client,
        task_queue=CALLERS_QUEUE,
        workflows=[Caller, Regular],
        activities=activities,
        plugins=plugins,
        # What the callers report is joined with what the flushes left there: there may be only one of it.
        workflow_runner=SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_modules("benchmarks.harness.recorder")
        ),
        max_concurrent_activities=SLOTS,
        max_cached_workflows=5_000,
    )


async def serve(config: WorkerConfig) -> None:
    collect_less_often()  # as `run_worker` does
    client = await connect(config.address)
    async with AsyncExitStack() as stack:
        workers, writer = await _workers(config, client, stack)
        for worker in workers:
            await stack.enter_async_context(worker)
        if config.way == "classic":
            await client.start_workflow(
                classic.ClassicBatcher.run,
                classic.Start(config.batch_size, config.linger),
                id=classic.WORKFLOW_ID,
                task_queue=classic.QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
        recorder.say(ready=True)
        while await asyncio.to_thread(sys.stdin.readline):
            recorder.say(statements=writer.statements, transactions=writer.transactions)


async def _workers(
    config: WorkerConfig, client: Client, stack: AsyncExitStack
) -> tuple[list[Worker], DirectWriter | TimedSink]:
    """The workers of the way, and who counts its statements."""
    if config.way == "direct":
        direct = DirectWriter(config)
        return [callers_worker(client, [direct.insert_row])], direct
    sink = _sink(config)
    if config.way in ("in-process", "classic"):
        await sink.open()
        stack.push_async_callback(sink.close)
    if config.way == "in-process":
        coalescing = CoalescingWriter(sink, config.batch_size, config.linger)
        return [callers_worker(client, [coalescing.insert_row])], sink
    if config.way == "classic":
        batcher = Worker(
            client,
            task_queue=classic.QUEUE,
            workflows=[classic.ClassicBatcher],
            activities=[ClassicFlusher(sink).flush],
        )
        return [callers_worker(client), batcher], sink
    plugin = BatcherPlugin(sink, policy=config.policy, shards=config.shards)
    batcher = Worker(client, task_queue=DEFAULT_TASK_QUEUE, plugins=[plugin])
    if config.way == "write_many":
        return [batcher], sink
    # For every way in: the plugin also lets the library through the sandbox. Only "local" uses its gateway.
    return [batcher, callers_worker(client, plugins=[GatewayPlugin(shards=config.shards)])], sink


def _sink(config: WorkerConfig) -> TimedSink:
    if not config.connections:
        return TimedSink(SqlSink(config.database))
    rules = {config.table: hot_row.RULE} if config.table != TABLE else None
    return TimedSink(SqlSink(config.database, tables=rules, max_connections=config.connections))


if __name__ == "__main__":
    asyncio.run(serve(WorkerConfig(**json.loads(sys.argv[1]))))
