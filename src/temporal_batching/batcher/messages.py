"""What comes to a shard, read: one request, a submission, an order. What is wrong with it is its sender's to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from temporal_batching.contract import Control, RejectCode
from temporal_batching.errors import ErrorType, InvalidPolicy, InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES, BatchPolicy
from temporal_batching.wire.submission import ENVELOPE_BYTES, MAX_NAME, Submission, measure, read_submission

MAX_DEPTH = 100
"""Levels of nesting in a request. What a handler can read must also pass through the flush's and the next run's
encoders, which see it a few levels deeper: at Python's limit they would fail where nobody can be told."""

LATEST_DEADLINE = 253_402_300_799.0
"""The end of the year 9999."""


def read_request(wire: Any) -> Submission:
    """`read_submission`, and what only a shard has to ask: whether the request can go on from here.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if _is_deeper_than(MAX_DEPTH, wire):
        raise InvalidRequest(f"a value is nested too deeply: at most {MAX_DEPTH} levels")
    submission = read_submission(wire)
    # Comparing works for integers of any length.
    if submission.expires_at is not None and not 0 <= submission.expires_at <= LATEST_DEADLINE:
        raise InvalidRequest("expires_at is a number of seconds since the epoch, until the year 9999")
    # Reply addresses travel with the batch. Their allowance suits usual workflow ids; these may have 1,000 characters.
    if submission.replies:
        submission.size += max(0, measure(submission.replies) - ENVELOPE_BYTES * len(submission.replies))
    if submission.size > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"the request and its reply addresses have {submission.size:,} bytes: "
            f"at most {MAX_REQUEST_BYTES:,} fit a batch",
            RejectCode.TOO_LARGE,
        )
    return submission


def _is_deeper_than(levels: int, value: Any) -> bool:
    layer = [value]
    for _ in range(levels):
        below: list[Any] = []
        for one in layer:
            inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            below.extend(v for v in inner if isinstance(v, dict | list))
        if not below:
            return False
        layer = below
    return True


def decode_submission(requests: RawValue, decode: Callable[[RawValue], Any]) -> list[Any]:
    """The requests of a submission, not read yet.

    Raises:
        ApplicationError: Of type ``InvalidRequest``.
    """
    try:
        wires = decode(requests)
    except Exception as err:  # whatever a converter raises, it is the sender's mistake and must not stop the shard
        raise invalid(f"a submission that cannot be decoded: {type(err).__name__}") from None
    if not isinstance(wires, list):
        raise invalid("a submission is one list of requests")
    return wires


def read_control(wire: Any) -> Control:
    """An operator's order, or a worker's announcement.

    Raises:
        ApplicationError: Of type ``InvalidRequest`` or ``InvalidPolicy``.
    """
    if not isinstance(wire, dict):
        raise invalid("control takes one object with any of policy, announced, flush, pause, drain, adopt_ledger")
    try:
        control = Control(**wire)
    except TypeError:
        raise invalid(
            f"control knows policy, announced, flush, pause, drain and adopt_ledger, not {sorted(wire)}"
        ) from None
    if not isinstance(control.adopt_ledger, str | None) or len(control.adopt_ledger or "") > MAX_NAME:
        raise invalid(f"control.adopt_ledger is a ledger's identity, of {MAX_NAME} characters at most, or null")
    for name in ("flush", "pause", "drain"):
        if not isinstance(getattr(control, name), bool | None):
            raise invalid(f"control.{name} is true, false or null")
    if control.policy is not None:
        try:
            BatchPolicy.from_wire(control.policy)
        except InvalidPolicy as err:
            raise ApplicationError(str(err), type=ErrorType.INVALID_POLICY, non_retryable=True) from None
    return control


def busy(message: str, *, soon: bool = False) -> ApplicationError:
    """What turns a sender back; ``soon`` if it is worth its while to ask again at once."""
    return ApplicationError(message, soon, type=ErrorType.BATCHER_BUSY, category=ApplicationErrorCategory.BENIGN)


def invalid(message: str) -> ApplicationError:
    return ApplicationError(message, type=ErrorType.INVALID_REQUEST, non_retryable=True)
