"""The batcher's worker: `python batcher-service/worker.py --sink postgresql+psycopg://user@host/database`.

All that makes a worker a batcher is one plugin:

    plugin = BatcherPlugin(SqlSink(url), policy=BatchPolicy(...))
    await run_worker(Worker(client, task_queue="batcher-queue", plugins=[plugin]))

The rest is a command's: settings from flags, environment and file, a look at Temporal and the database before any
work is taken, and a shutdown that finishes what is under way. `temporal-batching worker` is the same command.
"""

from temporal_batching.cli import main

if __name__ == "__main__":
    main("worker")
