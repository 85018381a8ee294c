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

from temporal_batching.contents import ContentStore
from temporal_batching.contract import (
    ACTIVITY_WITHDRAW,
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    DEFAULT_BATCHER,
    SIGNAL_WITHDRAW,
    BatcherStart,
    Confirmation,
    JsonObject,
    OutcomeKind,
    ParcelReceipt,
    RejectCode,
    ReplyTo,
    Withdrawal,
)
from temporal_batching.errors import ErrorType, InvalidRequest
from temporal_batching.gateway.submitter import ShardSubmitter
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id, check_name, check_shards, default_task_queue, shard_of
from temporal_batching.tracing import tracing
from temporal_batching.wire.addressee import check_batcher
from temporal_batching.wire.addresses import read_withdrawal
from temporal_batching.wire.deadlines import deadline_after
from temporal_batching.wire.decoding import decode_payload
from temporal_batching.wire.deliveries import confirmation_to_wire
from temporal_batching.wire.parcels import PackedParcel, ParcelSource, check_keys_of_shard
from temporal_batching.wire.requests import default_request_id
from temporal_batching.wire.submission import Submission, read_submission
from temporal_batching.wire.traces import read_traceparent

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
        flush_task_queue: Where the flushes of such a shard go; None lets that worker say.
        contents: Keeps the content of parcels for flushes in this process; None if there are none.
    """

    def __init__(
        self,
        client: Client,
        *,
        name: str = DEFAULT_BATCHER,
        shards: int = 1,
        task_queue: str | None = None,
        policy: BatchPolicy | None = None,
        flush_task_queue: str | None = None,
        contents: ContentStore | None = None,
    ) -> None:
        self._client = client
        self._contents = contents
        self._name = check_name(name)
        self._shards = check_shards(shards)
        queue = task_queue or default_task_queue(name)
        limits = policy.to_wire() if policy else None
        starts = [BatcherStart(name, shard, limits, flush_task_queue) for shard in range(shards)]
        self._submitters = [ShardSubmitter(client, start, queue) for start in starts]

    @activity.defn(name=ACTIVITY_WRITE)
    async def batch_write(self, call: RawValue) -> Confirmation:
        """Submits one request to its shard. The flush completes the activity with the result.

        Raises:
            ApplicationError: ``WriteRejected`` for a request that no batch can take; ``BatcherBusy`` and
                ``BatcherUnreachable`` are retried by Temporal.
        """
        wire = _decode(call)
        _refuse_local_activity(wire)
        if isinstance(wire, dict):
            self._check_write(wire)
            _fill_in_id(wire)
        submission = self._read(wire)
        await self._submit(submission, submission.routing_key)

    @activity.defn(name=ACTIVITY_WRITE_MANY)
    async def batch_write_many(self, call: RawValue) -> ParcelReceipt:
        """Submits a parcel of requests to the shard it names: one reply for all, one outcome for each.

        Raises:
            ApplicationError: As `batch_write`. ``WriteRejected`` also for a parcel with keys of several shards.
        """
        wire = _decode(call)
        _refuse_local_activity(wire)
        shard_key = None
        if isinstance(wire, dict):
            self._check_write(wire)
            shard_key = wire.get("shard_key")
            _fill_in_id(wire)
        submission = self._read(wire, packed=True)
        key = shard_key if isinstance(shard_key, str) and shard_key else submission.id
        submission = self._check_shard(submission, key)
        info = activity.info()
        if isinstance(submission.body, PackedParcel) and info.workflow_id is None and info.activity_run_id:
            await self._submit_reference(submission, ParcelSource(info.activity_id, info.activity_run_id), key)
        await self._submit(submission, key)

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
        await self._withdraw(Withdrawal(call["request_id"], info.workflow_id, _run_id(info)), call.get("key"))

    async def withdraw_standalone(self, wire: Any, activity_id: str, run_id: str) -> None:
        """Takes back what a standalone activity has submitted, or is about to submit.

        Args:
            wire: The activity's input.
            activity_id: Its id.
            run_id: Its run.

        Raises:
            ApplicationError: It is meant for another batcher.
        """
        if not isinstance(wire, dict):
            return
        if wire.get("batcher") not in (None, self._name):
            raise ApplicationError(f"this is a worker of batcher {self._name!r}", type=ErrorType.WRONG_BATCHER)
        request_id = wire.get("request_id")
        if request_id is None:
            request_id = default_request_id(None, run_id, activity_id)
        try:
            withdrawal = read_withdrawal([request_id, None, run_id])
        except InvalidRequest:  # no gateway submits that
            return
        key = wire.get("key") if wire.get("records") is not None else wire.get("shard_key")
        await self._withdraw(withdrawal, key if isinstance(key, str) else None)

    async def _withdraw(self, withdrawal: Withdrawal, key: str | None) -> None:
        shard = shard_of(key or withdrawal.request_id, self._shards)
        handle = self._client.get_workflow_handle(batcher_workflow_id(self._name, shard))
        caller = [withdrawal.workflow_id, withdrawal.run_id]
        try:
            await handle.signal(SIGNAL_WITHDRAW, args=[withdrawal.request_id, *caller])
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

    def _check_shard(self, parcel: Submission, shard_key: str) -> Submission:
        """Refuses a parcel with keys of other shards: a shard keeps the order of its own keys alone.

        Where its keys are many they are not known here: then the flush compares them. Not those of a parcel that an
        earlier attempt may have submitted, before the number of shards was changed: to refuse it would say that nothing
        of it is written.
        """
        if self._shards == 1 or parcel.resubmitted:
            return parcel
        try:
            check_keys_of_shard(parcel.keys, shard_of(shard_key, self._shards), self._shards)
        except InvalidRequest as err:
            raise _rejected(parcel.id, err.code, str(err)) from None
        return parcel.announcing_shards(self._shards)

    async def _submit_reference(self, submission: Submission, source: ParcelSource, key: str) -> NoReturn:
        """Submits a parcel of a program: its content lies in the input of its activity, and its shard needs none.

        Here before it is submitted: its flush may begin before the shard's answer is here.
        """
        assert isinstance(submission.body, PackedParcel)
        digest, packed = submission.body.announced.digest, submission.body.packed
        if self._contents is not None:
            self._contents.put(digest, packed)
        try:
            await self._submit(submission.by_reference(source), key)
        except ApplicationError:
            if self._contents is not None:  # the next attempt brings it again
                self._contents.discard(digest)
            raise

    def _read(self, wire: Any, *, packed: bool = False) -> Submission:
        info = activity.info()
        request_id = wire.get("request_id") if isinstance(wire, dict) else None
        reply_to = ReplyTo(info.workflow_id, _run_id(info), info.activity_id)
        try:
            if isinstance(wire, dict):
                _check_form(wire, packed=packed)
                wire["reply_to"] = reply_to.to_wire()
                wire["expires_at"] = _deadline(wire)
                wire["traceparent"] = read_traceparent(wire.get("traceparent")) or tracing().traceparent()
                if not _was_always_refused(info):
                    wire["resubmitted"] = True  # an earlier attempt may have been accepted, and settled
            submission = read_submission(wire)
            if isinstance(submission.body, PackedParcel):
                submission.body.check_digest()
            return submission
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


def _fill_in_id(wire: JsonObject) -> None:
    if wire.get("request_id") is None:
        info = activity.info()
        wire["request_id"] = default_request_id(info.workflow_id, _run_id(info), info.activity_id)


def _check_form(wire: JsonObject, *, packed: bool) -> None:
    """Refuses what only a gateway may send to a shard.

    Raises:
        InvalidRequest: A reference, an announcement of shards, or a packed parcel where there can be none.
    """
    if wire.get("source") is not None or wire.get("shards") is not None:
        raise InvalidRequest("a parcel comes with its content; only the gateway refers to it")
    if wire.get("packed") is not None and not packed:
        raise InvalidRequest("a packed parcel is for the activity batch_write_many")


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
