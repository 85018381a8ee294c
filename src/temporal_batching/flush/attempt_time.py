"""`AttemptTime`: whether an attempt at a batch is over for Temporal, though it still runs.

An activity that is past its timeout may go on in its worker: it was stuck in a call, or the machine stood still. By
then its shard may have started the next attempt, which knows that this one may have committed. This one does not know
of the next: what it finds out about a request that it has not written itself is outdated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta


class AttemptTime:
    """The time of one attempt, from its start in the worker.

    Args:
        longest: How long it may take; None for any time.
        silence: How long it may be without a heartbeat; None for any time.
        clock: Tells the time in seconds; it is not set like a clock on the wall.
    """

    def __init__(
        self,
        *,
        longest: timedelta | None,
        silence: timedelta | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._silence = silence
        self._started = self._last_beat = clock()
        self._ends = None if longest is None else self._started + longest.total_seconds()
        self._was_silent = False

    def beat(self) -> None:
        """A heartbeat is sent."""
        self._was_silent = self._is_silent()
        self._last_beat = self._clock()

    @property
    def is_over(self) -> bool:
        """Whether Temporal may have started another attempt meanwhile."""
        return self._was_silent or self._is_silent() or (self._ends is not None and self._clock() >= self._ends)

    def _is_silent(self) -> bool:
        if self._was_silent or self._silence is None:
            return self._was_silent
        return self._clock() - self._last_beat >= self._silence.total_seconds()
