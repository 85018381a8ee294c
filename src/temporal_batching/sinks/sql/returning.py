"""Rows that return values to their caller, or take values of earlier rows of their request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from temporal_batching.contract import Record, RejectCode, Returned, ReturnedRow
from temporal_batching.sinks.returned import has_bad_reference
from temporal_batching.sinks.sql.database import PreparedRequest
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.schema import Ask, BoundTable, Row, SchemaMismatch
from temporal_batching.sinks.sql.shown import returned_size


def asks(rows: Iterable[Row]) -> bool:
    """Whether any row is read back, or takes a value of an earlier one."""
    for row in rows:  # noqa: SIM110  it runs for every request, and a generator costs more than the test
        if row.ask is not None:
            return True
    return False


def link(records: Sequence[Record], rows: list[Row]) -> Sequence[Row]:
    """Connects the references of a request with the rows that they refer to.

    Args:
        records: The request's records.
        rows: The same records, bound.

    Returns:
        The rows, with an `Ask` for each that a later one refers to.

    Raises:
        SchemaMismatch: A reference names a column that its table does not have, or no earlier record.
    """
    if not asks(rows):
        return rows
    if fault := has_bad_reference(records):
        raise SchemaMismatch(RejectCode.INVALID, fault)
    for number, record in enumerate(records):
        row = rows[number]
        for position, name in enumerate(row.columns):
            value = record.values[name]
            if not isinstance(value, Returned):
                continue
            earlier = rows[value.record]
            earlier.table.check_readable(value.column)
            if earlier.ask is None:
                earlier = rows[value.record] = earlier._replace(ask=Ask((), ()))
            target, own = earlier.ask, row.ask
            assert target is not None
            assert own is not None
            if value.column not in target.columns:
                target.columns = (*target.columns, value.column)
            own.references.append((position, target, value.column))
    return rows


def stages(
    requests: Iterable[PreparedRequest], *, by_key: bool = False
) -> list[list[tuple[PreparedRequest, list[Row]]]]:
    """The rows that are written together, stage by stage, by request in each.

    A row comes after those that it refers to, and never before an earlier row of its own request or of its own table:
    that order can be observed.

    Args:
        requests: In the order of arrival.
        by_key: Whether a row comes never before those of an earlier request of its key, either.
    """
    reached: dict[BoundTable, int] = {}
    of_key: dict[str, int] = {}
    staged: list[list[tuple[PreparedRequest, list[Row]]]] = []
    for request in requests:
        own = of_key.get(request.key, 0) if by_key and request.key else 0
        parts: dict[int, list[Row]] = {}
        for row in request.rows:
            own = max(own, reached.get(row.table, 0))
            if row.ask is not None:
                own = max([own, *(earlier.stage + 1 for _, earlier, _ in row.ask.references)])
                row.ask.stage = own
            reached[row.table] = own
            parts.setdefault(own, []).append(row)
        of_key[request.key] = own
        for stage, part in parts.items():
            while len(staged) <= stage:
                staged.append([])
            staged[stage].append((request, part))
    return staged


def resolve(row: Row) -> None:
    """Puts the values of earlier rows in place.

    Raises:
        DatabaseFailure: A column cannot hold its value.
    """
    if row.ask is None:
        return
    for position, earlier, column in row.ask.references:
        value = None if earlier.row is None else earlier.row[column]
        name = row.columns[position]
        try:
            row.values[position] = row.table.bind_value(name, value, row.operation)
        except SchemaMismatch as err:
            raise DatabaseFailure(ErrorClass.REQUEST, err.reason, code=err.code) from None


def note_row(row: Row, values: Sequence[Any] | None) -> None:
    """Notes what the database has of a row, in the order of the columns of its `Ask`; None if it has no row to show."""
    ask = row.ask
    if ask is None:
        return
    columns = row.table.columns
    ask.row = (
        None
        if values is None
        else {n: None if v is None else columns[n].shown.show(v) for n, v in zip(ask.columns, values, strict=True)}
    )


def collect(rows: Sequence[Row], *, most: int) -> list[ReturnedRow | None] | None:
    """What a request returns; None if it asked for nothing.

    Raises:
        DatabaseFailure: It is more than ``most`` bytes.
    """
    if not any(row.ask is not None and row.ask.asked for row in rows):
        return None
    returned: list[ReturnedRow | None] = [row.ask.returned if row.ask is not None else {} for row in rows]
    size = returned_size(returned)
    if size > most:
        raise DatabaseFailure(
            ErrorClass.REQUEST,
            f"what the request asks to be returned has {size:,} bytes: at most {most:,}",
            code=RejectCode.TOO_LARGE,
        )
    return returned
