"""One batch in one transaction: which statements, in which order, and who is at fault when one of them fails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from temporal_batching.contract import Outcome
from temporal_batching.sinks.ledger import judge
from temporal_batching.sinks.sql.database import Database, Entry, Insert, Stamp, Transaction
from temporal_batching.sinks.sql.errors import DatabaseFailure, Verdict
from temporal_batching.sinks.sql.schema import BoundTable, Row


def arrange(entries: Sequence[Entry], database: Database) -> list[Insert]:
    """The fewest inserts that keep the order as far as it can be observed.

    Rows of one table stay in arrival order. Tables are ordered as the requests order them (a parent sent before its
    child is inserted before it), not row by row: inside a transaction nobody sees the difference. Where requests
    contradict each other, the arrival order is kept strictly.
    """
    by_table: dict[BoundTable, list[Row]] = {}
    before: dict[BoundTable, set[BoundTable]] = defaultdict(set)
    for entry in entries:
        previous: BoundTable | None = None
        for row in entry.rows:
            table = row.table
            if previous is not None and table is not previous:
                before[table].add(previous)
            previous = table
            if table in by_table:
                by_table[table].append(row)
            else:
                by_table[table] = [row]
    if len(by_table) == 1:
        ((table, rows),) = by_table.items()
        return list(_inserts(table, rows, database))
    try:
        # Tables that no request ties together keep the order of their first appearance.
        order = list(TopologicalSorter({table: before.get(table, set()) for table in by_table}).static_order())
    except CycleError:
        return [
            i for table, rows in _runs(row for e in entries for row in e.rows) for i in _inserts(table, rows, database)
        ]
    return [insert for table in order for insert in _inserts(table, by_table[table], database)]


def _runs(rows: Iterable[Row]) -> Iterable[tuple[BoundTable, list[Row]]]:
    run: list[Row] = []
    for row in rows:
        if run and run[-1].table is not row.table:
            yield run[0].table, run
            run = []
        run.append(row)
    if run:
        yield run[0].table, run


def _inserts(table: BoundTable, rows: Sequence[Row], database: Database) -> Iterable[Insert]:
    for insert in _by_columns(table, rows, database):
        if database.waves and table.rule.conflict == "update":
            yield from _waves(insert)
        else:
            yield insert


def _by_columns(table: BoundTable, rows: Sequence[Row], database: Database) -> Iterable[Insert]:
    """Rows with different columns share a statement where a column left out is a null: where nothing else fills it."""
    sets = {row.columns for row in rows}
    if len(sets) == 1:
        yield Insert(table, rows[0].columns, [row.values for row in rows])
        return
    # An update overwrites what was sent, so there a column left out is not a null.
    pad = set() if table.rule.conflict == "update" else {n for s in sets for n in s if table.columns[n].plain}
    widened = {s: tuple(n for n in table.columns if n in s or n in pad) for s in sets}
    insert: Insert | None = None
    for row in rows:
        columns = widened[row.columns]
        values: Sequence[object] = row.values
        if columns != row.columns:
            sent = dict(zip(row.columns, row.values, strict=True))
            values = [sent.get(name, database.null) for name in columns]
        if insert is None or insert.columns != columns:
            if insert is not None:
                yield insert
            insert = Insert(table, columns, [])
        insert.rows.append(values)
    if insert is not None:
        yield insert


def _waves(insert: Insert) -> Iterable[Insert]:
    """ON CONFLICT DO UPDATE refuses to meet a row twice in a statement: the second time goes into a second one."""
    positions = [insert.columns.index(name) for name in insert.table.rule.key if name in insert.columns]
    times: dict[tuple[object, ...], int] = defaultdict(int)
    waves: list[Insert] = []
    for row in insert.rows:
        key = tuple(row[p] for p in positions)
        wave = times[key]
        times[key] += 1
        if wave == len(waves):
            waves.append(Insert(insert.table, insert.columns, []))
        waves[wave].rows.append(row)
    return waves


class Answer(Protocol):
    def __call__(self, entry: Entry, outcome: Outcome, *, applied: bool) -> None: ...


class BatchApplier:
    """Applies entries in a transaction that is open, and isolates those that the database refuses.

    A group that fails is rolled back to its savepoint and halved. If the first half then succeeds, the fault is in
    the second, which is halved without being tried: k faults among n cost about ``k * log2(n)`` attempts and as
    many that succeed.
    """

    def __init__(
        self,
        transaction: Transaction,
        database: Database,
        stamp: Stamp,
        answer: Answer,
        schema_is_fresh: bool,
    ) -> None:
        self._transaction = transaction
        self._database = database
        self._stamp = stamp
        self._answer = answer
        self._schema_is_fresh = schema_is_fresh

    def apply(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._apply(entries, faulty=False)

    def _apply(self, entries: Sequence[Entry], *, faulty: bool) -> bool:
        """Returns whether all were written. ``faulty``: it is known that they cannot be written together."""
        if len(entries) == 1 or not faulty:
            try:
                inserts = arrange(entries, self._database)
                complete = self._transaction.attempt(self._stamp, entries, inserts, savepoint=True)
            except DatabaseFailure as failure:
                if not failure.of_request(schema_is_fresh=self._schema_is_fresh):
                    raise
                if len(entries) == 1:
                    self._answer(entries[0], Outcome.rejected(failure.code, failure.reason), applied=False)
                    return False
            else:
                if complete:
                    for entry in entries:
                        self._answer(entry, Outcome.written(), applied=True)
                    return True
                left = self._without_known(entries)
                return self._apply(left, faulty=False) if left else True
        self._database.counters.splits += 1
        middle = len(entries) // 2
        first = self._apply(entries[:middle], faulty=False)
        second = self._apply(entries[middle:], faulty=first)
        return first and second

    def _without_known(self, entries: Sequence[Entry]) -> list[Entry]:
        """Another transaction has written some of these ids since they were looked up."""
        known = self._transaction.lookup([entry.request_id for entry in entries])
        left = []
        for entry in entries:
            outcome = judge(known.get(entry.request_id), entry.digest, self._stamp.batch_id)
            if outcome is None:
                left.append(entry)
            else:
                self._answer(entry, outcome, applied=False)
        if len(left) == len(entries):
            raise DatabaseFailure(Verdict.AGAIN, "the ledger changes while it is written to")
        return left
