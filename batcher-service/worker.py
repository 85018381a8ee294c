"""The batcher's worker: `python batcher-service/worker.py --sink postgresql+psycopg://user@host/database`.

All that makes a worker a batcher is one plugin. `temporal-batching worker` is the same as a command.
"""

from activities import open_sink
from temporalio.worker import Worker

from temporal_batching import BatcherPlugin, run_worker
from temporal_batching.service import (
    OBSERVED,
    POLICY,
    SINK,
    VERSION,
    BatcherSettings,
    CreateTables,
    Target,
    command,
    connect_to_batcher,
)


@command("flush_task_queue", *SINK, *OBSERVED, *VERSION, *POLICY)
async def main(settings: BatcherSettings, target: Target, create_tables: CreateTables = False) -> None:
    """Run a worker of the batcher. It starts or finds the batcher's workflows, and writes their batches to the sink."""
    client = await connect_to_batcher(target, settings, runtime=settings.runtime())
    sink = await open_sink(settings, create_tables=create_tables)
    plugin = BatcherPlugin(
        sink,
        policy=settings.policy(),
        name=settings.name,
        shards=settings.shards,
        **settings.flushes(),
        **settings.observed(),
    )
    worker = Worker(
        client, task_queue=settings.task_queue, plugins=[plugin], deployment_config=settings.deployment_config()
    )
    print(
        f"Batcher '{settings.name}' (shards: {settings.shards}) on task queue '{settings.task_queue}', "
        f"sink {settings.describe_sink()}. Ctrl-C stops it.",
        flush=True,
    )
    await run_worker(worker)
    print("Stopped.", flush=True)


if __name__ == "__main__":
    main()
