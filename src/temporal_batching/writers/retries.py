"""When a signal that reached no batcher is retried. Pure: time is a number."""

from __future__ import annotations

LONGEST_PAUSE = 10.0
"""Seconds between two attempts in the first minutes: how late a caller may notice that its batcher has started."""

SHARE_OF_WAIT = 0.1
"""Of the time that a caller has waited: its later pauses. Each attempt adds five events to the caller's history, and a
caller that waits for a day would fill it with attempts every ten seconds."""

LAST_ATTEMPT = 0.5
"""Seconds before the deadline of the last attempt: later, a batch could not take the request any more."""

SHORTEST_PAUSE = 1.0


def pause_before_retry(attempt: int, *, waited: float, left: float) -> float | None:
    """Seconds until the next attempt, or None if the caller gives up: it is certain then that no batcher has it.

    Args:
        attempt: How many attempts there were.
        waited: Seconds since the first of them.
        left: Seconds until the caller's deadline.
    """
    pause = min(SHORTEST_PAUSE * 2.0 ** min(attempt - 1, 30), max(LONGEST_PAUSE, waited * SHARE_OF_WAIT))
    pause = min(pause, left - LAST_ATTEMPT)
    return pause if pause >= SHORTEST_PAUSE else None
