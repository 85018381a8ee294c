"""Reads PostgreSQL's catalogs: tables, their columns, and the role's privileges."""

from __future__ import annotations

import codecs
import threading
import warnings
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql.privileges import DELETE, needed_privileges
from temporal_batching.sinks.sql.schema import BoundColumn, BoundTable, TableName, TableNames, check_rule
from temporal_batching.sinks.sql.shown import Shown, postgresql_shown
from temporal_batching.sinks.sql.tables import is_a_batchers, leading_to, unique_keys
from temporal_batching.sinks.sql.types import postgresql_binder, postgresql_number

MERGE_RETURNS_SINCE = (17,)
"""The version of PostgreSQL since which MERGE has RETURNING."""


def list_names(connection: sa.Connection, *, own: Iterable[sa.Table], reserved: Iterable[sa.Table]) -> TableNames:
    """Every table that this role may name, and those that are a batcher's own.

    Args:
        connection: To the database.
        own: The sink's own tables.
        reserved: Tables whose columns and key are those of a ledger or of dead letters, of any batcher.
    """
    relations = connection.execute(_RELATIONS).all()
    forbidden = _reserved(connection, relations, own, reserved)
    writable: dict[str, TableName] = {}
    refused: set[str] = set()
    for one in relations:
        if not one.usable:
            continue
        names = [f"{one.schema}.{one.name}", *([one.name] if one.visible else [])]
        if one.oid in forbidden:
            refused.update(names)
        else:
            writable.update(dict.fromkeys(names, TableName(one.schema, one.name)))
    return TableNames(writable, frozenset(refused))


def _reserved(
    connection: sa.Connection, relations: Iterable[sa.Row[Any]], own: Iterable[sa.Table], reserved: Iterable[sa.Table]
) -> set[int]:
    """Ledgers, tables of dead letters, and every relation through which a write may reach one of them."""
    found = {connection.scalar(_OID, {"name": _quoted(connection, table)}) for table in own} - {None}
    for one in relations:
        # The key of a foreign table is unknown.
        key = None if one.kind == "f" else one.key or ()
        if is_a_batchers(one.columns or (), key, reserved):
            found.add(one.oid)
    leads_to: dict[int, set[int]] = {}
    for relation, other in connection.execute(_LEADS_TO):
        leads_to.setdefault(relation, set()).add(other)
    return leading_to(found, leads_to)


def reflect(connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
    """One table's columns and how to bind them."""
    schema, table_name = where
    inspector = sa.inspect(connection)
    types = _reflect_types(inspector, table_name, schema)
    columns: dict[str, BoundColumn] = {}
    for (
        column,
        type_sql,
        array,
        composite,
        delimiter,
        not_null,
        has_default,
        identity,
        generated,
    ) in connection.execute(_COLUMNS, {"schema": schema, "table": table_name}):
        column_type = types[column]
        if array and isinstance(column_type, sa.types.NullType):
            column_type = sa.ARRAY(column_type)  # of elements that SQLAlchemy does not know
        columns[column] = BoundColumn(
            name=column,
            bind=postgresql_binder(column_type, nullable=not not_null, delimiter=delimiter),
            plain=not (has_default or identity),
            generated=bool(generated) or identity == "a",
            type_sql=type_sql,
            nested=array or composite or delimiter != ",",
            shown=Shown("{}::text", str) if composite else postgresql_shown(column_type),
            number=postgresql_number(column_type),
        )
    check_rule(name, columns, rule, map(frozenset, unique_keys(connection, where)))
    plain = connection.scalar(_KIND, {"schema": schema, "table": table_name}) in ("r", "p")
    version = connection.dialect.server_version_info or (0,)
    return BoundTable(
        name,
        sa.Table(table_name, sa.MetaData(), schema=schema),
        columns,
        rule,
        shows_many=plain and rule.conflict == "error" and version >= MERGE_RETURNS_SINCE,
    )


def missing_privileges(connection: sa.Connection, ledger: sa.Table) -> list[str]:
    """The privileges on the ledger that a sink needs and this role does not have."""
    name = _quoted(connection, ledger)
    return [
        privilege
        for privilege in ("SELECT", "INSERT", "UPDATE")
        if not connection.scalar(_PRIVILEGE, {"name": name, "privilege": privilege})
    ]


def missing_to_write(connection: sa.Connection, table: BoundTable) -> list[str]:
    """The privileges on a table that its rule needs and this role does not have on any of its columns."""
    name = _quoted(connection, table.table)
    return [
        privilege
        for privilege in needed_privileges(table.rule)
        if not connection.scalar(
            _PRIVILEGE if privilege == DELETE else _COLUMN_PRIVILEGE, {"name": name, "privilege": privilege}
        )
    ]


def schema_version(connection: sa.Connection) -> object:
    """A value that changes with any table, column, type, or right to see them."""
    return connection.scalar(_VERSION)


def read_codec(connection: sa.Connection) -> str | None:
    """Python's name of the database's encoding; None if it holds every character, or Python does not know it."""
    return codec_of(str(connection.scalar(_ENCODING)))


_reflecting = threading.Lock()


def _reflect_types(inspector: sa.Inspector, table: str, schema: str | None) -> dict[str, sa.types.TypeEngine[Any]]:
    """The columns' types; ``NullType`` for those that SQLAlchemy does not know."""
    # Warning filters belong to the process: two threads that change them concurrently would not restore them.
    with _reflecting, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Did not recognize type", sa.exc.SAWarning)
        return {column["name"]: column["type"] for column in inspector.get_columns(table, schema=schema)}


def _quoted(connection: sa.Connection, table: sa.Table) -> str:
    # The name is a bound value, not part of a statement, so the preparer's doubled percent signs are removed.
    return connection.dialect.identifier_preparer.format_table(table).replace("%%", "%")


def codec_of(encoding: str) -> str | None:
    """Python's name of an encoding of PostgreSQL; None if it holds every character, or Python does not know it."""
    name = encoding.casefold().replace("win", "cp").replace("koi8", "koi8_")
    if name in ("utf8", "sql_ascii"):
        return None
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


_ENCODING = sa.text("SELECT current_setting('server_encoding')")
# Each change of a table, a column, a type's labels, or of what this role may see updates one of these rows.
_VERSION = sa.text(
    "SELECT concat_ws(' ', current_setting('search_path'),"
    " (SELECT sum(hashtext(concat_ws(',', c.oid, c.xmin, c.relname)))"
    "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    " (SELECT sum(hashtext(concat_ws(',', a.attrelid, a.attnum, a.xmin)))"
    "  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE a.attnum > 0 AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    # Unique indexes, which conflict rules need.
    " (SELECT sum(hashtext(concat_ws(',', i.indexrelid, i.xmin)))"
    "  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE i.indisunique AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    # Domains, with their defaults.
    " (SELECT sum(hashtext(concat_ws(',', t.oid, t.xmin)))"
    "  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
    "  WHERE t.typtype = 'd' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    " (SELECT sum(hashtext(concat_ws(',', oid, xmin))) FROM pg_enum),"
    " (SELECT sum(hashtext(concat_ws(',', oid, xmin))) FROM pg_namespace))"
)
_OID = sa.text("SELECT to_regclass(:name)::oid")
_KIND = sa.text(
    "SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = :schema AND c.relname = :table"
)
_PRIVILEGE = sa.text("SELECT has_table_privilege(:name, :privilege)")
_COLUMN_PRIVILEGE = sa.text("SELECT has_any_column_privilege(:name, :privilege)")
# Including relations in schemas that this role may not use: a view in another schema writes with its owner's rights.
_RELATIONS = sa.text(
    "SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,"
    " pg_table_is_visible(c.oid) AS visible, has_schema_privilege(n.oid, 'USAGE') AS usable,"
    " (SELECT array_agg(a.attname::text) FROM pg_attribute a"
    "  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,"
    " (SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid"
    "  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])"
    "  WHERE i.indrelid = c.oid AND i.indisprimary) AS key"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'f')"
    " AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
)
# A view or a rule refers to a table, a parent table includes its children, a partitioned table writes to its
# partitions. Object ids below 16384 belong to the server.
_LEADS_TO = sa.text(
    "SELECT r.ev_class, d.refobjid FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass"
    " AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass"
    " WHERE r.ev_class >= 16384 AND d.refobjid >= 16384 AND d.refobjid <> r.ev_class"
    " UNION SELECT inhrelid, inhparent FROM pg_inherits"
    " UNION SELECT i.inhparent, i.inhrelid FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent"
    " WHERE p.relkind = 'p'"
)
# The type without its length: a cast to varchar(3) would truncate silently, whereas the assignment to the column fails.
_COLUMNS = sa.text(
    "SELECT a.attname, format_type(a.atttypid, -1), t.typcategory = 'A', t.typcategory = 'C', t.typdelim, a.attnotnull,"
    # For a view, a column that is left out gets the default of the table below it. A domain has its own default.
    " a.atthasdef OR t.typdefault IS NOT NULL OR c.relkind = 'v',"
    " a.attidentity, a.attgenerated FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
    " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = :schema AND c.relname = :table AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)
