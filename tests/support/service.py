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
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from temporal_batching import (
    BatchClient,
    BatcherHandle,
    BatcherPlugin,
    BatcherStats,
    BatchPolicy,
    FlushPlugin,
    GatewayPlugin,
    Sink,
)
from temporal_batching.routing import batcher_workflow_id
from tests.support.callers import CALLERS, Caller, CallerResult, Job, Write, endpoint_of
from tests.support.many_callers import ManyCaller, ManyJob
from tests.support.nexus import nexus_endpoint

LONGEST_CALLER = timedelta(seconds=90)
"""A caller that hangs fails its test instead of holding up all others."""

CALLERS_RUNNER = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules("tests.support")
)
"""The sandbox without what it does by default: importing the modules of the callers anew for each run."""

WORKFLOWS = [*CALLERS, ManyCaller]

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
    flush_apart: bool = False
    """Workers of their own flush, and the batcher's have no sink."""
    _endpoint: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _has_endpoint: asyncio.Future[Any] | None = None
    _batcher: contextlib.AsyncExitStack | None = None
    _callers: contextlib.AsyncExitStack | None = None

    @property
    def queue(self) -> str:
        return f"{self.name}-batcher"

    @property
    def flush_queue(self) -> str:
        return f"{self.name}-flushes"

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
        self._batcher = contextlib.AsyncExitStack()
        own: Sink | None = sink or self.sink
        options = dict(self.plugin_options)
        if self.flush_apart and own is not None:
            plugins = [FlushPlugin(own, name=self.name, shards=self.shards)]
            grace = timedelta(seconds=5)
            worker = Worker(self.client, task_queue=self.flush_queue, plugins=plugins, graceful_shutdown_timeout=grace)
            await self._batcher.enter_async_context(worker)
            own, options["flush_task_queue"] = None, self.flush_queue
        plugin = BatcherPlugin(own, policy=policy or self.policy, name=self.name, shards=self.shards, **options)
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
        async with asyncio.timeout(90):
            while True:
                try:
                    # The SDK drops a query that waits for a run that it evicts: Temporal would wait for it for 10 s.
                    await asyncio.wait_for(self.handle.stats(), 5)
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
            Worker(
                self.client,
                task_queue=self.callers_queue,
                workflows=[*CALLERS, ManyCaller],
                workflow_runner=CALLERS_RUNNER,
                plugins=[plugin],
                **options,
            )
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
        job = getattr(arg, "job", arg)
        if isinstance(job, Job) and job.way_in == "nexus":
            await self._create_endpoint()
        handle: WorkflowHandle[Any, Any] = await self.client.start_workflow(
            run,
            arg,
            id=workflow_id or f"{self.name}-{uuid4().hex[:8]}",
            task_queue=self.callers_queue,
            execution_timeout=self.longest_caller,
        )
        return handle

    async def call(self, way_in: str, writes: Sequence[Write], **options: Any) -> list[CallerResult]:
        """Has one caller make the writes, and returns what it received."""
        return await (await self.start(way_in, writes, **options)).result()

    async def call_each(self, way_in: str, writes: Sequence[Write], **options: Any) -> list[CallerResult]:
        """Has a caller of its own make each write."""
        results = await asyncio.gather(*(self.call(way_in, [write], **options) for write in writes))
        return [one for (one,) in results]

    async def start_many(self, **options: Any) -> WorkflowHandle[Any, Any]:
        """Starts a caller that writes many requests at once; what and how, as `ManyJob` has it."""
        job = ManyJob(self.name, options.pop("queue", self.queue), **{"shards": self.shards, **options})
        return await self.run(ManyCaller.run, job)

    async def _create_endpoint(self) -> None:
        if self._has_endpoint is None:
            creating = self._endpoint.enter_async_context(
                nexus_endpoint(self.client, endpoint_of(self.name), self.queue)
            )
            self._has_endpoint = asyncio.ensure_future(creating)
        await self._has_endpoint

    async def close(self) -> None:
        await self.stop_callers()
        await self._endpoint.aclose()
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
