"""The activity ``batch_write``: gathers requests that run beside each other, submits them, leaves itself open.

One `Gateway` serves a worker process, the batcher's own or a caller's. It sends each shard one update at a time; what
arrives meanwhile forms the next. The activity does not wait for its write: it ends its attempt "completed elsewhere",
which frees its slot, and the flush completes it by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from temporalio import activity
from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.batcher.shards import once_ready, update_with_start
from temporal_batching.contract import (
    ACTIVITY_WITHDRAW,
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    DEFAULT_BATCHER,
    DEFAULT_TASK_QUEUE,
    SIGNAL_WITHDRAW,
    UPDATE_SUBMIT,
    BatcherStart,
    Confirmation,
    JsonObject,
    OutcomeKind,
    ParcelReceipt,
    RejectCode,
    SubmitResult,
)
from temporal_batching.errors import ErrorType, InvalidRequest
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id, check_name, check_shards, shard_of
from temporal_batching.wire.submission import Entry, deadline_after, read_entry

MAX_SUBMISSION_REQUESTS = 500
"""Requests in one update: more gain little and make the batcher's workflow task long."""

MAX_SUBMISSION_BYTES = 450_000
"""Bytes in one update: Temporal warns of payloads past 512 KiB. One larger request still travels alone."""

SUBMISSION_TIMEOUT = timedelta(seconds=10)
"""The longest the gateway waits for an update's answer; then the attempt fails and Temporal tries again."""

FIRST_GATHER = 0.005
"""Seconds to gather before the first submission; afterwards the batcher says."""

BUSY_PAUSES = (0.05, 0.1, 0.2, 0.4)
"""Seconds between submissions to a shard that is busy for a moment only, as one that is about to continue as new: what
the gateway waits here need not go back to Temporal."""

LATEST_GATHERED = 0.25
"""Of the time that is left to a request's deadline, the part it may spend gathering company."""

_BUSY_DELAY = timedelta(milliseconds=500)
_UNREACHABLE_DELAY = timedelta(seconds=1)


class Gateway:
    """The batcher's door in one process.

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
        task_queue: str = DEFAULT_TASK_QUEUE,
        policy: BatchPolicy | None = None,
    ) -> None:
        self._client = client
        self._name = check_name(name)
        self._shards = check_shards(shards)
        self._lanes = [_Lane(client, name, shard, task_queue, policy) for shard in range(shards)]

    @activity.defn(name=ACTIVITY_WRITE)
    async def batch_write(self, call: Any) -> Confirmation:
        """Hands one request to its shard. The result comes with the flush.

        Raises:
            ApplicationError: ``WriteRejected`` for a request that no batch can take; ``BatcherBusy`` and
                ``BatcherUnreachable`` are retried by Temporal.
        """
        info = activity.info()
        wire = dict(call) if isinstance(call, Mapping) else call
        if isinstance(wire, dict):
            self._check_batcher(wire)
            wire.setdefault("request_id", "/".join(filter(None, [info.workflow_id, _run_id(info), info.activity_id])))
        entry = self._read(wire)
        await self._submit(entry, entry.body.get("key") or entry.id)

    @activity.defn(name=ACTIVITY_WRITE_MANY)
    async def batch_write_many(self, call: Any) -> ParcelReceipt:
        """Hands a parcel of requests to the shard it names: one reply for all, one outcome for each."""
        wire = dict(call) if isinstance(call, Mapping) else call
        shard_key = None
        if isinstance(wire, dict):
            self._check_batcher(wire)
            shard_key = wire.get("shard_key")
            wire.setdefault("request_id", activity.info().activity_id)
        entry = self._read(wire)
        await self._submit(entry, shard_key if isinstance(shard_key, str) and shard_key else entry.id)

    @activity.defn(name=ACTIVITY_WITHDRAW)
    async def batch_withdraw(self, call: Any) -> None:
        """Takes a request back for a caller that was cancelled: `request_id`, `key` and the batcher's name."""
        if not isinstance(call, Mapping) or not isinstance(call.get("request_id"), str):
            raise ApplicationError("a withdrawal has a request_id", type=ErrorType.INVALID_REQUEST, non_retryable=True)
        self._check_batcher(call)
        shard = shard_of(call.get("key") or call["request_id"], self._shards)
        handle = self._client.get_workflow_handle(batcher_workflow_id(self._name, shard))
        try:
            await handle.signal(SIGNAL_WITHDRAW, args=[call["request_id"], activity.info().workflow_id])
        except RPCError as err:
            if err.status != RPCStatusCode.NOT_FOUND:  # no shard, no request to take back
                raise

    def _check_batcher(self, call: Mapping[str, Any]) -> None:
        name = call.get("batcher", self._name)
        if name != self._name:
            raise _rejected(
                call.get("request_id"),
                RejectCode.INVALID,
                f"this worker serves the batcher {self._name!r}, not {str(name)[:80]!r}",
            )

    def _read(self, wire: Any) -> Entry:
        info = activity.info()
        request_id = wire.get("request_id") if isinstance(wire, dict) else None
        reply_to = {"workflow_id": info.workflow_id, "run_id": _run_id(info), "activity_id": info.activity_id}
        try:
            if isinstance(wire, dict):
                if "packed" in wire:
                    raise InvalidRequest(
                        "a parcel comes with its requests as a list; packing them is the gateway's part"
                    )
                wire["reply_to"] = {name: value for name, value in reply_to.items() if value is not None}
                if info.schedule_to_close_timeout is not None and wire.get("expires_at") is None:
                    wire["expires_at"] = deadline_after(info.scheduled_time.timestamp(), info.schedule_to_close_timeout)
                if not _was_always_refused(info):
                    wire["again"] = True  # an earlier attempt may have been accepted, and settled
            return read_entry(wire)
        except InvalidRequest as err:
            raise _rejected(request_id, err.code, str(err)) from None

    async def _submit(self, entry: Entry, key: str) -> NoReturn:
        refusal = await self._lanes[shard_of(key, self._shards)].submit(entry)
        if refusal is None:
            activity.raise_complete_async()
        code, reason = refusal
        if code == RejectCode.OVERLOADED:
            never_accepted = _note_refusal()
            # The next attempt would come too late to be written. Turned back for good, the caller hears in time that
            # its request is nowhere; of an attempt that is open when its time is up, nobody could say so.
            too_late = entry.expires_at is not None and time.time() + _BUSY_DELAY.total_seconds() >= entry.expires_at
            raise _turned_back(reason, never_accepted=never_accepted, for_good=never_accepted and too_late)
        raise _rejected(entry.id, RejectCode(code), reason)


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    answer: asyncio.Future[tuple[str, str] | None]
    arrived: float
    patience: float
    """Seconds that it may wait for company at most, because of its deadline."""


class _Lane:
    """The way to one shard: at most one update under way, the rest gathers for the next."""

    def __init__(self, client: Client, name: str, shard: int, task_queue: str, policy: BatchPolicy | None) -> None:
        self._client = client
        self._workflow_id = batcher_workflow_id(name, shard)
        self._task_queue = task_queue
        self._start = BatcherStart(name, shard, policy.to_wire() if policy else None)
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._gather = FIRST_GATHER
        self._enough = MAX_SUBMISSION_REQUESTS
        self._packs = False
        self._known_to_run = False
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, entry: Entry) -> tuple[str, str] | None:
        """Returns None if the shard accepted the request, else the code and the reason of its refusal."""
        loop = asyncio.get_running_loop()
        patience = math.inf if entry.expires_at is None else LATEST_GATHERED * max(0.0, entry.expires_at - time.time())
        waiting = _Waiting(entry, loop.create_future(), loop.time(), patience)
        self._waiting.append(waiting)
        self._arrived.set()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await waiting.answer

    async def _run(self) -> None:
        """Submits until nothing waits."""
        while self._waiting:
            await self._gather_more()
            part = self._take()
            try:
                result = await self._send(part)
            except Exception as err:  # whatever it is: it must not end the lane, or every later request waits in vain
                failure = err if isinstance(err, ApplicationError) else _unreachable(f"{type(err).__name__}: {err}")
                activity.logger.warning("%d requests go back to Temporal: %s", len(part), failure.message)
                for waiting in part:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(_again(failure))
                continue
            self._gather, self._enough = result.gather_seconds, result.batch_records or MAX_SUBMISSION_REQUESTS
            refused = {position: (code, reason) for position, code, reason in result.refused}
            misread = self._packs and not result.takes_packed  # an earlier worker has taken the shard over
            self._packs = result.takes_packed
            for position, waiting in enumerate(part):
                refusal = refused.get(position)
                if misread and refusal and refusal[0] == RejectCode.INVALID and "requests" in waiting.entry.body:
                    self._waiting.append(waiting)  # once more, unpacked
                elif not waiting.answer.done():  # else its activity was cancelled meanwhile
                    waiting.answer.set_result(refusal)
        self._runner = None

    async def _gather_more(self) -> None:
        """Waits for company, but not once there is enough for one update."""
        until = math.inf
        looked_at = records = size = 0
        while True:
            for waiting in self._waiting[looked_at:]:
                until = min(until, waiting.arrived + min(self._gather, waiting.patience))
                records += waiting.entry.records
                size += waiting.entry.size
            looked_at = len(self._waiting)
            left = until - asyncio.get_running_loop().time()
            if left <= 0 or records >= self._enough or size >= MAX_SUBMISSION_BYTES:
                return
            if looked_at >= MAX_SUBMISSION_REQUESTS:
                return
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take(self) -> list[_Waiting]:
        part: list[_Waiting] = []
        size = 0
        for waiting in self._waiting:
            size += waiting.entry.size
            if part and (len(part) >= MAX_SUBMISSION_REQUESTS or size > MAX_SUBMISSION_BYTES):
                break
            part.append(waiting)
        del self._waiting[: len(part)]
        return part

    async def _send(self, part: Sequence[_Waiting]) -> SubmitResult:
        try:
            async with asyncio.timeout(SUBMISSION_TIMEOUT.total_seconds()):
                for pause in BUSY_PAUSES:
                    try:
                        return await once_ready(lambda: self._update(self._wires(part)))
                    except WorkflowUpdateFailedError as err:
                        if not _is_busy_for_a_moment(err):
                            raise
                    await asyncio.sleep(pause)
                return await once_ready(lambda: self._update(self._wires(part)))
        except WorkflowUpdateFailedError as err:
            cause = err.cause
            if isinstance(cause, ApplicationError) and cause.type == ErrorType.BATCHER_BUSY:
                refused = [[position, RejectCode.OVERLOADED, cause.message] for position in range(len(part))]
                return SubmitResult(refused, self._gather, self._enough, self._packs)
            raise _unreachable(f"the batcher refused the submission: {cause}") from None
        except RPCError as err:
            raise _unreachable(f"{err.status.name}: {err.message}") from None
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise _unreachable(
                f"no answer from {self._workflow_id} within {SUBMISSION_TIMEOUT.total_seconds():g} s"
            ) from None

    def _wires(self, part: Sequence[_Waiting]) -> list[JsonObject]:
        if not self._packs:
            # Nor how long it waited: an earlier worker ignores that, and a later one that replays the run would not.
            return [waiting.entry.to_wire() for waiting in part]
        now = asyncio.get_running_loop().time()
        return [{**w.entry.packed().to_wire(), "waited": round(now - w.arrived, 3)} for w in part]

    async def _update(self, wires: list[JsonObject]) -> SubmitResult:
        result: SubmitResult
        # A plain update costs the server less than one with start; who runs already needs no start.
        if self._known_to_run:
            handle = self._client.get_workflow_handle(self._workflow_id)
            try:
                result = await handle.execute_update(UPDATE_SUBMIT, wires, result_type=SubmitResult)
            except RPCError as err:
                if err.status != RPCStatusCode.NOT_FOUND:
                    raise
                self._known_to_run = False
            else:
                return result
        result = await update_with_start(
            self._client,
            UPDATE_SUBMIT,
            wires,
            start=self._start,
            task_queue=self._task_queue,
            result_type=SubmitResult,
        )
        self._known_to_run = True
        return result


def _is_busy_for_a_moment(err: WorkflowUpdateFailedError) -> bool:
    cause = err.cause
    return isinstance(cause, ApplicationError) and cause.type == ErrorType.BATCHER_BUSY and any(cause.details)


def _run_id(info: activity.Info) -> str | None:
    """The run an activity belongs to: its workflow's, or its own if it stands alone."""
    return info.workflow_run_id or info.activity_run_id


def _rejected(request_id: Any, code: RejectCode, reason: str) -> ApplicationError:
    confirmation = Confirmation(str(request_id or ""), OutcomeKind.REJECTED, code=code, reason=reason)
    return ApplicationError(reason, confirmation, type=ErrorType.REJECTED, non_retryable=True)


def _was_always_refused(info: activity.Info) -> bool:
    """Whether every attempt before this one was refused outright: see `_note_refusal`."""
    return info.attempt == 1 or list(info.heartbeat_details) == [info.attempt - 1]


def _note_refusal() -> bool:
    """Whether every attempt of this activity so far was refused outright, this one included.

    Then the request is nowhere, and its caller may be told so for certain. Each refused attempt leaves its number as
    heartbeat details, which reach the next attempt; one that ended otherwise, by a crash or a lost answer, does not.
    """
    info = activity.info()
    always = _was_always_refused(info)
    if always:
        activity.heartbeat(info.attempt)
    return always


def _turned_back(reason: str, *, never_accepted: bool, for_good: bool) -> ApplicationError:
    """Back-pressure: the request waits in Temporal and comes again, unless it is ``for_good``."""
    return ApplicationError(
        reason,
        never_accepted,
        type=ErrorType.BATCHER_BUSY,
        non_retryable=for_good,
        next_retry_delay=_BUSY_DELAY,
        category=ApplicationErrorCategory.BENIGN,
    )


def _unreachable(reason: str) -> ApplicationError:
    return ApplicationError(
        reason,
        type=ErrorType.BATCHER_UNREACHABLE,
        next_retry_delay=_UNREACHABLE_DELAY,
        category=ApplicationErrorCategory.BENIGN,  # the lane has logged it once, for all its requests
    )


def _again(err: ApplicationError) -> ApplicationError:
    """A copy for each activity that fails with it: one exception raised in many tasks grows its traceback in all."""
    return ApplicationError(
        err.message,
        *err.details,
        type=err.type,
        non_retryable=err.non_retryable,
        next_retry_delay=err.next_retry_delay,
        category=err.category,
    )
