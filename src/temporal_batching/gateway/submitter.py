"""`ShardSubmitter`: coalesces concurrent requests for one shard into few updates."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.batcher.shards import retry_while_not_ready, update_with_start
from temporal_batching.contract import UPDATE_SUBMIT, BatcherStart, JsonObject, Refusal, RejectCode, SubmitResult
from temporal_batching.errors import ErrorType
from temporal_batching.logs import about_requests, logger
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.tracing import tracing
from temporal_batching.wire.submission import Submission

MAX_SUBMISSION_REQUESTS = 500
"""Requests in one update: more gain little and make the batcher's workflow task long."""

MAX_SUBMISSION_BYTES = 450_000
"""Bytes in one update: Temporal warns of payloads past 512 KiB. One larger request still travels alone."""

SUBMISSION_TIMEOUT = timedelta(seconds=10)
"""The longest the gateway waits for an update's answer; then the attempt fails and Temporal retries it."""

FIRST_GATHER = 0.005
"""Seconds to gather before the first submission; afterwards the batcher says."""

BUSY_PAUSES = (0.05, 0.1, 0.2, 0.4)
"""Seconds between submissions to a shard that is busy for a moment only, as one that is about to continue as new. A
retry by Temporal would cost more."""

LATEST_GATHERED = 0.25
"""Of the time that is left to a request's deadline, the part it may spend waiting for more requests."""

_UNREACHABLE_DELAY = timedelta(seconds=1)


@dataclass(slots=True)
class PendingSubmission:
    submission: Submission
    refusal: asyncio.Future[Refusal | None]
    arrived: float
    max_gather: float
    """Seconds that it may wait for more requests at most, because of its deadline."""


class ShardSubmitter:
    """The way to one shard: at most one update under way, the rest waits for the next.

    Args:
        client: A client of the batcher's namespace.
        start: The shard, as it is started if it does not run.
        task_queue: Where.
    """

    def __init__(self, client: Client, start: BatcherStart, task_queue: str) -> None:
        self._client = client
        self._workflow_id = batcher_workflow_id(start.batcher, start.shard)
        self._task_queue = task_queue
        self._start = start
        self._waiting: list[PendingSubmission] = []
        self._arrived = asyncio.Event()
        self._gather = FIRST_GATHER
        self._enough = (MAX_SUBMISSION_REQUESTS, MAX_SUBMISSION_REQUESTS)  # requests and records of a full batch
        self._known_to_run = False
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, submission: Submission) -> Refusal | None:
        """Returns None if the shard accepted the request, else why it did not."""
        loop = asyncio.get_running_loop()
        max_gather = (
            math.inf
            if submission.expires_at is None
            else LATEST_GATHERED * max(0.0, submission.expires_at - time.time())
        )
        waiting = PendingSubmission(submission, loop.create_future(), loop.time(), max_gather)
        self._waiting.append(waiting)
        self._arrived.set()
        if self._runner is None:
            # In a context of its own: it serves many requests, and belongs to none of their activities and traces.
            self._runner = asyncio.create_task(self._run(), context=Context())
        return await waiting.refusal

    async def _run(self) -> None:
        """Submits until nothing waits."""
        while self._waiting:
            await self._gather_more()
            part = self._take()
            try:
                result = await self._send(part)
            except Exception as err:  # of any kind: it must not end this task, or every later request waits forever
                failure = err if isinstance(err, ApplicationError) else _unreachable(f"{type(err).__name__}: {err}")
                ids = [waiting.submission.id for waiting in part]
                extra = about_requests(ids, workflow_id=self._workflow_id, shard=self._start.shard)
                logger.warning(
                    "%d requests are left to Temporal's retries: %s", len(part), failure.message, extra=extra
                )
                for waiting in part:
                    if not waiting.refusal.done():
                        waiting.refusal.set_exception(_copy_error(failure))
                continue
            self._gather, self._enough = result.gather_seconds, (result.batch_size, result.batch_records)
            refused = {refusal.position: refusal for refusal in result.refused}
            for position, waiting in enumerate(part):
                if not waiting.refusal.done():  # else its activity was cancelled meanwhile
                    waiting.refusal.set_result(refused.get(position))
        self._runner = None

    async def _gather_more(self) -> None:
        """Waits for more requests, unless there are enough for one update."""
        until = math.inf
        looked_at = requests = records = size = 0
        while True:
            for waiting in self._waiting[looked_at:]:
                until = min(until, waiting.arrived + min(self._gather, waiting.max_gather))
                requests += waiting.submission.requests
                records += waiting.submission.records
                size += waiting.submission.weight
            looked_at = len(self._waiting)
            left = until - asyncio.get_running_loop().time()
            full = requests >= self._enough[0] or records >= self._enough[1] or size >= MAX_SUBMISSION_BYTES
            if left <= 0 or full:
                return
            if looked_at >= MAX_SUBMISSION_REQUESTS:
                return
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take(self) -> list[PendingSubmission]:
        part: list[PendingSubmission] = []
        size = 0
        for waiting in self._waiting:
            size += waiting.submission.weight
            if part and (len(part) >= MAX_SUBMISSION_REQUESTS or size > MAX_SUBMISSION_BYTES):
                break
            part.append(waiting)
        del self._waiting[: len(part)]
        return part

    async def _send(self, part: Sequence[PendingSubmission]) -> SubmitResult:
        try:
            async with asyncio.timeout(SUBMISSION_TIMEOUT.total_seconds()):
                for pause in BUSY_PAUSES:
                    try:
                        return await retry_while_not_ready(lambda: self._update(self._wires(part)))
                    except WorkflowUpdateFailedError as err:
                        if not _is_busy_for_a_moment(err):
                            raise
                    await asyncio.sleep(pause)
                return await retry_while_not_ready(lambda: self._update(self._wires(part)))
        except WorkflowUpdateFailedError as err:
            cause = err.cause
            if isinstance(cause, ApplicationError) and cause.type == ErrorType.BATCHER_BUSY:
                refused = [Refusal(position, RejectCode.OVERLOADED, cause.message) for position in range(len(part))]
                return SubmitResult(refused, self._gather, *self._enough)
            raise _unreachable(f"the batcher refused the submission: {cause}") from None
        except RPCError as err:
            raise _unreachable(f"{err.status.name}: {err.message}") from None
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise _unreachable(
                f"no answer from {self._workflow_id} within {SUBMISSION_TIMEOUT.total_seconds():g} s"
            ) from None

    def _wires(self, part: Sequence[PendingSubmission]) -> list[JsonObject]:
        now = asyncio.get_running_loop().time()
        return [{**w.submission.packed().to_wire(), "waited": round(now - w.arrived, 3)} for w in part]

    async def _update(self, wires: list[JsonObject]) -> SubmitResult:
        result: SubmitResult
        # A plain update costs the server less than one with start; a shard that runs needs no start.
        if self._known_to_run:
            handle = tracing().untraced(self._client).get_workflow_handle(self._workflow_id)
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


def _unreachable(reason: str) -> ApplicationError:
    return ApplicationError(
        reason,
        type=ErrorType.BATCHER_UNREACHABLE,
        next_retry_delay=_UNREACHABLE_DELAY,
        category=ApplicationErrorCategory.BENIGN,  # the submitter has logged it once, for all its requests
    )


def _copy_error(err: ApplicationError) -> ApplicationError:
    """A copy for each activity that fails with it: one exception raised in many tasks grows its traceback in all."""
    return ApplicationError(
        err.message,
        *err.details,
        type=err.type,
        non_retryable=err.non_retryable,
        next_retry_delay=err.next_retry_delay,
        category=err.category,
    )
