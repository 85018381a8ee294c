"""The tables of the deployment, as the sink reads them, with the keys by which their rows can be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from temporal_batching.contract import Record
from temporal_batching.sinks.sql.database import DatabaseAdapter
from temporal_batching.sinks.sql.schema import BoundTable, SchemaMismatch, TableName, TableRule
from temporal_batching.sinks.sql.tables import unique_keys


class NotCheckable(Exception):
    """A table or a record that cannot be looked up; the message says why, without values."""


@dataclass(frozen=True)
class AuditedTable:
    """A table of the deployment.

    Attributes:
        bound: The table as the sink writes to it.
        where: Its name in the database.
        unique: The unique keys, the primary key first.
        primary: The columns of the primary key.
    """

    bound: BoundTable
    where: TableName
    unique: Sequence[tuple[str, ...]]
    primary: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.bound.name

    def bind(self, record: Record) -> tuple[tuple[str, ...], list[Any]]:
        """A record's columns, and their values as the sink binds them.

        Raises:
            NotCheckable: The record does not fit the table as it is now.
        """
        try:
            row = self.bound.bind(record)
        except SchemaMismatch as mismatch:
            raise NotCheckable(f"a record does not fit the table as it is now ({mismatch.code})") from None
        return row.columns, row.values

    def key_for(self, columns: Sequence[str], values: Sequence[Any], null: Any) -> tuple[str, ...]:
        """The columns by which to find a record's row: a unique key whose values it has, or none."""
        rule = self.bound.rule
        if rule.key and set(rule.key) <= set(columns):
            return tuple(rule.key)
        has = {name for name, value in zip(columns, values, strict=True) if value is not null and value != null}
        return next((key for key in self.unique if has.issuperset(key)), ())


class AuditedTables:
    """The deployment's tables, reflected when they are first needed."""

    def __init__(self, connection: sa.Connection, database: DatabaseAdapter, rules: Mapping[str, TableRule]) -> None:
        self._connection = connection
        self._database = database
        self._rules = rules
        self._names = database.list_names(connection).writable
        self._tables: dict[str, AuditedTable] = {}

    def get(self, name: str) -> AuditedTable:
        """The table that requests call by this name.

        Raises:
            NotCheckable: There is no such table.
            SinkConfigurationError: The table does not fit its rule.
        """
        table = self._tables.get(name)
        if table is None:
            where = self._names.get(name)
            if where is None:
                raise NotCheckable("no table of this name is in the database")
            table = self._tables[name] = self._reflect(name, where)
        return table

    def used(self) -> list[AuditedTable]:
        """The tables that were read."""
        return list(self._tables.values())

    def _reflect(self, name: str, where: TableName) -> AuditedTable:
        bound = self._database.reflect(self._connection, name, where, self._rules.get(name, TableRule()))
        inspector = sa.inspect(self._connection)
        primary = tuple(inspector.get_pk_constraint(where.name, schema=where.schema)["constrained_columns"])
        return AuditedTable(bound, where, unique_keys(self._connection, where), primary)
