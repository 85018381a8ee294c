"""Translates the failure of the activity ``batch_write`` into the error that the caller of a write receives."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio.exceptions import ApplicationError, TimeoutError, TimeoutType

from temporal_batching.contract import Confirmation, OutcomeKind
from temporal_batching.errors import (
    ErrorType,
    InvalidRequest,
    WriteError,
    WriteExpired,
    WriteNotConfirmed,
    WriteNotSubmitted,
    WriteRejected,
)
from temporal_batching.wire.deliveries import load_confirmation

EXPIRED = "write {}: its deadline passed before it could be written; it is not and will not be written"


def rejection_message(request_id: str, reason: str | None) -> str:
    return f"write {request_id}: rejected: {reason or 'no reason given'}"


def rejected_before_submission(request_id: object, err: InvalidRequest) -> WriteRejected:
    """The error for a write that no batch can take, raised before it is submitted."""
    confirmation = Confirmation(str(request_id), OutcomeKind.REJECTED, code=err.code, reason=str(err))
    return WriteRejected(
        rejection_message(str(request_id), str(err)), request_id=str(request_id), confirmation=confirmation
    )


def write_error(request_id: str, cause: BaseException | None, timeout: timedelta) -> WriteError:
    """The error for a write whose activity failed with ``cause``.

    Only what is certain is called `WriteNotSubmitted`, `WriteExpired` or `WriteRejected`: a caller may act on those
    as on a fact. Everything else is `WriteNotConfirmed`.
    """
    if isinstance(cause, ApplicationError):
        if cause.type == ErrorType.REJECTED:
            confirmation = _confirmation(request_id, OutcomeKind.REJECTED, cause)
            return WriteRejected(
                rejection_message(request_id, cause.message), request_id=request_id, confirmation=confirmation
            )
        if cause.type == ErrorType.EXPIRED:
            confirmation = _confirmation(request_id, OutcomeKind.EXPIRED, cause)
            return WriteExpired(EXPIRED.format(request_id), request_id=request_id, confirmation=confirmation)
    if isinstance(cause, TimeoutError) and cause.type == TimeoutType.SCHEDULE_TO_START and cause.__cause__ is None:
        return WriteNotSubmitted(f"write {request_id}: no worker took it within {timeout}", request_id=request_id)
    # Only as the failure itself. As the cause of a timeout it is merely the last attempt that ended: one that was open
    # when time ran out may have submitted the request.
    refused = isinstance(cause, ApplicationError) and cause.type in (ErrorType.BATCHER_BUSY, ErrorType.WRONG_BATCHER)
    if isinstance(cause, ApplicationError) and refused and list(cause.details) == [True]:
        return WriteNotSubmitted(
            f"write {request_id}: not accepted for {timeout}: {cause.message}", request_id=request_id
        )
    last = cause.__cause__ if isinstance(cause, TimeoutError) else cause
    because = f": {last.message}" if isinstance(last, ApplicationError) else ""
    return WriteNotConfirmed(f"write {request_id}: no confirmation within {timeout}{because}", request_id=request_id)


def _confirmation(request_id: str, outcome: OutcomeKind, cause: ApplicationError) -> Confirmation:
    """The confirmation that came as the failure's detail; details arrive as plain JSON."""
    detail: Any = cause.details[0] if cause.details else None
    wire = detail if isinstance(detail, dict) else {}
    reason = wire.get("reason") or cause.message
    return load_confirmation({**wire, "request_id": request_id, "outcome": outcome, "reason": reason})
