"""A batcher without writes: does its history grow?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.databases import BenchDatabase
from benchmarks.histories import of_batchers
from benchmarks.servers import fresh_temporal
from benchmarks.worker import WorkerConfig, connect
from benchmarks.worker_process import worker_process
from temporal_batching import BatchClient, Record
from temporal_batching.routing import batcher_workflow_id

SETTLE_SECONDS = 3.0
ROW = {"account": "a-1", "amount": "1.50", "at": "2026-01-31T09:30:00+00:00"}


@dataclass(frozen=True)
class Idle:
    """What was added while nothing was written.

    Attributes:
        seconds: How long it was really watched.
        events: History events of the batcher.
        persistence: Persistence requests of the whole server, which has chores of its own.
        worker_cpu: Seconds of CPU of the batcher's worker.
    """

    seconds: float
    events: int
    persistence: int
    worker_cpu: float


async def watch_idle(database: BenchDatabase, seconds: float) -> Idle:
    """Writes a little, on servers of its own, and then watches the batcher do nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-idle-") as name:
        directory = Path(name)
        async with fresh_temporal(directory) as temporal:
            client = await connect(temporal.address)
            config = WorkerConfig("write_many", temporal.address, await database.fresh(), linger=0.2)
            async with worker_process(config, directory / "worker.log") as worker:
                await BatchClient(client).write_many([Record("entries", ROW)] * 150)
                await asyncio.sleep(SETTLE_SECONDS)
                shard = [batcher_workflow_id("main", 0)]
                before, start = await of_batchers(client, shard), time.monotonic()
                requests, cpu = (await temporal.counters())["persistence"].total(), worker.cpu()
                await asyncio.sleep(seconds)
                watched, used = time.monotonic() - start, worker.cpu() - cpu
                requests = (await temporal.counters())["persistence"].total() - requests
                after = await of_batchers(client, shard)
                return Idle(watched, after.events - before.events, requests, used)
