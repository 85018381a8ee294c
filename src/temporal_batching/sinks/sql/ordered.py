"""The order of statements where rows are updated, deleted or added to.

Three orders can be observed, and are kept: of the records of a request, of the requests of a key, and of everything
that is done to one row. Apart from that a row joins the first statement that can take it, so that a batch has few
statements however its operations alternate.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence

from temporal_batching.contract import INSERT
from temporal_batching.sinks.sql.database import DatabaseAdapter, PreparedRequest, RowGroup
from temporal_batching.sinks.sql.schema import BoundTable, Row


def needs_order(row: Row) -> bool:
    """Whether a row does more than to insert what it has."""
    return row.operation != INSERT or row.table.rule.conflict == "add"


def group_in_order(
    requests: Sequence[tuple[PreparedRequest, Sequence[Row]]], database: DatabaseAdapter
) -> list[RowGroup]:
    """The statements for the rows of these requests, in the order in which they are to be executed."""
    grouping = _Grouping(database)
    for request, rows in requests:
        grouping.add(request, rows)
    return [members.finished() for members in grouping.groups]


class _Members:
    """The rows of a statement.

    Where their order is free it becomes that of their keys, so that batches that overlap lock rows in one order. It is
    not free if two rows are of one request or of one request key: the database may take their keys for equal, though
    they are written differently. Sums and deletes do not mind.
    """

    def __init__(self, group: RowGroup, locks_rows: bool) -> None:
        self._group = group
        self._rows: list[Row] = []
        self._owners: set[Hashable] = set()
        meets_rows = group.operation != INSERT or group.table.rule.conflict != "error"
        self._sortable = locks_rows and meets_rows and set(group.table.rule.key) <= set(group.columns)
        self._any_order = not group.table.updated(group.columns) if group.adds else group.operation == "delete"

    def append(self, row: Row, owner: Hashable, *, sortable: bool) -> None:
        """Adds a row.

        Args:
            row: The row.
            owner: Whose order is promised: its request, or the key of that.
            sortable: Whether its key is known.
        """
        self._rows.append(row)
        bound = owner in self._owners and (not self._any_order or (row.ask is not None and not self._group.adds))
        self._sortable = self._sortable and sortable and not bound
        self._owners.add(owner)

    def finished(self) -> RowGroup:
        """The statement."""
        group, rows = self._group, self._rows
        if self._sortable:
            positions = [group.columns.index(name) for name in group.table.rule.key]
            rows = sorted(rows, key=lambda row: [str(row.values[position]) for position in positions])
        group.rows = [row.values for row in rows]
        if any(row.ask is not None for row in rows):
            group.asking = rows
        return group


class _Grouping:
    """Rows on their way into statements.

    A statement is denoted by its position. A row may join a statement from the position on that its order demands.
    """

    def __init__(self, database: DatabaseAdapter) -> None:
        self.groups: list[_Members] = []
        self._database = database
        self._of_kind: dict[Hashable, list[int]] = {}
        self._of_row: dict[Hashable, int] = {}
        self._of_table: dict[BoundTable, int] = {}
        self._of_key: dict[str, int] = {}
        self._from: dict[BoundTable, int] = {}

    def add(self, request: PreparedRequest, rows: Sequence[Row]) -> None:
        """Adds the rows of a request."""
        first = self._of_key.get(request.key, 0) if request.key else 0
        for row in rows:
            first = self._place(row, first, owner=request.key or request.position)
        if request.key:
            self._of_key[request.key] = first

    def _place(self, row: Row, first: int, *, owner: Hashable) -> int:
        """Adds a row to the first statement from a position on that may take it. Returns that statement's position."""
        table, kind = row.table, _kind_of(row, self._database)
        shares = not self._database.one_update_per_row or _takes_a_row_twice(row)
        first = max(first, self._from.get(table, 0))
        identity, unknown = _identity_of(row)
        if unknown:  # it may be the row of any statement before or after
            last = self._of_table.get(table, -1)
            first = max(first, last if shares else last + 1)
        elif identity is not None and identity in self._of_row:
            last = self._of_row[identity]
            first = max(first, last if shares else last + 1)
        position = self._position_of(kind, row, first)
        self.groups[position].append(row, owner, sortable=not unknown)
        self._of_table[table] = max(position, self._of_table.get(table, 0))
        if unknown:
            self._from[table] = position if shares else position + 1
        elif identity is not None:
            self._of_row[identity] = position
        return position

    def _position_of(self, kind: Hashable, row: Row, first: int) -> int:
        positions = self._of_kind.setdefault(kind, [])
        at = bisect_left(positions, first)
        if at == len(positions):
            positions.append(len(self.groups))
            self.groups.append(
                _Members(RowGroup(row.table, row.columns, [], operation=row.operation), self._database.locks_rows)
            )
        return positions[at]


def _kind_of(row: Row, database: DatabaseAdapter) -> Hashable:
    """What the rows of a statement have in common. Additions share one, whatever is read back of them."""
    mixed = _adds(row) or database.reads_some(row.table, row.operation)
    return row.table, row.operation, row.columns, row.is_read and not mixed


def _adds(row: Row) -> bool:
    return row.operation == INSERT and row.table.rule.conflict == "add"


def _takes_a_row_twice(row: Row) -> bool:
    """Whether one statement may have the same row several times, on every database."""
    if row.operation == INSERT:
        return row.table.rule.conflict != "update"
    return row.operation == "delete" and row.ask is None


def _identity_of(row: Row) -> tuple[Hashable, bool]:
    """What identifies the row in its table, None if nothing does; and whether that is not known yet."""
    key = row.table.rule.key
    if not key and row.table.rule.conflict == "ignore":
        return row.table, False  # any two of its rows may conflict
    if not key or not set(key) <= set(row.columns):
        return None, False
    positions = [row.columns.index(name) for name in key]
    if row.ask is not None and any(position in positions for position, _, _ in row.ask.references):
        return None, True
    return (row.table, *(row.values[position] for position in positions)), False
