"""Updates and deletes of rows by their key, and additions: what the databases have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.sql.database import RowGroup
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.returning import note_row
from temporal_batching.sinks.sql.schema import BoundTable, Row


def check_updated(group: RowGroup, updated: int) -> None:
    """Compares how many rows were updated with how many were to be.

    Args:
        group: The rows of one or several statements.
        updated: How many rows of the database have matched.

    Raises:
        DatabaseFailure: They are fewer. The request whose row is missing is isolated as any other offending request.
    """
    if group.operation == "update" and updated != len(group.rows):
        raise missing_row(group.table)


def missing_row(table: BoundTable) -> DatabaseFailure:
    """The failure of an update that has found no row."""
    key = ", ".join(table.rule.key)
    reason = f"{table.name} has no row with this key ({key}): nothing was updated"
    return DatabaseFailure(ErrorClass.REQUEST, reason, code=RejectCode.MISSING_ROW)


def key_and_others(table: BoundTable, columns: Sequence[str]) -> tuple[list[int], list[int]]:
    """The positions of the columns that name the row, in the order of the rule, and of the others."""
    key = table.rule.key
    return [columns.index(name) for name in key], [i for i, name in enumerate(columns) if name not in key]


def note_columns(row: Row, columns: Sequence[str], values: Sequence[Any] | None) -> None:
    """Notes what the database has of a row, of which more columns may have been read than it asks for."""
    if row.ask is None or not row.ask.columns:
        return
    if values is None or tuple(columns) == row.ask.columns:
        note_row(row, values)
    else:
        found = dict(zip(columns, values, strict=True))
        note_row(row, [found[name] for name in row.ask.columns])


def read_columns(rows: Iterable[Row]) -> tuple[str, ...]:
    """The columns that any of the rows reads back."""
    return tuple(dict.fromkeys(name for row in rows if row.ask is not None for name in row.ask.columns))
