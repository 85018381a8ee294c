"""`running_batcher`: a real batcher with a sink in memory, for tests of code that writes through a batcher."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from temporalio.worker import Worker

from temporal_batching.batcher.current_run import describe_current
from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.contract import DEFAULT_BATCHER, QUERY_STATS, WORKFLOW_BATCHER, BatcherStart, WriteRequest
from temporal_batching.errors import BatcherNotRunning, BatchingError
from temporal_batching.plugin import BatcherPlugin
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id, default_task_queue
from temporal_batching.sinks.ledger import LedgerStatus
from temporal_batching.sinks.memory import MemorySink
from temporal_batching.sinks.rules import TableRule

MARK = "temporal_batching.testing"
"""The key in the memo of the shards that are started here. The value names the block that has started them."""

_ANSWERS_WITHIN = timedelta(seconds=5)
"""The longest wait for the answer of a shard of another machine. A shard without a worker does not answer."""

_held: set[str] = set()
"""The ids of the blocks that run in this process."""

_UP_WITHIN = timedelta(seconds=30)


@dataclass(frozen=True)
class RunningBatcher:
    """A running batcher and what it has written.

    Attributes:
        handle: Pauses and flushes the batcher, and returns its statistics.
        sink: Its sink. ``sink.fail_next()`` simulates an outage, ``sink.batches`` has the batches that were committed.
    """

    handle: BatcherHandle
    sink: MemorySink

    @property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows by table name, in the order in which they were written."""
        return self.sink.rows

    def wrote(self, request_id: str) -> bool:
        """Whether the request with this id is written."""
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
    tables: Mapping[str, TableRule] | None = None,
    reject: Callable[[WriteRequest], str | None] | None = None,
) -> AsyncIterator[RunningBatcher]:
    """Runs a batcher in this process, with an empty ledger and without a database.

    Everything except the sink is real: the ways in, the deadlines, the deduplication, the confirmations. It works with
    Temporal's development server (``WorkflowEnvironment.start_local()``) and with the time-skipping server
    (``WorkflowEnvironment.start_time_skipping()``). The latter does not skip time while an activity is open, so only
    writers with ``via="signal"`` save real time there.

    At the end the shards that it has started are terminated, by their run ids. If shards of this name run already,
    it raises an error and leaves them alone, because their requests would be lost. Shards that a killed test has left
    behind are terminated: its process does not exist any more or, on another machine, no worker answers for them.

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
        client: A client of a server for tests.
        name: The batcher's name, the same as in the code under test.
        shards: The number of shards, the same as in the code under test.
        task_queue: The batcher's task queue, the same as in the code under test; by default the one of its name.
        policy: The limits. By default ``linger`` is zero, so that no test waits for a fuller batch.
        tables: What tables do with conflicts, updates and deletes, as in `SqlSink`. A table without a rule takes every
            insert, and nothing else.
        reject: Stands for the database's constraints: it returns a reason to reject the request, or None.

    Yields:
        The batcher, once its shards answer.

    Raises:
        BatchingError: A batcher of this name runs on the server already, for example that of another test.
        TimeoutError: Its shards did not answer within 30 seconds.
    """
    sink = MemorySink(tables=tables, reject=reject)
    limits = policy or BatchPolicy(linger=timedelta(0))
    queue = task_queue or default_task_queue(name)
    plugin = BatcherPlugin(sink, policy=limits, name=name, shards=shards, start_shards=False)
    handle = BatcherHandle(client, name, shards=shards, task_queue=task_queue)
    # At the end of a test a flush under way is not waited for.
    grace = timedelta(seconds=1)
    await _clear_away(client, name, shards)
    started: list[WorkflowHandle[Any, Any]] = []
    mark = _mark()
    _held.add(mark[-1])
    try:
        for shard in range(shards):
            start = BatcherStart(name, shard, limits.to_wire(), flush_task_queue="")
            started.append(await _start(client, start, queue, mark))
        async with Worker(client, task_queue=queue, plugins=[plugin], graceful_shutdown_timeout=grace):
            await _until_shards_answer(handle)
            yield RunningBatcher(handle, sink)
    finally:
        for one in started:
            with suppress(RPCError):  # it has ended; another execution under its id is left alone
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
    """Starts a shard with the mark of this block.

    Returns:
        A handle of this execution over continue-as-new, and of no other execution under its id.
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
    """Terminates the shards that a killed test has left behind: they would remember its requests.

    Raises:
        BatchingError: A shard runs that no test has started, or one whose test still runs.
    """
    for shard in range(shards):
        handle = client.get_workflow_handle(batcher_workflow_id(name, shard))
        try:
            description = await describe_current(handle)
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
    """The mark of a block: its machine, its process, and an id of its own."""
    return [socket.gethostname(), str(os.getpid()), str(uuid4())]


async def _is_held(shard: WorkflowHandle[Any, Any], mark: Any) -> bool:
    """Whether the block that has started the shard still runs."""
    machine, process, block = mark if isinstance(mark, list) and len(mark) == 3 else ("", "", "")
    if machine != socket.gethostname() or os.name == "nt":  # where a process cannot be probed without a signal
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
    except OSError:  # it belongs to another user
        return True
    return True


def _not_ours(workflow_id: str) -> BatchingError:
    return BatchingError(
        f"{workflow_id} runs already, and this running_batcher did not start it. It would be terminated, and the "
        "requests that it holds would be lost. Use a server for tests, or another name"
    )
