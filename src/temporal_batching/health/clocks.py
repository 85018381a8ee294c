"""Whether the clocks of this machine, the worker, Temporal's server and the database agree.

A deadline is set by the caller's clock, watched by the shard's, which is the server's, and compared once more by the
sink's worker right before it writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from temporal_batching.health.findings import Finding, failed, ok, warning

NOTICED = 1.0
"""Seconds. Below it is how exactly it can be measured through a task queue, and what a deadline does not notice."""

TOO_FAR = 5.0
"""Seconds: a request with a short deadline expires before it is written, or its confirmation comes after it."""


def offset(instant: float, *, not_before: float, not_after: float) -> float:
    """By how much a clock that showed ``instant`` at some moment is ahead of another one.

    Args:
        instant: What it showed.
        not_before: What the other clock showed before that moment.
        not_after: What it showed after it.

    Returns:
        Seconds; 0 if both may be equal.
    """
    if instant < not_before:
        return instant - not_before
    return max(0.0, instant - not_after)


def clock_findings(ahead: Mapping[str, float]) -> Iterator[Finding]:
    """Judges by how much clocks are ahead of Temporal's server.

    Args:
        ahead: Seconds, by whose clock.
    """
    far = False
    for whose, seconds in ahead.items():
        if abs(seconds) < NOTICED:
            continue
        far = True
        finding = failed if abs(seconds) >= TOO_FAR else warning
        direction = "ahead of" if seconds > 0 else "behind"
        yield finding(
            "clocks",
            f"the clock of {whose} is {abs(seconds):.1f} s {direction} that of Temporal's server: requests expire at "
            "wrong times; synchronise it (NTP)",
        )
    if not far:
        yield ok("clocks", f"{', '.join(ahead)}: within {NOTICED:g} s of Temporal's server")
