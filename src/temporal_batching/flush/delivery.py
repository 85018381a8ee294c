"""Confirmations on their way to callers: completes their activities, or signals their workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.client import ActivityExecutionStatus, AsyncActivityHandle, Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contract import (
    ACTIVITY_CONFIRM,
    SIGNAL_CONFIRMATION,
    DeliveryResult,
    JsonObject,
    OutcomeKind,
)
from temporal_batching.errors import ErrorType

CONCURRENT_DELIVERIES = 32
"""Calls to Temporal at the same time, from one flush."""

_FAILURES = {OutcomeKind.REJECTED: ErrorType.REJECTED, OutcomeKind.EXPIRED: ErrorType.EXPIRED}


@dataclass(slots=True)
class Answer:
    """One confirmation, or one parcel's receipt, for one caller."""

    reply_to: JsonObject
    body: JsonObject
    position: int = 0
    """Where it stands in what the caller of `deliver` counts."""

    def to_wire(self) -> JsonObject:
        return {"reply_to": [self.reply_to], "confirmation": self.body}


@dataclass(slots=True)
class Delivery:
    """What did not get through.

    Attributes:
        failed: To be tried again.
        unreached: To an activity between two attempts. A result reaches it even then, a failure does not; its next
            attempt asks again, and has to be answered then.
    """

    failed: list[Answer] = field(default_factory=list)
    unreached: list[Answer] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    """Answers that travel in one call."""

    reply_to: JsonObject
    answers: list[Answer] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether it fails an activity."""
        return "activity_id" in self.reply_to and _outcome(self.answers[0].body) in _FAILURES


async def deliver(client: Client, answers: Sequence[Answer]) -> Delivery:
    """Delivers every answer, and says which did not arrive.

    A caller that is gone counts as delivered: there is nobody to tell.
    """
    slots = asyncio.Semaphore(CONCURRENT_DELIVERIES)
    delivery = Delivery()

    async def one(call: _Call) -> None:
        async with slots:
            try:
                if not await _reaches(client, call):
                    delivery.unreached += call.answers
            except RPCError as err:
                if err.status == RPCStatusCode.NOT_FOUND:
                    return
                if err.status == RPCStatusCode.INVALID_ARGUMENT:  # an address that no attempt will reach
                    activity.logger.warning("A confirmation was not delivered: its address is invalid; given up")
                    return
                activity.logger.warning("A confirmation was not delivered: %s; to be tried again", err.status.name)
                delivery.failed += call.answers
            except Exception:
                # An address or a reason that cannot be encoded, a codec that fails. The batch is committed: one
                # caller who cannot be told must not make its flush fail, which would be repeated without end.
                activity.logger.exception("A confirmation could not be sent; to be tried again")
                delivery.failed += call.answers

    await asyncio.gather(*(one(call) for call in _by_call(answers)))
    return delivery


def _by_call(answers: Sequence[Answer]) -> list[_Call]:
    """One call per activity; one signal per workflow, however many answers it gets."""
    calls: dict[tuple[Any, ...], _Call] = {}
    for answer in answers:
        reply = answer.reply_to
        address = (reply.get("workflow_id"), reply.get("run_id"), reply.get("activity_id"))
        calls.setdefault(address, _Call(reply)).answers.append(answer)
    return list(calls.values())


async def _reaches(client: Client, call: _Call) -> bool:
    """Whether the call reached its caller, or there is nobody any more; False if the caller will ask again.

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


async def _is_open(client: Client, reply: JsonObject) -> bool:
    if "workflow_id" not in reply:
        described = await client.get_activity_handle(reply["activity_id"], run_id=reply.get("run_id")).describe()
        return described.status == ActivityExecutionStatus.RUNNING
    caller = await client.get_workflow_handle(reply["workflow_id"], run_id=reply.get("run_id")).describe()
    return any(one.activity_id == reply["activity_id"] for one in caller.raw_description.pending_activities)


async def _send(client: Client, call: _Call) -> None:
    reply = call.reply_to
    if "activity_id" not in reply:
        workflow = client.get_workflow_handle(reply["workflow_id"], run_id=reply.get("run_id"))
        await workflow.signal(SIGNAL_CONFIRMATION, [answer.body for answer in call.answers])
        return
    # By id, not by task token: it reaches whichever attempt of the activity is current, even one that waits to be
    # retried, so a submission that was repeated needs no new address.
    address = {name: reply[name] for name in ("workflow_id", "run_id", "activity_id") if name in reply}
    handle = client.get_async_activity_handle(**address)
    await _complete(handle, call.answers[0].body)


async def _complete(handle: AsyncActivityHandle, body: JsonObject) -> None:
    outcome = _outcome(body)
    if outcome in _FAILURES:
        reason = body.get("reason") or "its deadline passed before it could be written"
        await handle.fail(
            ApplicationError(reason, body, type=_FAILURES[OutcomeKind(outcome)], non_retryable=True),
        )
    else:
        await handle.complete(body)


def _outcome(body: JsonObject) -> str:
    """A receipt has none: it is a result, whatever is in it."""
    return str(body.get("outcome", OutcomeKind.WRITTEN))


@activity.defn(name=ACTIVITY_CONFIRM)
async def deliver_confirmations(answers: list[Any]) -> DeliveryResult:
    """Delivers answers from the batcher's outbox."""
    flat = [
        Answer(reply, answer["confirmation"], position)
        for position, answer in enumerate(answers)
        for reply in answer["reply_to"]
    ]
    delivery = await deliver(activity.client(), flat)
    failed = sorted({answer.position for answer in delivery.failed})
    return DeliveryResult(failed, [answer.reply_to for answer in delivery.unreached])
