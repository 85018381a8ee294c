"""The statements that write to MariaDB: rows as literals, in as few statements as its packets allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.sql.database import RowGroup
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.schema import BoundTable

ROOM = 1024
"""Bytes of a packet that are not the statement's."""


@dataclass(frozen=True, slots=True)
class InsertText:
    """An insert without its rows.

    Attributes:
        head: What precedes the rows.
        tail: What follows them.
        check: A query that fails if the rule's unique index is missing; empty if none is needed. Without the index no
            row would conflict, and rows would be inserted that the rule forbids.
    """

    head: str
    tail: str = ""
    check: str = ""


def quote_name(name: str) -> str:
    """A name as an identifier, in every mode of the server."""
    return f"`{name.replace('`', '``')}`"


def quote_table(schema: str | None, name: str) -> str:
    """A table's name as an identifier."""
    return ".".join(quote_name(part) for part in (schema, name) if part is not None)


def text_of(insert: RowGroup) -> InsertText:
    """The text of an insert, which its table keeps."""
    found = insert.table.statements.get(insert.columns)
    if not isinstance(found, InsertText):
        found = insert.table.statements[insert.columns] = insert_text(insert.table, insert.columns)
    return found


_FAILS = "(SELECT 1 FROM (SELECT 1 AS one UNION ALL SELECT 2) AS two)"
"""An expression that raises an error when it is evaluated, and only then."""


def insert_text(table: BoundTable, columns: Sequence[str]) -> InsertText:
    """The text of an insert of any number of rows.

    ``INSERT IGNORE`` would ignore every error of a row, not only its conflict. ``ON DUPLICATE KEY UPDATE`` applies to
    a conflict with any unique key; so if the rule has one, the row that is there must have the new row's values in it.
    Otherwise an expression fails (`NOT_ONE_ROW`).
    """
    name = quote_table(table.table.schema, table.table.name)
    head = f"INSERT INTO {name} ({_listed(columns)}) VALUES "
    rule = table.rule
    if rule.conflict == "error":
        return InsertText(head)
    changes: list[str] = []
    # The row stays as it is: a column that is set to its own value. Nothing can be set in a generated one.
    kept = quote_name(next(column.name for column in table.columns.values() if not column.generated))
    if rule.key:
        same = " AND ".join(f"{quote_name(column)} <=> VALUES({quote_name(column)})" for column in rule.key)
        changes.append(f"{kept} = IF(IF({same}, 1, {_FAILS}), {kept}, {kept})")
    if rule.conflict == "add":
        added = [quote_name(column) for column in columns if column in rule.add]
        changes += [f"{column} = COALESCE({column}, 0) + VALUES({column})" for column in added]
    if rule.conflict in ("update", "add"):
        changes += [f"{quote_name(column)} = VALUES({quote_name(column)})" for column in table.updated(columns)]
    if not changes:
        changes.append(f"{kept} = {kept}")
    check = f"SELECT 1 FROM {name} FORCE INDEX ({quote_name(table.key_index)}) LIMIT 0" if rule.key else ""
    return InsertText(head, f" ON DUPLICATE KEY UPDATE {', '.join(changes)}", check)


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(quote_name, columns))


def statements(text: InsertText, rows: Iterable[Sequence[str]], packet: int) -> Iterator[str]:
    """The statements that insert these rows.

    Args:
        text: The insert.
        rows: The rows' literals.
        packet: The bytes of the largest packet that the server takes. It closes the connection after a larger one.

    Raises:
        DatabaseFailure: A row is larger than that.
    """
    written = [f"({','.join(row)})" for row in rows]
    for part in in_packets(written, packet - ROOM - 4 * (len(text.head) + len(text.tail))):
        yield f"{text.head}{','.join(part)}{text.tail}"


def in_packets(items: Sequence[str], room: int) -> Iterator[Sequence[str]]:
    """Items in parts of at most so many bytes each, with a comma after each item.

    Raises:
        DatabaseFailure: An item is larger than that.
    """
    # No character has more than four bytes.
    if 4 * sum(map(len, items)) + len(items) <= room:
        if items:
            yield items
        return
    part: list[str] = []
    used = 0
    for item in items:
        size = len(item.encode()) + 1
        if size > room:
            raise DatabaseFailure(
                ErrorClass.REQUEST,
                f"a row of {size:,} bytes: the server takes at most {max(room, 0):,} (max_allowed_packet)",
                code=RejectCode.TOO_LARGE,
            )
        if used + size > room:
            yield part
            part, used = [], 0
        part.append(item)
        used += size
    if part:
        yield part
