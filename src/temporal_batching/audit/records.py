"""Compares records with rows: looks each record up, and assigns equal rows to their records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from temporal_batching.audit.database import OpenDatabase
from temporal_batching.audit.facts import LedgerFact, RecordMatch, RowPool
from temporal_batching.audit.finder import FoundRow
from temporal_batching.audit.isolate import VALUE_ERRORS, Refused, look_up_each
from temporal_batching.audit.report import Findings
from temporal_batching.audit.row_check import RowCheck
from temporal_batching.audit.rules import POSITIVE, CallResult, Rule, Violation
from temporal_batching.audit.store import FactStore
from temporal_batching.audit.tables import AuditedTable, AuditedTables, NotCheckable
from temporal_batching.contract import Record, RejectCode
from temporal_batching.redaction import driver_message


@dataclass(frozen=True)
class _Wanted:
    """A record to look up, with its bound values."""

    match: RecordMatch
    record: Record
    values: Sequence[Any]


@dataclass(frozen=True)
class _Shape:
    """Records that one query looks up: of one table, with the same columns, by the same key."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    history: bool
    """Whether the row is that of several records."""


class RecordCheck:
    """Looks up the records of requests.

    Args:
        database: The database of the rows.
        tables: The tables of the deployment.
        store: Has the records, and stores what was found for them.
        findings: Counts what cannot be checked.
    """

    def __init__(self, database: OpenDatabase, tables: AuditedTables, store: FactStore, findings: Findings) -> None:
        self._database = database
        self._tables = tables
        self._store = store
        self._findings = findings
        self._refused: dict[str, str] = {}
        """Tables that cannot be queried, with the reason."""
        self._rows = RowCheck(tables, store, findings)
        self._partly: set[str] = set()
        """Tables with a written record that could not be looked up."""

    def look_up(self, request_ids: Sequence[str], ledger: Mapping[str, LedgerFact]) -> None:
        """Looks up all records of these requests.

        Args:
            request_ids: The request ids.
            ledger: The rows of the ledger by request id.
        """
        groups: dict[_Shape, list[_Wanted]] = defaultdict(list)
        for content in self._store.contents(request_ids):
            fact = ledger.get(content.request_id)
            written = fact is not None and fact.written and fact.digest == content.digest
            for position, record in enumerate(content.records):
                match = RecordMatch(content.request_id, content.digest, position, record.table, written)
                try:
                    table = self._tables.get(record.table)
                    known = table.known(record, position, fact.rows if fact is not None and written else None)
                    columns, values = table.bind(known)
                except NotCheckable as reason:
                    self._skip(match, str(reason))
                    continue
                key = table.key_for(columns, values, self._database.adapter.null)
                history = bool(key) and key == tuple(table.bound.rule.key)
                groups[_Shape(record.table, columns, key, history)].append(_Wanted(match, known, values))
        for shape, group in groups.items():
            self._look_up_group(shape, group)

    def _look_up_group(self, shape: _Shape, group: Sequence[_Wanted]) -> None:
        distinct: dict[tuple[Any, ...], int] = {}
        for one in group:
            distinct.setdefault(tuple(one.values), len(distinct))
        try:
            if shape.table in self._refused:
                raise NotCheckable(self._refused[shape.table])
            found = look_up_each(list(distinct), lambda rows: self._find(shape, rows))
        except NotCheckable as reason:
            self._refused[shape.table] = str(reason)
            for one in group:
                self._skip(one.match, str(reason))
            return
        for one in group:
            looked_up = found[distinct[tuple(one.values)]]
            if looked_up.found is None:
                self._skip(one.match, looked_up.reason)
            elif shape.history:
                self._keep(one, looked_up.found)
            else:
                self._compare(one.match, self._tables.get(shape.table), shape.key, looked_up.found)

    def _find(self, shape: _Shape, rows: Sequence[Sequence[Any]]) -> list[list[FoundRow]]:
        """The rows of each record.

        Raises:
            Refused: A value is at fault: without values the database accepts the same query.
            NotCheckable: The table is at fault.
        """
        try:
            return self._query(shape, rows)
        except sa.exc.OperationalError as err:
            if err.connection_invalidated:
                raise
            raise NotCheckable(driver_message(err)) from None
        except (sa.exc.DBAPIError, *VALUE_ERRORS) as err:
            # Only the name of the error: its message may quote the value.
            at_fault = type(getattr(err, "orig", None) or err).__name__
        try:
            self._query(shape, [])
        except sa.exc.DBAPIError as err:
            raise NotCheckable(driver_message(err)) from None
        raise Refused(f"a value that its column cannot hold as it is now ({at_fault})")

    def _query(self, shape: _Shape, rows: Sequence[Sequence[Any]]) -> list[list[FoundRow]]:
        # A savepoint, so that a query that fails does not end the transaction.
        table = self._tables.get(shape.table)
        shown = tuple(table.bound.rule.add) if shape.history else ()
        with self._database.connection.begin_nested():
            return self._database.finder.find(table, shape.columns, shape.key, rows, shown)

    def _keep(self, wanted: _Wanted, found: Sequence[FoundRow]) -> None:
        """Keeps a record of a row that others write to as well: the last of them decides what the row is."""
        match = wanted.match
        match.exclusive = False
        self._findings.records += 1
        if match.written:
            self._rows.keep(match, self._tables.get(match.table), wanted.record, found)
            match.rows = [row.row for row in found] or None
        self._store.add_match(match)

    def judge_rows(self, *, all_known: bool, complete: bool) -> None:
        """Judges the rows that several records may have written to.

        Args:
            all_known: Whether there is a call for every id in the ledger.
            complete: Whether the rows were empty before, so that sums can be checked.
        """
        self._rows.judge(all_known=all_known, complete=complete, partly=self._partly)

    def _compare(
        self, match: RecordMatch, table: AuditedTable, key: tuple[str, ...], found: Sequence[FoundRow]
    ) -> None:
        conflict = table.bound.rule.conflict
        exact = [row for row in found if not row.differs]
        changes = table.bound.rule.changes_rows
        match.exclusive = conflict == "error" and not changes
        match.rows = [row.row for row in (exact if match.exclusive else found)]
        self._findings.records += 1
        if not match.written:
            match.exclusive = match.exclusive and bool(exact)
        elif changes:
            # Without the key of its rule: which row it is, or was, cannot be told from later values.
            self._findings.unchecked[f"{table.name}: records without the key's columns"] += 1
            self._partly.add(table.name)
            match.rows = [row.row for row in exact] or None
        elif conflict != "error":
            if any(row.differs for row in found) or not found:
                self._findings.unchecked[f"{table.name}: values under the rule '{conflict}'"] += 1
            if not found and not key:
                # The record may conflict with another unique key.
                match.rows = None
        elif key and found and not exact:
            match.rows, match.exclusive = [found[0].row], False
            match.difference = f"{table.name}: {', '.join(found[0].differs)}"
        self._store.add_match(match)

    def _skip(self, match: RecordMatch, reason: str) -> None:
        if match.written:
            self._findings.unchecked[f"{match.table}: {reason}"] += 1
            self._partly.add(match.table)
        self._store.add_match(match)

    # Equal rows

    def assign_equal_rows(self, *, all_known: bool) -> None:
        """Decides which records have no row where there are too few equal rows, or two where there are too many.

        Args:
            all_known: Whether there is a call for every id in the ledger, so that no unknown request wrote such rows.
        """
        for pool in self._store.uneven_pools():
            if pool.rows < pool.records:
                written = [member for member in self._store.members(pool) if member.written]
                for member in written[pool.rows - pool.records :]:
                    self._store.set_copies(member, 0)
            else:
                self._assign_surplus(pool, all_known)

    def _assign_surplus(self, pool: RowPool, all_known: bool) -> None:
        members = [
            member
            for member in self._store.members(pool)
            if member.written or not self._is_excused(member.request_id, member.digest)
        ]
        if not members:
            return
        if not all_known:
            reason = "more equal rows than requests; others may have written them"
            self._findings.unchecked[f"{pool.table}: {reason}"] += 1
            return
        if self._store.is_ambiguous(pool):
            self._findings.unchecked[f"{pool.table}: rows that fit requests with other columns too"] += 1
            return
        surplus = pool.rows - pool.records
        for member in members:
            if not member.written and surplus:
                self._store.set_copies(member, 1)
                surplus -= 1
        if surplus and members[-1].written:
            self._store.set_copies(members[-1], 1 + surplus)

    def _is_excused(self, request_id: str, digest: str) -> bool:
        """Whether the row may be that of another request: this request was rejected because of the row."""
        results = self._store.results_of(request_id, digest)
        because_of_it = (CallResult.REJECTED, RejectCode.CONSTRAINT.value) in results
        return because_of_it and not any(result in POSITIVE for result, _ in results)

    # Rows without a record

    def find_unexpected_rows(self) -> None:
        """Finds rows that belong to no written record."""
        for table in self._tables.used():
            if table.name in self._partly:
                continue  # its rows cannot all be assigned
            try:
                with self._database.connection.begin_nested():
                    for page in self._database.finder.pages(table):
                        keys = dict(page)
                        for row in self._store.unexplained(table.name, list(keys)):
                            self._findings.add(Violation(Rule.UNEXPECTED_ROW, "", f"{table.name}: {keys[row]}"))
            except NotCheckable as reason:
                self._findings.unchecked[f"{table.name}: {reason}"] += 1
