"""The callers: one workflow that makes one write, by the way its job names. The sandbox is on, as for most users."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from benchmarks import classic, recorder
    from temporal_batching import BatchWriter

CALLERS_QUEUE = "callers"
TABLE = "entries"
TIMEOUT = timedelta(minutes=5)


@dataclass
class Job:
    """One write: the way it goes, and its row."""

    way: str
    row: dict[str, Any]
    shards: int = 1


@workflow.defn
class Caller:
    """Writes one row and waits until it is committed."""

    def __init__(self) -> None:
        self._classic_batch: str | None = None

    @workflow.run
    async def run(self, job: Job) -> None:
        with workflow.unsafe.sandbox_unrestricted():
            started = recorder.now()
        flush = workflow.info().workflow_id
        if job.way in ("direct", "in-process"):
            await workflow.execute_activity("insert_row", job.row, start_to_close_timeout=TIMEOUT)
        elif job.way == "classic":
            batcher = workflow.get_external_workflow_handle(classic.WORKFLOW_ID)
            await batcher.signal(classic.SIGNAL_ADD, {"caller": workflow.info().workflow_id, "row": job.row})
            await workflow.wait_condition(lambda: self._classic_batch is not None, timeout=TIMEOUT)
            flush = self._classic_batch or ""
        else:
            writer = BatchWriter(
                via="signal" if job.way == "signal" else "activity",
                gateway="local" if job.way == "local" else "batcher",
                shards=job.shards,
                timeout=TIMEOUT,
                attempt_timeout=TIMEOUT,
            )
            flush = (await writer.write(TABLE, job.row)).batch_id
        if not workflow.unsafe.is_replaying():
            with workflow.unsafe.sandbox_unrestricted():
                recorder.confirmed(started, flush)

    @workflow.signal(name=classic.SIGNAL_CONFIRM)
    def confirm_classic(self, batch: str) -> None:
        self._classic_batch = batch
