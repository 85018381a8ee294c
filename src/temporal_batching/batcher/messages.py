"""Messages that come to a shard, decoded. An error in one is raised to its sender, and never fails the shard."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from temporal_batching.contract import Control
from temporal_batching.errors import ErrorType, InvalidPolicy
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.checks import MAX_NAME

CONTROLS = tuple(field.name for field in fields(Control))


def decode_submission(requests: RawValue, decode: Callable[[RawValue], Any]) -> list[Any]:
    """The requests of a submission, not read yet.

    Raises:
        ApplicationError: Of type ``InvalidRequest``.
    """
    try:
        wires = decode(requests)
    except Exception as err:  # of any kind: the sender's mistake must not stop the shard
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
        raise invalid(f"control takes one object with any of {', '.join(CONTROLS)}")
    try:
        control = Control(**wire)
    except TypeError:
        raise invalid(f"control knows {', '.join(CONTROLS)}, not {sorted(wire)}") from None
    for name, what in (("adopt_ledger", "a ledger's identity"), ("flush_task_queue", "a task queue's name")):
        value = getattr(control, name)
        if not isinstance(value, str | None) or len(value or "") > MAX_NAME:
            raise invalid(f"control.{name} is {what}, of {MAX_NAME} characters at most, or null")
    for name in ("flush", "pause", "drain"):
        if not isinstance(getattr(control, name), bool | None):
            raise invalid(f"control.{name} is true, false or null")
    if control.routed_at is not None and not _is_moment(control.routed_at):
        raise invalid("control.routed_at is a time in seconds since the epoch, or null")
    if control.policy is not None:
        try:
            BatchPolicy.from_wire(control.policy)
        except InvalidPolicy as err:
            raise ApplicationError(str(err), type=ErrorType.INVALID_POLICY, non_retryable=True) from None
    return control


def busy(message: str, *, soon: bool = False) -> ApplicationError:
    """The error that rejects a sender as busy; ``soon`` if it may ask again at once."""
    return ApplicationError(message, soon, type=ErrorType.BATCHER_BUSY, category=ApplicationErrorCategory.BENIGN)


def invalid(message: str) -> ApplicationError:
    return ApplicationError(message, type=ErrorType.INVALID_REQUEST, non_retryable=True)


def _is_moment(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
