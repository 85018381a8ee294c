"""The statements of SQL sinks on their way to the driver: tests hold them, replace them, or make them fail.

The connections are subclasses of the drivers' own classes; SQLAlchemy's event ``do_connect`` lets them in. So an error
that is raised here goes through the same hands as one of the database's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

COMMIT = "COMMIT"
"""What all databases are sent, and only by a sink: SQLAlchemy calls the driver's method instead."""

BEGIN = "BEGIN"
"""How a sink's transaction begins, with more words behind it."""


class Statements:
    """What is done around each statement.

    Attributes:
        before: Called with the connection and the statement. It may wait, raise what the driver would raise, or return
            another statement to send instead.
        after: Called once the database has answered that it was done. It may raise.
        sent: Every statement that was sent, in order.
    """

    def __init__(self) -> None:
        self.before: Callable[[Any, str], str | None] | None = None
        self.after: Callable[[Any, str], None] | None = None
        self.sent: list[str] = []

    def on_its_way(self, connection: Any, statement: str) -> str:
        """Says what to send in a statement's place: mostly itself."""
        other = self.before(connection, statement) if self.before is not None else None
        self.sent.append(other or statement)
        return other or statement

    def done(self, connection: Any, statement: str) -> None:
        if self.after is not None:
            self.after(connection, statement)


def lose_connection(connection: Any, reason: str) -> NoReturn:
    """Ends the connection as a database does that goes away: nothing more can be asked on it.

    Raises:
        Error: The driver's.
    """
    if isinstance(connection, psycopg.Connection):
        connection.close()
        raise psycopg.OperationalError(reason)
    if isinstance(connection, pymysql.Connection):
        connection._force_close()  # type: ignore[attr-defined]
        raise pymysql.OperationalError(2013, reason)
    error = sqlite3.OperationalError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    raise error


def refuse(connection: Any, reason: str) -> NoReturn:
    """Answers as a database does that has no room, on a connection that stays as it is.

    Raises:
        Error: The driver's.
    """
    if isinstance(connection, psycopg.Connection):
        raise psycopg.errors.DiskFull(reason)
    if isinstance(connection, pymysql.Connection):
        raise pymysql.OperationalError(1021, reason)
    error = sqlite3.OperationalError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


@contextmanager
def intercepted() -> Iterator[Statements]:
    """Intercepts the statements on every connection that is made within the block."""
    statements = Statements()

    class SqliteCursor(sqlite3.Cursor):
        def execute(self, sql: str, *parameters: Any) -> SqliteCursor:
            super().execute(statements.on_its_way(self.connection, sql), *parameters)
            statements.done(self.connection, sql)
            return self

    class SqliteConnection(sqlite3.Connection):
        def cursor(self, factory: Any = SqliteCursor) -> Any:
            return super().cursor(factory)

    class PostgresqlConnection(psycopg.Connection[Any]):
        _in_pipeline: list[str] | None = None

        def execute(self, query: Any, *args: Any, **options: Any) -> psycopg.Cursor[Any]:
            cursor = super().execute(statements.on_its_way(self, query), *args, **options)
            if self._in_pipeline is None:
                statements.done(self, query)
            else:
                self._in_pipeline.append(query)
            return cursor

        @contextmanager
        def pipeline(self) -> Iterator[psycopg.Pipeline]:
            """What is sent inside is answered at its end."""
            self._in_pipeline = []
            try:
                with super().pipeline() as pipeline:
                    yield pipeline
                answered = self._in_pipeline
            finally:
                self._in_pipeline = None
            for query in answered:
                statements.done(self, query)

    class MariadbConnection(pymysql.Connection):
        def query(self, sql: Any, unbuffered: bool = False) -> Any:
            result = super().query(statements.on_its_way(self, str(sql)), unbuffered)
            statements.done(self, str(sql))
            return result

    def connect(dialect: sa.Dialect, record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        if dialect.name == "sqlite":
            return sqlite3.connect(*arguments, **options, factory=SqliteConnection)
        if dialect.name == "mariadb":
            return MariadbConnection(*arguments, **options)
        return PostgresqlConnection.connect(*arguments, **options)

    sa.event.listen(sa.Engine, "do_connect", connect)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "do_connect", connect)


@pytest.fixture
def statements() -> Iterator[Statements]:
    """The statements of every sink that connects during the test."""
    with intercepted() as seen:
        yield seen
