"""The state of one call of the sink: what is committed, what may be committed, and which limits apply."""

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
"""How often one call starts its transaction again after a deadlock or a serialization failure. After that the offending
request is isolated, as for any other failure."""

BRIEF_LOCK = 0.1
"""Seconds to wait for a lock after one wait of the batch has timed out, in this attempt or an earlier one. The other
requests are delayed by each of these waits, and the request is retried later."""

LONGEST_BRIEF_LOCK = 0.25
"""The share of the limit up to which a single request may wait for a lock, twice as long with each failed attempt."""

NOT_TRIED = "it was not tried, because another request of its batch has to wait"

FIRST_SHARE = 0.6
"""The share of the time that the first try of several requests may take. A request that was too slow before may take up
to this share too, twice as long with each attempt. The rest is for isolation."""

BRIEF_TRY = 0.05
"""Seconds that each try may take even if less time is left: a batch without failures needs less."""

FAILURES_IN_A_ROW = 16
"""Tries that may fail without a success between them. Halving 10,000 requests down to one takes 14. The number doubles
with each attempt, so that a few offending requests at the front cannot keep the others waiting."""

FAILURES_OF_A_TABLE = 4
"""Requests for one table that may fail in a row; the other requests for the table then wait, untried. The number
doubles with each attempt."""

ALONE_IN_A_ROW = 2
"""Requests in a row that may fail in a transaction of their own before the remaining ones are not tried that way."""


class Progress:
    """The state of one call over all its transactions.

    Attributes:
        order: Positions of the batch in the order in which its requests are tried.
        outcomes: The outcomes by position, where they are committed or certain. They are set by `set_outcome`.
        commits: Transactions that were committed.
        restarts: Transactions that were started again.
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
            batch: The batch. A later attempt has shorter limits from its start.
            timeouts: The time for all of it, which is below the batcher's ``flush_timeout``, and the longest wait for
                a lock until a wait has timed out.
            failed: What the sink remembers of earlier attempts. `remember` adds to it.
            wall_clock: Returns seconds since the epoch. Deadlines are compared with it.
            clock: Returns seconds. The time of the call is measured with it.
        """
        self.order = failed.order(batch)
        self.outcomes: dict[int, Outcome] = {}
        self.commits = 0
        self.restarts = 0
        self._batch = batch
        self._failed_before = failed
        self._retried: set[int] = set()
        self._failed: set[str] = set()
        self._timed_out: set[str] = set()
        self._time = timeouts.statement.total_seconds()
        self._lock = timeouts.lock.total_seconds()
        self._wall_clock = wall_clock
        self._clock = clock
        self._began = clock()
        self._brief_lock = batch.attempt > 0
        self._brief_tries = batch.attempt > 0 or failed.any_timed_out(batch)
        # Two halvings down to one request fit the time that the first try leaves.
        self._brief = max(BRIEF_TRY, self._time * (1 - FIRST_SHARE) / (2 * (len(batch).bit_length() + 1)))
        self._backoff_factor = 2 ** min(batch.attempt, 8)
        self._latest_failure = ""
        self._in_a_row = 0
        self._of_table: Counter[BoundTable] = Counter()
        self._doubtful: set[int] = set()

    # How long, and how often

    def limits(self, requests: Sequence[PreparedRequest], *, deadlines: bool = True) -> Limits:
        """The bounds of the statements of the next try of these requests.

        Args:
            requests: The requests that are tried together.
            deadlines: Whether the earliest deadline bounds the wait for a lock.
        """
        left = self._began + self._time - self._clock()
        failed = self._failed_before.of(requests[0].request_id) if len(requests) == 1 else NEVER
        return Limits(
            statement=max(BRIEF_TRY, min(left, self._share(failed, len(requests)))),
            lock=self._lock_limit(failed),
            until_deadline=self._until_deadline(requests) if deadlines else math.inf,
        )

    def _until_deadline(self, requests: Sequence[PreparedRequest]) -> float:
        # Past deadlines count too: the batcher decides such a request sooner than a lock may be released.
        earliest = min((r.expires_at for r in requests if r.expires_at is not None), default=math.inf)
        return max(BRIEF_LOCK, earliest - self._wall_clock())

    def _share(self, failed: Failed, requests: int) -> float:
        longest = self._time * FIRST_SHARE
        if len(self._batch) == 1:
            # There is nothing to isolate. But other batches wait for its retries.
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
        """Whether the remaining requests are left to the next attempt: the time is used up, or nothing succeeds."""
        late = self._clock() >= self._began + self._time
        return late or self._in_a_row >= FAILURES_IN_A_ROW * self._backoff_factor

    def is_hopeless(self, rows: Iterable[Row]) -> bool:
        """Whether a request is not tried because too many requests before it have failed on one of its tables."""
        if not self._of_table:
            return False
        return any(self._of_table[row.table] >= FAILURES_OF_A_TABLE * self._backoff_factor for row in rows)

    def note_failure(self, failure: DatabaseFailure) -> None:
        """Notes that a try has failed, of one or several requests."""
        if failure.error_class not in (ErrorClass.MOMENT, ErrorClass.AGAIN):
            self._in_a_row = 0  # the database takes writes: it has rejected one
            return
        self._latest_failure = failure.reason
        self._in_a_row += 1
        self._brief_lock = True
        self._brief_tries = self._brief_tries or failure.timed_out

    def note_offender(self, failure: DatabaseFailure, request_id: str, rows: Iterable[Row]) -> None:
        """Notes that the failure was that of a single request, which has to wait."""
        self._failed.add(request_id)
        if failure.timed_out:
            self._timed_out.add(request_id)
        self._of_table.update({row.table for row in rows})

    @property
    def not_tried(self) -> str:
        """Why a request was not tried, with the latest failure: it may be the only reason that an operator sees."""
        return f"{NOT_TRIED}: {self._latest_failure}" if self._latest_failure else NOT_TRIED

    def took_too_long(self, request_id: str) -> bool:
        """Whether the request was tried by itself and exceeded its time."""
        return request_id in self._timed_out

    def remember(self) -> None:
        """Stores what later attempts need to know. Call it at the end."""
        if not self._failed and not len(self._failed_before):
            return
        waiting = {self._batch[position].request_id for position in self.to_be_retried()}
        settled = [self._batch[position].request_id for position in self.outcomes]
        self._failed_before.note(
            [request_id for request_id in self._failed if request_id in waiting],
            timed_out=self._timed_out,
            settled=[request_id for request_id in settled if request_id not in waiting],
        )

    def note_success(self, requests: Iterable[PreparedRequest]) -> None:
        """Notes that these requests were applied together."""
        self._in_a_row = 0
        if self._of_table:
            for request in requests:
                for row in request.rows:
                    self._of_table.pop(row.table, None)

    def may_restart(self) -> bool:
        """Whether a transaction that lost against another one is started again as a whole."""
        if self.restarts >= MAX_RESTARTS:
            return False
        self.restarts += 1
        return True

    # What is committed

    def note_committed(self, outcomes: dict[int, Outcome]) -> None:
        """Notes the outcomes, by position, of a transaction that is committed."""
        self.outcomes.update(outcomes)
        self._retried.difference_update(outcomes)
        self._retried.update(p for p, outcome in outcomes.items() if outcome.kind is OutcomeKind.RETRY)
        self.commits += 1

    def set_outcome(self, position: int, outcome: Outcome) -> None:
        """Notes the outcome of a request that is not committed."""
        self.outcomes[position] = outcome
        if outcome.kind is OutcomeKind.RETRY:
            self._retried.add(position)
        else:
            self._retried.discard(position)

    def note_lost_commit(self, positions: Iterable[int]) -> None:
        """Notes that the connection was lost while these positions were being committed."""
        self._doubtful.update(positions)

    @property
    def in_doubt(self) -> bool:
        """Whether anything of the batch may be committed."""
        return self.committed or bool(self._doubtful)

    @property
    def committed(self) -> bool:
        """Whether a part of the batch is committed."""
        return self.commits > 0

    def retry(self, position: int, reason: str) -> Outcome:
        """The outcome of a request that is to be retried, with whether it may be committed."""
        return Outcome.retry(reason, in_doubt=position in self._doubtful)

    def fill(self, size: int, reason: str) -> None:
        """Gives the requests without an outcome the outcome `retry`."""
        for position in range(size):
            if position not in self.outcomes:
                self.set_outcome(position, self.retry(position, reason))

    def state_doubts(self) -> None:
        """Updates, for each request to be retried, whether it may be committed."""
        for position in self.to_be_retried():
            self.set_outcome(position, self.retry(position, self.outcomes[position].reason or ""))

    def to_be_retried(self) -> list[int]:
        """The positions to be retried, in the order in which they are tried."""
        return [position for position in self.order if position in self._retried] if self._retried else []
