"""The dead letters as a table: created with the first of them, read and emptied when they are resubmitted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from temporal_batching.contract import WriteRequest
from temporal_batching.sinks.dead_letters import DeadLetter, read_content
from temporal_batching.sinks.sql import tables
from temporal_batching.sinks.sql.columns import MARIADB_TABLE, key_text, long_text, moment, short_text
from temporal_batching.sinks.sql.tables import has_schemas, is_mariadb, own_name

ROWS_PER_STATEMENT = 500
"""Rows of eight values. SQLite takes 32,766 values in a statement (https://www.sqlite.org/limits.html), PostgreSQL
65,535."""


@dataclass(frozen=True)
class KeptLetter:
    """A row of the table of dead letters.

    Attributes:
        id: The primary key.
        request: The rejected request.
        batch_id: The batch in which it was rejected.
        code: Why it was rejected, as a `RejectCode`.
        reason: Why it was rejected, as text.
        kept_at: When it was kept, by the clock of the worker.
    """

    id: str
    request: WriteRequest
    batch_id: str
    code: str
    reason: str
    kept_at: datetime


class DeadLetters:
    """The table of dead letters in one database.

    Args:
        name: The table's name; it may be ``schema.table`` where the database has schemas.
        dialect: The database's dialect.

    Attributes:
        table: The table's definition.
    """

    def __init__(self, name: str, dialect: sa.Dialect) -> None:
        where = own_name(name, schemas=has_schemas(dialect))
        self._dialect = dialect
        self.table = sa.Table(
            where.name,
            sa.MetaData(),
            sa.Column("id", key_text(), primary_key=True),
            sa.Column("request_id", long_text(), nullable=False),
            sa.Column("batch_id", short_text(), nullable=False),
            sa.Column("code", short_text(), nullable=False),
            sa.Column("reason", short_text(), nullable=False),
            sa.Column("request", long_text(), nullable=False),
            sa.Column("kept_at", moment(), nullable=False),
            sa.Column("position", sa.Integer, nullable=False),
            schema=where.schema,
            **MARIADB_TABLE,
        )

    def create_if_missing(self, connection: sa.Connection) -> None:
        """Creates the table if it does not exist.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: It could not be created.
        """
        if not tables.exists(connection, self.table):
            tables.create(connection, self.table)

    def keep(self, connection: sa.Connection, letters: Sequence[DeadLetter], at: datetime) -> None:
        """Inserts the letters that are not kept yet, in their order.

        Args:
            connection: A connection; the caller commits.
            letters: The letters.
            at: The time at which they are kept.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The table is missing, or takes no rows.
        """
        rows: list[dict[str, object]] = [
            {
                "id": letter.id,
                "request_id": _plain(letter.request.request_id),
                "batch_id": letter.batch_id,
                "code": letter.outcome.code or "",
                "reason": _plain(letter.outcome.reason or ""),
                "request": letter.content(),
                "kept_at": at,
                "position": position,
            }
            for position, letter in enumerate(letters)
        ]
        if is_mariadb(self._dialect):
            self._keep_in_mariadb(connection, rows)
            return
        insert = postgresql.insert if self._dialect.name == "postgresql" else sqlite.insert
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            some = insert(self.table).values(rows[start : start + ROWS_PER_STATEMENT])
            # A conflict clause without columns needs no SELECT: https://www.postgresql.org/docs/current/sql-insert.html
            connection.execute(some.on_conflict_do_nothing())

    def _keep_in_mariadb(self, connection: sa.Connection, rows: Sequence[dict[str, object]]) -> None:
        """One by one if a letter is kept already: a clause for conflicts would need the right to update."""
        insert = sa.insert(self.table)
        try:
            connection.execute(insert, rows)
        except sa.exc.IntegrityError:
            for row in rows:
                with suppress(sa.exc.IntegrityError):
                    connection.execute(insert, row)

    def read(self, connection: sa.Connection) -> list[KeptLetter]:
        """All dead letters, in the order in which they were kept; none if the table does not exist yet."""
        if not tables.exists(connection, self.table):
            return []
        order = (self.table.c.kept_at, self.table.c.position)
        return [
            KeptLetter(
                id=row.id,
                request=read_content(row.request),
                batch_id=row.batch_id,
                code=row.code,
                reason=row.reason,
                kept_at=row.kept_at if row.kept_at.tzinfo else row.kept_at.replace(tzinfo=UTC),
            )
            for row in connection.execute(sa.select(self.table).order_by(*order))
        ]

    def remove(self, connection: sa.Connection, letter_id: str) -> None:
        """Deletes a letter; the caller commits."""
        connection.execute(sa.delete(self.table).where(self.table.c.id == letter_id))


def _plain(text: str) -> str:
    """``text`` without characters that some text columns cannot hold; the request itself is kept exactly."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode()
