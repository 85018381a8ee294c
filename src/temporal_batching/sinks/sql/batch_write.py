"""One call of a sink: a batch in as few transactions as possible, and an outcome for each of its requests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from temporal_batching.contract import Outcome, OutcomeKind
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql.binding import BoundRequests, bind, bind_nothing
from temporal_batching.sinks.sql.connections import DRIVER_ERRORS, Connections
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.failed_tries import FailedTries
from temporal_batching.sinks.sql.progress import ALONE_IN_A_ROW, Progress
from temporal_batching.sinks.sql.schema import TableCatalog
from temporal_batching.sinks.sql.transaction import BatchTransaction


class BatchWrite:
    """Writes or fences a batch: in one transaction, unless a failure has to be isolated by several.

    Attributes:
        interrupted: Whether the database failed before every request was tried.
    """

    def __init__(
        self,
        connections: Connections,
        catalog: TableCatalog,
        batch: Batch,
        *,
        fence: bool,
        failed: FailedTries,
        clock: Callable[[], float],
    ) -> None:
        """Prepares the call.

        Args:
            connections: To the database.
            catalog: Its tables.
            batch: The requests.
            fence: Whether the requests are fenced instead of written.
            failed: What the sink remembers of earlier attempts.
            clock: Seconds since the epoch.
        """
        self.interrupted = False
        self._connections = connections
        self._catalog = catalog
        self._batch = batch
        self._fence = fence
        self._clock = clock
        self._progress = Progress(batch, timeouts=connections.timeouts, failed=failed, wall_clock=clock)

    def run(self) -> list[Outcome]:
        """The outcome of each request, in the order of the batch.

        Raises:
            SinkUnavailable: Nothing is known to be committed.
        """
        progress = self._progress
        try:
            self._write_part(progress.order)
            self._write_alone()
        except DRIVER_ERRORS as err:
            self._interrupt(self._connections.describe(self._connections.classify(err)))
        except SinkUnavailable as err:
            self._interrupt(str(err))
        progress.state_doubts()
        progress.remember()
        self._connections.adapter.counters.requeued += len(progress.to_be_retried())
        return self._outcomes()

    def _interrupt(self, reason: str) -> None:
        """What is committed keeps its outcome; the other requests are to be retried."""
        self.interrupted = True
        if not self._progress.committed:
            raise SinkUnavailable(reason, in_doubt=self._progress.in_doubt) from None
        self._progress.fill(len(self._batch), reason)

    def _outcomes(self) -> list[Outcome]:
        outcomes = [self._progress.outcomes[position] for position in range(len(self._batch))]
        if self._progress.commits > 1:
            # Committed in parts, the ledger takes a repetition for this batch's own earlier attempt.
            written: set[str] = set()
            for position, request in enumerate(self._batch):
                if outcomes[position].kind is OutcomeKind.WRITTEN:
                    if request.request_id in written:
                        outcomes[position] = Outcome.duplicate(outcomes[position].returned)
                    written.add(request.request_id)
        return outcomes

    def _write_alone(self) -> None:
        """Tries requests that are to be retried once more, each in a transaction of its own."""
        if len(self._batch) == 1:
            return
        blocked: set[str] = set()
        failed = 0
        for position in self._progress.to_be_retried():
            key = self._batch[position].key
            if failed >= ALONE_IN_A_ROW or self._progress.spent:
                return
            if self._progress.took_too_long(self._batch[position].request_id) and key:
                blocked.add(key)  # it was tried by itself
            if key in blocked or self._progress.took_too_long(self._batch[position].request_id):
                continue
            self._write_part([position])
            if self._progress.outcomes[position].kind is OutcomeKind.RETRY:
                failed += 1
                if key:
                    blocked.add(key)
            else:
                failed = 0

    def _write_part(self, positions: Sequence[int]) -> None:
        """Commits these requests of the batch: in one transaction, or in halves if the transaction as a whole fails."""
        schema_is_fresh = faulty = False
        while True:
            bound = self._bind(positions)
            transaction = BatchTransaction(
                self._connections.adapter,
                self._clock,
                self._batch,
                bound,
                self._fence,
                schema_is_fresh,
                self._progress,
                faulty,
            )
            try:
                self._progress.note_committed(self._connections.run(transaction.run))
                return
            except DatabaseFailure as failure:
                if failure.committing and failure.connection_lost:
                    self._progress.note_lost_commit(positions)
                if failure.error_class is ErrorClass.SCHEMA and not schema_is_fresh:
                    schema_is_fresh = True
                    with self._connections.unavailable():
                        # If the schema has not changed, a trigger names what does not exist: one request is at fault.
                        faulty = not self._catalog.refresh_if_changed()
                    if not faulty:
                        self._connections.adapter.counters.retries += 1
                elif failure.error_class is ErrorClass.AGAIN and self._progress.may_restart():
                    self._connections.adapter.counters.retries += 1
                elif failure.can_be_isolated(schema_is_fresh=schema_is_fresh):
                    self._write_halves(positions, bound, failure)
                    return
                else:
                    raise

    def _write_halves(self, positions: Sequence[int], bound: BoundRequests, failure: DatabaseFailure) -> None:
        """Isolates a failure that ends a whole transaction: each half is tried in a transaction of its own.

        Examples are a constraint that is checked at the commit, a trigger of SQLite that rolls the transaction back,
        and a lock on a row of the ledger.
        """
        self._progress.note_failure(failure)
        if len(positions) == 1:
            (position,) = positions
            if failure.rejects:
                self._progress.set_outcome(position, Outcome.rejected(failure.code, failure.reason))
            else:
                self._progress.note_offender(failure, self._batch[position].request_id, bound.rows_of(position))
                self._progress.set_outcome(position, self._progress.retry(position, failure.reason))
            return
        self._connections.adapter.counters.splits += 1
        middle = len(positions) // 2
        for half in (positions[:middle], positions[middle:]):
            waiting = {self._batch[p].key for p in self._progress.to_be_retried()} - {""}
            held = [p for p in half if self._has_to_wait(p, bound, waiting)]
            for position in held:
                self._progress.set_outcome(position, self._progress.retry(position, self._progress.not_tried))
            ready = [p for p in half if p not in held]
            if ready:
                self._write_part(ready)

    def _has_to_wait(self, position: int, bound: BoundRequests, waiting: Collection[str]) -> bool:
        progress = self._progress
        if progress.spent or self._batch[position].key in waiting:
            return True
        return progress.is_hopeless(bound.rows_of(position))

    def _bind(self, positions: Sequence[int]) -> BoundRequests:
        if self._fence:
            return bind_nothing(self._batch, positions)
        locks_rows = self._connections.adapter.locks_rows
        with self._connections.unavailable():
            bound = bind(self._batch, positions, self._catalog.get, locks_rows=locks_rows)
            # No request is rejected because of a schema that a migration has changed since.
            if bound.unbindable and self._catalog.refresh_if_changed():
                bound = bind(self._batch, positions, self._catalog.get, locks_rows=locks_rows)
            return bound
