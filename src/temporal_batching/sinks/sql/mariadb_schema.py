"""Reads MariaDB's catalog: tables, their columns and keys, and the role's privileges.

A name that a request uses is that of a table in the connection's database, or ``database.table``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql.mariadb_errors import PRIVILEGE_MISSING, error_number
from temporal_batching.sinks.sql.mariadb_types import ColumnType, mariadb_binder, mariadb_number
from temporal_batching.sinks.sql.privileges import DELETE, INSERT_ROWS, SELECT, UPDATE, needed_privileges
from temporal_batching.sinks.sql.schema import BoundColumn, BoundTable, TableName, TableNames, check_rule
from temporal_batching.sinks.sql.shown import mariadb_shown
from temporal_batching.sinks.sql.tables import is_a_batchers, leading_to, unique_keys

ENGINE = "InnoDB"
"""The only storage engine that the sink writes to: ledger and rows must share transactions and savepoints."""

_Place = tuple[str, str]
"""A table's database and name."""


def list_names(connection: sa.Connection, *, own: Iterable[sa.Table], reserved: Iterable[sa.Table]) -> TableNames:
    """Every table that this role may name, those that are a batcher's own, and those that cannot be written to.

    Args:
        connection: To the database.
        own: The sink's own tables.
        reserved: Tables whose columns and key are those of a ledger or of dead letters, of any batcher.
    """
    here = connection.scalar(_DATABASE)
    relations: dict[_Place, str | None] = {(row[0], row[1]): row[2] for row in connection.execute(_RELATIONS)}
    views: dict[_Place, str] = {(row[0], row[1]): row[2] or "" for row in connection.execute(_VIEWS)}
    forbidden = _reserved(connection, here, views, own, reserved)
    unfit = _unfit(relations, views)
    writable: dict[str, TableName] = {}
    unwritable: dict[str, str] = {}
    refused: set[str] = set()
    for place in relations:
        database, name = place
        names = [f"{database}.{name}", *([name] if database == here else [])]
        if place in forbidden:
            refused.update(names)
        elif place in unfit:
            unwritable.update(dict.fromkeys(names, unfit[place]))
        else:
            writable.update(dict.fromkeys(names, TableName(database, name)))
    return TableNames(writable, frozenset(refused), unwritable)


def _reserved(
    connection: sa.Connection,
    here: str | None,
    views: Mapping[_Place, str],
    own: Iterable[sa.Table],
    reserved: Iterable[sa.Table],
) -> set[_Place]:
    """Ledgers, tables of dead letters, and views through which a write may reach one of them."""
    columns: dict[_Place, list[str]] = {}
    keys: dict[_Place, list[str]] = {}
    for database, table, column, is_key in connection.execute(_NAMES_OF_COLUMNS):
        columns.setdefault((database, table), []).append(column)
        if is_key:
            keys.setdefault((database, table), []).append(column)
    found = {(table.schema or here or "", table.name) for table in own}
    found.update(place for place, names in columns.items() if is_a_batchers(names, keys.get(place, ()), reserved))
    return leading_to(found, {view: _read_by(text, (*found, *views)) for view, text in views.items()})


def _read_by(definition: str, places: Iterable[_Place]) -> set[_Place]:
    """The tables and views that a view reads: its definition has their full names, quoted."""
    return {place for place in places if ".".join(f"`{part.replace('`', '``')}`" for part in place) in definition}


def _unfit(relations: Mapping[_Place, str | None], views: Mapping[_Place, str]) -> dict[_Place, str]:
    """Why tables cannot be written to: another storage engine, or a view that may lead to one."""
    unfit: dict[_Place, str] = {}
    for place, engine in relations.items():
        if place not in views and engine != ENGINE:
            kept = f"is kept by the storage engine {engine}" if engine else "has no storage engine"
            unfit[place] = f"{kept}, which does not share {ENGINE}'s transactions"
    for view, text in views.items():
        if not text:
            unfit[view] = "is a view whose definition this role may not see (SHOW VIEW)"
    reads = {view: _read_by(text, relations) for view, text in views.items()}
    for view in leading_to(unfit, reads) - set(unfit):
        unfit[view] = f"is a view of a table that {ENGINE} does not keep"
    return unfit


def reflect(connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
    """One table's columns and how to bind them."""
    parameters = {"schema": where.schema, "table": where.name}
    checks = [clause for (clause,) in connection.execute(_CHECKS, parameters)]
    columns: dict[str, BoundColumn] = {}
    for row in connection.execute(_COLUMNS, parameters):
        kind = str(row.kind).lower()
        # JSON is a LONGTEXT with this check.
        is_json = kind == "longtext" and any(
            f"json_valid(`{row.name.replace('`', '``')}`)" in clause for clause in checks
        )
        nullable = row.nullable == "YES"
        extra = str(row.extra or "").lower()
        column_type = ColumnType(
            kind=kind,
            declared=row.declared,
            precision=row.digits,
            scale=row.scale,
            length=row.length,
            json=is_json,
            nullable=nullable,
        )
        columns[row.name] = BoundColumn(
            name=row.name,
            bind=mariadb_binder(column_type),
            # An ENUM that is NOT NULL has its first label as its default.
            plain=nullable and row.has_no_default and "auto_increment" not in extra,
            generated="generated" in extra or bool(row.generation),
            shown=mariadb_shown(kind, row.declared, json=is_json),
            number=mariadb_number(column_type),
        )
    check_rule(name, columns, rule, map(frozenset, unique_keys(connection, where)))
    table = sa.Table(where.name, sa.MetaData(), schema=where.schema)
    return BoundTable(name, table, columns, rule, key_index=_index_of(connection, where, rule) if rule.key else "")


def _index_of(connection: sa.Connection, where: TableName, rule: TableRule) -> str:
    """The name of the unique index over a rule's key; empty if it has none."""
    indexes: dict[str, set[str]] = {}
    for index, column in connection.execute(_UNIQUE, {"schema": where.schema, "table": where.name}):
        indexes.setdefault(index, set()).add(column)
    return next((index for index, columns in indexes.items() if columns == set(rule.key)), "")


def schema_version(connection: sa.Connection) -> object:
    """A value that changes with any table, column, unique key, or right to see them."""
    return tuple(connection.execute(_VERSION).one())


def missing_privileges(connection: sa.Connection, ledger: sa.Table) -> list[str]:
    """The privileges on the ledger that a sink needs and this role does not have.

    Grants come from roles, databases and wildcards, so each privilege is tried, on no row.
    """
    table = connection.dialect.identifier_preparer.format_table(ledger)
    columns = ", ".join(column.name for column in ledger.columns)
    tries = {
        "SELECT": f"SELECT {columns} FROM {table} WHERE 0 = 1",
        "INSERT": f"INSERT INTO {table} ({columns}) SELECT '', '', '', '', NOW(), NULL FROM DUAL WHERE 0 = 1",
        "UPDATE": f"UPDATE {table} SET {', '.join(f'{c.name} = NULL' for c in ledger.columns)} WHERE 0 = 1",
    }
    return _refused(connection, tries)


def missing_to_write(connection: sa.Connection, table: BoundTable) -> list[str]:
    """The privileges on a table that its rule needs and this role has on none of its columns.

    A privilege may be granted on some columns alone: those of a statement are tried one after the other.
    """
    preparer = connection.dialect.identifier_preparer
    name = preparer.format_table(table.table)
    columns = [preparer.quote(column.name) for column in table.columns.values() if not column.generated]
    tries = {
        SELECT: [f"SELECT {column} FROM {name} WHERE 0 = 1" for column in columns],
        INSERT_ROWS: [f"INSERT INTO {name} ({column}) SELECT NULL FROM DUAL WHERE 0 = 1" for column in columns],
        UPDATE: [f"UPDATE {name} SET {column} = NULL WHERE 0 = 1" for column in columns],
        DELETE: [f"DELETE FROM {name} WHERE 0 = 1"],
    }
    return [
        privilege
        for privilege in needed_privileges(table.rule, ignores_by_update=True)
        if all(_refused(connection, {privilege: statement}) for statement in tries[privilege])
    ]


def _refused(connection: sa.Connection, tries: Mapping[str, str]) -> list[str]:
    """The privileges whose statements this role may not execute."""
    missing = []
    for privilege, statement in tries.items():
        try:
            connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as err:
            if error_number(err) not in PRIVILEGE_MISSING:
                raise
            missing.append(privilege)
    return missing


def ledger_fault(connection: sa.Connection, ledger: sa.Table) -> str | None:
    """Why a table with a ledger's columns cannot be one, or None."""
    place = {"schema": ledger.schema, "table": ledger.name}
    engine = connection.scalar(_ENGINE_OF, place)
    if engine != ENGINE:
        return f"is kept by the storage engine {engine}: it must be {ENGINE}, which has transactions"
    kind, length = connection.execute(_TYPE_OF_ID, place).one()
    if kind != "varbinary" or length < 1024:
        return (
            f"has request ids of type {kind}({length}): they must be VARBINARY(1024), because other types take 'A' for "
            "'a' or 'a' for 'a ', or hold no long ids"
        )
    return None


_SYSTEM = "('information_schema', 'performance_schema', 'mysql', 'sys')"
_DATABASE = sa.text("SELECT DATABASE()")
_RELATIONS = sa.text(
    f"SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN {_SYSTEM}"
    " AND TABLE_TYPE IN ('BASE TABLE', 'VIEW', 'SYSTEM VERSIONED')"
)
_VIEWS = sa.text(
    "SELECT TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION FROM information_schema.VIEWS"
    f" WHERE TABLE_SCHEMA NOT IN {_SYSTEM}"
)
_NAMES_OF_COLUMNS = sa.text(
    "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_KEY = 'PRI' FROM information_schema.COLUMNS"
    f" WHERE TABLE_SCHEMA NOT IN {_SYSTEM}"
)
_COLUMNS = sa.text(
    "SELECT c.COLUMN_NAME AS name, c.DATA_TYPE AS kind, c.COLUMN_TYPE AS declared, c.IS_NULLABLE AS nullable,"
    " COALESCE(c.COLUMN_DEFAULT, 'NULL') = 'NULL' AND t.TABLE_TYPE <> 'VIEW' AS has_no_default,"
    " c.EXTRA AS extra, c.GENERATION_EXPRESSION AS generation,"
    " c.NUMERIC_PRECISION AS digits, c.NUMERIC_SCALE AS scale, c.CHARACTER_MAXIMUM_LENGTH AS length"
    " FROM information_schema.COLUMNS c"
    " JOIN information_schema.TABLES t USING (TABLE_SCHEMA, TABLE_NAME)"
    " WHERE c.TABLE_SCHEMA = :schema AND c.TABLE_NAME = :table ORDER BY c.ORDINAL_POSITION"
)
_CHECKS = sa.text(
    "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS"
    " WHERE CONSTRAINT_SCHEMA = :schema AND TABLE_NAME = :table"
)
_VERSION = sa.text(
    "SELECT DATABASE(),"
    " (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT_WS(',', TABLE_SCHEMA, TABLE_NAME, ENGINE))))"
    f"  FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN {_SYSTEM}),"
    " (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT_WS(',', TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION, COLUMN_NAME,"
    "  COLUMN_TYPE, COLUMN_KEY, IS_NULLABLE, COLUMN_DEFAULT, EXTRA, GENERATION_EXPRESSION, CHARACTER_SET_NAME))))"
    f"  FROM information_schema.COLUMNS WHERE TABLE_SCHEMA NOT IN {_SYSTEM}),"
    # Unique indexes, which conflict rules need.
    " (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT_WS(',', TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX,"
    "  COLUMN_NAME, SUB_PART)))) FROM information_schema.STATISTICS"
    f"  WHERE NON_UNIQUE = 0 AND TABLE_SCHEMA NOT IN {_SYSTEM}),"
    " (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT_WS(',', TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION))))"
    f"  FROM information_schema.VIEWS WHERE TABLE_SCHEMA NOT IN {_SYSTEM})"
)
_UNIQUE = sa.text(
    "SELECT INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS"
    " WHERE TABLE_SCHEMA = :schema AND TABLE_NAME = :table AND NON_UNIQUE = 0"
)
_ENGINE_OF = sa.text(
    "SELECT ENGINE FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table"
)
_TYPE_OF_ID = sa.text(
    "SELECT DATA_TYPE, COALESCE(CHARACTER_MAXIMUM_LENGTH, 0) FROM information_schema.COLUMNS"
    " WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table AND COLUMN_NAME = 'request_id'"
)
