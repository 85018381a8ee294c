"""``temporal-batching worker``: connect, check the sink, serve until a signal, finish what is in progress."""

from __future__ import annotations

import asyncio
from typing import Annotated

from temporalio.client import Client
from temporalio.worker import Worker

from temporal_batching import BatcherPlugin, FlushPlugin
from temporal_batching.cli.connect import Target, connect_to_batcher
from temporal_batching.cli.console import out, plural, run
from temporal_batching.cli.logs import log_to_stderr
from temporal_batching.cli.options import (
    BATCHER,
    FLUSHES,
    LOGGED,
    OBSERVED,
    POLICY,
    SINK,
    VERSION,
    switch,
    with_settings,
)
from temporal_batching.collector import collect_less_often
from temporal_batching.settings import CONSOLE, BatcherSettings
from temporal_batching.sinks.base import Sink

CreateTables = Annotated[
    bool, switch("--create-tables", "Make the demo's table 'entries' in the database if it is missing.")
]


@with_settings(*BATCHER, *FLUSHES, *SINK, *OBSERVED, *LOGGED, *VERSION, *POLICY)
def worker(settings: BatcherSettings, target: Target, create_tables: CreateTables = False) -> None:
    """Run a batcher worker. It starts or finds the batcher's workflows, takes writes and flushes them to the sink."""
    run(run_batcher_worker(settings, target, create_tables=create_tables))


async def run_batcher_worker(settings: BatcherSettings, target: Target, *, create_tables: bool = False) -> int:
    """Runs the batcher's worker until it is cancelled."""
    log_to_stderr(settings.log_level, settings.log_format)
    client = await connect_to_batcher(target, settings, runtime=settings.runtime())
    sink = await open_sink(settings, create_tables=create_tables) if settings.serve != "shards" else None
    worker = batcher_worker(client, settings, sink)
    apart = settings.flush_task_queue if settings.serve != "flushes" else ""
    out.print(
        f"Batcher '{settings.name}' ({plural(settings.shards, 'shard')}) on task queue '{worker.task_queue}'"
        f"{apart and f', flushes on {apart!r}'}, Temporal at {client.service_client.config.target_host}, "
        f"sink {settings.describe_sink() if sink is not None else 'that of other workers'}. Ctrl-C stops it.",
        markup=False,
    )
    return await serve(worker)


def batcher_worker(client: Client, settings: BatcherSettings, sink: Sink | None) -> Worker:
    """The worker that a batcher needs, or that of its flushes alone: everything is in the plugin."""
    plugin: BatcherPlugin | FlushPlugin
    if settings.serve == "flushes" and sink is not None:
        plugin = FlushPlugin(sink, name=settings.name, shards=settings.shards, health=settings.health or None)
    else:
        plugin = BatcherPlugin(
            sink,
            policy=settings.policy(),
            name=settings.name,
            shards=settings.shards,
            **settings.flushes(),
            **settings.observed(),
        )
    return Worker(
        client,
        task_queue=settings.flush_task_queue if settings.serve == "flushes" else settings.task_queue,
        plugins=[plugin],
        deployment_config=settings.deployment_config(),
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

    return SqlSink(settings.sink_url(), **settings.sink_options())


async def serve(worker: Worker) -> int:
    """Runs a worker until it is cancelled; then it takes no new work and finishes what is in progress."""
    collect_less_often()
    try:
        await worker.run()
    except asyncio.CancelledError:
        out.print("Stopped.")
    return 0
