"""A batcher without writes: does its history grow?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.harness.databases import BenchDatabase
from benchmarks.harness.histories import of_batchers
from benchmarks.harness.servers import fresh_temporal
from benchmarks.harness.worker import WorkerConfig, connect
from benchmarks.harness.worker_process import worker_process
from benchmarks.markup import paragraph
from benchmarks.question import IDLE_SECONDS, Part, Progress, Question, Wanted
from benchmarks.report import Idle, Line, Report
from benchmarks.rounding import number
from benchmarks.targets import not_measured
from temporal_batching import BatchClient, Record
from temporal_batching.routing import batcher_workflow_id

SETTLE_SECONDS = 3.0
ROW = {"account": "a-1", "amount": "1.50", "at": "2026-01-31T09:30:00+00:00"}


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


def _parts(wanted: Wanted) -> list[Part]:
    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        report.idle = await watch_idle(database, wanted.idle_seconds)

    return [Part("idle batcher", 1, wanted.idle_seconds + 90, run, concurrent=True)]


def _answer(report: Report) -> list[str]:
    if report.idle is None:
        return []
    return [
        paragraph(
            f"In {report.idle.seconds:.0f} s without a write: {report.idle.events} history events of the batcher, "
            f"{number(report.idle.worker_cpu)} s of CPU of its worker. The server made {report.idle.persistence:,} "
            "persistence requests for chores of its own."
        )
    ]


def _targets(report: Report) -> list[Line]:
    target = f"0 in {IDLE_SECONDS:.0f} s"
    if report.idle is None:
        return [not_measured("events of an idle batcher", target)]
    name = f"events of an idle batcher in {report.idle.seconds:.0f} s"
    met = report.idle.events == 0 if report.idle.seconds >= IDLE_SECONDS else None if report.idle.events == 0 else False
    return [(name, target, str(report.idle.events), met)]


QUESTION = Question(
    name="idle", asks="Does a batcher without writes cost anything?", parts=_parts, answer=_answer, targets=_targets
)
