"""The statements of a batch and their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import groupby

from temporal_batching.contract import INSERT
from temporal_batching.sinks.sql.database import DatabaseAdapter, PreparedRequest, RowGroup
from temporal_batching.sinks.sql.ordered import group_in_order, needs_order
from temporal_batching.sinks.sql.returning import stages
from temporal_batching.sinks.sql.schema import BoundTable, Row


def arrange(entries: Sequence[PreparedRequest], database: DatabaseAdapter) -> list[list[RowGroup]]:
    """The fewest statements that keep the order as far as it can be observed, in stages.

    There is one stage, unless rows take values of earlier ones. Within a stage rows of one table stay in arrival order.
    Tables are ordered as the requests order them (a parent that is sent before its child is inserted before it), not
    row by row: the difference is invisible outside the transaction. If requests order tables in contradictory ways,
    the arrival order is kept strictly. Updates, deletes and additions have rules of their own: `group_in_order`.
    """
    if any(entry.asks for entry in entries):
        ordered = any(needs_order(row) for entry in entries for row in entry.rows)
        return [
            group_in_order(stage, database) if ordered else _arrange(stage, database)
            for stage in stages(entries, by_key=ordered)
        ]
    return [_arrange([(entry, entry.rows) for entry in entries], database)]


def _arrange(requests: Sequence[tuple[PreparedRequest, Sequence[Row]]], database: DatabaseAdapter) -> list[RowGroup]:
    by_table: dict[BoundTable, list[Row]] = {}
    before: dict[BoundTable, set[BoundTable]] = defaultdict(set)
    for _, part in requests:
        previous: BoundTable | None = None
        for row in part:
            table = row.table
            if previous is not None and table is not previous:
                before[table].add(previous)
            previous = table
            if table in by_table:
                by_table[table].append(row)
            else:
                by_table[table] = [row]
    if any(table.needs_order and any(map(needs_order, rows)) for table, rows in by_table.items()):
        return group_in_order(requests, database)
    read = {row.table for request, part in requests if request.asks for row in part if row.ask is not None}

    def inserts(table: BoundTable, rows: Sequence[Row]) -> list[RowGroup]:
        if table in read:
            return _asking(table, requests, database)
        by_key = database.locks_rows and _may_be_sorted(table, requests)
        return list(_inserts(table, rows, database, by_key=by_key))

    if len(by_table) == 1:
        ((table, rows),) = by_table.items()
        return inserts(table, rows)
    try:
        # Tables that no request orders keep the order of their first appearance.
        order = list(TopologicalSorter({table: before.get(table, set()) for table in by_table}).static_order())
    except CycleError:
        if read:
            return group_in_order(requests, database)
        runs = _runs(row for _, part in requests for row in part)
        return [group for table, rows in runs for group in inserts(table, rows)]
    return [group for table in order for group in inserts(table, by_table[table])]


def _may_be_sorted(table: BoundTable, requests: Sequence[tuple[PreparedRequest, Sequence[Row]]]) -> bool:
    """Whether rows may be written in the order of their keys: all transactions lock rows in this order then.

    Two that write the same rows in different orders would deadlock. The order is not free if a request, or the requests
    of one key, name rows by different keys: the database may take them for equal, as many collations do with ``A`` and
    ``a``. Nor is there one where no row meets another.
    """
    key = table.rule.key
    if table.rule.conflict == "error" or not key:
        return False
    named: dict[Hashable, list[object]] = {}
    for request, rows in requests:
        owner = request.key or request.position
        for row in rows:
            if row.table is table:
                values = [row.values[row.columns.index(name)] for name in key if name in row.columns]
                if named.setdefault(owner, values) != values:
                    return False
    return True


def _runs(rows: Iterable[Row]) -> Iterable[tuple[BoundTable, list[Row]]]:
    run: list[Row] = []
    for row in rows:
        if run and run[-1].table is not row.table:
            yield run[0].table, run
            run = []
        run.append(row)
    if run:
        yield run[0].table, run


def _inserts(table: BoundTable, rows: Sequence[Row], database: DatabaseAdapter, *, by_key: bool) -> Iterable[RowGroup]:
    for columns, run in _by_columns(table, rows, database):
        values: list[Sequence[object]] = [row.values for row in run]
        if by_key:
            values.sort(key=_key_order(table, columns))
        group = RowGroup(table, columns, values)
        if database.one_update_per_row and table.rule.conflict == "update":
            yield from _passes(group)
        else:
            yield group


def _asking(
    table: BoundTable, requests: Sequence[tuple[PreparedRequest, Sequence[Row]]], database: DatabaseAdapter
) -> list[RowGroup]:
    """The inserts of a table of which some rows are read back, or wait for values of earlier ones."""
    parts = [(request, [row for row in part if row.table is table]) for request, part in requests]
    if not database.reads_some(table, INSERT):
        return group_in_order(parts, database)
    rows = [row for _, part in parts for row in part]
    return [
        RowGroup(table, columns, [row.values for row in run], asking=run)
        for columns, run in _by_columns(table, rows, database)
    ]


def _key_order(table: BoundTable, columns: Sequence[str]) -> Callable[[Sequence[object]], list[str]]:
    """The order of the keys as texts. Rows with one key stay in the order of their arrival."""
    positions = [columns.index(name) for name in table.rule.key if name in columns]
    return lambda values: [str(values[p]) for p in positions]


def _by_columns(
    table: BoundTable, rows: Sequence[Row], database: DatabaseAdapter
) -> Iterable[tuple[tuple[str, ...], Sequence[Row]]]:
    """Rows with different columns share a statement if leaving out a column is the same as sending a null."""
    sets = {row.columns for row in rows}
    if len(sets) == 1:
        return [(rows[0].columns, rows)]
    # An update overwrites only the columns that were sent, so a column that is left out must not become a null.
    pad = set() if table.rule.conflict == "update" else {n for s in sets for n in s if table.columns[n].plain}
    widened = {s: tuple(n for n in table.columns if n in s or n in pad) for s in sets}
    wide = (_widened(row, widened[row.columns], database) for row in rows)
    return [(columns, list(run)) for columns, run in groupby(wide, key=lambda row: row.columns)]


def _widened(row: Row, columns: tuple[str, ...], database: DatabaseAdapter) -> Row:
    """The row with nulls in columns that it has left out."""
    if columns == row.columns or (row.ask is not None and row.ask.references):  # those know their positions
        return row
    sent = dict(zip(row.columns, row.values, strict=True))
    return row._replace(columns=columns, values=[sent.get(name, database.null) for name in columns])


def _passes(group: RowGroup) -> Iterable[RowGroup]:
    """Splits an insert so that no statement has two rows with one key: ON CONFLICT DO UPDATE would reject it."""
    positions = [group.columns.index(name) for name in group.table.rule.key if name in group.columns]
    times: dict[tuple[object, ...], int] = defaultdict(int)
    passes: list[list[Sequence[object]]] = []
    for row in group.rows:
        key = tuple(row[p] for p in positions)
        number = times[key]
        times[key] += 1
        if number == len(passes):
            passes.append([])
        passes[number].append(row)
    return [RowGroup(group.table, group.columns, rows) for rows in passes]
