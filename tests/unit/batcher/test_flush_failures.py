"""Why a flush failed, as its shard sees it: what is certain, and what is in doubt."""

from __future__ import annotations

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, TimeoutError, TimeoutType

from temporal_batching.batcher.flush_failures import UNTAKEN_AFTER, flush_failure, untaken_after
from temporal_batching.errors import ErrorType


def failed(cause: BaseException) -> ActivityError:
    error = ActivityError(
        "failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="flush_batch",
        activity_id="1",
        retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
    )
    error.__cause__ = cause
    return error


def timed_out(kind: TimeoutType, *details: str) -> TimeoutError:
    return TimeoutError("timeout", type=kind, last_heartbeat_details=list(details))


@pytest.mark.parametrize("in_doubt", [True, False])
def test_a_sink_says_itself_whether_it_may_have_committed(in_doubt: bool) -> None:
    cause = ApplicationError("down", in_doubt, "ledger-1", type=ErrorType.SINK_UNAVAILABLE)
    assert flush_failure(failed(cause), "") == ("down", in_doubt, "ledger-1")


def test_a_flush_that_no_worker_took_is_not_in_doubt_and_its_queue_is_named() -> None:
    problem, in_doubt, ledger = flush_failure(failed(timed_out(TimeoutType.SCHEDULE_TO_START)), "main-flushes")
    assert "no worker took the flush from the task queue 'main-flushes'" in problem
    assert (in_doubt, ledger) == (False, None)


@pytest.mark.parametrize("kind", [TimeoutType.START_TO_CLOSE, TimeoutType.HEARTBEAT])
def test_a_flush_that_was_taken_and_lost_is_in_doubt_and_so_is_any_other_failure(kind: TimeoutType) -> None:
    assert flush_failure(failed(timed_out(kind, "ledger-1")), "main-flushes")[1:] == (True, "ledger-1")
    assert flush_failure(failed(ApplicationError("not registered", type="NotFoundError")), "")[1:] == (True, None)


def test_only_a_flush_on_a_queue_of_its_own_waits_for_a_limited_time() -> None:
    assert untaken_after("") is None
    assert untaken_after("main-flushes") == UNTAKEN_AFTER
