"""A worker process: connect, check the sink, serve until a signal, finish what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.worker import Worker

from temporal_batching import BatcherPlugin
from temporal_batching.cli.connect import check_readable, connect_to
from temporal_batching.cli.console import CommandError, log_to_stderr, out, plural
from temporal_batching.cli.options import Target
from temporal_batching.settings import CONSOLE, BatcherSettings
from temporal_batching.sinks.base import Sink


async def run_batcher_worker(
    settings: BatcherSettings,
    target: Target,
    *,
    create_tables: bool = False,
    metrics: str | None = None,
    counters: Path | None = None,
) -> int:
    """Runs the batcher's worker until it is cancelled."""
    log_to_stderr()
    client = await connect_to(target, runtime=_runtime(metrics))
    await check_readable(client, settings)
    sink = await open_sink(settings, create_tables=create_tables)
    worker = batcher_worker(client, settings, sink)
    out.print(
        f"Batcher '{settings.name}' ({plural(settings.shards, 'shard')}) on task queue '{settings.task_queue}', "
        f"Temporal at {client.service_client.config.target_host}, sink {settings.describe_sink()}. "
        "Ctrl-C stops it.",
        markup=False,
    )
    async with _written_down(sink, counters):
        return await serve(worker)


def batcher_worker(client: Client, settings: BatcherSettings, sink: Sink) -> Worker:
    """The worker that a batcher needs: everything is in the plugin."""
    plugin = BatcherPlugin(sink=sink, policy=settings.policy(), name=settings.name, shards=settings.shards)
    return Worker(
        client,
        task_queue=settings.task_queue,
        plugins=[plugin],
        # A flush that has begun may end; one that is cut off is safe too, but has to be made again.
        graceful_shutdown_timeout=settings.flush_timeout,
    )


async def open_sink(settings: BatcherSettings, *, create_tables: bool = False) -> Sink:
    """The sink that the settings name, checked: the plugin opens it."""
    if settings.sink_url() == CONSOLE:
        from temporal_batching.sinks.console import ConsoleSink

        return ConsoleSink()
    from temporal_batching.cli.database import prepare_database

    await prepare_database(settings.sink_url(), create_tables=create_tables)
    from temporal_batching.sinks.sql import SqlSink

    return SqlSink(settings.sink_url())


async def serve(worker: Worker) -> int:
    """Runs a worker until it is cancelled; then no new work is taken, and what is under way is finished."""
    try:
        await worker.run()
    except asyncio.CancelledError:
        out.print("Stopped.")
    return 0


def _runtime(metrics: str | None) -> Runtime | None:
    if metrics is None:
        return None
    try:
        return Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=metrics)))
    except (RuntimeError, ValueError) as err:
        raise CommandError(f"--metrics {metrics!r}: {err}; an address to listen on, such as 127.0.0.1:9464") from None


@contextlib.asynccontextmanager
async def _written_down(sink: Sink, file: Path | None) -> AsyncIterator[None]:
    """Keeps the sink's counters in a file, for a parent process that wants to know."""
    counters = getattr(sink, "counters", None)
    if file is None or counters is None:
        yield
        return

    async def keep() -> None:
        while True:
            # Replaced in one step: a reader sees the old figures or the new ones.
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(dataclasses.asdict(counters)), encoding="utf-8")
            fresh.replace(file)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
