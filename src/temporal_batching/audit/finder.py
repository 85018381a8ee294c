"""Finds the rows that hold what a record asked for.

The database compares, for it alone knows what a value becomes in it: a record's values are bound as the sink binds
them, and are given the column's own type first. Rows are found by a key if the record has all of its values, otherwise
by all of the record's values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from temporal_batching.audit.tables import AuditedTable

PAGE = 5_000
"""Rows in one page of a table that is read from end to end."""


@dataclass(frozen=True)
class FoundRow:
    """A row for a record.

    Attributes:
        row: Names the row for as long as nobody writes.
        differs: The columns that hold something else than was asked for.
    """

    row: str
    differs: tuple[str, ...] = ()


class RowFinder(ABC):
    """Looks rows up in one kind of database."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @abstractmethod
    def find(
        self, table: AuditedTable, columns: tuple[str, ...], key: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> list[list[FoundRow]]:
        """The rows for each record. By a key at most one, with what differs; by all values those that hold them.

        Raises:
            NotCheckable: The rows of this table have no names.
            sqlalchemy.exc.DBAPIError: The database does not let itself be asked.
        """

    @abstractmethod
    def pages(self, table: AuditedTable) -> Iterator[list[tuple[str, str]]]:
        """All rows of a table: each one's name, and its primary key for people."""

    def _quote(self, name: str) -> str:
        return self._connection.dialect.identifier_preparer.quote_identifier(name)

    def _table_sql(self, table: AuditedTable) -> str:
        return self._connection.dialect.identifier_preparer.format_table(table.bound.table)
