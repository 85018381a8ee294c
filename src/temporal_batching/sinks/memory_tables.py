"""Tables in memory that follow the rules of `TableRule`: for `MemorySink`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from temporal_batching.contract import Record, RejectCode
from temporal_batching.sinks.rules import TableRule, operation_fault

Row: TypeAlias = dict[str, Any]


class Refused(Exception):
    """A record that a table does not take.

    Attributes:
        code: Why, for programs.
        reason: Why, for people.
    """

    def __init__(self, code: RejectCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class MemoryTables:
    """Rows by table. A table without a rule takes every insert.

    Attributes:
        rows: The rows by table name, in the order in which they were inserted.
    """

    def __init__(self, rules: Mapping[str, TableRule], identities: Mapping[str, str]) -> None:
        self.rows: dict[str, list[Row]] = {}
        self._rules = rules
        self._identities = identities
        self._last: dict[str, int] = {}

    @contextmanager
    def together(self, records: Sequence[Record]) -> Iterator[None]:
        """All of these records that is applied in the block remains, or nothing if it raises `Refused`."""
        tables = {record.table for record in records} if len(records) > 1 else set()
        before = {table: list(self.rows.get(table, ())) for table in tables}
        try:
            yield
        except Refused:
            for table, rows in before.items():
                if table in self.rows:
                    self.rows[table][:] = rows
            raise

    def apply(self, record: Record, values: Row) -> Row | None:
        """Applies a record.

        Args:
            record: The record.
            values: Its values, without references.

        Returns:
            The row as it is then, before a delete as it was; None if there is none.

        Raises:
            Refused: The table does not take it.
        """
        table = record.table
        rule = self._rules.get(table, TableRule())
        if fault := operation_fault(table, rule, record.operation, values):
            raise Refused(RejectCode.INVALID, fault)
        rows = self.rows.setdefault(table, [])
        at = self._find(rows, rule, record, values)
        if record.operation == "delete":
            return None if at is None else rows.pop(at)
        if record.operation == "update":
            if at is None:
                key = ", ".join(rule.key)
                raise Refused(RejectCode.MISSING_ROW, f"{table} has no row with this key ({key}): nothing was updated")
            rows[at] = {**rows[at], **values}
            return rows[at]
        if at is None:
            rows.append(self._new(table, values))
            return rows[-1]
        rows[at] = self._conflicting(table, rule, rows[at], values)
        return rows[at]

    def _find(self, rows: list[Row], rule: TableRule, record: Record, values: Row) -> int | None:
        if not rule.key or any(name not in values for name in rule.key):
            return None
        key = {name: values[name] for name in rule.key}
        if None in key.values():
            if record.operation != "insert" or rule.conflict == "add":
                raise Refused(RejectCode.TYPE, f"{record.table}: a column of the key, which names the row, is null")
            return None
        return next((at for at, row in enumerate(rows) if all(row.get(name) == key[name] for name in key)), None)

    def _new(self, table: str, values: Row) -> Row:
        column = self._identities.get(table)
        if column is None or column in values:
            return values
        self._last[table] = self._last.get(table, 0) + 1
        return {column: self._last[table], **values}

    def _conflicting(self, table: str, rule: TableRule, row: Row, values: Row) -> Row:
        if rule.conflict == "error":
            raise Refused(RejectCode.CONSTRAINT, f"{table} has a row with this key ({', '.join(rule.key)})")
        if rule.conflict == "ignore":
            return row
        chosen = rule.update if rule.update is not None else () if rule.conflict == "add" else values
        changed = {name: value for name, value in values.items() if name in chosen and name not in rule.key}
        for name in rule.add:
            if name in values:
                changed[name] = _add(f"{table}.{name}", row.get(name), values[name])
        return {**row, **changed}


def _add(column: str, there: Any, value: Any) -> Any:
    """The exact sum, in the form of what is added: a number, or a string of one."""
    try:
        total = sum((_decimal(part) for part in (there or 0, value)), Decimal(0))
    except InvalidOperation:
        raise Refused(RejectCode.TYPE, f"{column}: expected a number to add") from None
    if isinstance(there, str) or isinstance(value, str):
        return str(total)
    return int(total) if total == total.to_integral_value() else float(total)


def _decimal(value: Any) -> Decimal:
    return Decimal(repr(value) if isinstance(value, float) else str(value))
