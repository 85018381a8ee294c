"""A caller's error says what is certain, and nothing more: only facts are called not submitted, expired, rejected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError, CancelledError, TimeoutError, TimeoutType

from temporal_batching.contract import Confirmation, OutcomeKind, RejectCode
from temporal_batching.errors import (
    BatchingError,
    ErrorType,
    InvalidRequest,
    WriteError,
    WriteExpired,
    WriteNotConfirmed,
    WriteNotSubmitted,
    WriteRejected,
)
from temporal_batching.writers.failures import rejected_before_submission, write_error

TIMEOUT = timedelta(minutes=2)


def failure(error_type: str | None, *details: Any, message: str = "because") -> ApplicationError:
    return ApplicationError(message, *details, type=error_type)


def timed_out(kind: TimeoutType, last: BaseException | None = None) -> TimeoutError:
    error = TimeoutError("timed out", type=kind, last_heartbeat_details=[])
    error.__cause__ = last
    return error


def busy(*details: Any) -> ApplicationError:
    return failure(ErrorType.BATCHER_BUSY, *details, message="full")


@pytest.mark.parametrize(
    ("cause", "error", "says"),
    [
        (failure(ErrorType.REJECTED), WriteRejected, "write r: rejected: because"),
        (failure(ErrorType.EXPIRED), WriteExpired, "is not and will not be written"),
        (timed_out(TimeoutType.SCHEDULE_TO_START), WriteNotSubmitted, "no worker took it within 0:02:00"),
        (busy(True), WriteNotSubmitted, "not accepted for 0:02:00: full"),
        (failure(ErrorType.WRONG_BATCHER, True), WriteNotSubmitted, "not accepted for 0:02:00: because"),
        (failure(ErrorType.WRONG_BATCHER, False), WriteNotConfirmed, "within 0:02:00: because"),
        (busy(False), WriteNotConfirmed, "within 0:02:00: full"),
        (busy(), WriteNotConfirmed, "within 0:02:00: full"),
        # A timeout names the last attempt that ended: the one that was open may have handed the request over.
        (timed_out(TimeoutType.SCHEDULE_TO_CLOSE, busy(True)), WriteNotConfirmed, "within 0:02:00: full"),
        # Refused at last, but an earlier attempt got no answer: it may be in the buffer.
        (timed_out(TimeoutType.SCHEDULE_TO_CLOSE, busy(False)), WriteNotConfirmed, "within 0:02:00: full"),
        (timed_out(TimeoutType.SCHEDULE_TO_CLOSE, busy()), WriteNotConfirmed, "within 0:02:00: full"),
        # No worker took the second attempt: the first one may have been accepted.
        (
            timed_out(TimeoutType.SCHEDULE_TO_START, failure(ErrorType.BATCHER_UNREACHABLE)),
            WriteNotConfirmed,
            "within 0:02:00: because",
        ),
        (timed_out(TimeoutType.SCHEDULE_TO_CLOSE), WriteNotConfirmed, "no confirmation within 0:02:00"),
        (timed_out(TimeoutType.START_TO_CLOSE), WriteNotConfirmed, "no confirmation within 0:02:00"),
        (timed_out(TimeoutType.HEARTBEAT), WriteNotConfirmed, "no confirmation within 0:02:00"),
        (failure(ErrorType.BATCHER_UNREACHABLE), WriteNotConfirmed, "no confirmation within 0:02:00: because"),
        (failure("SomebodyElses"), WriteNotConfirmed, "no confirmation within 0:02:00: because"),
        (failure(None), WriteNotConfirmed, "no confirmation"),
        (CancelledError("cancelled"), WriteNotConfirmed, "no confirmation"),
        (ValueError("odd"), WriteNotConfirmed, "no confirmation"),
        (None, WriteNotConfirmed, "no confirmation"),
    ],
)
def test_only_what_is_certain_is_said(cause: BaseException | None, error: type[WriteError], says: str) -> None:
    raised = write_error("r", cause, TIMEOUT)
    assert type(raised) is error
    assert says in raised.message
    assert raised.request_id == "r"
    assert (raised.non_retryable, raised.type) == (True, error.error_type)


def test_the_confirmation_is_read_from_the_failures_detail() -> None:
    wire = {
        "request_id": "r",
        "outcome": "rejected",
        "code": "constraint",
        "reason": "unique",
        "batch_id": "main-0/7",
        "batch_size": 3,
        "shard": 2,
        "settled_at": "2026-01-01T00:00:00+00:00",
    }
    error = write_error("r", failure(ErrorType.REJECTED, wire), TIMEOUT)
    settled_at = datetime(2026, 1, 1, tzinfo=UTC)
    assert error.confirmation == Confirmation(
        "r", OutcomeKind.REJECTED, "main-0/7", 3, 2, settled_at, RejectCode.CONSTRAINT, "unique"
    )


@pytest.mark.parametrize("details", [(), (None,), ("text",), ({},)])
def test_a_failure_without_a_confirmation_still_has_its_reason(details: tuple[Any, ...]) -> None:
    error = write_error("r", failure(ErrorType.EXPIRED, *details), TIMEOUT)
    assert error.confirmation == Confirmation("r", OutcomeKind.EXPIRED, reason="because")


def test_a_request_refused_at_the_door_has_the_doors_code_and_reason() -> None:
    error = rejected_before_submission(7, InvalidRequest("it has 3 records", RejectCode.TOO_LARGE))
    assert error.message == "write 7: rejected: it has 3 records"
    assert error.confirmation is not None
    assert (error.confirmation.code, error.confirmation.reason) == (RejectCode.TOO_LARGE, "it has 3 records")


def test_an_expired_write_is_one_that_was_not_confirmed() -> None:
    assert issubclass(WriteExpired, WriteNotConfirmed)
    assert not issubclass(WriteError, BatchingError)


def test_an_error_says_its_type_once() -> None:
    assert str(WriteRejected("write r: rejected: no")) == "write r: rejected: no"


def test_the_error_for_an_id_that_utf8_cannot_encode_can_be_encoded() -> None:
    error = rejected_before_submission("a\ud800", InvalidRequest("no"))
    assert error.message.encode() == rb"write a\ud800: rejected: no"
