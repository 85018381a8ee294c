"""Finds rows in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from temporal_batching.audit.finder import PAGE, FoundRow, RowFinder
from temporal_batching.audit.tables import AuditedTable, NotCheckable
from temporal_batching.sinks.sql.types import PG_NULL, array_literal


class PostgresqlRowFinder(RowFinder):
    """Sends the wanted values as one array of text for each column, and joins the table with them."""

    def find(
        self,
        table: AuditedTable,
        columns: tuple[str, ...],
        key: tuple[str, ...],
        rows: Sequence[Sequence[Any]],
        shown: tuple[str, ...] = (),
    ) -> list[list[FoundRow]]:
        types = self._types(table)
        found: list[list[FoundRow]] = [[] for _ in rows]
        if key or not rows:
            self._find(table, columns, key or columns, types, list(enumerate(rows)), found, shown=shown)
            return found
        # A comparison that includes nulls cannot be hashed, so the join would compare every pair of rows.
        masks: dict[tuple[str, ...], list[tuple[int, Sequence[Any]]]] = {}
        for number, row in enumerate(rows):
            filled = tuple(column for column, value in zip(columns, row, strict=True) if value != PG_NULL)
            masks.setdefault(filled, []).append((number, row))
        for filled, part in masks.items():
            self._find(table, columns, filled, types, part, found, exactly=True, shown=shown)
        return found

    def _find(
        self,
        table: AuditedTable,
        columns: tuple[str, ...],
        by: tuple[str, ...],
        types: dict[str, tuple[str, bool]],
        rows: list[tuple[int, Sequence[Any]]],
        found: list[list[FoundRow]],
        *,
        exactly: bool = False,
        shown: tuple[str, ...] = (),
    ) -> None:
        pairs = {}
        for i, column in enumerate(columns):
            full, comparable = types[column]
            pair = [f"t.{self._quote(column)}", f"w.v{i}::{full.replace('%', '%%')}"]
            # The type's equality can use an index. A type without one is compared as text.
            pairs[column] = pair if comparable else [f"{side}::text" for side in pair]
        conditions = [" = ".join(pairs[column]) for column in by]
        if exactly:
            conditions += [f"t.{self._quote(column)} IS NULL" for column in columns if column not in by]
        same = ", ".join(" IS NOT DISTINCT FROM ".join(pair) for pair in pairs.values())
        arrays = ", ".join(["%s::bigint[]", *["%s::text[]" for _ in columns]])
        names = ", ".join(["n", *(f"v{i}" for i in range(len(columns)))])
        query = (
            f"SELECT w.n, t.tableoid::text || t.ctid::text, {same}{self._shown(shown)}"
            f" FROM unnest({arrays}) AS w ({names}) JOIN {self._table_sql(table)} AS t"
            f" ON {' AND '.join(conditions) or 'true'}"
        )
        values = [array_literal(row[i] for _, row in rows) for i in range(len(columns))]
        numbers = array_literal(str(number) for number, _ in rows)
        for n, row, *rest in self._connection.exec_driver_sql(query, (numbers, *values)):
            differs = tuple(column for column, same in zip(columns, rest, strict=False) if not same)
            found[n].append(FoundRow(row, differs, tuple(rest[len(columns) :])))

    def _types(self, table: AuditedTable) -> dict[str, tuple[str, bool]]:
        """Each column's full type, and whether the type has an equality operator."""
        types = {
            column: (full, comparable)
            for column, full, comparable, kind in self._connection.execute(
                _TYPES, {"schema": table.where.schema, "table": table.where.name}
            )
            if kind in "rp"
        }
        if not types:
            raise NotCheckable("it is a view or a foreign table: its rows cannot be identified")
        return types

    def pages(self, table: AuditedTable) -> Iterator[list[tuple[str, str]]]:
        self._types(table)
        shown = [f"t.{self._quote(column)}::text" for column in table.primary] or ["'row ' || t.ctid::text"]
        name, text = "t.tableoid::text || t.ctid::text", f"concat_ws(', ', {', '.join(shown)})"
        query = f"SELECT {name}, {text} FROM {self._table_sql(table)} AS t"
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
