"""Callers of kinds that only these tests need."""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from tests.support.callers import Job, write_one, writer_for


@workflow.defn
class Leaver:
    """Asks, and ends without waiting for the answer."""

    @workflow.run
    async def run(self, job: Job) -> None:
        asking = asyncio.create_task(write_one(writer_for(job), job.writes[0]))
        # What it asks goes out with the end of its first task, not of its run.
        await workflow.wait([asking], timeout=0.01)
