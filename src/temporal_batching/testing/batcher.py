"""For tests of code that writes through a batcher: a real one, into memory, for the length of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from temporalio.worker import Worker

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.contract import DEFAULT_BATCHER, WORKFLOW_BATCHER, BatcherStart, WriteRequest
from temporal_batching.errors import BatcherNotRunning, BatchingError
from temporal_batching.plugin import BatcherPlugin
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id, default_task_queue
from temporal_batching.sinks.ledger import LedgerStatus
from temporal_batching.sinks.memory import MemorySink

MARK = "temporal_batching.testing"
"""In the memo of the shards that are started here."""

_UP_WITHIN = timedelta(seconds=30)


@dataclass(frozen=True)
class RunningBatcher:
    """A batcher at work, and what has come of it so far.

    Attributes:
        handle: Pauses it, flushes it, tells its figures.
        sink: Where its batches go. ``sink.fail_next()`` plays an outage, ``sink.batches`` are the transactions.
    """

    handle: BatcherHandle
    sink: MemorySink

    @property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each table, in the order they were written."""
        return self.sink.rows

    def wrote(self, request_id: str) -> bool:
        """Whether a request is in the ledger, and so its records in their tables."""
        entry = self.sink.ledger.get(request_id)
        return entry is not None and entry.status is LedgerStatus.WRITTEN


@asynccontextmanager
async def running_batcher(
    client: Client,
    *,
    name: str = DEFAULT_BATCHER,
    shards: int = 1,
    task_queue: str | None = None,
    policy: BatchPolicy | None = None,
    reject: Callable[[WriteRequest], str | None] | None = None,
) -> AsyncIterator[RunningBatcher]:
    """Runs a batcher in this process, from an empty ledger, with no database.

    Everything is real but the sink: the doors, the deadlines, the deduplication, the confirmations. It works on
    Temporal's development server (``WorkflowEnvironment.start_local()``) and on the one that skips time
    (``WorkflowEnvironment.start_time_skipping()``). That one does not skip while an activity is open, so only writers
    with ``via="signal"`` wait no real time there.

    At the end its shards are terminated. It marks them, and refuses to touch shards of that name that it did not
    start: a live batcher's requests would be gone.

    Args:
        client: Connected to a server that is used for tests.
        name: The batcher's name, as the code under test has it.
        shards: How many shards it has, as the code under test has it.
        task_queue: The batcher's task queue, as the code under test has it; by default the one of its name.
        policy: The limits. By default nothing lingers, so that no test waits for a fuller batch.
        reject: Plays the database's constraints: a reason rejects the request, None lets it be written.

    Raises:
        BatchingError: A batcher of this name runs on the server already.
        TimeoutError: Its shards did not answer within 30 seconds.
    """
    sink = MemorySink(reject=reject)
    limits = policy or BatchPolicy(linger=timedelta(0))
    queue = task_queue or default_task_queue(name)
    plugin = BatcherPlugin(sink, policy=limits, name=name, shards=shards, start_shards=False)
    handle = BatcherHandle(client, name, shards=shards, task_queue=task_queue)
    # A test that has ended waits for nothing that is still in a flush.
    grace = timedelta(seconds=1)
    await _terminate(client, name, shards)  # left by a test that was killed: it would remember its requests
    try:
        for shard in range(shards):
            await _start(client, BatcherStart(name, shard, limits.to_wire()), queue)
        async with Worker(client, task_queue=queue, plugins=[plugin], graceful_shutdown_timeout=grace):
            await _until_shards_answer(handle)
            yield RunningBatcher(handle, sink)
    finally:
        await _terminate(client, name, shards)


async def _until_shards_answer(handle: BatcherHandle) -> None:
    async with asyncio.timeout(_UP_WITHIN.total_seconds()):
        while True:
            with suppress(BatcherNotRunning, RPCError):
                await handle.stats()
                return
            await asyncio.sleep(0.02)


async def _start(client: Client, start: BatcherStart, task_queue: str) -> None:
    """Starts a shard that is marked as a test's, and no other than that."""
    workflow_id = batcher_workflow_id(start.batcher, start.shard)
    try:
        await client.start_workflow(WORKFLOW_BATCHER, start, id=workflow_id, task_queue=task_queue, memo={MARK: True})
    except WorkflowAlreadyStartedError:
        raise _not_ours(workflow_id) from None


async def _terminate(client: Client, name: str, shards: int) -> None:
    """Terminates the shards that a test has started.

    Raises:
        BatchingError: One of them is not a test's.
    """
    for shard in range(shards):
        handle = client.get_workflow_handle(batcher_workflow_id(name, shard))
        with suppress(RPCError):  # it does not run
            description = await handle.describe()
            if description.status != WorkflowExecutionStatus.RUNNING:
                continue
            if MARK not in await description.memo():
                raise _not_ours(handle.id)
            await handle.terminate("the test is over")


def _not_ours(workflow_id: str) -> BatchingError:
    return BatchingError(
        f"{workflow_id} runs already, and running_batcher did not start it: it would be terminated with all that it "
        "holds. Use a server for tests, or another name"
    )
