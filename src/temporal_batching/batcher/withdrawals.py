"""Withdrawals of requests that have not arrived. A part of the `Buffer`, and as pure."""

from __future__ import annotations

from collections.abc import Mapping

from temporal_batching.contract import Withdrawal
from temporal_batching.wire.checks import measure
from temporal_batching.wire.submission import Submission

MAX_REMEMBERED = 1_000
"""Withdrawals that are remembered at the most; the oldest are forgotten first."""

MAX_REMEMBERED_BYTES = 65_536
"""Of what a run may carry to the next one: withdrawals from outside must not keep a run from ending."""

MAX_AGE = 600.0
"""Seconds a withdrawal is remembered. A cancelled caller's submission is late by the seconds that its gateway takes to
coalesce and to submit; ten minutes leave room for one that is starved."""


class Withdrawals:
    """Remembers callers that took a request back before it came, for as long as it may still come.

    Args:
        remembered: What an earlier run remembered, oldest first, with the time of each.
    """

    def __init__(self, remembered: Mapping[Withdrawal, float] | None = None) -> None:
        self._at: dict[Withdrawal, float] = {}  # oldest first
        self._bytes = 0
        for withdrawal, at in (remembered or {}).items():
            self.remember(withdrawal, at)

    @property
    def bytes(self) -> int:
        """What they weigh as JSON, about."""
        return self._bytes

    @property
    def remembered(self) -> dict[Withdrawal, float]:
        """All of them, oldest first, with the time of each."""
        return dict(self._at)

    def remember(self, withdrawal: Withdrawal, now: float) -> None:
        self._forget(withdrawal)
        size = _weigh(withdrawal)
        while self._at and (len(self._at) >= MAX_REMEMBERED or self._bytes + size > MAX_REMEMBERED_BYTES):
            self._forget(next(iter(self._at)))
        if size <= MAX_REMEMBERED_BYTES:
            self._at[withdrawal] = now
            self._bytes += size

    def cover(self, submission: Submission, now: float) -> bool:
        """Whether all callers of a request took it back before it came."""
        self._forget_old(now)
        if not self._at or not submission.replies:
            return False
        return all(
            Withdrawal(submission.id, reply.workflow_id, reply.caller_run_id) in self._at
            for reply in submission.replies
        )

    def _forget_old(self, now: float) -> None:
        while self._at:
            oldest = next(iter(self._at))
            if now - self._at[oldest] < MAX_AGE:
                return
            self._forget(oldest)

    def _forget(self, withdrawal: Withdrawal) -> None:
        if self._at.pop(withdrawal, None) is not None:
            self._bytes -= _weigh(withdrawal)


def leave(submission: Submission, withdrawal: Withdrawal) -> bool:
    """Has a caller, or all of them, stop waiting. Returns whether no caller is left."""
    others = [reply for reply in submission.replies if not withdrawal.covers(reply)]
    if not others:
        return True
    submission.replies[:] = others
    return False


def _weigh(withdrawal: Withdrawal) -> int:
    return measure([withdrawal.request_id, withdrawal.workflow_id, withdrawal.run_id, 1_000_000_000.123456])
