"""Deadlines of requests: seconds since the epoch after which a request must not be written any more."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.checks import json_type
from temporal_batching.wire.decoding import InexactNumber

LATEST_DEADLINE = 253_402_300_799.0
"""The end of the year 9999."""

MAX_WAITED = 60.0
"""Seconds before its acceptance that count for a request's linger; no gateway keeps one nearly as long."""


def deadline_after(start: float, timeout: timedelta) -> float:
    """When a write whose caller waits ``timeout`` from ``start`` must be done, in seconds since the epoch.

    A little before the caller gives up (a fifth of its timeout, 5 seconds at most), so that it receives `expired`,
    which says that nothing was written, instead of running into its own timeout, which says nothing.
    """
    seconds = timeout.total_seconds()
    return start + seconds - min(5.0, seconds / 5)


def read_deadline(value: Any) -> float | None:
    """Reads ``expires_at``.

    Raises:
        InvalidRequest: It is no number, or no moment between 1970 and the year 9999.
    """
    if value is None:
        return None
    if isinstance(value, InexactNumber):  # nanoseconds: a clock need not keep every digit
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"expires_at is a number of seconds since the epoch, not {json_type(value)}")
    if isinstance(value, float) and not math.isfinite(value):  # NaN has no order: it would spoil the deadlines
        raise InvalidRequest("expires_at is a number of seconds since the epoch, not NaN or infinite")
    if not 0 <= value <= LATEST_DEADLINE:  # comparing works for integers of any length
        raise InvalidRequest("expires_at is a number of seconds since the epoch, until the year 9999")
    return value


def read_waited(value: Any) -> float:
    """Reads ``waited``: seconds that a request spent in its gateway, of which `MAX_WAITED` count at most.

    Raises:
        InvalidRequest: It is no number of seconds.
    """
    if value is None:
        return 0.0
    if isinstance(value, InexactNumber):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidRequest("waited is a number of seconds, 0 or more")
    return float(min(value, MAX_WAITED))
