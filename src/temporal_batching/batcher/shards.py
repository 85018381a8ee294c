"""Sends updates to a shard, and starts it if it does not run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.batcher.details import static_details
from temporal_batching.contract import WORKFLOW_BATCHER, BatcherStart
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.tracing import tracing

T = TypeVar("T")

_NOT_READY_PAUSES = (0.02, 0.1, 0.5)

_HANDLE_TIMEOUT = 0.5
"""Seconds. The SDK sets the operation's error before it raises it."""


async def retry_while_not_ready(update: Callable[[], Awaitable[T]]) -> T:
    """Retries an update that met a failing workflow task, as when a shard ends its run under load.

    The server then says FAILED_PRECONDITION. Sometimes the update had arrived nevertheless: only updates that
    may be repeated are sent this way.
    """
    for pause in _NOT_READY_PAUSES:
        try:
            return await update()
        except RPCError as err:
            if err.status != RPCStatusCode.FAILED_PRECONDITION:
                raise
        await asyncio.sleep(pause)
    return await update()


async def start_shard(client: Client, start: BatcherStart, *, task_queue: str) -> None:
    """Starts the shard if it does not run."""
    client = tracing().untraced(client)
    await client.start_workflow(
        WORKFLOW_BATCHER,
        start,
        id=batcher_workflow_id(start.batcher, start.shard),
        task_queue=task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=_summary(start),
        static_details=static_details(start),
    )


async def update_with_start(
    client: Client, update: str, arg: Any, *, start: BatcherStart, task_queue: str, result_type: type[T] | None = None
) -> T:
    """Sends the shard an update; starts it first, in the same call, if it does not run."""
    client = tracing().untraced(client)
    operation: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        WORKFLOW_BATCHER,
        start,
        id=batcher_workflow_id(start.batcher, start.shard),
        task_queue=task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=_summary(start),
        static_details=static_details(start),
    )
    try:
        result: T = await client.execute_update_with_start_workflow(
            update, arg, result_type=result_type, start_workflow_operation=operation
        )
    except BaseException:
        # The operation keeps the same error in a future, which would be reported as never retrieved. An error
        # that a client's interceptor raises is not in it: then there is nothing to wait for.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            async with asyncio.timeout(_HANDLE_TIMEOUT):
                await operation.workflow_handle()
        raise
    return result


def _summary(start: BatcherStart) -> str:
    return f"Batcher {start.batcher}, shard {start.shard}"
