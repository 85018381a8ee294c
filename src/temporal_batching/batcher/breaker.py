"""The breaker: while the sink is unavailable, one probe at a time, with growing pauses."""

from __future__ import annotations

from dataclasses import dataclass

from temporal_batching.contract import MAX_REASON
from temporal_batching.policy import BatchPolicy


@dataclass(slots=True)
class Breaker:
    """Open from the first failure until something gets through.

    Attributes:
        failures: In a row.
        retry_at: When the next probe may start.
        error: The sink's last complaint; None while it is closed.
        opened_at: When it was opened last.
    """

    failures: int = 0
    retry_at: float = 0.0
    error: str | None = None
    opened_at: float = 0.0

    @property
    def open(self) -> bool:
        return self.failures > 0

    def fail(self, now: float, error: str, pause: float) -> None:
        if not self.open:
            self.opened_at = now
        self.retry_at = now + pause
        self.failures += 1
        self.error = error[:MAX_REASON]  # carried to the next run

    def close(self) -> None:
        self.failures = 0
        self.error = None


def pause_after(failures: int, policy: BatchPolicy, backoff_factor: float) -> float:
    """The pause after so many failures in a row, the last one not counted: doubled each time, up to a limit."""
    initial, most = policy.retry_initial.total_seconds(), policy.retry_max.total_seconds()
    return min(most, initial * 2.0 ** min(failures, 30)) * backoff_factor
