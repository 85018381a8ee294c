"""Reads SQLite's schema: tables, their columns and keys, and what their triggers write to."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql.schema import BoundColumn, BoundTable, TableName, TableNames, check_rule
from temporal_batching.sinks.sql.shown import sqlite_shown
from temporal_batching.sinks.sql.tables import is_a_batchers, unique_keys
from temporal_batching.sinks.sql.types import sqlite_binder, sqlite_number


class _AsBound(sa.types.UserDefinedType[Any]):
    """The type of a column whose values are bound already: SQLAlchemy's types would turn decimals into floats."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        raise NotImplementedError


def list_names(connection: sa.Connection, *, own: Iterable[sa.Table], reserved: Iterable[sa.Table]) -> TableNames:
    """Every table that a request could name, and those that are a batcher's own.

    Args:
        connection: To the database.
        own: The sink's own tables.
        reserved: Tables whose columns and key are those of a ledger or of dead letters, of any batcher.
    """
    names = _user_tables(connection)
    forbidden = _reserved(connection, names, own, list(reserved))
    writable = {name: TableName(None, name) for name in names if name.casefold() not in forbidden}
    return TableNames(writable, frozenset(name for name in names if name.casefold() in forbidden))


def _reserved(
    connection: sa.Connection, names: Sequence[str], own: Iterable[sa.Table], reserved: Sequence[sa.Table]
) -> set[str]:
    """Ledgers, tables of dead letters, views over them, and relations with a trigger that writes to one.

    The names are in lower case.
    """
    found = {table.name.casefold() for table in own}
    for name in names:
        columns = _columns_of(connection, name)
        if is_a_batchers([column for column, _ in columns], [c for c, key in columns if key], reserved):
            found.add(name.casefold())
    return found.union(
        name.casefold() for name in connection.scalars(_INDIRECT) if not found.isdisjoint(touched(connection, name))
    )


def reflect(connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
    """One table's columns and how to bind them."""
    table = sa.Table(where.name, sa.MetaData())
    columns: dict[str, BoundColumn] = {}
    strict = _is_strict(connection, where.name)
    for column, declared, not_null, default, key, hidden in connection.execute(_COLUMNS, {"name": where.name}):
        if hidden == HIDDEN:
            continue
        columns[column] = BoundColumn(
            name=column,
            bind=sqlite_binder(declared, nullable=not not_null and not key, strict=strict),
            # A null in an INTEGER PRIMARY KEY is a new id. In other columns it is the same as leaving it out.
            plain=default is None,
            generated=hidden in (2, 3),
            shown=sqlite_shown(declared),
            number=sqlite_number(declared),
        )
        table.append_column(sa.Column(column, _AsBound()))
    check_rule(name, columns, rule, map(frozenset, unique_keys(connection, where)))
    return BoundTable(name, table, columns, rule, identified_by=_identity_of(connection, where.name, columns))


def _columns_of(connection: sa.Connection, name: str) -> list[tuple[str, bool]]:
    """The columns, each with whether it belongs to the primary key."""
    with suppress(sa.exc.DBAPIError):  # a view over a table that was dropped has none
        return [(row.name, bool(row.pk)) for row in connection.execute(_COLUMNS, {"name": name})]
    return []


def touched(connection: sa.Connection, name: str) -> set[str]:
    """The tables that a view reads, and those that a write to a view or a table writes to, including its triggers.

    SQLite calls its authorizer for every table when it compiles a statement, including those in nested triggers. The
    statements are explained, not executed.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    quote = connection.dialect.identifier_preparer.quote_identifier
    tables: set[str] = set()
    actions = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}

    def note(action: int, table: str | None, *_: object) -> int:
        if table is not None and action in actions:
            tables.add(table.casefold())
        return sqlite3.SQLITE_OK

    statements = [f"INSERT INTO {quote(name)} DEFAULT VALUES", f"DELETE FROM {quote(name)}"]
    statements += [f"UPDATE {quote(name)} SET {quote(column)} = NULL" for column, _ in _columns_of(connection, name)]
    is_view = connection.scalar(_IS_VIEW, {"name": name})
    if is_view:
        statements.append(f"SELECT * FROM {quote(name)}")
        actions.add(sqlite3.SQLITE_READ)
    driver.set_authorizer(note)
    try:
        for statement in statements:
            with suppress(sqlite3.Error):  # the view does not support the statement, or its table was dropped
                driver.execute(f"EXPLAIN {statement}").close()
    finally:
        driver.set_authorizer(None)
    return tables - {name.casefold()}


_COLUMNS = sa.text('SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(:name) ORDER BY cid')

HIDDEN = 1
"""Marks a hidden column of a virtual table. FTS5 runs commands from one: ``delete-all`` empties the index."""

TABLE_LIST_SINCE = (3, 37, 0)


def _user_tables(connection: sa.Connection) -> list[str]:
    """Tables and views, without SQLite's own tables and without the shadow tables of virtual tables."""
    if sqlite3.sqlite_version_info >= TABLE_LIST_SINCE:
        return list(connection.scalars(_TABLES))
    inspector = sa.inspect(connection)
    virtual = connection.scalars(_VIRTUAL).all()
    names = [*inspector.get_table_names(), *inspector.get_view_names()]
    return [n for n in names if not any(n.casefold().startswith(f"{v.casefold()}_") for v in virtual)]


def _identity_of(connection: sa.Connection, name: str, columns: Collection[str]) -> tuple[str, ...]:
    """What identifies a row: a name of its rowid, or the primary key of a table without one. Empty for a view."""
    if connection.scalar(_IS_VIEW, {"name": name}):
        return ()
    quoted = connection.dialect.identifier_preparer.quote_identifier(name)
    taken = {column.casefold() for column in columns}
    for rowid in ("rowid", "_rowid_", "oid"):
        if rowid not in taken:
            with suppress(sa.exc.DBAPIError):  # WITHOUT ROWID
                connection.exec_driver_sql(f"SELECT {rowid} FROM {quoted} LIMIT 0").close()
                return (rowid,)
            break
    return tuple(column for column, in_key in _columns_of(connection, name) if in_key)


def _is_strict(connection: sa.Connection, name: str) -> bool:
    if sqlite3.sqlite_version_info < TABLE_LIST_SINCE:
        return False  # STRICT and the list came with the same release
    return bool(connection.scalar(_STRICT, {"name": name}))


_TABLES = sa.text(
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type <> 'shadow' AND substr(name, 1, 7) <> 'sqlite_'"
)
_INDIRECT = sa.text(
    "SELECT name FROM sqlite_master WHERE type = 'view' UNION SELECT tbl_name FROM sqlite_master WHERE type = 'trigger'"
)
_IS_VIEW = sa.text("SELECT 1 FROM sqlite_master WHERE type = 'view' AND name = :name COLLATE NOCASE")
_STRICT = sa.text("SELECT strict FROM pragma_table_list(:name) WHERE schema = 'main'")
_VIRTUAL = sa.text("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%'")
