"""The Nexus service ``temporal-batching``: the way in for workflows of other namespaces. Experimental, as its parts.

An operation is backed by a standalone activity in the batcher's namespace, the one of the operation's own name. So a
request that comes by Nexus takes the way of every other: the same gateway, checks, retries, deadline and answer. The
server hands the end of the activity to the caller, whatever it is; the handler itself decides nothing.

The activity's id is that of the Nexus request, which Temporal keeps when it repeats a start. So an operation has one
activity, however often its start is repeated, and two callers of one request id have two, as by every other way in.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from nexusrpc import HandlerError, HandlerErrorType
from nexusrpc.handler import OperationHandler, operation_handler, service_handler
from temporalio import nexus
from temporalio.client import Client
from temporalio.common import ActivityIDConflictPolicy, ActivityIDReusePolicy, RawValue
from temporalio.exceptions import ActivityAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contract import (
    ACTIVITY_RETURNED,
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    NEXUS_SERVICE,
    Confirmation,
    ParcelReceipt,
    ReturnedRow,
)
from temporal_batching.gateway.activities import Gateway
from temporal_batching.wire.decoding import decode_payload
from temporal_batching.writers.attempts import ATTEMPT_TIMEOUT, activity_times

UNLIMITED = timedelta(days=1)
"""How long the activity of an operation without a schedule-to-close timeout may take. It must end: its caller may be
gone, and no workflow's end would end it."""

LEFT_TO_ANSWER = 0.05
"""Of the time that an operation has: the part that its activity leaves, so that its caller receives how it ended and
not the operation's own timeout, which says nothing."""

TIMEOUT_HEADER = "operation-timeout"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


@service_handler(name=NEXUS_SERVICE)
class NexusService:
    """Handles the operations, on a batcher's worker.

    Args:
        gateway: The worker's.
        read_from: The task queue of workers that read what requests returned, if this one does not.
    """

    def __init__(self, gateway: Gateway, *, read_from: str = "") -> None:
        self._gateway = gateway
        self._read_from = read_from

    @operation_handler(name=ACTIVITY_WRITE)
    def write(self) -> OperationHandler[RawValue, Confirmation]:
        """Writes one request."""
        return ActivityOperation(ACTIVITY_WRITE, self._gateway)

    @operation_handler(name=ACTIVITY_WRITE_MANY)
    def write_many(self) -> OperationHandler[RawValue, ParcelReceipt]:
        """Writes a parcel of requests."""
        return ActivityOperation(ACTIVITY_WRITE_MANY, self._gateway)

    @operation_handler(name=ACTIVITY_RETURNED)
    def returned(self) -> OperationHandler[RawValue, dict[str, list[ReturnedRow | None]]]:
        """Reads what requests returned."""
        return ActivityOperation(ACTIVITY_RETURNED, self._gateway, task_queue=self._read_from)


class ActivityOperation(nexus.TemporalOperationHandler[RawValue, Any]):
    """An operation that a standalone activity stands behind.

    Args:
        activity: The activity's name.
        gateway: Takes its request back where the operation is cancelled.
        task_queue: Where the activity runs; empty for the handler's own.
    """

    def __init__(self, activity: str, gateway: Gateway, *, task_queue: str = "") -> None:
        self._activity = activity
        self._task_queue = task_queue
        self._gateway = gateway

    async def start_operation(
        self, ctx: nexus.TemporalStartOperationContext, client: nexus.TemporalNexusClient, input: RawValue
    ) -> nexus.TemporalOperationResult[Any]:
        """Starts the activity, or finds the one that an earlier attempt has started."""
        times = activity_times(time_left(ctx.headers), ATTEMPT_TIMEOUT)
        try:
            return await client.start_activity(
                self._activity,
                input,
                id=f"nexus-{ctx.request_id}",
                task_queue=self._task_queue or None,
                id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=ActivityIDReusePolicy.REJECT_DUPLICATE,
                summary=f"by the Nexus endpoint {nexus.info().endpoint}",
                **times,
            )
        except ActivityAlreadyStartedError:
            raise _has_ended() from None
        except RPCError as err:
            if err.status == RPCStatusCode.FAILED_PRECONDITION:  # nothing can be attached to it any more
                raise _has_ended() from None
            if err.status == RPCStatusCode.INVALID_ARGUMENT:
                raise HandlerError(
                    f"the server of the batcher's namespace refuses the operation: {err.message}; "
                    "`temporal-batching check` says what it needs",
                    type=HandlerErrorType.BAD_REQUEST,
                ) from None
            raise

    async def cancel_activity(
        self, ctx: nexus.TemporalCancelOperationContext, options: nexus.CancelActivityOptions
    ) -> None:
        """Takes the request back, and ends the activity as cancelled."""
        client = nexus.client()
        if self._activity in (ACTIVITY_WRITE, ACTIVITY_WRITE_MANY):
            # First: after the end of the activity Temporal does not repeat a cancellation that failed.
            wire = await _input_of(client, options)
            await self._gateway.withdraw_standalone(wire, options.activity_id, options.run_id)
        with contextlib.suppress(RPCError):  # it has ended, or was asked before
            await client.get_activity_handle(options.activity_id, run_id=options.run_id).cancel()
        handle = client.get_async_activity_handle(activity_id=options.activity_id, run_id=options.run_id)
        with contextlib.suppress(RPCError):  # it has ended: it was between two attempts
            await handle.report_cancellation()


def time_left(headers: Mapping[str, str]) -> timedelta:
    """How long the activity of an operation may take.

    Args:
        headers: Of the request that starts it; the server says there how much time the operation has.

    Raises:
        HandlerError: It is no duration.
    """
    given = {name.lower(): value for name, value in headers.items()}.get(TIMEOUT_HEADER)
    if given is None:
        return UNLIMITED
    found = _DURATION.fullmatch(given)
    if found is None:
        raise HandlerError(
            f"{TIMEOUT_HEADER} {given[:40]!r}: a number with ms, s or m", type=HandlerErrorType.BAD_REQUEST
        )
    seconds = float(found[1]) * _SECONDS[found[2]] * (1 - LEFT_TO_ANSWER)
    return min(UNLIMITED, max(timedelta(milliseconds=1), timedelta(seconds=min(seconds, UNLIMITED.total_seconds()))))


def _has_ended() -> HandlerError:
    """For a start that is repeated after the activity has ended: its end is on its way to the caller.

    Another activity would be another write, of which the caller would never hear. So this is retried until then.
    """
    return HandlerError("the activity of this operation has ended", type=HandlerErrorType.UNAVAILABLE)


async def _input_of(client: Client, activity: nexus.CancelActivityOptions) -> Any:
    """What an activity was given; None if it cannot be decoded: then no gateway has submitted it either."""
    handle = client.get_activity_handle(activity.activity_id, run_id=activity.run_id)
    described = await handle.describe(include_input=True)
    try:
        values = await described.input([RawValue])
        return decode_payload(values[0].payload, client.data_converter.payload_converter) if values else None
    except Exception:  # of a codec, a converter, or InvalidRequest
        return None
