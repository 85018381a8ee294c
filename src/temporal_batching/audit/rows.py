"""Which rows hold what a record asked for: asked of the database itself, which alone knows what a value becomes in it.

A record's values are bound as the sink binds them, and are given the column's own type before they are compared. Rows
are found by the primary key or a unique key if the record brings all of it, otherwise by all of its values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from temporal_batching.contract import Record
from temporal_batching.sinks.sql.database import DatabaseAdapter
from temporal_batching.sinks.sql.schema import BoundTable, Misfit, TableName, TableRule
from temporal_batching.sinks.sql.types import PG_NULL, array_literal

PAGE = 5_000
"""Rows in one page of a table that is read from end to end."""


class NotCheckable(Exception):
    """A table or a record that cannot be looked up; the message says why, without values."""


@dataclass(frozen=True)
class Target:
    """A table of the deployment.

    Attributes:
        bound: As the sink writes to it.
        where: Its name in the database.
        unique: The keys by which at most one row can be found, the primary one first.
        primary: The primary key's columns.
    """

    bound: BoundTable
    where: TableName
    unique: Sequence[tuple[str, ...]]
    primary: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A row for a record.

    Attributes:
        row: Names the row for as long as nobody writes.
        differs: The columns that hold something else than was asked for.
    """

    row: str
    differs: tuple[str, ...] = ()


class Tables:
    """The deployment's tables, looked at when they are first needed."""

    def __init__(self, connection: sa.Connection, database: DatabaseAdapter, rules: Mapping[str, TableRule]) -> None:
        self._connection = connection
        self._database = database
        self._rules = rules
        self._names = database.list_names(connection)
        self._targets: dict[str, Target] = {}

    def get(self, name: str) -> Target:
        """The table that requests call so.

        Raises:
            NotCheckable: There is none.
            SinkConfigurationError: Its rule does not fit it.
        """
        target = self._targets.get(name)
        if target is None:
            where = self._names.get(name)
            if where is None:
                raise NotCheckable("no table of this name is in the database")
            bound = self._database.reflect(self._connection, name, where, self._rules.get(name, TableRule()))
            inspector = sa.inspect(self._connection)
            primary = tuple(inspector.get_pk_constraint(where.name, schema=where.schema)["constrained_columns"])
            unique = [primary] if primary else []
            for index in inspector.get_indexes(where.name, schema=where.schema):
                names = index["column_names"]
                partial = any(index["dialect_options"].get(f"{d}_where") is not None for d in ("sqlite", "postgresql"))
                if index["unique"] and not partial and None not in names:
                    included = index["dialect_options"].get("postgresql_include") or ()
                    unique.append(tuple(n for n in names if n is not None and n not in included))
            for constraint in inspector.get_unique_constraints(where.name, schema=where.schema):
                unique.append(tuple(constraint["column_names"]))
            target = self._targets[name] = Target(bound, where, list(dict.fromkeys(unique)), primary)
        return target

    def used(self) -> list[Target]:
        return list(self._targets.values())


def bind(target: Target, record: Record) -> tuple[tuple[str, ...], list[Any]]:
    """A record's columns and their values as the sink binds them.

    Raises:
        NotCheckable: The table would not take it, as it is now.
    """
    try:
        row = target.bound.bind(record)
    except Misfit as misfit:
        raise NotCheckable(f"a record does not fit the table as it is now ({misfit.code})") from None
    return row.columns, row.values


def key_for(target: Target, columns: Sequence[str], values: Sequence[Any], null: Any) -> tuple[str, ...]:
    """The columns by which to find its row: a unique key that it brings, or else nothing."""
    brought = {name for name, value in zip(columns, values, strict=True) if value is not null and value != null}
    return next((key for key in target.unique if brought.issuperset(key)), ())


class Finder(ABC):
    """Looks rows up in one kind of database."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @abstractmethod
    def find(
        self, target: Target, columns: tuple[str, ...], key: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> list[list[Found]]:
        """The rows for each record. By a key at most one, with what differs; by all values those that hold them.

        Raises:
            NotCheckable: The rows of this table have no names.
            sqlalchemy.exc.DBAPIError: The database does not let itself be asked.
        """

    @abstractmethod
    def pages(self, target: Target) -> Iterator[list[tuple[str, str]]]:
        """All rows of a table: each one's name, and its primary key for people."""

    def _quote(self, name: str) -> str:
        return self._connection.dialect.identifier_preparer.quote_identifier(name)

    def _table(self, target: Target) -> str:
        return self._connection.dialect.identifier_preparer.format_table(target.bound.table)


class SqliteFinder(Finder):
    """Puts the wanted values into a temporary table with the columns' affinities, and joins."""

    def find(
        self, target: Target, columns: tuple[str, ...], key: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> list[list[Found]]:
        name = self._row_name(target)
        quoted = [self._quote(column) for column in columns]
        fields = ", ".join(f"{column} AS v{i}" for i, column in enumerate(quoted))
        run = self._connection.exec_driver_sql
        run("DROP TABLE IF EXISTS temp.audit_wanted")
        run(f"CREATE TEMP TABLE audit_wanted AS SELECT 0 AS n, {fields} FROM {self._table(target)} WHERE 0")
        marks = ", ".join("?" * (len(columns) + 1))
        run(f"INSERT INTO temp.audit_wanted VALUES ({marks})", [(n, *row) for n, row in enumerate(rows)])
        # What stands on the left decides by which collation is compared: a key by its own, a value byte by byte.
        same = [f"w.v{i} IS t.{column}" for i, column in enumerate(quoted)]
        if key:
            conditions = [f"t.{self._quote(column)} = w.v{columns.index(column)}" for column in key]
        else:
            first = self._indexed(target, columns)
            conditions = [f"t.{self._quote(first)} IS w.v{columns.index(first)}"] if first else []
            conditions += same
            if not first:
                values = ", ".join(f"v{i}" for i in range(len(columns)))
                run(f"CREATE INDEX temp.audit_by_value ON audit_wanted ({values})")
        found: list[list[Found]] = [[] for _ in rows]
        query = (
            f"SELECT w.n, {name}, {', '.join(same)} FROM temp.audit_wanted AS w, {self._table(target)} AS t"
            f" WHERE {' AND '.join(conditions)}"
        )
        for n, row, *equal in run(query):
            differs = tuple(column for column, same in zip(columns, equal, strict=True) if not same)
            found[n].append(Found(str(row), differs))
        return found

    def _indexed(self, target: Target, columns: Sequence[str]) -> str:
        """A column that leads some index."""
        for index in sa.inspect(self._connection).get_indexes(target.where.name):
            partial = index["dialect_options"].get("sqlite_where") is not None
            if index["column_names"] and index["column_names"][0] in columns and not partial:
                return str(index["column_names"][0])
        return ""

    def _row_name(self, target: Target) -> str:
        try:
            self._connection.exec_driver_sql(f"SELECT rowid FROM {self._table(target)} LIMIT 0")
        except sa.exc.OperationalError:
            if not target.primary:
                raise NotCheckable("it is a view: its rows have no identity") from None
            return " || ',' || ".join(f"quote(t.{self._quote(column)})" for column in target.primary)
        return "t.rowid"

    def pages(self, target: Target) -> Iterator[list[tuple[str, str]]]:
        key = [f"quote(t.{self._quote(column)})" for column in target.primary] or ["'row ' || t.rowid"]
        shown = " || ', ' || ".join(key)
        query = f"SELECT {self._row_name(target)}, {shown} FROM {self._table(target)} AS t"
        result = self._connection.exec_driver_sql(query)
        while page := result.fetchmany(PAGE):
            yield [(str(row), str(shown)) for row, shown in page]


class PostgresqlFinder(Finder):
    """Sends the wanted values as one array of text for each column, and joins."""

    def find(
        self, target: Target, columns: tuple[str, ...], key: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> list[list[Found]]:
        types = self._types(target)
        found: list[list[Found]] = [[] for _ in rows]
        if key or not rows:
            self._find(target, columns, key or columns, types, list(enumerate(rows)), found)
            return found
        # A comparison with a null has no hash, and without one the join would look at every pair.
        masks: dict[tuple[str, ...], list[tuple[int, Sequence[Any]]]] = {}
        for number, row in enumerate(rows):
            filled = tuple(column for column, value in zip(columns, row, strict=True) if value != PG_NULL)
            masks.setdefault(filled, []).append((number, row))
        for filled, part in masks.items():
            self._find(target, columns, filled, types, part, found, exactly=True)
        return found

    def _find(
        self,
        target: Target,
        columns: tuple[str, ...],
        by: tuple[str, ...],
        types: dict[str, tuple[str, bool]],
        rows: list[tuple[int, Sequence[Any]]],
        found: list[list[Found]],
        *,
        exactly: bool = False,
    ) -> None:
        pairs = {}
        for i, column in enumerate(columns):
            full, comparable = types[column]
            pair = [f"t.{self._quote(column)}", f"w.v{i}::{full.replace('%', '%%')}"]
            # Text tells the values of every type apart, and uses no index: where there is an equality, that.
            pairs[column] = pair if comparable else [f"{side}::text" for side in pair]
        conditions = [" = ".join(pairs[column]) for column in by]
        if exactly:
            conditions += [f"t.{self._quote(column)} IS NULL" for column in columns if column not in by]
        same = ", ".join(" IS NOT DISTINCT FROM ".join(pair) for pair in pairs.values())
        arrays = ", ".join(["%s::bigint[]", *["%s::text[]" for _ in columns]])
        names = ", ".join(["n", *(f"v{i}" for i in range(len(columns)))])
        query = (
            f"SELECT w.n, t.tableoid::text || t.ctid::text, {same} FROM unnest({arrays}) AS w ({names})"
            f" JOIN {self._table(target)} AS t ON {' AND '.join(conditions) or 'true'}"
        )
        values = [array_literal(row[i] for _, row in rows) for i in range(len(columns))]
        numbers = array_literal(str(number) for number, _ in rows)
        for n, row, *equal in self._connection.exec_driver_sql(query, (numbers, *values)):
            differs = tuple(column for column, same in zip(columns, equal, strict=True) if not same)
            found[n].append(Found(row, differs))

    def _types(self, target: Target) -> dict[str, tuple[str, bool]]:
        """Each column's type in full, and whether it has an equality of its own."""
        types = {
            column: (full, comparable)
            for column, full, comparable, kind in self._connection.execute(
                _TYPES, {"schema": target.where.schema, "table": target.where.name}
            )
            if kind in "rp"
        }
        if not types:
            raise NotCheckable("it is a view or a foreign table: its rows have no identity")
        return types

    def pages(self, target: Target) -> Iterator[list[tuple[str, str]]]:
        self._types(target)
        shown = [f"t.{self._quote(column)}::text" for column in target.primary] or ["'row ' || t.ctid::text"]
        name, text = "t.tableoid::text || t.ctid::text", f"concat_ws(', ', {', '.join(shown)})"
        query = f"SELECT {name}, {text} FROM {self._table(target)} AS t"
        streamed = {"stream_results": True, "max_row_buffer": PAGE}
        result = self._connection.exec_driver_sql(query, execution_options=streamed)
        while page := result.fetchmany(PAGE):
            yield [(row, text) for row, text in page]


_TYPES = sa.text(
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod),"
    " EXISTS (SELECT 1 FROM pg_operator o WHERE o.oprname = '=' AND o.oprleft = a.atttypid"
    "  AND o.oprright = a.atttypid AND o.oprcanhash AND o.oprcanmerge),"
    " c.relkind FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = :schema AND c.relname = :table AND a.attnum > 0 AND NOT a.attisdropped"
)
