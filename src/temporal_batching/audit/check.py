"""Adds the contents of the database to the facts, and applies the rules to all of them.

Nothing is changed. The audit assumes that only batchers write to the tables: a row that another program deletes or
changes is reported as a violation, because the two cannot be distinguished.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from temporal_batching.audit.database import OpenDatabase, open_for_reading
from temporal_batching.audit.facts import UNREADABLE, BatchRef, CallFact, LedgerFact, RequestCase
from temporal_batching.audit.ledger import LedgerReader
from temporal_batching.audit.order import find_overtaken
from temporal_batching.audit.records import RecordCheck
from temporal_batching.audit.report import Findings
from temporal_batching.audit.rules import (
    POSITIVE,
    Call,
    CallResult,
    Rule,
    StoredRecord,
    Violation,
    check_tombstone,
    find_violations,
)
from temporal_batching.audit.store import FactStore
from temporal_batching.audit.tables import AuditedTables
from temporal_batching.sinks.ledger import DEFAULT_LEDGER
from temporal_batching.sinks.rules import TableRule

IDS_AT_ONCE = 500
"""Request ids that are looked up together."""


@dataclass(frozen=True, kw_only=True)
class AuditScope:
    """Which contents of which database are compared with the facts.

    Attributes:
        url: The database's URL.
        batcher: The batcher's name.
        ledger_table: The ledger's table.
        tables: The conflict rules.
        complete: Whether there is a call for every request that was written through this ledger, so that nothing else
            may be in it or in its tables.
        since: Seconds since the epoch; what was written earlier is not checked.
        began: When the audit began, in seconds since the epoch; the facts may lack what came later.
    """

    url: str
    batcher: str
    ledger_table: str = DEFAULT_LEDGER
    tables: Mapping[str, TableRule] = field(default_factory=dict)
    complete: bool = False
    since: float = 0.0
    began: float = field(default_factory=time.time)


def check_database(store: FactStore, scope: AuditScope) -> Findings:
    """Compares the facts with the database.

    Raises:
        InvalidAudit: The URL is not that of a database that can be audited.
        AuditError: The database cannot be read.
        SinkConfigurationError: A rule does not fit its table.
    """
    with open_for_reading(scope.url, scope.ledger_table) as database:
        return _DatabaseCheck(store, scope, database).run()


class _DatabaseCheck:
    def __init__(self, store: FactStore, scope: AuditScope, database: OpenDatabase) -> None:
        self._store = store
        self._scope = scope
        self._connection = database.connection
        self._findings = Findings()
        self._ledger = LedgerReader(database.connection, database.ledger)
        tables = AuditedTables(database.connection, database.adapter, scope.tables, store.changed_tables())
        self._records = RecordCheck(database, tables, store, self._findings)

    def run(self) -> Findings:
        for request_ids in self._store.judged_ids(IDS_AT_ONCE):
            ledger = {fact.request_id: fact for fact in self._ledger.look_up(request_ids)}
            for fact in ledger.values():
                self._store.add_ledger(fact)
            self._findings.requests += len(request_ids)
            self._records.look_up(request_ids, ledger)
            # A long transaction would keep the database from removing old row versions.
            self._connection.rollback()
        all_known = self._find_unexpected_ids()
        self._connection.rollback()
        self._records.assign_equal_rows(all_known=all_known)
        self._records.judge_rows(all_known=all_known, complete=self._scope.complete)
        for case in self._store.cases():
            for violation in self._judge(case):
                self._findings.add(violation)
        self._check_order()
        if self._scope.complete:
            self._records.find_unexpected_rows()
        self._connection.rollback()
        return self._findings

    def _find_unexpected_ids(self) -> bool:
        """Finds ids in the ledger without a call. Returns whether there is none, so that all writes are known."""
        # Rows of earlier writes may be in the tables too.
        all_known = not self._scope.since
        for page in self._ledger.pages(self._scope.since):
            written = [fact for fact in page if fact.written]
            known = self._store.is_known([fact.request_id for fact in written])
            for fact in written:
                if fact.request_id not in known:
                    all_known = False
                    self._add_unexpected_id(fact)
        return all_known

    def _add_unexpected_id(self, fact: LedgerFact) -> None:
        batch = BatchRef.parse(fact.batch_id)
        if batch is None or batch.batcher != self._scope.batcher:
            self._findings.unchecked["ledger ids of other batchers"] += 1
        elif fact.committed_at >= self._scope.began:
            self._findings.unchecked["ledger ids that came while the audit ran"] += 1
        else:
            self._findings.outside += 1
            if self._scope.complete:
                detail = f"written in batch {fact.batch_id}, and no call asked for it"
                self._findings.add(Violation(Rule.UNEXPECTED_LEDGER_ID, fact.request_id, detail))

    def _judge(self, case: RequestCase) -> Iterator[Violation]:
        ledger = case.ledger
        written = ledger is not None and ledger.written
        self._findings.written += written
        facts = self._calls_of(case)
        calls = [
            Call(fact.caller, case.request_id, fact.digest, case.record_counts.get(fact.digest, 0), fact.result)
            for fact in facts
        ]
        records = [
            StoredRecord(case.request_id, digest, position)
            for (digest, position), copies in sorted(case.copies.items())
            for _ in range(copies)
        ]
        self._findings.rows += len(records)
        if ledger and written and ledger.digest not in case.record_counts:
            # Another caller wrote under this id. The results of the known calls are checked nevertheless.
            if self._scope.complete:
                detail = f"batch {ledger.batch_id} wrote records under it that no call asked for"
                yield Violation(Rule.UNEXPECTED_ROW, case.request_id, detail)
            calls.append(Call("another caller", case.request_id, ledger.digest, 1, CallResult.NOT_CONFIRMED))
            records.append(StoredRecord(case.request_id, ledger.digest, 0))
        yield from find_violations(calls, records, [case.request_id] if written else [])
        for difference in case.differences:
            yield Violation(Rule.OTHER_VALUES, case.request_id, difference)
        if ledger and ledger.tombstone:
            yield from check_tombstone(case.request_id, ledger.status, [fact.result for fact in facts])
        if ledger and written:
            yield from _check_batches(case, ledger)
            yield from _check_returned(case, ledger)

    def _calls_of(self, case: RequestCase) -> list[CallFact]:
        """The calls with their contents. A caller's history takes precedence over the facts of the shards."""
        callers = {fact.caller for fact in case.calls if not fact.from_shard}
        contents: dict[str, set[str]] = defaultdict(set)
        for fact in case.calls:
            if fact.digest:
                contents[fact.caller].add(fact.digest)
        every = set().union(*contents.values())
        calls = {}
        for fact in case.calls:
            if fact.from_shard and fact.caller in callers:
                continue
            digest = fact.digest
            if not digest:
                possible = contents[fact.caller] or every
                if len(possible) != 1:
                    self._findings.unchecked["confirmations of which the request is not known"] += 1
                    continue
                digest = next(iter(possible))
            if digest == UNREADABLE:
                self._findings.unchecked["requests that cannot be read"] += 1
            calls[fact.caller, digest, fact.result] = CallFact(fact.caller, fact.request_id, digest, fact.result)
        return list(calls.values())

    def _check_order(self) -> None:
        for shard, spans in self._store.spans(self._scope.batcher):
            for overtaking, overtaken in find_overtaken(spans):
                detail = f"overtook {overtaken} of one key, in shard {shard}"
                self._findings.add(Violation(Rule.OUT_OF_ORDER, overtaking, detail))
        cut, overlapping = self._store.shards_without_order()
        if cut:
            self._findings.unchecked["order: a shard's earlier runs are gone"] += cut
        if overlapping:
            self._findings.unchecked["order: a shard had several flushes at a time"] += overlapping


def _check_returned(case: RequestCase, ledger: LedgerFact) -> Iterator[Violation]:
    for fact in case.calls:
        if fact.result in POSITIVE and fact.complete and not fact.from_shard and fact.returned != ledger.returned:
            detail = f"what {fact.caller} received is not what the ledger says was returned"
            yield Violation(Rule.OTHER_RETURNED, case.request_id, detail)


def _check_batches(case: RequestCase, ledger: LedgerFact) -> Iterator[Violation]:
    for fact in case.calls:
        if fact.result is CallResult.WRITTEN and fact.batch_id != ledger.batch_id:
            detail = f"{fact.caller} was confirmed batch {fact.batch_id or '(none)'}, the ledger says {ledger.batch_id}"
            yield Violation(Rule.OTHER_BATCH, case.request_id, detail)
