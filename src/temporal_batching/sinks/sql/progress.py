"""What one call of the sink has found out so far: what is committed, what may be, and what gets through."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from temporal_batching.contract import Outcome, OutcomeKind
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql.connections import Timeouts
from temporal_batching.sinks.sql.database import Limits, PreparedRequest
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.failed_tries import NEVER, Failed, FailedTries
from temporal_batching.sinks.sql.schema import BoundTable, Row

MAX_RESTARTS = 3
"""How often one call starts its transaction over after a deadlock or a serialization failure; then the offending
request is isolated, as for any other trouble."""

BRIEF_LOCK = 0.1
"""Seconds to wait for a lock once one request of the batch had to wait in vain, or has done so in an earlier attempt:
its neighbours wait for each of these waits, and it comes again."""

LONGEST_BRIEF_LOCK = 0.25
"""Of the limit: as long a single request may come to wait for a lock, twice as long with each attempt that failed."""

NOT_TRIED = "it was not tried, for another request of its batch has to wait"

FIRST_SHARE = 0.6
"""Of the time: as long the first try of several requests may take, and what one may come to take that was too slow
before, twice as long with each attempt. The rest is left to isolate it in."""

BRIEF_TRY = 0.05
"""Seconds that every try may take, however little time is left: a batch without trouble needs less."""

FAILURES_IN_A_ROW = 16
"""Tries that may fail without any success between them. Halving 10,000 requests down to one takes 14. Doubled with
every attempt, so that a few offending requests ahead of all others cannot keep them waiting."""

FAILURES_OF_A_TABLE = 4
"""Requests for one table that may fail in a row; the rest of the table's requests then wait as well, untried. Doubled
with every attempt."""

ALONE_IN_A_ROW = 2
"""Requests that may fail in a transaction of their own, one after the other, before the others are spared theirs."""


class Progress:
    """State of one call, over all its transactions.

    Attributes:
        order: Positions of the batch in the order in which its requests have their turn.
        outcomes: By position, of what is committed or certain.
        restarts: Transactions that were started over.
    """

    def __init__(
        self,
        batch: Batch,
        *,
        timeouts: Timeouts,
        failed: FailedTries,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins the call.

        Args:
            batch: With its attempt: a later one has shorter limits from its start.
            timeouts: The time for all of it, which is below the batcher's ``flush_timeout``, and the longest wait for
                a lock until a wait has timed out.
            failed: What the sink remembers of earlier attempts. `remember` adds to it.
            wall_clock: Seconds since the epoch, by which deadlines are judged.
            clock: Seconds, by which the time is measured.
        """
        self.order = failed.order(batch)
        self.outcomes: dict[int, Outcome] = {}
        self.restarts = 0
        self._batch = batch
        self._failed_before = failed
        self._failed: set[str] = set()
        self._timed_out: set[str] = set()
        self._time = timeouts.statement.total_seconds()
        self._lock = timeouts.lock.total_seconds()
        self._wall_clock = wall_clock
        self._clock = clock
        self._began = clock()
        self._brief_lock = batch.attempt > 0
        self._brief_tries = batch.attempt > 0 or any(failed.of(request.request_id).timeouts for request in batch)
        # Halving down to one, twice over, fits the time that the first try leaves.
        self._brief = max(BRIEF_TRY, self._time * (1 - FIRST_SHARE) / (2 * (len(batch).bit_length() + 1)))
        self._patience = 2 ** min(batch.attempt, 8)
        self._trouble = ""
        self._in_a_row = 0
        self._of_table: Counter[BoundTable] = Counter()
        self._committed = False
        self._doubtful: set[int] = set()

    # How long, and how often

    def limits(self, requests: Sequence[PreparedRequest], *, deadlines: bool = True) -> Limits:
        """The bounds of the statements of the next try of these requests.

        Args:
            requests: The requests that are tried together.
            deadlines: Whether the earliest deadline that is ahead bounds the wait for a lock.
        """
        left = self._began + self._time - self._clock()
        failed = self._failed_before.of(requests[0].request_id) if len(requests) == 1 else NEVER
        return Limits(
            statement=max(BRIEF_TRY, min(left, self._share(failed, len(requests)))),
            lock=self._lock_limit(failed),
            until_deadline=self._until_deadline(requests) if deadlines else math.inf,
        )

    def _until_deadline(self, requests: Sequence[PreparedRequest]) -> float:
        now = self._wall_clock()
        ahead = (r.expires_at - now for r in requests if r.expires_at is not None and r.expires_at > now)
        return max(BRIEF_LOCK, min(ahead, default=math.inf))

    def _share(self, failed: Failed, requests: int) -> float:
        longest = self._time * FIRST_SHARE
        if len(self._batch) == 1:
            # Nobody is isolated from it. But others wait for its retries.
            timeouts = max(failed.timeouts, self._batch.attempt)
            return min(longest, self._brief * 2.0 ** min(timeouts, 16)) if timeouts else self._time
        if self._brief_tries:
            return min(longest, self._brief * 2.0 ** min(failed.timeouts, 16)) if requests == 1 else self._brief
        return max(self._brief, self._began + longest - self._clock())

    def _lock_limit(self, failed: Failed) -> float:
        if not self._brief_lock:
            return self._lock
        longest = max(BRIEF_LOCK, self._lock * LONGEST_BRIEF_LOCK)
        return min(self._lock, longest, BRIEF_LOCK * 2.0 ** min(failed.attempts, 16))

    @property
    def spent(self) -> bool:
        """Whether what is left is left for the next attempt: time is up, or nothing gets through."""
        late = self._clock() >= self._began + self._time
        return late or self._in_a_row >= FAILURES_IN_A_ROW * self._patience

    def is_hopeless(self, rows: Iterable[Row]) -> bool:
        """Whether a request need not be tried: so many before it have failed on a table of its own."""
        if not self._of_table:
            return False
        return any(self._of_table[row.table] >= FAILURES_OF_A_TABLE * self._patience for row in rows)

    def note_failure(self, failure: DatabaseFailure) -> None:
        """A try has failed, of whichever requests."""
        if failure.error_class not in (ErrorClass.MOMENT, ErrorClass.AGAIN):
            self._in_a_row = 0  # the database takes writes: it has judged one
            return
        self._trouble = failure.reason
        self._in_a_row += 1
        self._brief_lock = True
        self._brief_tries = self._brief_tries or failure.timed_out

    def note_offender(self, failure: DatabaseFailure, request_id: str, rows: Iterable[Row]) -> None:
        """The failure was that of a single request, which has to wait."""
        self._failed.add(request_id)
        if failure.timed_out:
            self._timed_out.add(request_id)
        self._of_table.update({row.table for row in rows})

    @property
    def not_tried(self) -> str:
        """Why a request was not tried, with the latest trouble: it may be the only reason that an operator sees."""
        return f"{NOT_TRIED}: {self._trouble}" if self._trouble else NOT_TRIED

    def took_too_long(self, request_id: str) -> bool:
        """Whether the request has been tried by itself, and not been done in its time."""
        return request_id in self._timed_out

    def remember(self) -> None:
        """At the end: what later attempts may know."""
        waiting = {self._batch[position].request_id for position in self.to_be_retried()}
        settled = [self._batch[position].request_id for position in self.outcomes]
        self._failed_before.note(
            [request_id for request_id in self._failed if request_id in waiting],
            timed_out=self._timed_out,
            settled=[request_id for request_id in settled if request_id not in waiting],
        )

    def note_success(self, requests: Iterable[PreparedRequest]) -> None:
        self._in_a_row = 0
        if self._of_table:
            for request in requests:
                for row in request.rows:
                    self._of_table.pop(row.table, None)

    def may_restart(self) -> bool:
        """Whether a transaction that lost against another one is worth another try as a whole."""
        if self.restarts >= MAX_RESTARTS:
            return False
        self.restarts += 1
        return True

    # What is committed

    def note_committed(self, outcomes: dict[int, Outcome]) -> None:
        self.outcomes.update(outcomes)
        self._committed = True

    def note_lost_commit(self, positions: Iterable[int]) -> None:
        """The connection was lost while these were being committed."""
        self._doubtful.update(positions)

    @property
    def in_doubt(self) -> bool:
        """Whether anything of the batch may be committed."""
        return self._committed or bool(self._doubtful)

    @property
    def committed(self) -> bool:
        return self._committed

    def retry(self, position: int, reason: str) -> Outcome:
        return Outcome.retry(reason, in_doubt=position in self._doubtful)

    def fill(self, size: int, reason: str) -> None:
        """Requests without an outcome are to be retried."""
        for position in range(size):
            self.outcomes.setdefault(position, self.retry(position, reason))

    def state_doubts(self) -> None:
        """Says of every request to be retried whether it may be committed, whenever that was found out."""
        for position in self.to_be_retried():
            self.outcomes[position] = self.retry(position, self.outcomes[position].reason or "")

    def to_be_retried(self) -> list[int]:
        """Positions, in the order of their turns."""
        known = self.outcomes
        return [position for position in self.order if position in known and known[position].kind is OutcomeKind.RETRY]
