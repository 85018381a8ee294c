"""Reads from Temporal what callers asked for and got: histories of workflows, activities of programs, the shards.

Histories are read event by event. The facts go to the store, so that no history is kept in memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from temporalio.api.common.v1 import Payloads
from temporalio.client import ActivityExecution, ActivityExecutionStatus, Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.audit.callers import WRITE_ACTIVITIES, CallerRun
from temporal_batching.audit.facts import ReadCounts
from temporal_batching.audit.payloads import PayloadReader
from temporal_batching.audit.results import ResultRecorder
from temporal_batching.audit.rules import CallResult
from temporal_batching.audit.shards import ShardHistory
from temporal_batching.audit.store import FactStore
from temporal_batching.contract import WORKFLOW_BATCHER
from temporal_batching.wire.requests import default_request_id

READ_AT_ONCE = 8
"""The number of histories that are read concurrently."""

Execution = TypeVar("Execution")


class QueryRefused(Exception):
    """Temporal rejects the visibility query; the message is that of the server."""


class HistoryReader:
    """Reads what concerns one batcher.

    Args:
        client: Its data converter decodes the payloads in the histories.
        store: Where the facts are stored.
        batcher: The batcher's name.
        task_queue: The queue whose requests belong to this batcher if they name none.
        since: Seconds since the epoch; requests that were sent earlier are not checked.
    """

    def __init__(self, client: Client, store: FactStore, *, batcher: str, task_queue: str, since: float = 0.0) -> None:
        self._client = client
        self._store = store
        self._batcher = batcher
        self._task_queue = task_queue
        self._since = since
        self._shard_ids = re.compile(rf"batcher-{re.escape(batcher)}-(\d+)")
        self._counts = ReadCounts()
        self._payloads = PayloadReader(client, store, self._counts, batcher=batcher, task_queue=task_queue)
        self._results = ResultRecorder(self._payloads, store, self._counts, since=since)

    async def read(self, query: str | None = None) -> ReadCounts:
        """Reads the callers that the query selects, the activities of programs, and the shards.

        Args:
            query: A visibility query for callers; None for all.

        Raises:
            QueryRefused: Temporal rejects the query.
            RPCError: Temporal cannot be read.
        """
        callers = f"WorkflowType != '{WORKFLOW_BATCHER}'" + (f" AND ({query})" if query else "")
        await self._read_each(self._client.list_workflows(self._recent(callers)), self._read_caller)
        # The shards' histories have the requests that came by other ways, and the order of all arrivals.
        shards = f"WorkflowType = '{WORKFLOW_BATCHER}'"
        await self._read_each(self._client.list_workflows(self._recent(shards)), self._read_shard)
        types = " OR ".join(f"ActivityType = '{name}'" for name in WRITE_ACTIVITIES)
        queue = self._task_queue.replace("'", "''")
        activities = self._recent(f"({types}) AND TaskQueue = '{queue}'")
        try:
            await self._read_each(self._client.list_activities(activities), self._read_activity)
        except QueryRefused:
            self._counts.no_activities = True
        return self._counts

    def _recent(self, query: str) -> str:
        if not self._since:
            return query
        moment = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return f"{query} AND (ExecutionStatus = 'Running' OR CloseTime >= '{moment}')"

    async def _read_each(
        self, executions: AsyncIterator[Execution], read: Callable[[Execution], Awaitable[None]]
    ) -> None:
        try:
            await self._read_concurrently(executions, read)
        except ExceptionGroup as group:
            raise _first(group) from None

    async def _read_concurrently(
        self, executions: AsyncIterator[Execution], read: Callable[[Execution], Awaitable[None]]
    ) -> None:
        slots = asyncio.Semaphore(READ_AT_ONCE)

        async def read_one(execution: Execution) -> None:
            try:
                await read(execution)
            except RPCError as err:
                if err.status != RPCStatusCode.NOT_FOUND:
                    raise
                self._counts.deleted += 1
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                try:
                    execution = await anext(executions)
                except StopAsyncIteration:
                    return
                except RPCError as err:
                    if err.status in (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNIMPLEMENTED):
                        raise QueryRefused(err.message) from None
                    raise
                group.create_task(read_one(execution))

    async def _read_caller(self, execution: WorkflowExecution) -> None:
        run = CallerRun(
            execution.id,
            execution.run_id,
            running=execution.close_time is None,
            shard_ids=self._shard_ids,
            payloads=self._payloads,
            results=self._results,
            counts=self._counts,
        )
        handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            await run.read(event)
        run.end()
        self._counts.workflows += 1

    async def _read_shard(self, execution: WorkflowExecution) -> None:
        found = self._shard_ids.fullmatch(execution.id)
        if found is None:
            return
        shard = ShardHistory(
            self._batcher,
            int(found[1]),
            execution.start_time.timestamp(),
            payloads=self._payloads,
            results=self._results,
            store=self._store,
        )
        handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            await shard.read(event)
        shard.end()

    async def _read_activity(self, execution: ActivityExecution) -> None:
        """Reads a write of a program: an activity without a workflow."""
        handle = self._client.get_activity_handle(execution.activity_id, run_id=execution.activity_run_id)
        activity = await handle.describe(include_input=True, include_outcome=True)
        self._counts.activities += 1
        sent = await self._payloads.read_sent(
            activity.raw_input or Payloads(),
            execution.schedule_time.timestamp(),
            default_id=default_request_id(execution.activity_run_id, execution.activity_id),
            task_queue=execution.task_queue,
            timeout=activity.schedule_to_close_timeout or timedelta(0),
        )
        if sent is None:
            return
        caller = f"activity {execution.activity_id}"
        outcome = activity.raw_outcome
        if outcome is not None and outcome.HasField("result"):
            ended = execution.close_time.timestamp() if execution.close_time else 0.0
            await self._results.completed(caller, sent, outcome.result, ended)
        elif activity.status is ActivityExecutionStatus.CANCELED:
            self._results.add_all(caller, sent, CallResult.CANCELLED)
        elif outcome is not None and outcome.HasField("failure"):
            await self._results.failed(caller, sent, outcome.failure)
        else:
            self._results.add_all(caller, sent, CallResult.UNKNOWN)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
