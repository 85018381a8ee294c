"""The workers of one way of writing, in a process of their own: ``python -m benchmarks.worker '<JSON>'``.

Says ``ready`` on standard output, then a line for every confirmation; ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker

from benchmarks import classic, recorder
from benchmarks.callers import CALLERS_QUEUE, TABLE, Caller
from temporal_batching import BatcherPlugin, BatchPolicy, GatewayPlugin, Record, SqlSink, WriteRequest
from temporal_batching.contract import DEFAULT_TASK_QUEUE
from temporal_batching.sinks.base import Batch

SLOTS = 2_000
"""Activities of a caller's worker side by side: no way of writing waits for a slot."""


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker's process is told."""

    way: str
    address: str
    database: str
    batch_size: int = 100
    linger: float = 20.0
    shards: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def policy(self) -> BatchPolicy:
        return BatchPolicy(max_batch_size=self.batch_size, linger=timedelta(seconds=self.linger))


class DirectWriter:
    """An activity that inserts its row in a transaction of its own, without a ledger."""

    def __init__(self, database: str) -> None:
        self._engine = sa.create_engine(database, pool_size=10)
        self._table = sa.Table(TABLE, sa.MetaData(), autoload_with=self._engine)

    @activity.defn(name="insert_row")
    async def insert_row(self, row: dict[str, Any]) -> None:
        await asyncio.to_thread(self._insert, row)

    def _insert(self, row: dict[str, Any]) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.insert(self._table), [row])


class CoalescingWriter:
    """An activity whose rows are gathered in the worker's memory: nothing durable, and nothing across workers."""

    def __init__(self, sink: SqlSink, batch_size: int, linger: float) -> None:
        self._sink = sink
        self._batch_size = batch_size
        self._linger = linger
        self._waiting: list[tuple[WriteRequest, asyncio.Future[None]]] = []
        self._full = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None

    @activity.defn(name="insert_row")
    async def insert_row(self, row: dict[str, Any]) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((_request(row), done))
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
            await self._sink.write(Batch([request for request, _ in part], id=str(uuid.uuid4())))
            for _, done in part:
                if not done.done():
                    done.set_result(None)
        self._flushing = None


class ClassicFlusher:
    """The activity of the classic batcher."""

    def __init__(self, sink: SqlSink) -> None:
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
        workflows=[Caller],
        activities=activities,
        plugins=plugins,
        max_concurrent_activities=SLOTS,
        max_cached_workflows=5_000,
    )


async def serve(config: WorkerConfig) -> None:
    client = await Client.connect(config.address)
    async with AsyncExitStack() as stack:
        for worker in await _workers(config, client, stack):
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
        await asyncio.to_thread(sys.stdin.read)


async def _workers(config: WorkerConfig, client: Client, stack: AsyncExitStack) -> list[Worker]:
    if config.way == "direct":
        return [callers_worker(client, [DirectWriter(config.database).insert_row])]
    sink = SqlSink(config.database)
    if config.way in ("in-process", "classic"):
        await sink.open()
        stack.push_async_callback(sink.close)
    if config.way == "in-process":
        return [callers_worker(client, [CoalescingWriter(sink, config.batch_size, config.linger).insert_row])]
    if config.way == "classic":
        batcher = Worker(
            client,
            task_queue=classic.QUEUE,
            workflows=[classic.ClassicBatcher],
            activities=[ClassicFlusher(sink).flush],
        )
        return [callers_worker(client), batcher]
    plugin = BatcherPlugin(sink, policy=config.policy, shards=config.shards)
    batcher = Worker(client, task_queue=DEFAULT_TASK_QUEUE, plugins=[plugin])
    # For every door: the plugin also lets the library through the sandbox. Only "local" uses its gateway.
    return [batcher, callers_worker(client, plugins=[GatewayPlugin(shards=config.shards)])]


if __name__ == "__main__":
    asyncio.run(serve(WorkerConfig(**json.loads(sys.argv[1]))))
