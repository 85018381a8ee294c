"""The sink's own tables: their names, their DDL, their creation concurrently with other workers; keys of any table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from temporal_batching.sinks.sql.schema import TableName

T = TypeVar("T")


def is_mariadb(dialect: sa.Dialect) -> bool:
    """Whether the dialect is that of MariaDB; SQLAlchemy has two names for it."""
    return dialect.name in ("mariadb", "mysql")


def has_schemas(dialect: sa.Dialect) -> bool:
    """Whether a table's name may be ``schema.table``. In MariaDB a schema is a database."""
    return dialect.name == "postgresql" or is_mariadb(dialect)


def own_name(name: str, *, schemas: bool) -> TableName:
    """The table that a configured name means: ``schema.table`` only if the database has schemas."""
    schema, dot, table = name.partition(".")
    return TableName(schema, table) if schemas and dot else TableName(None, name)


def is_a_batchers(columns: Iterable[str], key: Collection[str] | None, own: Iterable[sa.Table]) -> bool:
    """Whether a table is a ledger or a table of dead letters, of any batcher: it has all columns that those require.

    Args:
        columns: The table's columns.
        key: The columns of its primary key; None if that is unknown, as for a foreign table. Then the columns decide.
        own: A ledger and a table of dead letters to compare with.
    """
    names = {column.casefold() for column in columns}
    keys = None if key is None else {column.casefold() for column in key}
    return any(
        names >= {column.name for column in table.columns if not column.nullable}
        and (keys is None or keys == {column.name for column in table.primary_key.columns})
        for table in own
    )


def leading_to(targets: Iterable[T], leads_to: Mapping[T, Collection[T]]) -> set[T]:
    """The targets, and everything that leads to one of them directly or indirectly."""
    found = set(targets)
    while more := {one for one, others in leads_to.items() if one not in found and not found.isdisjoint(others)}:
        found |= more
    return found


def unique_keys(connection: sa.Connection, where: TableName) -> list[tuple[str, ...]]:
    """The unique keys of a table, the primary key first.

    Indexes on expressions, partial indexes, and invalid ones of PostgreSQL (still being built, or failed) are left out.
    """
    if is_mariadb(connection.dialect):
        return list(_mariadb_keys(connection, where).values())
    if connection.dialect.name == "postgresql":
        lines = connection.execute(_POSTGRESQL_KEYS, {"schema": where.schema, "table": where.name})
        return list(dict.fromkeys(tuple(columns) for (columns,) in lines))
    inspector = sa.inspect(connection)
    primary = inspector.get_pk_constraint(where.name)["constrained_columns"]
    keys = [tuple(primary)] if primary else []
    for index in inspector.get_indexes(where.name):
        names = index["column_names"]
        partial = index.get("dialect_options", {}).get("sqlite_where") is not None
        if index["unique"] and None not in names and not partial:
            keys.append(tuple(name for name in names if name is not None))
    for constraint in inspector.get_unique_constraints(where.name):
        keys.append(tuple(constraint["column_names"]))
    return list(dict.fromkeys(keys))


def primary_key(connection: sa.Connection, where: TableName) -> tuple[str, ...]:
    """The columns of a table's primary key; none if it has none."""
    if is_mariadb(connection.dialect):
        return _mariadb_keys(connection, where).get("PRIMARY", ())
    return tuple(sa.inspect(connection).get_pk_constraint(where.name, schema=where.schema)["constrained_columns"])


def _mariadb_keys(connection: sa.Connection, where: TableName) -> dict[str, tuple[str, ...]]:
    """Unique keys by the names of their indexes, the primary key first.

    SQLAlchemy would read the statement that creates the table, with types that it does not know.
    """
    keys: dict[str, tuple[str | None, ...]] = {}
    for index, column, part in connection.execute(_MARIADB_KEYS, {"schema": where.schema, "table": where.name}):
        keys[index] = (*keys.get(index, ()), None if part else column)
    # A key of a column's first characters is no key of the column.
    whole = {index: tuple(filter(None, columns)) for index, columns in keys.items() if None not in columns}
    return dict(sorted(whole.items(), key=lambda pair: pair[0] != "PRIMARY"))


# Not by SQLAlchemy, which tells only from 2.1 on that an index is invalid. `INCLUDE` columns follow those of the key.
_POSTGRESQL_KEYS = sa.text(
    "SELECT ARRAY(SELECT a.attname::text FROM generate_series(0, i.indnkeyatts - 1) AS place"
    " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[place] ORDER BY place)"
    " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_class k ON k.oid = i.indexrelid"
    " WHERE c.relname = :table AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL"
    " AND (n.nspname = CAST(:schema AS text) OR CAST(:schema AS text) IS NULL AND pg_table_is_visible(c.oid))"
    " ORDER BY NOT i.indisprimary, k.relname"
)
_MARIADB_KEYS = sa.text(
    "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS WHERE NON_UNIQUE = 0"
    " AND TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table ORDER BY INDEX_NAME, SEQ_IN_INDEX"
)


def table_ddl(table: sa.Table, dialect: sa.Dialect) -> str:
    """The statement that creates a table unless it exists."""
    return str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip() + ";"


def exists(connection: sa.Connection, table: sa.Table) -> bool:
    """Whether the database has the table."""
    return sa.inspect(connection).has_table(table.name, schema=table.schema)


def create(connection: sa.Connection, table: sa.Table) -> None:
    """Creates a table that did not exist a moment ago. Commits where no transaction is open; otherwise the caller does.

    Raises:
        sqlalchemy.exc.DBAPIError: It could not be created, and does not exist.
    """
    if is_mariadb(connection.dialect):
        # DDL ends the transaction with its savepoints, and IF NOT EXISTS has no race.
        connection.execute(CreateTable(table, if_not_exists=True))
        return
    connection.exec_driver_sql("SAVEPOINT creating")
    try:
        connection.execute(CreateTable(table))
    except sa.exc.DBAPIError:
        # SQLAlchemy does not release a savepoint that it rolls back to. In SQLite the savepoint is the transaction,
        # and nothing would commit it.
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT creating")
        connection.exec_driver_sql("RELEASE SAVEPOINT creating")
        # Another worker may have created it meanwhile. CREATE TABLE IF NOT EXISTS fails in that race too.
        if not exists(connection, table):
            raise
    else:
        connection.exec_driver_sql("RELEASE SAVEPOINT creating")
