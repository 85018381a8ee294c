"""Compares rows that several records write to with what those records left of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from temporal_batching.audit.facts import KeptWrite, RecordMatch
from temporal_batching.audit.finder import FoundRow
from temporal_batching.audit.report import Findings
from temporal_batching.audit.row_history import Period, RowWrite, expected_sum, is_sum, judge_row
from temporal_batching.audit.rules import Rule, Violation
from temporal_batching.audit.store import FactStore
from temporal_batching.audit.tables import AuditedTable, AuditedTables
from temporal_batching.contract import Record, Returned

_MANY_SPELLINGS = re.compile(r"\d{4}-\d\d-\d\d|\d\d:\d\d")
"""How dates and times begin, of which one has many spellings."""


class RowCheck:
    """Keeps the written records of tables whose rows change, and judges the rows when all records are known.

    Args:
        tables: The tables of the deployment.
        store: Keeps the records.
        findings: Gets the violations, and counts what cannot be checked.
    """

    def __init__(self, tables: AuditedTables, store: FactStore, findings: Findings) -> None:
        self._tables = tables
        self._store = store
        self._findings = findings

    def keep(self, match: RecordMatch, table: AuditedTable, record: Record, found: Sequence[FoundRow]) -> None:
        """Keeps a written record that has its row's key.

        Args:
            match: The record's place in its request.
            table: Its table.
            record: The record, with the values that are known of it.
            found: The row with its key, if there is one.
        """
        values = [record.values[column] for column in table.bound.rule.key]
        key = json.dumps(values, default=str)
        spot = json.dumps([_folded(value) for value in values])
        row = found[0] if found else FoundRow("")
        write = _row_write(match, table, record, row)
        self._store.add_row_write(KeptWrite(match.table, key, spot, write))

    def judge(self, *, all_known: bool, complete: bool, partly: Collection[str]) -> None:
        """Judges every row.

        Args:
            all_known: Whether there is a call for every id in the ledger.
            complete: Whether the rows were empty before, so that sums can be checked.
            partly: Tables with a written record that could not be looked up.
        """
        for group in self._store.row_writes():
            table = self._tables.get(group[0].table)
            known = all_known and table.name not in partly
            for kept in self._rows(table, group):
                self._judge_row(table, [one.write for one in kept], known=known, complete=complete)

    def _rows(self, table: AuditedTable, group: Sequence[KeptWrite]) -> Iterator[Sequence[KeptWrite]]:
        """The records of each row of a group; a group may have several, if keys differ only in spelling."""
        there = {one.write.row for one in group}
        if len({one.key for one in group}) > 1:
            if "" in there:
                self._unchecked(table, "rows whose keys differ only in spelling")
                return
            by_row = defaultdict(list)
            for one in group:
                by_row[one.write.row].append(one)
            yield from by_row.values()
        elif len(there) > 1:
            self._unchecked(table, "rows that changed while the audit ran")
        elif there == {""} and "delete" in table.bound.rule.operations and _MANY_SPELLINGS.search(group[0].key):
            self._unchecked(table, "rows that are gone, by a key with several spellings")
        else:
            yield group

    def _judge_row(self, table: AuditedTable, writes: Sequence[RowWrite], *, known: bool, complete: bool) -> None:
        may_be_gone = not known and "delete" in table.bound.rule.operations
        if not known:
            self._unchecked(table, "values of rows that other requests may have changed")
        for fault in judge_row(writes, may_be_gone=may_be_gone, values_known=known):
            self._findings.add(Violation(fault.rule, fault.request_id, f"{table.name}: {fault.detail}"))
        for column in table.bound.rule.add if writes[0].row else ():
            expected = expected_sum(writes, column) if known and complete else None
            if expected is None:
                why = "that are not certain" if known and complete else "can only be checked by --complete"
                self._unchecked(table, f"sums of {column} {why}")
            elif not is_sum(writes[0].found[column], expected):
                detail = f"{table.name}: {column} is not the sum of what {expected.terms:,} records added"
                self._findings.add(Violation(Rule.OTHER_SUM, expected.last, detail))

    def _unchecked(self, table: AuditedTable, what: str) -> None:
        self._findings.unchecked[f"{table.name}: {what}"] += 1


def _row_write(match: RecordMatch, table: AuditedTable, record: Record, row: FoundRow) -> RowWrite:
    rule = table.bound.rule
    values = {column: value for column, value in record.values.items() if not isinstance(value, Returned)}
    named = [column for column in values if column not in rule.key]
    references = [column for column in record.values if column not in values]
    sets: Collection[str] = ()
    adds: dict[str, Decimal | None] = {}
    if record.operation == "update":
        sets = named
    elif record.operation == "insert" and rule.conflict == "error":
        sets = list(values)
    elif record.operation == "insert" and rule.conflict in ("update", "add"):
        sets = table.bound.updated(named)
        adds = {column: _added(table, values, column) for column in rule.add}
    return RowWrite(
        match.request_id,
        match.position,
        Period(),
        deletes=record.operation == "delete",
        whole=record.operation == "insert",
        sets=sets,
        leaves=[column for column in (*named, *references) if column not in sets and column not in adds],
        adds=adds,
        numbers={column: _number(values[column]) for column in rule.add if column in sets},
        row=row.row,
        differs=row.differs,
        found=dict(zip(rule.add, row.shown, strict=False)),
    )


def _added(table: AuditedTable, values: Mapping[str, Any], column: str) -> Decimal | None:
    if column in values:
        return _number(values[column])
    # Left out, it adds nothing; but the first record of a row gives it the column's default.
    return Decimal(0) if table.bound.columns[column].plain else None


def _number(value: Any) -> Decimal | None:
    """The number that a JSON value is; a null counts as zero."""
    try:
        return Decimal(0) if value is None else None if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        return None


def _folded(value: Any) -> str:
    """The same for all values of a key that a database may take for equal."""
    text = str(value).strip().casefold()
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text.replace("-", "")
    return str(number.normalize()) if number.is_finite() else text
