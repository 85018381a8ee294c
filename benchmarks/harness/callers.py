"""The callers: one workflow that makes one write, by the way its job names. The sandbox is on, as for most users."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from benchmarks.harness import classic, recorder
    from temporal_batching import BatchWriter, Confirmation, OutcomeKind, Record

CALLERS_QUEUE = "callers"
TABLE = "entries"
TIMEOUT = timedelta(minutes=5)


@dataclass
class Job:
    """One write: the way it goes, and its row; by ``workflow_many`` so many rows of it."""

    way: str
    row: dict[str, Any]
    shards: int = 1
    records: int = 1
    table: str = TABLE


@workflow.defn
class Caller:
    """Writes one row and waits until it is committed."""

    def __init__(self) -> None:
        self._classic_batch: str | None = None

    @workflow.run
    async def run(self, job: Job) -> None:
        started = now()
        if job.way == "classic":
            flush = await self._write_classic(job)
        elif job.way == "workflow_many":
            flush = await self._write_many(job)
        else:
            flush = await write(job)
        confirmed(started, flush)

    async def _write_classic(self, job: Job) -> str:
        batcher = workflow.get_external_workflow_handle(classic.WORKFLOW_ID)
        await batcher.signal(classic.SIGNAL_ADD, {"caller": workflow.info().workflow_id, "row": job.row})
        await workflow.wait_condition(lambda: self._classic_batch is not None, timeout=TIMEOUT)
        return self._classic_batch or ""

    async def _write_many(self, job: Job) -> str:
        writer = BatchWriter(shards=job.shards, timeout=TIMEOUT, attempt_timeout=TIMEOUT)
        rows = ({**job.row, "amount": f"{number}.50"} for number in range(job.records))
        results = await writer.write_many([Record(TABLE, row) for row in rows])
        batches = {r.batch_id for r in results if isinstance(r, Confirmation) and r.outcome == OutcomeKind.WRITTEN}
        if len(results) != job.records or not all(isinstance(r, Confirmation) for r in results):
            raise ApplicationError(f"not all of {job.records} records were written", non_retryable=True)
        return min(batches)

    @workflow.signal(name=classic.SIGNAL_CONFIRM)
    def confirm_classic(self, batch: str) -> None:
        self._classic_batch = batch


@workflow.defn
class Regular:
    """Writes again as soon as its last write is committed, for as long as the servers run."""

    @workflow.run
    async def run(self, job: Job) -> None:
        while True:
            started = now()
            confirmed(started, await write(job))


async def write(job: Job) -> str:
    """One write, but not by the classic batcher; returns what its flush is called."""
    if job.way in ("direct", "in-process"):
        await workflow.execute_activity("insert_row", job.row, start_to_close_timeout=TIMEOUT)
        return workflow.info().workflow_id
    writer = BatchWriter(
        via="signal" if job.way == "signal" else "activity",
        gateway="local" if job.way == "local" else "batcher",
        shards=job.shards,
        timeout=TIMEOUT,
        attempt_timeout=TIMEOUT,
    )
    return (await writer.write(job.table, job.row)).batch_id


def now() -> float:
    with workflow.unsafe.sandbox_unrestricted():
        return recorder.now()


def confirmed(started: float, flush: str) -> None:
    if not workflow.unsafe.is_replaying():
        with workflow.unsafe.sandbox_unrestricted():
            recorder.confirmed(started, flush)
