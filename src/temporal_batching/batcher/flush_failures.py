"""Why a flush failed, as its shard sees it; and how long one may wait for a worker."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType

from temporal_batching.errors import ErrorType
from temporal_batching.policy import CONFIRMATION_TIMEOUT

UNTAKEN_AFTER = CONFIRMATION_TIMEOUT
"""How long a flush may wait on a task queue of its own for a worker, or for the queue's rate limit. Then its shard
requeues the batch, says so, and schedules it again: on another queue, if that was changed. By then the callers of a
batch no longer wait, unless they set a longer timeout. On the batcher's own queue a flush waits as long as it takes:
writes of callers wait there too, and a flush that is scheduled again would wait behind them each time."""


class FlushFailure(NamedTuple):
    """Why a flush failed.

    Attributes:
        problem: For people.
        in_doubt: It may have committed all the same.
        ledger: The identity of the ledger that it may have committed to, if it said so.
    """

    problem: str
    in_doubt: bool
    ledger: str | None = None


def untaken_after(flush_task_queue: str) -> timedelta | None:
    """How long a flush may wait for a worker."""
    return UNTAKEN_AFTER if flush_task_queue else None


def flush_failure(err: ActivityError, flush_task_queue: str) -> FlushFailure:
    """What an activity's failure says of its flush."""
    cause = err.cause
    if isinstance(cause, ApplicationError) and cause.type == ErrorType.SINK_UNAVAILABLE:
        in_doubt, ledger = cause.details if len(cause.details) == 2 else (True, None)
        return FlushFailure(cause.message, bool(in_doubt), ledger)
    if isinstance(cause, TimeoutError) and cause.type == TimeoutType.SCHEDULE_TO_START:
        waited = f"{UNTAKEN_AFTER.total_seconds():g} s"
        problem = f"no worker took the flush from the task queue '{flush_task_queue}' within {waited}"
        return FlushFailure(f"{problem}: none polls it, or its rate limit is too low", in_doubt=False)
    declared = cause.last_heartbeat_details if isinstance(cause, TimeoutError) else ()
    return FlushFailure(str(cause or err), True, declared[0] if declared else None)
