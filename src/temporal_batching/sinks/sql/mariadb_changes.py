"""MariaDB's updates and deletes, and the rows of additions.

An update has no list of rows as an insert has, and a row of literals that is joined is not compared as a literal is. So
each row has a statement of its own, and many of them are sent as one compound statement: one round trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from temporal_batching.sinks.sql.changes import key_and_others
from temporal_batching.sinks.sql.database import RowGroup
from temporal_batching.sinks.sql.mariadb_statements import ROOM, in_packets, quote_name, quote_table
from temporal_batching.sinks.sql.schema import BoundTable

MISSING_ROW = 27_411
"""The number of the error that a compound statement raises if an update has found no row. No server uses it."""

CHANGES = "SAVEPOINT temporal_batching_changes"
"""What a compound statement begins with. One that has met a lock has changed rows; they are undone before a retry."""

KEYS = 500
"""Keys in one delete. From 1,000 on MariaDB plans a list as a join, which may lock rows that are not in the list."""

_UPDATED = "temporal_batching_updated"  # a variable hides columns of its name


def merge(table: BoundTable, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> dict[tuple[Any, ...], list[str]]:
    """One row for each key: its sums, the latest of what a conflict overwrites, the first of everything else.

    The sums are expressions of literals: the server adds whole numbers and decimals exactly. Keys are the same if their
    literals are; others that the server takes for equal are added one after the other.
    """
    key, others = key_and_others(table, columns)
    updated = set(table.updated(columns))
    merged: dict[tuple[Any, ...], list[str]] = {}
    terms: dict[tuple[Any, ...], list[list[str]]] = {}
    added = [position for position in others if columns[position] in table.rule.add]
    for row in rows:
        identity = tuple(row[position] for position in key)
        there = merged.setdefault(identity, list(row))
        for number, position in enumerate(added):
            terms.setdefault(identity, [[] for _ in added])[number].append(row[position])
        for position in others:
            if columns[position] in updated:
                there[position] = row[position]
    for identity, parts in terms.items():
        for position, part in zip(added, parts, strict=True):
            merged[identity][position] = _sum(part)
    return merged


def _sum(terms: Sequence[str]) -> str:
    """The sum as a balanced tree: a chain of 1,000 additions would overrun the server's stack."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return f"({_sum(terms[:middle])}+{_sum(terms[middle:])})"


def change_sql(group: RowGroup, row: Sequence[str]) -> str:
    """The update or the delete of one row."""
    table = group.table
    name = quote_table(table.table.schema, table.table.name)
    _, others = key_and_others(table, group.columns)
    if group.operation == "delete":
        return f"DELETE FROM {name}{where_key(group, row)}"
    changes = ", ".join(f"{quote_name(group.columns[position])} = {row[position]}" for position in others)
    return f"UPDATE {name} SET {changes}{where_key(group, row)}"


def where_key(group: RowGroup, row: Sequence[str]) -> str:
    """The condition that names the row."""
    key, _ = key_and_others(group.table, group.columns)
    return " WHERE " + " AND ".join(f"{quote_name(group.columns[position])} = {row[position]}" for position in key)


def compounds(group: RowGroup, packet: int) -> Iterator[str]:
    """The fewest statements that update or delete these rows.

    Args:
        group: The rows.
        packet: The bytes of the largest packet that the server takes.

    Raises:
        DatabaseFailure: A row is larger than that.
    """
    if group.operation == "delete" and len(group.columns) == 1:
        name = quote_table(group.table.table.schema, group.table.table.name)
        head = f"DELETE FROM {name} WHERE {quote_name(group.columns[0])} IN ("
        for start in range(0, len(group.rows), KEYS):
            keys = [row[0] for row in group.rows[start : start + KEYS]]
            for part in in_packets(keys, packet - ROOM - 4 * len(head)):
                yield f"{head}{','.join(part)})"
        return
    count = f" SET {_UPDATED} = {_UPDATED} + ROW_COUNT();" if group.operation == "update" else ""
    parts = [f"{change_sql(group, row)};{count}" for row in group.rows]
    for part in in_packets(parts, packet - 2 * ROOM):
        yield _compound(part, counted=bool(count))


def _compound(statements: Sequence[str], *, counted: bool) -> str:
    declared = f"DECLARE {_UPDATED} INT DEFAULT 0; " if counted else ""
    check = (
        f" IF {_UPDATED} <> {len(statements)} THEN"
        f" SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {MISSING_ROW}, MESSAGE_TEXT = 'a row is missing'; END IF;"
        if counted
        else ""
    )
    return f"BEGIN NOT ATOMIC {declared}{CHANGES}; {' '.join(statements)}{check} END"
