"""Callers of kinds that only these tests need."""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from tests.support.callers import Job, write_one, writer_for


@workflow.defn
class Leaver:
    """Asks, and ends without waiting for the answer once it is let go.

    Not earlier: the server never hands out an activity whose workflow has ended, so nothing would have been asked.
    """

    def __init__(self) -> None:
        self._let_go = False

    @workflow.run
    async def run(self, job: Job) -> None:
        asking = asyncio.create_task(write_one(writer_for(job), job.writes[0]))
        await workflow.wait_condition(lambda: self._let_go or asking.done())

    @workflow.signal
    def leave(self) -> None:
        self._let_go = True
