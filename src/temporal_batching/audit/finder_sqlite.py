"""Finds rows in SQLite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from temporal_batching.audit.finder import PAGE, FoundRow, RowFinder
from temporal_batching.audit.tables import AuditedTable, NotCheckable


class SqliteRowFinder(RowFinder):
    """Inserts the wanted values into a temporary table with the columns' affinities, and joins the table with it."""

    def find(
        self,
        table: AuditedTable,
        columns: tuple[str, ...],
        key: tuple[str, ...],
        rows: Sequence[Sequence[Any]],
        shown: tuple[str, ...] = (),
    ) -> list[list[FoundRow]]:
        name = self._row_name(table)
        quoted = [self._quote(column) for column in columns]
        fields = ", ".join(f"{column} AS v{i}" for i, column in enumerate(quoted))
        run = self._connection.exec_driver_sql
        run("DROP TABLE IF EXISTS temp.audit_wanted")
        run(f"CREATE TEMP TABLE audit_wanted AS SELECT 0 AS n, {fields} FROM {self._table_sql(table)} WHERE 0")
        marks = ", ".join("?" * (len(columns) + 1))
        run(f"INSERT INTO temp.audit_wanted VALUES ({marks})", [(n, *row) for n, row in enumerate(rows)])
        # The left operand decides the collation: a key is compared by its own collation, a value byte by byte.
        same = [f"w.v{i} IS t.{column}" for i, column in enumerate(quoted)]
        if key:
            conditions = [f"t.{self._quote(column)} = w.v{columns.index(column)}" for column in key]
        else:
            first = self._indexed(table, columns)
            conditions = [f"t.{self._quote(first)} IS w.v{columns.index(first)}"] if first else []
            conditions += same
            if not first:
                values = ", ".join(f"v{i}" for i in range(len(columns)))
                run(f"CREATE INDEX temp.audit_by_value ON audit_wanted ({values})")
        found: list[list[FoundRow]] = [[] for _ in rows]
        query = (
            f"SELECT w.n, {name}, {', '.join(same)}{self._shown(shown)} FROM temp.audit_wanted AS w,"
            f" {self._table_sql(table)} AS t WHERE {' AND '.join(conditions)}"
        )
        for n, row, *rest in run(query):
            differs = tuple(column for column, same in zip(columns, rest, strict=False) if not same)
            found[n].append(FoundRow(str(row), differs, tuple(rest[len(columns) :])))
        return found

    def _indexed(self, table: AuditedTable, columns: Sequence[str]) -> str:
        """A column that is the first one of some index."""
        for index in sa.inspect(self._connection).get_indexes(table.where.name):
            partial = index["dialect_options"].get("sqlite_where") is not None
            if index["column_names"] and index["column_names"][0] in columns and not partial:
                return str(index["column_names"][0])
        return ""

    def _row_name(self, table: AuditedTable) -> str:
        try:
            self._connection.exec_driver_sql(f"SELECT rowid FROM {self._table_sql(table)} LIMIT 0")
        except sa.exc.OperationalError:
            if not table.primary:
                raise NotCheckable("it is a view: its rows have no identity") from None
            return " || ',' || ".join(f"quote(t.{self._quote(column)})" for column in table.primary)
        return "t.rowid"

    def pages(self, table: AuditedTable) -> Iterator[list[tuple[str, str]]]:
        key = [f"quote(t.{self._quote(column)})" for column in table.primary] or ["'row ' || t.rowid"]
        shown = " || ', ' || ".join(key)
        query = f"SELECT {self._row_name(table)}, {shown} FROM {self._table_sql(table)} AS t"
        result = self._connection.exec_driver_sql(query)
        while page := result.fetchmany(PAGE):
            yield [(str(row), str(shown)) for row, shown in page]
