"""Finds the rows that have the values of a record.

The database compares the values, because only it knows how it stores them: a record's values are bound as the sink
binds them, and converted to the column's type first. Rows are found by a key if the record has all values of the key,
otherwise by all values of the record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from temporal_batching.audit.tables import AuditedTable

PAGE = 5_000
"""The rows in one page of a table that is read completely."""


@dataclass(frozen=True)
class FoundRow:
    """A row for a record.

    Attributes:
        row: Identifies the row until it is written to.
        differs: The columns whose values differ from the record's.
        shown: The values of the columns that were asked for, as the driver gives them.
    """

    row: str
    differs: tuple[str, ...] = ()
    shown: tuple[Any, ...] = ()


class RowFinder(ABC):
    """Looks rows up in one kind of database."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @abstractmethod
    def find(
        self,
        table: AuditedTable,
        columns: tuple[str, ...],
        key: tuple[str, ...],
        rows: Sequence[Sequence[Any]],
        shown: tuple[str, ...] = (),
    ) -> list[list[FoundRow]]:
        """Finds the rows of each record.

        Args:
            table: The table.
            columns: The columns of the records.
            key: The columns of a unique key; empty to find rows by all values.
            rows: The bound values of each record.
            shown: Columns whose values are wanted.

        Returns:
            The rows of each record. By a key there is at most one, with the columns that differ.

        Raises:
            NotCheckable: The rows of this table cannot be identified.
            sqlalchemy.exc.DBAPIError: The query failed.
        """

    @abstractmethod
    def pages(self, table: AuditedTable) -> Iterator[list[tuple[str, str]]]:
        """All rows of a table, in pages: what identifies the row, and its primary key as text."""

    def _shown(self, columns: Sequence[str]) -> str:
        """The columns that are shown, as the end of a list of columns."""
        return "".join(f", t.{self._quote(column)}" for column in columns)

    def _quote(self, name: str) -> str:
        return self._connection.dialect.identifier_preparer.quote_identifier(name)

    def _table_sql(self, table: AuditedTable) -> str:
        return self._connection.dialect.identifier_preparer.format_table(table.bound.table)
