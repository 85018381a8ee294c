"""Finds rows in MariaDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from temporal_batching.audit.finder import PAGE, FoundRow, RowFinder
from temporal_batching.audit.isolate import Refused
from temporal_batching.audit.tables import AuditedTable, NotCheckable
from temporal_batching.sinks.sql.errors import ErrorClass
from temporal_batching.sinks.sql.mariadb_errors import classify_mariadb_error

TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
"""Types whose equality is that of a collation."""


class MariadbRowFinder(RowFinder):
    """Inserts the wanted values into a temporary table with the columns' types, and joins the table with it.

    The role needs the privilege CREATE TEMPORARY TABLES on the database.
    """

    def find(
        self,
        table: AuditedTable,
        columns: tuple[str, ...],
        key: tuple[str, ...],
        rows: Sequence[Sequence[Any]],
        shown: tuple[str, ...] = (),
    ) -> list[list[FoundRow]]:
        name = self._row_name(table)
        texts = self._texts(table)
        run = self._connection.exec_driver_sql
        run("DROP TEMPORARY TABLE IF EXISTS audit_wanted")
        # The outer join makes every column nullable.
        fields = "".join(f", t.{self._quote(column)} AS v{i}" for i, column in enumerate(columns))
        run(
            f"CREATE TEMPORARY TABLE audit_wanted ENGINE = InnoDB AS SELECT CAST(0 AS SIGNED) AS n{fields}"
            f" FROM (SELECT 1 AS one) AS o LEFT JOIN {self._table_sql(table)} AS t ON 0 = 1 WHERE 0 = 1"
        )
        for start in range(0, len(rows), PAGE):
            wanted = (f"({start + n},{','.join(row)})" for n, row in enumerate(rows[start : start + PAGE]))
            if columns:
                self._insert(f"INSERT INTO audit_wanted VALUES {','.join(wanted)}")
        if not columns:
            self._insert(f"INSERT INTO audit_wanted VALUES {','.join(f'({n})' for n in range(len(rows)))}")
        same = []
        for i, column in enumerate(columns):
            pair = [f"t.{self._quote(column)}", f"w.v{i}"]
            # A key is compared by its collation, a value byte by byte.
            same.append(" <=> ".join([f"BINARY {side}" for side in pair] if column in texts else pair))
        if key:
            conditions = [f"t.{self._quote(column)} = w.v{columns.index(column)}" for column in key]
        else:
            conditions = [
                *(f"t.{self._quote(column)} <=> w.v{i}" for i, column in enumerate(columns) if column in texts),
                *same,
            ]
        found: list[list[FoundRow]] = [[] for _ in rows]
        query = (
            f"SELECT w.n, {', '.join([name, *same])}{self._shown(shown)} FROM audit_wanted AS w"
            f" JOIN {self._table_sql(table)} AS t ON {' AND '.join(conditions) or '1 = 1'}"
        )
        for n, row, *rest in run(query):
            differs = tuple(column for column, same in zip(columns, rest, strict=False) if not same)
            found[n].append(FoundRow(str(row), differs, tuple(rest[len(columns) :])))
        return found

    def _insert(self, statement: str) -> None:
        try:
            # Values are literals: without parameters nothing in the statement is replaced.
            self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        except sa.exc.OperationalError as err:
            if classify_mariadb_error(err).error_class is not ErrorClass.REQUEST:
                raise
            raise Refused("a value that its column cannot hold as it is now") from None

    def _texts(self, table: AuditedTable) -> set[str]:
        """The columns whose equality is that of a collation."""
        where = {"schema": table.where.schema, "table": table.where.name}
        return {name for name, kind in self._connection.execute(_TYPES, where) if kind.lower() in TEXTS}

    def _row_name(self, table: AuditedTable) -> str:
        if not table.primary:
            raise NotCheckable("it has no primary key: its rows have no identity")
        return self._joined(",", [f"HEX(CAST(t.{self._quote(column)} AS BINARY))" for column in table.primary])

    def _joined(self, separator: str, parts: Sequence[str]) -> str:
        return f"CONCAT_WS('{separator}', {', '.join(parts)})"

    def pages(self, table: AuditedTable) -> Iterator[list[tuple[str, str]]]:
        shown = [f"CONVERT(t.{self._quote(column)} USING utf8mb4)" for column in table.primary]
        query = f"SELECT {self._row_name(table)}, {self._joined(', ', shown)} FROM {self._table_sql(table)} AS t"
        streamed = {"stream_results": True, "max_row_buffer": PAGE, "no_parameters": True}
        result = self._connection.exec_driver_sql(query, execution_options=streamed)
        while page := result.fetchmany(PAGE):
            yield [(str(row), str(text)) for row, text in page]


_TYPES = sa.text(
    "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS"
    " WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table"
)
