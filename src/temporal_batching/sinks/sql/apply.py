"""The isolation of offending requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from temporal_batching.contract import Outcome
from temporal_batching.sinks.ledger import judge
from temporal_batching.sinks.sql.arrange import arrange
from temporal_batching.sinks.sql.database import DatabaseAdapter, PreparedRequest, Stamp, Transaction
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.progress import MAX_RESTARTS, Progress


class SetOutcome(Protocol):
    """Records the outcome of a request, and whether its rows were inserted in this transaction."""

    def __call__(self, request: PreparedRequest, outcome: Outcome, *, applied: bool) -> None: ...


class FaultIsolator:
    """Applies requests in an open transaction, and isolates those that the database rejects or cannot take now.

    A group that fails is rolled back to its savepoint and halved. If the first half then succeeds, the fault is in
    the second half, which is halved without being tried: k faults among n requests cost about ``k * log2(n)`` attempts
    that fail and as many that succeed. Groups are tried from the first request to the last. So when a request has to
    wait, the later requests of its key have not been applied, and wait as well.
    """

    def __init__(
        self,
        transaction: Transaction,
        database: DatabaseAdapter,
        stamp: Stamp,
        set_outcome: SetOutcome,
        progress: Progress,
        schema_is_fresh: bool,
        blocked: set[str],
    ) -> None:
        self._transaction = transaction
        self._database = database
        self._stamp = stamp
        self._set_outcome = set_outcome
        self._progress = progress
        self._schema_is_fresh = schema_is_fresh
        self._blocked = blocked  # keys of requests that wait

    def apply(self, requests: Sequence[PreparedRequest], *, faulty: bool) -> None:
        """Sets the outcome of each request.

        Args:
            requests: The requests, in their order.
            faulty: Whether it is known that they cannot be written together.
        """
        if requests:
            self._apply(requests, faulty=faulty)

    def _apply(self, requests: Sequence[PreparedRequest], *, faulty: bool) -> bool:
        """Returns whether all were written."""
        ready = [request for request in requests if self._may_be_tried(request)]
        if not ready:
            return False
        if len(ready) == 1 or not faulty:
            try:
                self._transaction.limit(self._progress.limits(ready))
                inserts = arrange(ready, self._database)
                complete = self._transaction.attempt(self._stamp, ready, inserts, savepoint=True)
            except DatabaseFailure as failure:
                if not may_isolate(failure, self._transaction, self._progress, schema_is_fresh=self._schema_is_fresh):
                    raise
                self._progress.note_failure(failure)
                if len(ready) == 1:
                    self.refuse(ready[0], failure)
                    return False
            else:
                if complete:
                    self._progress.note_success(ready)
                    for request in ready:
                        self._set_outcome(request, Outcome.written(request.returned), applied=True)
                    return len(ready) == len(requests)
                left = self._without_known(ready)
                return self._apply(left, faulty=False) if left else True
        self._database.counters.splits += 1
        middle = len(ready) // 2
        first = self._apply(ready[:middle], faulty=False)
        second = self._apply(ready[middle:], faulty=first)
        return first and second

    def _may_be_tried(self, request: PreparedRequest) -> bool:
        if request.key in self._blocked or self._progress.spent or self._progress.is_hopeless(request.rows):
            self._wait(request, self._progress.not_tried)
            return False
        return True

    def refuse(self, request: PreparedRequest, failure: DatabaseFailure) -> None:
        """Sets the outcome of a request that has failed by itself."""
        if failure.rejects:
            self._set_outcome(request, Outcome.rejected(failure.code, failure.reason), applied=False)
        else:
            self._progress.note_offender(failure, request.request_id, request.rows)
            self._wait(request, failure.reason)

    def _wait(self, request: PreparedRequest, reason: str) -> None:
        if request.key:
            self._blocked.add(request.key)
        self._set_outcome(request, Outcome.retry(reason), applied=False)

    def _without_known(self, requests: Sequence[PreparedRequest]) -> list[PreparedRequest]:
        """The requests that remain when another transaction has written some of the ids since they were looked up."""
        known = self._transaction.lookup([request.request_id for request in requests])
        left = []
        for request in requests:
            outcome = judge(known.get(request.request_id), request.digest, self._stamp.batch_id)
            if outcome is None:
                left.append(request)
            else:
                self._set_outcome(request, outcome, applied=False)
        if len(left) == len(requests):
            raise DatabaseFailure(ErrorClass.AGAIN, "the ledger changes while it is written to")
        return left


def may_isolate(
    failure: DatabaseFailure, transaction: Transaction, progress: Progress, *, schema_is_fresh: bool
) -> bool:
    """Whether the transaction can continue without the offending request."""
    if failure.transaction_ended or not failure.can_be_isolated(schema_is_fresh=schema_is_fresh):
        return False
    if failure.session_suspect and transaction.session_used:
        return False
    return failure.error_class is not ErrorClass.AGAIN or progress.restarts >= MAX_RESTARTS
