"""What records return from a sink that keeps rows as it received them: references resolved, columns picked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from temporal_batching.contract import Record, Returned, ReturnedRow


def resolve_records(
    records: Sequence[Record], apply: Callable[[Record, dict[str, Any]], Mapping[str, Any] | None]
) -> list[ReturnedRow | None] | None:
    """Applies the records of a request, each with the values that it takes of earlier ones.

    Args:
        records: The request's records.
        apply: Applies a record with these values. It returns the row as it is then, before a delete as it was, or None
            if there is none.

    Returns:
        What the request returns; None if it asks for nothing.
    """
    rows: list[Mapping[str, Any] | None] = []
    for record in records:
        values = {
            name: (rows[value.record] or {}).get(value.column) if isinstance(value, Returned) else value
            for name, value in record.values.items()
        }
        rows.append(apply(record, values))
    return only_asked(records, rows)


def only_asked(records: Sequence[Record], rows: Sequence[Mapping[str, Any] | None]) -> list[ReturnedRow | None] | None:
    """Of the rows of a request, the columns that each record asks for; None if the request asks for nothing."""
    if not any(record.returning for record in records):
        return None
    return [
        {name: row.get(name) for name in record.returning} if row is not None else None if record.returning else {}
        for record, row in zip(records, rows, strict=True)
    ]


def has_references(records: Sequence[Record]) -> bool:
    """Whether a value of the request comes from an earlier record."""
    return any(isinstance(value, Returned) for record in records for value in record.values.values())


def has_bad_reference(records: Sequence[Record]) -> str | None:
    """Why a reference of a request refers to no earlier record, or None."""
    for number, record in enumerate(records):
        for name, value in record.values.items():
            if isinstance(value, Returned) and not 0 <= value.record < number:
                return f"{record.table}.{name} refers to record {value.record}: only to an earlier one"
    return None
