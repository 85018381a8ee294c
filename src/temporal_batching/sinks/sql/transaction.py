"""One batch in one transaction, from the look-up of its ids in the ledger to the commit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from temporal_batching.contract import Outcome, OutcomeKind, RejectCode
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.ledger import LedgerStatus, NotJson, id_reused, judge, request_id_fault
from temporal_batching.sinks.sql.apply import FaultIsolator, may_isolate
from temporal_batching.sinks.sql.arrange import arrange
from temporal_batching.sinks.sql.binding import BoundRequests
from temporal_batching.sinks.sql.database import DatabaseAdapter, Limits, PreparedRequest, Stamp, Transaction
from temporal_batching.sinks.sql.errors import DatabaseFailure
from temporal_batching.sinks.sql.progress import Progress


class BatchTransaction:
    """Requests of a batch, already bound, that are written or fenced in one transaction."""

    def __init__(
        self,
        database: DatabaseAdapter,
        clock: Callable[[], float],
        batch: Batch,
        bound: BoundRequests,
        fence: bool,
        schema_is_fresh: bool,
        progress: Progress,
        faulty: bool = False,
    ) -> None:
        """Prepares the requests.

        Args:
            database: The database they are written to.
            clock: Returns seconds since the epoch.
            batch: Their batch.
            bound: They. An outcome from the ledger takes precedence over that of a request that could not be bound.
            fence: Whether the requests are looked up and fenced instead of written.
            schema_is_fresh: Whether the schema was read again in this call, so that a name that the database does not
                know is a request's fault.
            progress: The state of the call that this transaction is a part of.
            faulty: Whether it is known that the requests cannot be written together.
        """
        self._database = database
        self._clock = clock
        self._batch_id = batch.id
        self._fence_as = batch.fence_as
        self._fence = fence
        self._schema_is_fresh = schema_is_fresh
        self._progress = progress
        self._faulty = faulty
        self._slow: DatabaseFailure | None = None  # of the only request, which was tried by itself
        self._applied: set[int] = set()
        self._unbindable = bound.unbindable
        self._invalid: dict[int, Outcome] = {}
        self._entries: list[PreparedRequest] = []
        for entry in bound.entries:
            fault = request_id_fault(entry.request_id) or database.id_fault(entry.request_id)
            if fault is None:
                self._entries.append(entry)
            else:
                self._invalid[entry.position] = Outcome.rejected(RejectCode.INVALID, fault)
        self._groups = None if self._invalid else bound.groups
        deadlines = [entry.expires_at for entry in self._entries if entry.expires_at is not None]
        self._first_deadline = min(deadlines, default=math.inf)

    def run(self, connection: sa.Connection) -> dict[int, Outcome]:
        """Runs the transaction and commits it.

        Returns:
            The outcomes by position.

        Raises:
            DatabaseFailure: Nothing is committed, unless the connection was lost while committing.
        """
        transaction = self._database.transaction(connection)
        try:
            while True:
                outcomes = self.write_together(transaction)
                if outcomes is None:
                    outcomes = self._each_by_itself(transaction)
                if not self._overdue(outcomes):
                    break
                # A deadline passed while the rows were inserted: repeat without that request.
                transaction.rollback()
            self.commit(transaction)
        except BaseException:
            transaction.rollback()
            raise
        return {**outcomes, **self._invalid}

    def commit(self, transaction: Transaction) -> None:
        """Commits within the limits of the call."""
        try:
            transaction.limit(self._limits())
            transaction.commit()
        except DatabaseFailure as failure:
            failure.committing = True
            raise

    def _limits(self) -> Limits:
        # Fenced requests are past their deadline, or are rejected independently of it.
        return self._progress.limits(self._entries, deadlines=not self._fence)

    def _stamp(self) -> Stamp:
        return Stamp(self._batch_id, datetime.fromtimestamp(self._clock(), UTC))

    def _overdue(self, outcomes: Mapping[int, Outcome]) -> bool:
        now = self._clock()
        return self._first_deadline <= now and any(
            entry.expires_at is not None
            and entry.expires_at <= now
            and outcomes[entry.position].kind is OutcomeKind.WRITTEN
            and entry.position in self._applied
            for entry in self._entries
        )

    def write_together(self, transaction: Transaction) -> dict[int, Outcome] | None:
        """Writes all requests together, in the fewest round trips. None if an id is known or a row is not accepted."""
        entries, now = self._entries, self._clock()
        ids = {entry.request_id for entry in entries}
        if self._fence or self._first_deadline <= now or self._unbindable or len(ids) < len(entries) or not entries:
            return None
        if self._faulty:  # known from an earlier try
            return None
        # In the order of arrival; the order of turns matters only where a fault is isolated.
        entries = sorted(entries, key=lambda entry: entry.position)
        try:
            transaction.limit(self._limits())
            stages = arrange(entries, self._database) if self._groups is None else [self._groups]
            complete = transaction.attempt(self._stamp(), entries, stages, savepoint=False)
        except DatabaseFailure as failure:
            if failure.text_unstorable and not failure.rejects:  # an id; the look-up finds which one
                complete = False
            elif not may_isolate(failure, transaction, self._progress, schema_is_fresh=self._schema_is_fresh):
                raise
            else:
                self._faulty, complete = True, False
                if not failure.rejects:
                    self._progress.note_failure(failure)
                if failure.timed_out and len(entries) == 1:
                    self._slow = failure
        except NotJson:
            complete = False
        if not complete:
            transaction.rollback()
            return None
        self._applied = {entry.position for entry in entries}
        written = Outcome.written()
        return {
            entry.position: written if entry.returned is None else Outcome.written(entry.returned) for entry in entries
        }

    def _each_by_itself(self, transaction: Transaction) -> dict[int, Outcome]:
        """Writes the requests after a look-up of their ids, without those whose ids the database cannot store."""
        try:
            return self._one_by_one(transaction)
        except DatabaseFailure as failure:
            if not failure.text_unstorable or failure.transaction_ended or failure.rejects:
                raise
            transaction.rollback()
            ids = list(dict.fromkeys(entry.request_id for entry in self._entries))
            stored = storable_ids(transaction, ids)
            if len(stored) == len(ids):
                raise
        for entry in self._entries:
            if entry.request_id not in stored:
                self._invalid[entry.position] = Outcome.rejected(RejectCode.INVALID, UNSTORABLE_ID)
        self._entries = [entry for entry in self._entries if entry.request_id in stored]
        return self._one_by_one(transaction)

    def _one_by_one(self, transaction: Transaction) -> dict[int, Outcome]:
        """Looks the ids up first, and isolates requests that the database rejects, so that the others are written."""
        outcomes: dict[int, Outcome] = {}
        self._applied = set()
        self._blocked: set[str] = set()
        stamp = self._stamp()
        left: list[PreparedRequest] = []
        for entry in self._entries:
            try:
                _ = entry.digest
            except NotJson as err:
                outcomes[entry.position] = Outcome.rejected(RejectCode.INVALID, str(err))
            else:
                left.append(entry)
        while left:
            firsts: dict[str, PreparedRequest] = {}
            repetitions: list[PreparedRequest] = []
            for entry in left:
                if firsts.setdefault(entry.request_id, entry) is not entry:
                    repetitions.append(entry)
            self._write(transaction, stamp, list(firsts.values()), outcomes)
            left = []
            for repetition in repetitions:
                first = firsts[repetition.request_id]
                if outcomes[first.position].kind is OutcomeKind.RETRY:
                    outcomes[repetition.position] = outcomes[first.position]
                elif outcomes[first.position].kind in (OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE):
                    same = first.digest == repetition.digest
                    outcomes[repetition.position] = (
                        Outcome.duplicate(outcomes[first.position].returned) if same else id_reused(self._batch_id)
                    )
                else:
                    # The first request was not written, so the second one is tried.
                    left.append(repetition)
        return outcomes

    def _write(
        self, transaction: Transaction, stamp: Stamp, entries: list[PreparedRequest], outcomes: dict[int, Outcome]
    ) -> None:
        now = self._clock()
        fresh: list[PreparedRequest] = []
        fenced: list[PreparedRequest] = entries if self._fence else []
        transaction.limit(self._limits())
        known = {} if self._fence else transaction.lookup([entry.request_id for entry in entries])
        for entry in [] if self._fence else entries:
            answer = judge(known.get(entry.request_id), entry.digest, self._batch_id)
            if answer is not None:
                outcomes[entry.position] = answer
            elif entry.expires_at is not None and entry.expires_at <= now:
                # An earlier attempt of this batch may still be under way: `expired` must stay true.
                fenced.append(entry)
            elif entry.position in self._unbindable:
                outcomes[entry.position] = self._unbindable[entry.position]
                if outcomes[entry.position].kind is OutcomeKind.RETRY and entry.key:
                    self._blocked.add(entry.key)
            else:
                fresh.append(entry)
        if fenced:
            status = LedgerStatus(self._fence_as) if self._fence else LedgerStatus.EXPIRED
            transaction.claim(replace(stamp, status=status), fenced)
            known = transaction.lookup([entry.request_id for entry in fenced])
            for entry in fenced:
                answer = judge(known.get(entry.request_id), entry.digest, self._batch_id)
                outcomes[entry.position] = answer or Outcome.expired()

        def answered(request: PreparedRequest, outcome: Outcome, *, applied: bool) -> None:
            outcomes[request.position] = outcome
            if applied:
                self._applied.add(request.position)

        isolator = FaultIsolator(
            transaction, self._database, stamp, answered, self._progress, self._schema_is_fresh, self._blocked
        )
        if self._slow is not None and len(fresh) == 1:
            isolator.refuse(fresh[0], self._slow)
        else:
            isolator.apply(fresh, faulty=self._faulty)


UNSTORABLE_ID = "the request id has a character that the database's encoding lacks"


def storable_ids(transaction: Transaction, ids: Sequence[str]) -> set[str]:
    """The ids that the database's encoding can store. Only the database knows which, so it is queried.

    Raises:
        DatabaseFailure: The ledger cannot be queried for another reason.
    """
    try:
        transaction.lookup(ids)
    except DatabaseFailure as failure:
        if not failure.text_unstorable or failure.transaction_ended:
            raise
        transaction.rollback()
        if len(ids) == 1:
            return set()
        middle = len(ids) // 2
        return storable_ids(transaction, ids[:middle]) | storable_ids(transaction, ids[middle:])
    return set(ids)
