"""The requests of a batch, bound to the columns of their tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporal_batching.contract import INSERT, Outcome, Record, WriteRequest
from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql.database import ByColumn, PreparedRequest, RowGroup
from temporal_batching.sinks.sql.returning import asks, link
from temporal_batching.sinks.sql.schema import BoundTable, Row, SchemaMismatch
from temporal_batching.sinks.sql.values import BadValue


@dataclass
class BoundRequests:
    """Requests that are tried together.

    Attributes:
        entries: The requests, in the order in which they are tried.
        unbindable: The outcomes of those that could not be bound, by position.
        groups: The statements for all of them, in the order of arrival, if they were bound column by column.
    """

    entries: list[PreparedRequest]
    unbindable: dict[int, Outcome] = field(default_factory=dict)
    groups: list[RowGroup] | None = None
    _by_position: dict[int, PreparedRequest] | None = None

    def rows_of(self, position: int) -> Sequence[Row]:
        """The rows of a request; none if it could not be bound."""
        if self._by_position is None:
            self._by_position = {entry.position: entry for entry in self.entries}
        return self._by_position[position].rows


def bind_nothing(batch: Batch, positions: Sequence[int]) -> BoundRequests:
    """Requests whose rows are not needed: they are fenced."""
    requests = batch.requests
    return BoundRequests([_prepared(position, requests[position], (), asking=False) for position in positions])


def bind(
    batch: Batch, positions: Sequence[int], table_of: Callable[[str], BoundTable], *, locks_rows: bool
) -> BoundRequests:
    """Binds requests, in the quickest way that they allow.

    Args:
        batch: Their batch.
        positions: Their positions in it.
        table_of: Finds a table by its name, or raises `SchemaMismatch` or `SinkConfigurationError`.
        locks_rows: `DatabaseAdapter.locks_rows`.
    """
    requests = batch.requests
    found = _bind_by_column([requests[position] for position in sorted(positions)], table_of, locks_rows=locks_rows)
    if found is None:
        return _bind_by_row(requests, positions, table_of)
    groups, tables = found

    def rows_of(records: Sequence[Record]) -> Sequence[Row]:
        return [tables[record.table].bind(record) for record in records]

    entries = [_prepared(position, requests[position], rows_of, asking=False) for position in positions]
    return BoundRequests(entries, groups=groups)


def _prepared(
    position: int,
    request: WriteRequest,
    bound: Sequence[Row] | Callable[[Sequence[Record]], Sequence[Row]],
    *,
    asking: bool,
) -> PreparedRequest:
    return PreparedRequest(
        position, request.request_id, request.records, request.expires_at, bound, request.key, asking
    )


def _bind_by_row(
    requests: Sequence[WriteRequest], positions: Sequence[int], table_of: Callable[[str], BoundTable]
) -> BoundRequests:
    bound = BoundRequests([])
    for position in positions:
        request = requests[position]
        rows: Sequence[Row] = ()
        try:
            rows = link(request.records, [table_of(record.table).bind(record) for record in request.records])
        except SchemaMismatch as mismatch:
            bound.unbindable[position] = Outcome.rejected(mismatch.code, mismatch.reason)
        except SinkConfigurationError as err:
            # It fitted when the sink was opened. The request waits until the operator repairs it.
            bound.unbindable[position] = Outcome.retry(str(err))
        bound.entries.append(_prepared(position, request, rows, asking=asks(rows)))
    return bound


def _bind_by_column(
    requests: Sequence[WriteRequest], table_of: Callable[[str], BoundTable], *, locks_rows: bool
) -> tuple[list[RowGroup], dict[str, BoundTable]] | None:
    """Binds plain inserts without an object for each row: half of the work of a batch.

    Plain are inserts of requests that write to one table each, with the same columns in all rows of a table. If they
    may meet rows that are there, each request has one row, no two name the same one, and no key asks for an order.

    Returns:
        A statement for each table, and the tables by name; None if the requests are not plain, or one does not fit.
    """
    unordered = True
    sent: dict[str, list[Mapping[str, Any]]] = {}
    names: dict[str, tuple[str, ...]] = {}
    for request in requests:
        table = ""
        unordered = unordered and not request.key and len(request.records) == 1
        for record in request.records:
            if record.operation != INSERT or record.returning or (table and record.table != table):
                return None
            table, values = record.table, record.values
            first = names.setdefault(table, columns := tuple(values))
            if first != columns and set(first) != set(columns):
                return None
            sent.setdefault(table, []).append(values)
    if not all(names.values()):
        return None
    try:
        tables = {name: table_of(name) for name in sent}
        groups = [_group(tables[name], rows, unordered=unordered) for name, rows in sent.items()]
        if locks_rows:
            for group in groups:
                _sort_by_key(group)
    except (BadValue, SchemaMismatch, SinkConfigurationError, _NotPlain):
        return None  # binding by row tells which request does not fit
    return groups, tables


class _NotPlain(Exception):
    """The order of rows may be observed."""


def _group(table: BoundTable, rows: Sequence[Mapping[str, Any]], *, unordered: bool) -> RowGroup:
    if not (table.only_appends or (unordered and table.rule.conflict in ("ignore", "update"))):
        raise _NotPlain
    plan = table.plan_of(rows[0])
    columns = [[read(values[name]) for values in rows] for name, read in plan.binds]
    group = RowGroup(table, plan.columns, ByColumn(columns))
    keys = [] if table.only_appends else _keys_of(group)
    if len(set(keys)) < len(keys):
        raise _NotPlain
    return group


def _keys_of(group: RowGroup) -> list[tuple[Any, ...]]:
    key = group.table.rule.key
    if not set(key) <= set(group.columns):
        raise _NotPlain
    columns = list(group.by_column)
    return list(zip(*(columns[group.columns.index(name)] for name in key), strict=True))


def _sort_by_key(group: RowGroup) -> None:
    """Sorts rows by their keys where they may meet others: all transactions lock rows in this order."""
    if group.table.only_appends:
        return
    keys = [[str(value) for value in key] for key in _keys_of(group)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    group.rows = ByColumn([[column[position] for position in order] for column in group.by_column])
