"""Confirmations on their way to callers: completes their activities, or signals their workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import ActivityExecutionStatus, AsyncActivityHandle, Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contract import (
    SIGNAL_CONFIRMATION,
    Confirmation,
    Delivery,
    JsonObject,
    OutcomeKind,
    ReplyTo,
)
from temporal_batching.errors import ErrorType
from temporal_batching.flush.sink_calls import named
from temporal_batching.logs import about_requests, logger
from temporal_batching.policy import MAX_MESSAGE_RETURNED
from temporal_batching.wire.checks import measure
from temporal_batching.wire.deliveries import confirmation_to_wire, receipt_to_wire
from temporal_batching.wire.safe_integers import with_safe_integers

CONCURRENT_DELIVERIES = 32
"""Calls to Temporal at the same time, from one flush."""

_FAILURES = {OutcomeKind.REJECTED: ErrorType.REJECTED, OutcomeKind.EXPIRED: ErrorType.EXPIRED}


@dataclass(slots=True)
class Undelivered:
    """What did not get through, by its position in what was to be delivered.

    Attributes:
        failed: To be retried.
        unreached: To an activity between two attempts. A result reaches it even then, a failure does not; its next
            attempt asks again, and has to be answered then.
    """

    failed: list[int] = field(default_factory=list)
    unreached: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    """Deliveries that travel in one call."""

    reply_to: ReplyTo
    deliveries: list[Delivery] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    bytes: int = 0

    def __str__(self) -> str:
        to = self.reply_to
        where = f"workflow {to.workflow_id!r}" if to.workflow_id else f"activity {to.activity_id!r}"
        return f"The confirmation of {named(self.request_ids) or 'a parcel'} to the {where}"

    @property
    def request_ids(self) -> list[str]:
        """Of what is confirmed; a parcel's receipt names none."""
        return [one.confirmation.request_id for one in self.deliveries if one.confirmation is not None]

    @property
    def ids(self) -> dict[str, Any]:
        """What a line of the log about it is about."""
        to = self.reply_to
        return about_requests(self.request_ids, caller_workflow_id=to.workflow_id, caller_activity_id=to.activity_id)

    @property
    def fails(self) -> bool:
        """Whether it fails an activity."""
        return self.reply_to.by_activity and _failure(self.deliveries[0].confirmation) is not None


async def deliver(client: Client, deliveries: Sequence[Delivery]) -> Undelivered:
    """Makes every delivery, and says which did not arrive.

    One to a caller that is gone counts as made.
    """
    slots = asyncio.Semaphore(CONCURRENT_DELIVERIES)
    undelivered = Undelivered()

    async def one(call: _Call) -> None:
        async with slots:
            try:
                if not await _reaches(client, call):
                    undelivered.unreached += call.positions
            except RPCError as err:
                if err.status == RPCStatusCode.NOT_FOUND:
                    return
                if err.status == RPCStatusCode.INVALID_ARGUMENT:  # an address that no attempt will reach
                    logger.warning("%s was not delivered: its address is invalid; given up", call, extra=call.ids)
                    return
                logger.warning("%s was not delivered: %s; to be retried", call, err.status.name, extra=call.ids)
                undelivered.failed += call.positions
            except Exception:
                # An address or a reason that cannot be encoded, a codec that fails. The batch is committed: one
                # caller that cannot be notified must not make its flush fail, which would be repeated forever.
                logger.exception("%s could not be sent; to be retried", call, extra=call.ids)
                undelivered.failed += call.positions

    await asyncio.gather(*(one(call) for call in _by_call(deliveries)))
    return undelivered


def _by_call(deliveries: Sequence[Delivery]) -> list[_Call]:
    """One call per activity; one signal per workflow, unless what its requests returned is too much for one."""
    calls: dict[tuple[str | None, ...], _Call] = {}
    full: list[_Call] = []
    for position, delivery in enumerate(deliveries):
        to = delivery.reply_to
        address = (to.workflow_id, to.run_id, to.activity_id)
        size = 0 if delivery.confirmation is None else measure(delivery.confirmation.returned or [])
        call = calls.get(address)
        if call is None or call.bytes + size > MAX_MESSAGE_RETURNED:
            if call is not None:
                full.append(call)
            call = calls[address] = _Call(to)
        call.bytes += size
        call.deliveries.append(delivery)
        call.positions.append(position)
    return [*full, *calls.values()]


async def _reaches(client: Client, call: _Call) -> bool:
    """Whether the call reached its caller, or the caller is gone; False if the caller will ask again.

    Raises:
        RPCError: With `NOT_FOUND` if the caller is gone.
    """
    try:
        await _send(client, call)
    except RPCError as err:
        if err.status != RPCStatusCode.NOT_FOUND or not call.fails:
            raise
        # Temporal says so of an activity that is over, and of one that waits for its next attempt.
        return not await _is_open(client, call.reply_to)
    return True


async def _is_open(client: Client, to: ReplyTo) -> bool:
    if to.activity_id is None or to.workflow_id is None:
        described = await client.get_activity_handle(to.activity_id or "", run_id=to.run_id).describe()
        return described.status == ActivityExecutionStatus.RUNNING
    caller = await client.get_workflow_handle(to.workflow_id, run_id=to.run_id).describe()
    return any(one.activity_id == to.activity_id for one in caller.raw_description.pending_activities)


async def _send(client: Client, call: _Call) -> None:
    to = call.reply_to
    if to.activity_id is None:
        workflow = client.get_workflow_handle(to.workflow_id or "", run_id=to.run_id)
        await workflow.signal(SIGNAL_CONFIRMATION, [_to_wire(delivery) for delivery in call.deliveries])
        return
    # By id, not by task token: it reaches whichever attempt of the activity is current, even one that waits to be
    # retried, so a submission that was repeated needs no new address.
    address = {"workflow_id": to.workflow_id, "run_id": to.run_id, "activity_id": to.activity_id}
    handle = client.get_async_activity_handle(**{name: part for name, part in address.items() if part is not None})
    await _complete(handle, call.deliveries[0])


async def _complete(handle: AsyncActivityHandle, delivery: Delivery) -> None:
    failure = _failure(delivery.confirmation)
    if failure is not None:
        await handle.fail(failure)
    else:
        await handle.complete(_to_wire(delivery))


def _failure(confirmation: Confirmation | None) -> ApplicationError | None:
    """How a confirmation fails its activity. A receipt never does: it is a result, whatever is in it."""
    if confirmation is None or confirmation.outcome not in _FAILURES:
        return None
    reason = confirmation.reason or "its deadline passed before it could be written"
    detail = confirmation_to_wire(confirmation)
    return ApplicationError(reason, detail, type=_FAILURES[confirmation.outcome], non_retryable=True)


def _to_wire(delivery: Delivery) -> JsonObject:
    wire: JsonObject = {}
    if delivery.receipt is not None:
        wire = receipt_to_wire(delivery.receipt)
    elif delivery.confirmation is not None:
        wire = confirmation_to_wire(delivery.confirmation)
    if delivery.reply_to.safe_integers and "returned" in wire:
        wire["returned"] = with_safe_integers(wire["returned"])
    return wire
