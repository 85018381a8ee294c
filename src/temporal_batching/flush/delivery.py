"""Confirmations on their way to callers: completes their activities, or signals their workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.client import AsyncActivityHandle, Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contract import (
    ACTIVITY_CONFIRM,
    SIGNAL_CONFIRMATION,
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
class _Call:
    """Answers that travel in one call."""

    reply_to: JsonObject
    answers: list[Answer] = field(default_factory=list)


async def deliver(client: Client, answers: Sequence[Answer]) -> list[Answer]:
    """Delivers every answer, and returns those that did not arrive and should be tried again.

    A caller that is gone, or no longer waits, counts as delivered: there is nobody to tell.
    """
    slots = asyncio.Semaphore(CONCURRENT_DELIVERIES)

    async def one(call: _Call) -> list[Answer]:
        async with slots:
            try:
                await _send(client, call)
            except RPCError as err:
                if err.status == RPCStatusCode.NOT_FOUND:
                    return []
                activity.logger.warning("A confirmation was not delivered: %s; to be tried again", err.status.name)
                return call.answers
            except Exception:
                # An address or a reason that cannot be encoded, a codec that fails. The batch is committed: one
                # caller who cannot be told must not make its flush fail, which would be repeated without end.
                activity.logger.exception("A confirmation could not be sent; to be tried again")
                return call.answers
            return []

    failed = await asyncio.gather(*(one(call) for call in _by_call(answers)))
    return [answer for answers in failed for answer in answers]


def _by_call(answers: Sequence[Answer]) -> list[_Call]:
    """One call per activity; one signal per workflow, however many answers it gets."""
    calls: dict[tuple[Any, ...], _Call] = {}
    for answer in answers:
        reply = answer.reply_to
        address = (reply.get("workflow_id"), reply.get("run_id"), reply.get("activity_id"))
        calls.setdefault(address, _Call(reply)).answers.append(answer)
    return list(calls.values())


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
    outcome = body.get("outcome", OutcomeKind.WRITTEN)
    if outcome in _FAILURES:
        reason = body.get("reason") or "its deadline passed before it could be written"
        await handle.fail(
            ApplicationError(reason, body, type=_FAILURES[OutcomeKind(outcome)], non_retryable=True),
        )
    else:
        await handle.complete(body)


@activity.defn(name=ACTIVITY_CONFIRM)
async def deliver_confirmations(answers: list[Any]) -> list[int]:
    """Delivers answers from the batcher's outbox. Returns the positions to try again."""
    flat = [
        Answer(reply, answer["confirmation"], position)
        for position, answer in enumerate(answers)
        for reply in answer["reply_to"]
    ]
    failed = await deliver(activity.client(), flat)
    return sorted({answer.position for answer in failed})
