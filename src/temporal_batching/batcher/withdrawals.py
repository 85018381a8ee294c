"""Withdrawals of requests that have not arrived. A part of the `Buffer`, and as pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from temporal_batching.wire.submission import Submission, measure

MAX_REMEMBERED = 1_000
"""Withdrawals that are remembered at the most; the oldest are forgotten first."""

MAX_REMEMBERED_BYTES = 65_536
"""Of what a run may carry to the next one: whoever sends withdrawals must not keep a run from ending."""

MAX_AGE = 600.0
"""Seconds a withdrawal is remembered. A cancelled caller's submission is late by the seconds that its gateway takes to
coalesce and to submit; ten minutes leave room for one that is starved."""


class Withdrawal(NamedTuple):
    """Who took which request back. A caller is one run of a workflow: the next run under its id is another caller."""

    request_id: str
    workflow_id: str | None
    run_id: str | None


class Withdrawals:
    """Remembers callers that took a request back before it came, for as long as it may still come."""

    def __init__(self) -> None:
        self._at: dict[Withdrawal, float] = {}  # oldest first
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What `carry` weighs as JSON, about."""
        return self._bytes

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
            Withdrawal(submission.id, reply.get("workflow_id"), run_of(reply)) in self._at
            for reply in submission.replies
        )

    def carry(self) -> list[list[Any]]:
        return [[*withdrawal, at] for withdrawal, at in self._at.items()]

    @classmethod
    def restore(cls, carried: Iterable[Sequence[Any]]) -> Withdrawals:
        """The withdrawals that `carry` described."""
        withdrawals = cls()
        for request_id, workflow_id, run_id, at in carried:
            withdrawals.remember(Withdrawal(request_id, workflow_id, run_id), at)
        return withdrawals

    def _forget_old(self, now: float) -> None:
        while self._at:
            oldest = next(iter(self._at))
            if now - self._at[oldest] < MAX_AGE:
                return
            self._forget(oldest)

    def _forget(self, withdrawal: Withdrawal) -> None:
        if self._at.pop(withdrawal, None) is not None:
            self._bytes -= _weigh(withdrawal)


def run_of(reply: dict[str, Any]) -> str | None:
    """The run that asked: of a signal it stands apart from the address, which must reach the workflow's current run."""
    run: str | None = reply.get("from_run_id") or reply.get("run_id")
    return run


def is_of(reply: dict[str, Any], workflow_id: str | None, run_id: str | None) -> bool:
    """Whether a reply address is a caller's: of this run, or of any one if it names none."""
    another_run = run_id is not None and run_of(reply) not in (run_id, None)
    return reply.get("workflow_id") == workflow_id and not another_run


def leave(submission: Submission, workflow_id: str | None, run_id: str | None) -> bool:
    """Has a caller, or all without ``workflow_id``, stop waiting. Returns whether nobody is left."""
    others = [reply for reply in submission.replies if not is_of(reply, workflow_id, run_id)]
    if workflow_id is None or not others:
        return True
    submission.replies[:] = others
    return False


def _weigh(withdrawal: Withdrawal) -> int:
    return measure([*withdrawal, 1_000_000_000.123456])
