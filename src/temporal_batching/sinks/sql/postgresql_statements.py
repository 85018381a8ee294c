"""PostgreSQL's statements that write rows, and read them back.

All names come from the database's catalogs and are quoted by SQLAlchemy. A table keeps its statements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa

from temporal_batching.sinks.sql.database import RowGroup
from temporal_batching.sinks.sql.schema import BoundTable
from temporal_batching.sinks.sql.types import array_literal

Columns: TypeAlias = tuple[str, ...]


Make: TypeAlias = Callable[[sa.Engine, BoundTable, Columns, Columns], str | None]


def made_sql(make: Make, engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str | None:
    """A statement of one of the functions below, made once."""
    key = (make.__name__, names, returning)
    if key not in table.statements:
        table.statements[key] = make(engine, table, names, returning)
    sql: str | None = table.statements[key]
    return sql


def insert_statement(engine: sa.Engine, insert: RowGroup) -> tuple[str, list[Any]]:
    """The statement of an insert, and its parameters."""
    table = insert.table
    sql = table.statements.get(insert.columns)
    if sql is None:
        sql = table.statements[insert.columns] = _insert_sql(engine, table, insert.columns)
    if not insert.columns:
        return sql, [len(insert.rows)]
    return sql, [array_literal(values) for values in insert.by_column]


def _insert_sql(engine: sa.Engine, table: BoundTable, names: Sequence[str]) -> str:
    """The insert of any number of rows. All names come from the database's catalogs and are quoted by SQLAlchemy."""
    preparer = engine.dialect.identifier_preparer
    quote = preparer.quote_identifier
    target = preparer.format_table(table.table)
    if not names:
        return f"INSERT INTO {target} SELECT FROM generate_series(1, %s)"
    into = ", ".join(map(quote, names))
    sql = f"INSERT INTO {target} ({into}) {_source(table, names)}"
    rule = table.rule
    if rule.conflict == "error":
        return sql
    key = f" ({', '.join(map(quote, rule.key))})" if rule.key else ""
    updated = table.updated(names)
    if rule.conflict == "ignore" or not updated:
        return f"{sql} ON CONFLICT{key} DO NOTHING"
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in updated)
    return f"{sql} ON CONFLICT{key} DO UPDATE SET {changes}"


def add_sql(engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str:
    """The addition of any number of rows: each row of the table is touched once, however many are added to it.

    Where a conflict overwrites columns, the latest row of a key gives their values, and the first one those of columns
    that only a new row gets. What is read back comes with the position of each row.
    """
    preparer = engine.dialect.identifier_preparer
    quote = preparer.quote_identifier
    value = {name: f"v{i}" for i, name in enumerate(names)}
    added, updated, key = [n for n in names if n in table.rule.add], table.updated(names), table.rule.key
    others = [name for name in names if name not in (*key, *added, *updated)]
    types = {name: _escaped(table.columns[name].type_sql) for name in names}
    by_key = ", ".join(value[name] for name in key)
    sums = ", ".join(f"sum({value[name]})::{types[name]} AS {value[name]}" for name in added)
    first = ", min(n) AS first" + (", max(n) AS last" if updated else "")
    picked = {
        **{name: f"sums.{value[name]}" for name in (*key, *added)},
        **{name: f"latest.{value[name]}" for name in updated},
        **{name: f"earliest.{value[name]}" for name in others},
    }
    joins = " JOIN source AS latest ON latest.n = sums.last" if updated else ""
    joins += " JOIN source AS earliest ON earliest.n = sums.first" if others else ""
    changes = [f"{quote(n)} = COALESCE(target.{quote(n)}, 0) + excluded.{quote(n)}" for n in added]
    changes += [f"{quote(n)} = excluded.{quote(n)}" for n in updated]
    insert = (
        f"INSERT INTO {preparer.format_table(table.table)} AS target ({', '.join(map(quote, names))})"
        f" SELECT {', '.join(picked[name] for name in names)}"
        f" FROM (SELECT {by_key}, {sums}{first} FROM source GROUP BY {by_key}) AS sums{joins}"
        # In the order of the keys, in which the rows were sent: batches that overlap lock rows in one order.
        " ORDER BY sums.first"
        f" ON CONFLICT ({', '.join(map(quote, key))}) DO UPDATE SET {', '.join(changes)}"
    )
    source = f"WITH source AS ({_source(table, names, ordinal=True)})"
    if not returning:
        return f"{source} {insert}"
    columns = [f"target.{quote(name)} AS k{i}" for i, name in enumerate(key)]
    columns += [f"{shown} AS r{i}" for i, shown in enumerate(_shown(engine, table, returning, "target."))]
    matched = " AND ".join(f"written.k{i} = source.{value[name]}" for i, name in enumerate(key))
    return (
        f"{source}, written AS ({insert} RETURNING {', '.join(columns)})"
        f" SELECT source.n, {', '.join(f'written.r{i}' for i in range(len(returning)))}"
        f" FROM source JOIN written ON {matched}"
    )


def update_sql(engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str:
    """The update of any number of rows, each by its key."""
    quote = engine.dialect.identifier_preparer.quote_identifier
    changes = ", ".join(f"{quote(n)} = source.v{i}" for i, n in enumerate(names) if n not in table.rule.key)
    target = engine.dialect.identifier_preparer.format_table(table.table)
    source = _source(table, names, ordinal=True)
    sql = f"UPDATE {target} AS target SET {changes} FROM ({source}) AS source"
    return sql + _where_key(engine, table, names, returning)


def delete_sql(engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str:
    """The delete of any number of rows, each by its key."""
    target = engine.dialect.identifier_preparer.format_table(table.table)
    sql = f"DELETE FROM {target} AS target USING ({_source(table, names, ordinal=True)}) AS source"
    return sql + _where_key(engine, table, names, returning)


def _where_key(engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str:
    quote = engine.dialect.identifier_preparer.quote_identifier
    same = " AND ".join(f"target.{quote(name)} = source.v{names.index(name)}" for name in table.rule.key)
    shown = f" RETURNING source.n, {_picked(engine, table, returning, 'target.')}" if returning else ""
    return f" WHERE {same}{shown}"


def _source(table: BoundTable, names: Sequence[str], *, ordinal: bool = False) -> str:
    """The rows, from one array for each column; with ``ordinal`` each with its position ``n``, from 1."""
    columns = [table.columns[name] for name in names]
    # Arrays of arrays would be flattened, and arrays of composites spread over several columns. So such a column is
    # unnested as text and cast element by element, and so is one whose elements are not separated by commas.
    arrays = ", ".join("%s::text[]" if c.nested else f"%s::{_escaped(c.type_sql)}[]" for c in columns)
    aliases = [f"v{i}" for i in range(len(columns))]
    picks = [f"{v}::{_escaped(c.type_sql)} AS {v}" if c.nested else v for v, c in zip(aliases, columns, strict=True)]
    if ordinal:
        return f"SELECT {', '.join(picks)}, n FROM unnest({arrays}) WITH ORDINALITY AS rows ({', '.join(aliases)}, n)"
    return f"SELECT {', '.join(picks)} FROM unnest({arrays}) AS rows ({', '.join(aliases)})"


def _escaped(type_sql: str) -> str:
    return type_sql.replace("%", "%%")


def _picked(engine: sa.Engine, table: BoundTable, returning: Sequence[str], prefix: str = "") -> str:
    return ", ".join(_shown(engine, table, returning, prefix))


def _shown(engine: sa.Engine, table: BoundTable, returning: Sequence[str], prefix: str = "") -> list[str]:
    quote = engine.dialect.identifier_preparer.quote_identifier
    return [table.columns[name].shown.sql.format(prefix + quote(name)) for name in returning]


def returning_sql(engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str:
    """The insert of one row that is read back."""
    return f"{_insert_sql(engine, table, names)} RETURNING {_picked(engine, table, returning)}"


def merge_sql(engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str:
    """The insert of many rows, each returned with its position: an INSERT can return columns of its target alone."""
    preparer = engine.dialect.identifier_preparer
    source = _source(table, names, ordinal=True)
    into = ", ".join(map(preparer.quote_identifier, names))
    values = ", ".join(f"source.v{i}" for i in range(len(names)))
    return (
        f"MERGE INTO {preparer.format_table(table.table)} AS target USING ({source}) AS source ON false"
        f" WHEN NOT MATCHED THEN INSERT ({into}) VALUES ({values})"
        f" RETURNING source.n, {_picked(engine, table, returning, 'target.')}"
    )


def existing_sql(engine: sa.Engine, table: BoundTable, names: Columns, returning: Columns) -> str | None:
    """The query of the row that a conflict rule with a key has left alone; None where there is no such rule."""
    rule = table.rule
    leaves_alone = rule.conflict == "ignore" or (rule.conflict == "update" and not table.updated(names))
    if not leaves_alone or not rule.key or not set(rule.key) <= set(names):
        return None
    preparer = engine.dialect.identifier_preparer
    types = {name: _escaped(table.columns[name].type_sql) for name in rule.key}
    keys = " AND ".join(f"{preparer.quote_identifier(n)} = (%s::text[])[1]::{types[n]}" for n in rule.key)
    return f"SELECT {_picked(engine, table, returning)} FROM {preparer.format_table(table.table)} WHERE {keys}"
