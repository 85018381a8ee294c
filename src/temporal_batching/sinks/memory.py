"""`MemorySink`: rows and ledger in memory, with the outcomes of a database. For tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from temporal_batching.contract import OPERATIONS, Outcome, OutcomeKind, RejectCode, ReturnedRow, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.sinks.ledger import LedgerEntry, LedgerStatus, NotJson, digest, judge, request_id_fault
from temporal_batching.sinks.memory_tables import MemoryTables, Refused
from temporal_batching.sinks.returned import has_bad_reference, resolve_records
from temporal_batching.sinks.rules import TableRule


class MemorySink(Sink):
    """Keeps rows and ledger in memory. It answers as `SqlSink` does, and can fail on request.

    Example:
        ```python
        from temporal_batching import Batch, MemorySink, Record, WriteRequest

        async def test_a_row_is_kept() -> None:
            sink = MemorySink()
            await sink.write(Batch([WriteRequest("r1", [Record("entries", {"n": 1})])], id="main-0/1"))
            assert sink.rows == {"entries": [{"n": 1}]}
        ```

    Attributes:
        rows: The applied rows by table name, in order.
        ledger: The ledger's entries by request id.
        batches: The batches that were committed, in order.
        dead_letters: The rejected requests without a reply address, by the letters' ids.
    """

    takes_references = True
    operations = OPERATIONS

    def __init__(
        self,
        *,
        reject: Callable[[WriteRequest], str | None] | None = None,
        identities: Mapping[str, str] | None = None,
        tables: Mapping[str, TableRule] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Creates an empty sink.

        Args:
            reject: Stands for the database's constraints: it returns a reason to reject the request, or None.
            identities: The column of a table that gets the numbers 1, 2, 3, ... where a record leaves it out, as a
                database's identity column does.
            tables: What tables do with conflicts, updates and deletes, as in `SqlSink`. A table without a rule takes
                every insert, and nothing else.
            clock: Returns seconds since the epoch. Deadlines are compared with it.
        """
        self._tables = MemoryTables(tables or {}, identities or {})
        self.rows: dict[str, list[dict[str, Any]]] = self._tables.rows
        self.ledger: dict[str, LedgerEntry] = {}
        self.batches: list[Batch] = []
        self.dead_letters: dict[str, DeadLetter] = {}
        self._reject = reject
        self._clock = clock
        self._failures: list[tuple[SinkUnavailable, bool]] = []

    def fail_next(self, times: int = 1, *, committed: bool = False, error: SinkUnavailable | None = None) -> None:
        """Makes the next calls of `write` raise an error.

        Args:
            times: The number of calls that fail.
            committed: Whether the batch is applied nevertheless, as when a connection is lost during the commit.
            error: The error; by default `SinkUnavailable`, in doubt if ``committed``.
        """
        error = error or SinkUnavailable("the memory sink fails on request", in_doubt=committed)
        self._failures += [(error, committed)] * times

    def stop_failing(self) -> None:
        """Cancels the failures that `fail_next` has planned and that have not happened yet."""
        self._failures.clear()

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        error, committed = self._failures.pop(0) if self._failures else (None, True)
        if not committed and error is not None:
            raise error
        outcomes = [self._write_one(request, batch.id) for request in batch]
        # The second request with one id in a batch is a duplicate, not an earlier attempt of this batch.
        seen: set[str] = set()
        for position, request in enumerate(batch):
            if outcomes[position].kind is OutcomeKind.WRITTEN:
                if request.request_id in seen:
                    outcomes[position] = Outcome.duplicate(outcomes[position].returned)
                seen.add(request.request_id)
        self.batches.append(batch)
        if error is not None:
            raise error
        return outcomes

    def _write_one(self, request: WriteRequest, batch_id: str) -> Outcome:
        if fault := request_id_fault(request.request_id) or has_bad_reference(request.records):
            return Outcome.rejected(RejectCode.INVALID, fault)
        try:
            mark = digest(request.records)
        except NotJson as err:
            return Outcome.rejected(RejectCode.INVALID, str(err))
        answer = judge(self.ledger.get(request.request_id), mark, batch_id)
        if answer is not None:
            return answer
        if request.expires_at is not None and request.expires_at <= self._clock():
            self._enter(request.request_id, LedgerStatus.EXPIRED, batch_id, mark)
            return Outcome.expired()
        reason = self._reject(request) if self._reject else None
        if reason is not None:
            return Outcome.rejected(RejectCode.CONSTRAINT, reason)
        try:
            with self._tables.together(request.records):
                returned = resolve_records(request.records, self._tables.apply)
        except Refused as refusal:
            return Outcome.rejected(refusal.code, refusal.reason)
        self._enter(request.request_id, LedgerStatus.WRITTEN, batch_id, mark, returned)
        return Outcome.written(returned)

    def _enter(
        self,
        request_id: str,
        status: LedgerStatus,
        batch_id: str,
        mark: str,
        returned: list[ReturnedRow | None] | None = None,
    ) -> None:
        at = datetime.fromtimestamp(self._clock(), UTC)
        self.ledger[request_id] = LedgerEntry(request_id, status, batch_id, at, mark, returned)

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        outcomes = []
        for request in batch:
            if fault := request_id_fault(request.request_id):
                outcomes.append(Outcome.rejected(RejectCode.INVALID, fault))
                continue
            mark = digest(request.records)
            answer = judge(self.ledger.get(request.request_id), mark, batch.id)
            if answer is None:
                self._enter(request.request_id, LedgerStatus(batch.fence_as), batch.id, mark)
                answer = judge(self.ledger[request.request_id], mark, batch.id) or Outcome.expired()
            outcomes.append(answer)
        return outcomes

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        self.dead_letters.update({letter.id: letter for letter in letters})
        return True

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        known = await self.lookup(request_ids)
        return {i: entry.returned for i, entry in known.items() if entry.returned is not None}

    async def lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        """The ledger's entries by request id. Ids that the ledger does not know are left out."""
        return {i: self.ledger[i] for i in request_ids if i in self.ledger}
