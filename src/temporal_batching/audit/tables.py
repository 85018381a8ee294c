"""The tables of the deployment, as the sink reads them, with the keys by which their rows can be found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from temporal_batching.contract import INSERT, Record, Returned, ReturnedRow
from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql.database import DatabaseAdapter
from temporal_batching.sinks.sql.schema import BoundTable, SchemaMismatch, TableName
from temporal_batching.sinks.sql.tables import primary_key, unique_keys


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

    def known(self, record: Record, position: int, returned: Sequence[ReturnedRow | None] | None) -> Record:
        """The record with the values that are known of it; the others are still references.

        Args:
            record: The record.
            position: Its position in its request.
            returned: What its request returned: the values that references stand for, and generated keys.
        """

        def column_of(number: int, column: str) -> Any:
            row = returned[number] if returned is not None and number < len(returned) else None
            return None if row is None else row.get(column)

        values = dict(record.values)
        for name, value in record.values.items():
            if isinstance(value, Returned) and (found := column_of(value.record, value.column)) is not None:
                values[name] = found
        for name in self.bound.rule.key:
            if name not in record.values and (found := column_of(position, name)) is not None:
                values[name] = found
        return Record(record.table, values, operation=record.operation)

    def bind(self, record: Record) -> tuple[tuple[str, ...], list[Any]]:
        """A record's columns, and their values as the sink binds them. Columns with references are left out.

        Raises:
            NotCheckable: The record does not fit the table as it is now.
        """
        if all(isinstance(value, Returned) for value in record.values.values()):
            raise NotCheckable("a record has no value of its own")
        columns = self.bound.columns
        # A generated key is known from what was returned. No record that inserts may bring one.
        inserts = record.operation == INSERT
        generated = [name for name in record.values if inserts and name in columns and columns[name].generated]
        own = {name: value for name, value in record.values.items() if name not in generated}
        try:
            row = self.bound.bind(Record(record.table, own, operation=record.operation))
            values = [self.bound.bind_value(name, record.values[name]) for name in generated]
        except SchemaMismatch as mismatch:
            raise NotCheckable(f"a record does not fit the table as it is now ({mismatch.code})") from None
        bound = {**dict(zip(row.columns, row.values, strict=True)), **dict(zip(generated, values, strict=True))}
        own = {name: value for name, value in bound.items() if not isinstance(record.values[name], Returned)}
        return tuple(own), list(own.values())

    def key_for(self, columns: Sequence[str], values: Sequence[Any], null: Any) -> tuple[str, ...]:
        """The columns by which to find a record's row: a unique key whose values it has, or none."""
        rule = self.bound.rule
        if rule.key and set(rule.key) <= set(columns):
            return tuple(rule.key)
        has = {name for name, value in zip(columns, values, strict=True) if value is not null and value != null}
        return next((key for key in self.unique if has.issuperset(key)), ())


class AuditedTables:
    """The deployment's tables, reflected when they are first needed."""

    def __init__(
        self,
        connection: sa.Connection,
        database: DatabaseAdapter,
        rules: Mapping[str, TableRule],
        changed: Collection[str] = (),
    ) -> None:
        """Lists the tables of the database.

        Args:
            connection: A connection to it.
            database: The sink's adapter for it.
            rules: The tables' rules.
            changed: Tables in which rows were updated or deleted.
        """
        self._changed = changed
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
            if name in self._changed and not self._rules.get(name, TableRule()).changes_rows:
                raise NotCheckable("its rows were updated or deleted, and its rule here does not allow that")
            table = self._tables[name] = self._reflect(name, where)
        return table

    def used(self) -> list[AuditedTable]:
        """The tables that were read."""
        return list(self._tables.values())

    def _reflect(self, name: str, where: TableName) -> AuditedTable:
        bound = self._database.reflect(self._connection, name, where, self._rules.get(name, TableRule()))
        keys = unique_keys(self._connection, where)
        return AuditedTable(bound, where, keys, primary_key(self._connection, where))
