"""Flushes on a task queue of their own: `FlushPlugin` for workers that do nothing else, a second worker for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio.plugin import SimplePlugin
from temporalio.worker import Worker, WorkerConfig

from temporal_batching.contract import DEFAULT_BATCHER
from temporal_batching.errors import InvalidPolicy
from temporal_batching.flush.activity import Flusher
from temporal_batching.health.readiness import STOPPING
from temporal_batching.health.report import Reporter
from temporal_batching.health.responder import check_address
from temporal_batching.health.serving import WorkerState, serve_health
from temporal_batching.metrics.flushes import FlushMetrics
from temporal_batching.metrics.recorder import Recorder
from temporal_batching.routing import check_name, check_shards
from temporal_batching.sinks.base import Sink
from temporal_batching.wire.checks import MAX_NAME

GRACEFUL_SHUTDOWN = timedelta(seconds=30)
"""For a batcher's worker that sets none of its own: a flush in progress may end."""

_SHARED = (
    "identity", "interceptors", "graceful_shutdown_timeout", "max_concurrent_activities", "deployment_config",
    "build_id", "use_worker_versioning", "on_fatal_error", "disable_payload_error_limit", "debug_mode",
)  # fmt: skip
"""What a worker's second worker has from it."""

_LOOK_INTERVAL = 0.2
"""Seconds. The SDK says of a worker that it has ended, and not that it is about to: that has to be looked at."""


class FlushPlugin(SimplePlugin):
    """Makes a worker take the flushes of a batcher from a task queue of their own, and nothing else.

    The batcher's own workers have ``BatcherPlugin(..., flush_task_queue=...)``, with this worker's task queue. So the
    flushes have a pool of workers of their own, for example near the database, and can have a rate limit.

    Example:
        ```python
        from temporal_batching import FlushPlugin, SqlSink, run_worker
        from temporalio.client import Client
        from temporalio.worker import Worker

        async def flush() -> None:
            client = await Client.connect("localhost:7233")
            plugin = FlushPlugin(SqlSink("postgresql://app@localhost/app"))
            worker = Worker(client, task_queue="main-flushes", max_concurrent_activities=8, plugins=[plugin])
            await run_worker(worker)
        ```

    Args:
        sink: Where batches go. Opened before the worker polls, closed after it has stopped.
        name: The batcher's name.
        shards: How many shards it has.
        health: Where to answer ``/healthz`` and ``/readyz``, as ``HOST:PORT``; None answers nowhere.

    Raises:
        AddressUnusable: ``health`` is no address; or, when the worker runs, nothing can listen there.
    """

    def __init__(self, sink: Sink, *, name: str = DEFAULT_BATCHER, shards: int = 1, health: str | None = None) -> None:
        super().__init__("temporal_batching.FlushPlugin")
        if not isinstance(sink, Sink):
            raise TypeError(f"sink is a Sink, not {type(sink).__name__}")
        self._sink = sink
        self._batcher = check_name(name)
        self._shards = check_shards(shards)
        if health is not None:
            check_address(health)
        self._health = health

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Adds the activities that need the sink."""
        config = super().configure_worker(config)
        client = config["client"]
        flusher = Flusher(
            self._sink,
            batcher=self._batcher,
            shards=self._shards,
            metrics=flush_metrics(client, self._sink, batcher=self._batcher, shards=self._shards),
            read_from=config["task_queue"],
        )
        reporter = Reporter(self._sink, batcher=self._batcher, identity=config.get("identity") or client.identity)
        config["activities"] = [*config.get("activities", []), *sink_activities(flusher), reporter.batcher_report]
        config["graceful_shutdown_timeout"] = config.get("graceful_shutdown_timeout") or GRACEFUL_SHUTDOWN
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Opens the sink, and closes it after the worker."""
        async with serve_health(self._health, worker, self._sink) as health, open_sink(self._sink):
            health.opened()
            await super().run_worker(worker, next)


@asynccontextmanager
async def open_sink(sink: Sink | None) -> AsyncIterator[None]:
    """Opens a worker's sink, if it has one, and closes it again."""
    if sink is None:
        yield
        return
    await sink.open()
    try:
        yield
    finally:
        await sink.close()


def sink_activities(flusher: Flusher) -> list[Callable[..., Any]]:
    """The activities that need the sink."""
    return [flusher.flush_batch, flusher.deliver_confirmations, flusher.batch_returned]


def flush_metrics(client: Any, sink: Sink, *, batcher: str, shards: int) -> FlushMetrics:
    """What a worker publishes of its flushes."""
    metrics = FlushMetrics(Recorder.of(client, batcher=batcher), getattr(sink, "counters", None))
    metrics.started(shards)
    return metrics


def check_flush_task_queue(task_queue: str | None) -> str:
    """Returns the task queue's name, empty for None, else raises `InvalidPolicy`."""
    if task_queue is None:
        return ""
    if not isinstance(task_queue, str) or not task_queue.strip() or len(task_queue) > MAX_NAME:
        raise InvalidPolicy(f"flush_task_queue {task_queue!r}: a name of 1 to {MAX_NAME} characters, or None")
    return task_queue


def second_worker(worker: Worker, task_queue: str, activities: Sequence[Callable[..., Any]]) -> Worker:
    """A worker for another task queue, with the options of a worker that make sense there."""
    config = worker.config(active_config=True)
    shared: dict[str, Any] = {name: config[name] for name in _SHARED if config.get(name) is not None}  # type: ignore[literal-required]
    return Worker(worker.client, task_queue=task_queue, activities=activities, **shared)


@asynccontextmanager
async def running_beside(worker: Worker, second: Worker | None) -> AsyncIterator[None]:
    """Runs a second worker during a block that runs the first; both shut down at the same time, each in order."""
    if second is None:
        yield
        return
    state = WorkerState(worker, asyncio.current_task())

    async def shut_down_with_it() -> None:
        while state() != STOPPING:  # noqa: ASYNC110  the SDK has no event for it
            await asyncio.sleep(_LOOK_INTERVAL)
        await second.shutdown()

    async with second:
        stopping = asyncio.create_task(shut_down_with_it())
        try:
            yield
        finally:
            stopping.cancel()
