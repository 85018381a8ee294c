"""Starts the batcher's workflows or finds them running, then watches them: `python batcher-service/starter.py`.

A worker starts them as well, so this is for looking on: what is pending, what came by signal, each continue-as-new, and
a sink that is down. `temporal-batching monitor` shows the same without starting anything.
"""

import asyncio
from contextlib import suppress

from temporal_batching import BatcherHandle
from temporal_batching.monitoring import monitor
from temporal_batching.service import (
    POLICY,
    BatcherSettings,
    Interval,
    Target,
    command,
    connect_to_batcher,
    read_duration,
)


@command(*POLICY)
async def main(settings: BatcherSettings, target: Target, interval: Interval = "1s") -> None:
    """Start the batcher's workflows or find them running, then watch them."""
    client = await connect_to_batcher(target, settings)
    batcher = BatcherHandle(client, settings.name, shards=settings.shards, task_queue=settings.task_queue)
    await batcher.start(settings.given_policy())
    with suppress(asyncio.CancelledError):  # Ctrl-C
        await monitor(batcher, interval=read_duration("--interval", interval))


if __name__ == "__main__":
    main()
