"""What one call of the sink has found out so far: what is committed, what may be, and what gets through."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from temporal_batching.contract import Outcome, OutcomeKind
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql.database import PreparedRequest
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.schema import BoundTable

MAX_RESTARTS = 3
"""How often one call starts its transaction over after a deadlock or a serialization failure; then the offending
request is isolated, as for any other trouble."""

BRIEF_LOCK = 0.1
"""Seconds to wait for a lock once one request of the batch had to wait in vain, or has done so in an earlier attempt:
its neighbours wait for each of these waits, and it comes again."""

BRIEF_PART = 16
"""A statement's share of the time once one has run out of it: so many tries still fit the flush."""

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
        outcomes: By position, of what is committed or certain.
        restarts: Transactions that were started over.
    """

    def __init__(
        self,
        batch: Batch,
        *,
        statement_timeout: timedelta,
        lock_timeout: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins the call.

        Args:
            batch: With its attempt: a later one has less patience from its start.
            statement_timeout: The time for all of it, which is below the batcher's ``flush_timeout``.
            lock_timeout: The longest wait for a lock, while nothing has had to wait in vain.
            clock: Seconds, by which the time is measured.
        """
        self.outcomes: dict[int, Outcome] = {}
        self.restarts = 0
        self._statement = statement_timeout.total_seconds()
        self._lock = lock_timeout.total_seconds()
        self._clock = clock
        self._until = clock() + self._statement
        self._brief_lock = self._brief_statement = batch.attempt > 0
        self._patience = 2 ** min(batch.attempt, 8)
        self._in_a_row = 0
        self._of_table: Counter[BoundTable] = Counter()
        self._committed = False
        self._doubtful: set[int] = set()

    # How long, and how often

    def limits(self) -> tuple[float, float]:
        """Seconds that the next statement may take, and may wait for a lock."""
        left = max(BRIEF_LOCK, self._until - self._clock())
        statement = min(left, self._statement / BRIEF_PART if self._brief_statement else self._statement)
        return statement, min(self._lock, BRIEF_LOCK) if self._brief_lock else self._lock

    @property
    def spent(self) -> bool:
        """Whether what is left is left for the next attempt: time is up, or nothing gets through."""
        return self._clock() >= self._until or self._in_a_row >= FAILURES_IN_A_ROW * self._patience

    def is_hopeless(self, request: PreparedRequest) -> bool:
        """Whether it need not be tried: so many requests before it have failed on a table of its own."""
        if not self._of_table:
            return False
        return any(self._of_table[row.table] >= FAILURES_OF_A_TABLE * self._patience for row in request.rows)

    def note_failure(self, failure: DatabaseFailure, requests: Sequence[PreparedRequest]) -> None:
        """A try has failed for the moment's sake."""
        if failure.error_class not in (ErrorClass.MOMENT, ErrorClass.AGAIN):
            self._in_a_row = 0  # the database takes writes: it has judged one
            return
        self._in_a_row += 1
        self._brief_lock = True
        self._brief_statement = self._brief_statement or failure.timed_out
        if len(requests) == 1:
            self._of_table.update({row.table for row in requests[0].rows})

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
        return [position for position in sorted(self.outcomes) if self.outcomes[position].kind is OutcomeKind.RETRY]
