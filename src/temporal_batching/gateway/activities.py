"""The activities ``batch_write``, ``batch_write_many`` and ``batch_withdraw``.

One `Gateway` serves a worker process, the batcher's own or a caller's. It sends each shard one update at a time; what
arrives meanwhile forms the next. A writing activity does not wait for its write: it ends its attempt to be completed
asynchronously, which frees its slot, and the flush completes it by its id.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NoReturn

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contract import (
    ACTIVITY_WITHDRAW,
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    DEFAULT_BATCHER,
    SIGNAL_WITHDRAW,
    Confirmation,
    JsonObject,
    OutcomeKind,
    ParcelReceipt,
    RejectCode,
    ReplyTo,
)
from temporal_batching.errors import ErrorType, InvalidRequest
from temporal_batching.gateway.submitter import ShardSubmitter
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id, check_name, check_shards, default_task_queue, shard_of
from temporal_batching.wire.addressee import check_batcher
from temporal_batching.wire.addresses import read_withdrawal
from temporal_batching.wire.deadlines import deadline_after
from temporal_batching.wire.decoding import decode_payload
from temporal_batching.wire.deliveries import confirmation_to_wire
from temporal_batching.wire.submission import Submission, read_submission

_BUSY_DELAY = timedelta(milliseconds=500)
_WRONG_DELAY = timedelta(seconds=1)


class Gateway:
    """The way into a batcher from one process: the activities that submit requests to its shards.

    Args:
        client: A client of the batcher's namespace.
        name: The batcher's name.
        shards: How many shards it has.
        task_queue: The queue of the batcher's workers; a shard that does not run yet is started there.
        policy: Limits for a shard that does not run yet; None lets the batcher's own worker say.
    """

    def __init__(
        self,
        client: Client,
        *,
        name: str = DEFAULT_BATCHER,
        shards: int = 1,
        task_queue: str | None = None,
        policy: BatchPolicy | None = None,
    ) -> None:
        self._client = client
        self._name = check_name(name)
        self._shards = check_shards(shards)
        queue = task_queue or default_task_queue(name)
        self._submitters = [ShardSubmitter(client, name, shard, queue, policy) for shard in range(shards)]

    @activity.defn(name=ACTIVITY_WRITE)
    async def batch_write(self, call: RawValue) -> Confirmation:
        """Submits one request to its shard. The flush completes the activity with the result.

        Raises:
            ApplicationError: ``WriteRejected`` for a request that no batch can take; ``BatcherBusy`` and
                ``BatcherUnreachable`` are retried by Temporal.
        """
        info = activity.info()
        wire = _decode(call)
        _refuse_local_activity(wire)
        if isinstance(wire, dict):
            self._check_write(wire)
            wire.setdefault("request_id", "/".join(filter(None, [info.workflow_id, _run_id(info), info.activity_id])))
        submission = self._read(wire)
        await self._submit(submission, submission.routing_key)

    @activity.defn(name=ACTIVITY_WRITE_MANY)
    async def batch_write_many(self, call: RawValue) -> ParcelReceipt:
        """Submits a parcel of requests to the shard it names: one reply for all, one outcome for each."""
        wire = _decode(call)
        _refuse_local_activity(wire)
        shard_key = None
        if isinstance(wire, dict):
            self._check_write(wire)
            shard_key = wire.get("shard_key")
            wire.setdefault("request_id", activity.info().activity_id)
        submission = self._read(wire)
        await self._submit(submission, shard_key if isinstance(shard_key, str) and shard_key else submission.id)

    @activity.defn(name=ACTIVITY_WITHDRAW)
    async def batch_withdraw(self, call: Any) -> None:
        """Takes a request back for a caller that was cancelled: `request_id`, `key` and the batcher's name."""
        info = activity.info()
        try:
            if not isinstance(call, Mapping):
                raise InvalidRequest("a withdrawal is an object with request_id, key and batcher")
            read_withdrawal([call.get("request_id"), info.workflow_id, _run_id(info)])
        except InvalidRequest as err:
            raise ApplicationError(str(err), type=ErrorType.INVALID_REQUEST, non_retryable=True) from None
        check_batcher(call.get("batcher"), self._name)
        shard = shard_of(call.get("key") or call["request_id"], self._shards)
        handle = self._client.get_workflow_handle(batcher_workflow_id(self._name, shard))
        try:
            await handle.signal(SIGNAL_WITHDRAW, args=[call["request_id"], info.workflow_id, _run_id(info)])
        except RPCError as err:
            if err.status != RPCStatusCode.NOT_FOUND:  # no shard, no request to take back
                raise

    def _check_write(self, wire: JsonObject) -> None:
        """Refuses a write that is meant for another batcher; for good if no other attempt could come in time."""
        try:
            check_batcher(wire.get("batcher"), self._name)
        except ApplicationError as err:
            raise _refused_outright(
                err.message, ErrorType.WRONG_BATCHER, expires_at=_deadline(wire), delay=_WRONG_DELAY
            ) from None

    def _read(self, wire: Any) -> Submission:
        info = activity.info()
        request_id = wire.get("request_id") if isinstance(wire, dict) else None
        reply_to = ReplyTo(info.workflow_id, _run_id(info), info.activity_id)
        try:
            if isinstance(wire, dict):
                if "packed" in wire:
                    raise InvalidRequest("a parcel comes with its requests as a list; only the gateway packs them")
                wire["reply_to"] = reply_to.to_wire()
                wire["expires_at"] = _deadline(wire)
                if not _was_always_refused(info):
                    wire["resubmitted"] = True  # an earlier attempt may have been accepted, and settled
            return read_submission(wire)
        except InvalidRequest as err:
            raise _rejected(request_id, err.code, str(err)) from None

    async def _submit(self, submission: Submission, key: str) -> NoReturn:
        refusal = await self._submitters[shard_of(key, self._shards)].submit(submission)
        if refusal is None:
            activity.raise_complete_async()
        if refusal.code == RejectCode.OVERLOADED:
            raise _refused_outright(
                refusal.reason, ErrorType.BATCHER_BUSY, expires_at=submission.expires_at, delay=_BUSY_DELAY, benign=True
            )
        raise _rejected(submission.id, refusal.code, refusal.reason)


def _decode(call: RawValue) -> Any:
    """What a caller sent, its numbers exact: as the activity's own argument they would be rounded by now."""
    try:
        return decode_payload(call.payload, activity.payload_converter())
    except InvalidRequest as err:
        raise _rejected(None, err.code, str(err)) from None


def _refuse_local_activity(wire: Any) -> None:
    """Refuses a write that could not be confirmed: the server knows no local activity, so no flush can complete it."""
    info = activity.info()
    if info.is_local:
        reason = f"{info.activity_type} cannot run as a local activity: no flush could complete it"
        raise _rejected(wire.get("request_id") if isinstance(wire, dict) else None, RejectCode.INVALID, reason)


def _run_id(info: activity.Info) -> str | None:
    """The run an activity belongs to: its workflow's, or its own if it stands alone."""
    return info.workflow_run_id or info.activity_run_id


def _rejected(request_id: Any, code: RejectCode, reason: str) -> ApplicationError:
    confirmation = Confirmation(str(request_id or ""), OutcomeKind.REJECTED, code=code, reason=reason)
    detail = confirmation_to_wire(confirmation)  # as a flush sends it
    return ApplicationError(reason, detail, type=ErrorType.REJECTED, non_retryable=True)


def _was_always_refused(info: activity.Info) -> bool:
    """Whether every attempt before this one was refused outright: see `_note_refusal`."""
    return info.attempt == 1 or list(info.heartbeat_details) == [info.attempt - 1]


def _note_refusal() -> bool:
    """Whether every attempt of this activity so far was refused outright, this one included.

    Then no shard has the request, and its caller may be notified of that for certain. Each refused attempt leaves its
    number as heartbeat details, which reach the next attempt; one that ended otherwise, by a crash or a lost answer,
    does not.
    """
    info = activity.info()
    always = _was_always_refused(info)
    if always:
        activity.heartbeat(info.attempt)
    return always


def _refused_outright(
    reason: str, error_type: ErrorType, *, expires_at: Any, delay: timedelta, benign: bool = False
) -> ApplicationError:
    """The failure of an attempt that was refused outright: the request waits in Temporal, and is resubmitted.

    If the next attempt would come too late to be written, the activity fails for good: the caller is notified in time
    that no shard has its request. For an attempt that is open when its time is up, that would not be certain.
    """
    never_accepted = _note_refusal()
    too_late = isinstance(expires_at, int | float) and time.time() + delay.total_seconds() >= expires_at
    return ApplicationError(
        reason,
        never_accepted,
        type=error_type,
        non_retryable=never_accepted and too_late,
        next_retry_delay=delay,
        category=ApplicationErrorCategory.BENIGN if benign else ApplicationErrorCategory.UNSPECIFIED,
    )


def _deadline(wire: JsonObject) -> Any:
    """When a request expires: as it says, or shortly before its activity's own end; None if neither is set."""
    info = activity.info()
    if wire.get("expires_at") is None and info.schedule_to_close_timeout is not None:
        return deadline_after(info.scheduled_time.timestamp(), info.schedule_to_close_timeout)
    return wire.get("expires_at")
