"""Operations of the Nexus service, from inside a workflow: how a writer of another namespace reaches its batcher."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from nexusrpc import HandlerError
from temporalio import workflow
from temporalio.exceptions import ApplicationError, NexusOperationError

from temporal_batching.contract import NEXUS_SERVICE, JsonObject
from temporal_batching.errors import ErrorType
from temporal_batching.routing import check_endpoint
from temporal_batching.wire.deadlines import deadline_after
from temporal_batching.writers.many import Room

OPERATIONS_UNDER_WAY = 24
"""Operations that the writers of one workflow run have under way. Temporal allows a run 30 by default, and fails the
workflow task that schedules another, again and again; the rest is left to the workflow's own operations."""

WITHDRAWAL_TIMEOUT = timedelta(seconds=30)
"""How long a cancelled caller waits until the batcher has heard of it."""

_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, Room] = WeakKeyDictionary()


class OperationFailed(Exception):
    """An operation failed.

    Attributes:
        cause: Why: the failure of the activity behind it, or the operation's own.
    """

    def __init__(self, cause: BaseException | None) -> None:
        super().__init__(str(cause))
        self.cause = cause


def check_way(via: str, endpoint: str | None, gateway: str) -> str:
    """Returns the endpoint that a writer uses; empty if it uses none.

    Raises:
        ValueError: What it was given does not fit together.
    """
    if via != "nexus":
        if endpoint is not None:
            raise ValueError(f"endpoint {endpoint!r} with via={via!r}: only via='nexus' has one")
        return ""
    if endpoint is None:
        raise ValueError("via='nexus' without endpoint: the name of a Nexus endpoint that leads to the batcher")
    if gateway != "batcher":
        raise ValueError(f"gateway {gateway!r} with via='nexus': the gateway is on the batcher's workers")
    return check_endpoint(endpoint)


async def execute_operation(
    endpoint: str, operation: str, wire: JsonObject, *, result_type: type[Any], timeout: timedelta, summary: str
) -> Any:
    """Runs an operation of a batcher's Nexus service, and waits for its result.

    A cancellation is sent to the batcher, which takes the request back, and is raised then.

    Args:
        endpoint: The Nexus endpoint that leads to the batcher.
        operation: Its name.
        wire: What it is given, with ``request_id``.
        result_type: Of its result.
        timeout: How long it may take, with the wait for other operations.
        summary: For the Web UI.

    Raises:
        OperationFailed: It failed, or could not begin in time.
    """
    began = workflow.time()
    wire["expires_at"] = deadline_after(began, timeout)
    async with _turn(wire["expires_at"]):
        client = workflow.create_nexus_client(service=NEXUS_SERVICE, endpoint=endpoint)
        execution = asyncio.create_task(
            client.execute_operation(
                operation,
                wire,
                output_type=result_type,
                schedule_to_close_timeout=timeout - timedelta(seconds=workflow.time() - began),
                cancellation_type=workflow.NexusOperationCancellationType.WAIT_REQUESTED,
                summary=summary,
            )
        )
        try:
            return await asyncio.shield(execution)
        except NexusOperationError as err:
            raise OperationFailed(_cause_of(err)) from err
        except asyncio.CancelledError:
            execution.cancel()
            execution.add_done_callback(lambda task: task.cancelled() or task.exception())  # retrieves its exception
            await asyncio.shield(workflow.wait([execution], timeout=WITHDRAWAL_TIMEOUT.total_seconds()))
            raise


@asynccontextmanager
async def _turn(until: float) -> AsyncIterator[None]:
    """Waits for its turn among the operations of this run, and has it during the block."""
    loop = asyncio.get_running_loop()
    room = _rooms.setdefault(loop, Room(OPERATIONS_UNDER_WAY))
    try:
        # Without a timer where there is room, which is nearly always: it would be two events.
        async with asyncio.timeout(max(0.0, until - workflow.time())) if room.is_full else contextlib.nullcontext():
            await room.take(0)
    except TimeoutError:
        reason = f"{OPERATIONS_UNDER_WAY} Nexus operations of this workflow were under way"
        busy = ApplicationError(reason, True, type=ErrorType.BATCHER_BUSY, non_retryable=True)
        raise OperationFailed(busy) from None
    try:
        yield
    finally:
        room.give_back(0)


def _cause_of(error: NexusOperationError) -> BaseException | None:
    cause = error.cause
    return ApplicationError(cause.message, type=cause.type.name) if isinstance(cause, HandlerError) else cause
