"""A batcher under test with its callers: workers, names and queues of its own, so that tests do not meet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from temporal_batching import BatchClient, BatcherHandle, BatcherPlugin, BatcherStats, BatchPolicy, GatewayPlugin, Sink
from temporal_batching.routing import batcher_workflow_id
from tests.support.callers import CALLERS, Caller, CallerResult, Job, Write

LONGEST_CALLER = timedelta(seconds=90)
"""A caller that hangs fails its test instead of holding up all others."""

QUICK = BatchPolicy(linger=timedelta(milliseconds=100), retry_initial=timedelta(milliseconds=100))


@dataclass
class Service:
    """One batcher and its callers on a Temporal server."""

    client: Client
    sink: Sink
    policy: BatchPolicy
    shards: int = 1
    name: str = field(default_factory=lambda: f"b{uuid4().hex[:12]}")
    worker_options: dict[str, Any] = field(default_factory=dict)
    plugin_options: dict[str, Any] = field(default_factory=dict)
    longest_caller: timedelta = LONGEST_CALLER
    _batcher: contextlib.AsyncExitStack | None = None
    _callers: contextlib.AsyncExitStack | None = None

    @property
    def queue(self) -> str:
        return f"{self.name}-batcher"

    @property
    def callers_queue(self) -> str:
        return f"{self.name}-callers"

    @property
    def handle(self) -> BatcherHandle:
        return BatcherHandle(self.client, self.name, shards=self.shards, task_queue=self.queue)

    @property
    def writer(self) -> BatchClient:
        return BatchClient(self.client, self.name, shards=self.shards, task_queue=self.queue)

    def shard(self, number: int = 0) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(batcher_workflow_id(self.name, number))

    async def stats(self, shard: int = 0) -> BatcherStats:
        return (await self.handle.stats())[shard]

    async def events(self, shard: int = 0, *, run_id: str | None = None) -> list[HistoryEvent]:
        workflow_id = batcher_workflow_id(self.name, shard)
        handle = self.client.get_workflow_handle(workflow_id, run_id=run_id)
        return [event async for event in handle.fetch_history_events()]

    # Workers

    async def start_batcher(self, *, policy: BatchPolicy | None = None, sink: Sink | None = None) -> None:
        """Starts the batcher's worker, and waits until its shards answer."""
        plugin = BatcherPlugin(
            sink or self.sink, policy=policy or self.policy, name=self.name, shards=self.shards, **self.plugin_options
        )
        self._batcher = contextlib.AsyncExitStack()
        await self._batcher.enter_async_context(
            Worker(
                self.client,
                task_queue=self.queue,
                plugins=[plugin],
                **{"graceful_shutdown_timeout": timedelta(seconds=5), **self.worker_options},
            )
        )
        if self.plugin_options.get("start_shards", True):
            await self._until_shards_answer()

    async def _until_shards_answer(self) -> None:
        async with asyncio.timeout(20):
            while True:
                try:
                    await self.handle.stats()
                except Exception:  # not started yet
                    await asyncio.sleep(0.02)
                else:
                    return

    async def stop_batcher(self) -> None:
        if self._batcher is not None:
            stack, self._batcher = self._batcher, None
            await stack.aclose()

    async def start_callers(self) -> None:
        self._callers = contextlib.AsyncExitStack()
        plugin = GatewayPlugin(name=self.name, shards=self.shards, task_queue=self.queue)
        options = {k: v for k, v in self.worker_options.items() if k == "max_cached_workflows"}
        await self._callers.enter_async_context(
            Worker(self.client, task_queue=self.callers_queue, workflows=CALLERS, plugins=[plugin], **options)
        )

    async def stop_callers(self) -> None:
        if self._callers is not None:
            stack, self._callers = self._callers, None
            await stack.aclose()

    # Callers

    def job(self, way_in: str, writes: Sequence[Write], **options: Any) -> Job:
        return Job(self.name, self.queue, way_in, list(writes), shards=self.shards, **options)

    async def start(
        self, way_in: str, writes: Sequence[Write], **options: Any
    ) -> WorkflowHandle[Any, list[CallerResult]]:
        return await self.run(Caller.run, self.job(way_in, writes, **options))

    async def run(self, run: Any, arg: Any, *, workflow_id: str | None = None) -> WorkflowHandle[Any, Any]:
        """Starts a caller."""
        handle: WorkflowHandle[Any, Any] = await self.client.start_workflow(
            run,
            arg,
            id=workflow_id or f"{self.name}-{uuid4().hex[:8]}",
            task_queue=self.callers_queue,
            execution_timeout=self.longest_caller,
        )
        return handle

    async def call(self, way_in: str, writes: Sequence[Write], **options: Any) -> list[CallerResult]:
        """Has one caller make the writes, and returns what it was told."""
        return await (await self.start(way_in, writes, **options)).result()

    async def call_each(self, way_in: str, writes: Sequence[Write], **options: Any) -> list[CallerResult]:
        """Has a caller of its own make each write."""
        results = await asyncio.gather(*(self.call(way_in, [write], **options) for write in writes))
        return [one for (one,) in results]

    async def close(self) -> None:
        await self.stop_callers()
        await self.stop_batcher()
        for number in range(self.shards):
            with contextlib.suppress(RPCError):
                await self.shard(number).terminate()


ServiceFactory = Callable[..., AbstractAsyncContextManager[Service]]


@asynccontextmanager
async def running(
    client: Client,
    sink: Sink,
    policy: BatchPolicy = QUICK,
    *,
    batcher: bool = True,
    **options: Any,
) -> AsyncIterator[Service]:
    """A batcher and its callers for the length of a block; ``batcher=False`` leaves its worker to the test."""
    service = Service(client, sink, policy, **options)
    try:
        await service.start_callers()
        if batcher:
            await service.start_batcher()
        yield service
    finally:
        await service.close()


def entry(n: int = 0, **values: Any) -> Write:
    """A write of one row into ``entries``."""
    return Write([["entries", {"n": n, **values}]])


def count(events: Sequence[HistoryEvent], kind: EventType.ValueType) -> int:
    return sum(event.event_type == kind for event in events)
