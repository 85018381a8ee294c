"""The well-known pattern, for comparison: signal in, one activity per batch, signal out from inside the batcher.

A fair small version of it: it waits for a full batch or the linger, takes what came too much to its next run, and
continues as new when Temporal suggests it. It has no limits, no deadlines and no deduplication of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

WORKFLOW_ID = "classic-batcher"
QUEUE = "classic-queue"
SIGNAL_ADD = "add"
SIGNAL_CONFIRM = "confirmed"
ACTIVITY_FLUSH = "classic_flush"


@dataclass
class Start:
    """Input of the batcher: its limits, and what its previous run carried over."""

    batch_size: int
    linger: float
    pending: list[dict[str, Any]] = field(default_factory=list)
    batches: int = 0


@workflow.defn
class ClassicBatcher:
    """Gathers signals, flushes them with one activity, and signals every caller."""

    @workflow.init
    def __init__(self, start: Start) -> None:
        self._pending = list(start.pending)

    @workflow.signal(name=SIGNAL_ADD)
    def add(self, write: dict[str, Any]) -> None:
        self._pending.append(write)

    @workflow.run
    async def run(self, start: Start) -> None:
        batches = start.batches
        while True:
            await workflow.wait_condition(lambda: bool(self._pending))
            if start.linger > 0:
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(
                        lambda: len(self._pending) >= start.batch_size, timeout=timedelta(seconds=start.linger)
                    )
            batch, self._pending = self._pending[: start.batch_size], self._pending[start.batch_size :]
            batches += 1
            batch_id = f"classic/{batches}"
            await workflow.execute_activity(
                ACTIVITY_FLUSH,
                args=[batch_id, [write["row"] for write in batch]],
                start_to_close_timeout=timedelta(seconds=30),
            )
            await asyncio.gather(*(self._confirm(write["caller"], batch_id) for write in batch))
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(Start(start.batch_size, start.linger, self._pending, batches))

    async def _confirm(self, caller: str, batch_id: str) -> None:
        with contextlib.suppress(ApplicationError):  # the caller is gone
            await workflow.get_external_workflow_handle(caller).signal(SIGNAL_CONFIRM, batch_id)
