"""``temporal-batching worker``: connect, check the sink, serve until a signal, finish what is in progress."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.worker import Worker

from temporal_batching import BatcherPlugin
from temporal_batching.cli.connect import Target, connect_to_batcher
from temporal_batching.cli.console import CommandError, log_to_stderr, out, plural, run
from temporal_batching.cli.options import BATCHER, POLICY, switch, with_settings
from temporal_batching.settings import CONSOLE, BatcherSettings
from temporal_batching.sinks.base import Sink

CreateTables = Annotated[
    bool, switch("--create-tables", "Make the demo's table 'entries' in the database if it is missing.")
]


@with_settings(*BATCHER, "sink", *POLICY)
def worker(
    settings: BatcherSettings,
    target: Target,
    create_tables: CreateTables = False,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus.", show_default=False),
    ] = None,
) -> None:
    """Run a batcher worker. It starts or finds the batcher's workflows, takes writes and flushes them to the sink."""
    run(run_batcher_worker(settings, target, create_tables=create_tables, metrics=metrics))


async def run_batcher_worker(
    settings: BatcherSettings,
    target: Target,
    *,
    create_tables: bool = False,
    metrics: str | None = None,
) -> int:
    """Runs the batcher's worker until it is cancelled."""
    log_to_stderr()
    client = await connect_to_batcher(target, settings, runtime=_runtime(metrics))
    sink = await open_sink(settings, create_tables=create_tables)
    worker = batcher_worker(client, settings, sink)
    out.print(
        f"Batcher '{settings.name}' ({plural(settings.shards, 'shard')}) on task queue '{settings.task_queue}', "
        f"Temporal at {client.service_client.config.target_host}, sink {settings.describe_sink()}. "
        "Ctrl-C stops it.",
        markup=False,
    )
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
    """Runs a worker until it is cancelled; then it takes no new work and finishes what is in progress."""
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
