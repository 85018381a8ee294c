"""For tests of code that writes through a batcher: a real one, into memory, for the length of a block."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from temporalio.worker import Worker

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.contract import DEFAULT_BATCHER, QUERY_STATS, WORKFLOW_BATCHER, BatcherStart, WriteRequest
from temporal_batching.errors import BatcherNotRunning, BatchingError
from temporal_batching.plugin import BatcherPlugin
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id, default_task_queue
from temporal_batching.sinks.ledger import LedgerStatus
from temporal_batching.sinks.memory import MemorySink

MARK = "temporal_batching.testing"
"""In the memo of the shards that are started here: which block has started them."""

_ANSWERS_WITHIN = timedelta(seconds=5)
"""The longest to wait for a shard of another machine's test: one without a worker does not answer."""

_held: set[str] = set()
"""The marks of the blocks that run in this process."""

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

    At the end its shards are terminated: those that it has started, by their run ids, and no others. Shards of that
    name that already run are left alone, and the block is refused, for their requests would be gone; but for those of
    a test that was killed: its process is gone or, on another machine, no worker answers for them.

    Example:
        ```python
        from temporal_batching import BatchClient
        from temporal_batching.testing import running_batcher
        from temporalio.testing import WorkflowEnvironment

        async def test_an_entry_is_written() -> None:
            async with await WorkflowEnvironment.start_local() as env, running_batcher(env.client) as batcher:
                await BatchClient(env.client).write("entries", {"account": "a-1"})
                assert batcher.rows == {"entries": [{"account": "a-1"}]}
        ```

    Args:
        client: Connected to a server that is used for tests.
        name: The batcher's name, as the code under test has it.
        shards: How many shards it has, as the code under test has it.
        task_queue: The batcher's task queue, as the code under test has it; by default the one of its name.
        policy: The limits. By default nothing lingers, so that no test waits for a fuller batch.
        reject: Plays the database's constraints: a reason rejects the request, None lets it be written.

    Raises:
        BatchingError: A batcher of this name runs on the server already, another test's included.
        TimeoutError: Its shards did not answer within 30 seconds.
    """
    sink = MemorySink(reject=reject)
    limits = policy or BatchPolicy(linger=timedelta(0))
    queue = task_queue or default_task_queue(name)
    plugin = BatcherPlugin(sink, policy=limits, name=name, shards=shards, start_shards=False)
    handle = BatcherHandle(client, name, shards=shards, task_queue=task_queue)
    # A test that has ended waits for nothing that is still in a flush.
    grace = timedelta(seconds=1)
    await _clear_away(client, name, shards)
    started: list[WorkflowHandle[Any, Any]] = []
    mark = _mark()
    _held.add(mark[-1])
    try:
        for shard in range(shards):
            started.append(await _start(client, BatcherStart(name, shard, limits.to_wire()), queue, mark))
        async with Worker(client, task_queue=queue, plugins=[plugin], graceful_shutdown_timeout=grace):
            await _until_shards_answer(handle)
            yield RunningBatcher(handle, sink)
    finally:
        for one in started:
            with suppress(RPCError):  # it has ended, and whatever runs under its id since then is not ours
                await one.terminate("the test is over")
        _held.discard(mark[-1])


async def _until_shards_answer(handle: BatcherHandle) -> None:
    async with asyncio.timeout(_UP_WITHIN.total_seconds()):
        while True:
            with suppress(BatcherNotRunning, RPCError):
                await handle.stats()
                return
            await asyncio.sleep(0.02)


async def _start(client: Client, start: BatcherStart, task_queue: str, mark: list[str]) -> WorkflowHandle[Any, Any]:
    """Starts a shard that is marked as a test's.

    Returns:
        A handle of this execution, over continue-as-new, and of no later one.
    """
    workflow_id = batcher_workflow_id(start.batcher, start.shard)
    try:
        started = await client.start_workflow(
            WORKFLOW_BATCHER, start, id=workflow_id, task_queue=task_queue, memo={MARK: mark}
        )
    except WorkflowAlreadyStartedError:
        raise _not_ours(workflow_id) from None
    return client.get_workflow_handle(workflow_id, first_execution_run_id=started.first_execution_run_id)


async def _clear_away(client: Client, name: str, shards: int) -> None:
    """Terminates what a test has left that was killed: it would remember its requests.

    Raises:
        BatchingError: A shard runs that no test has started, or one whose worker is alive.
    """
    for shard in range(shards):
        handle = client.get_workflow_handle(batcher_workflow_id(name, shard))
        try:
            description = await handle.describe()
        except RPCError:  # there is none
            continue
        if description.status != WorkflowExecutionStatus.RUNNING:
            continue
        memo = await description.memo()
        if MARK not in memo or await _is_held(handle, memo[MARK]):
            raise _not_ours(handle.id)
        first = description.raw_description.workflow_execution_info.first_run_id
        with suppress(RPCError):
            await client.get_workflow_handle(handle.id, first_execution_run_id=first).terminate("its test was killed")


def _mark() -> list[str]:
    """Names a block: its machine, its process, and itself."""
    return [socket.gethostname(), str(os.getpid()), str(uuid4())]


async def _is_held(shard: WorkflowHandle[Any, Any], mark: Any) -> bool:
    """Whether the block that has started a shard still runs."""
    machine, process, block = mark if isinstance(mark, list) and len(mark) == 3 else ("", "", "")
    if machine != socket.gethostname() or os.name == "nt":  # where a process cannot be asked for without a signal
        with suppress(RPCError):
            await shard.query(QUERY_STATS, rpc_timeout=_ANSWERS_WITHIN)
            return True
        return False
    return block in _held if process == str(os.getpid()) else _is_alive(int(process))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _not_ours(workflow_id: str) -> BatchingError:
    return BatchingError(
        f"{workflow_id} runs already, and this running_batcher did not start it: it would be terminated with all that "
        "it holds. Use a server for tests, or another name"
    )
