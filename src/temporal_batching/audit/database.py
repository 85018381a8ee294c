"""Opens the database of an audit for reading; errors are one line that says why it cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from temporal_batching.audit.finder import RowFinder
from temporal_batching.audit.finder_sqlite import SqliteRowFinder
from temporal_batching.errors import AuditError, InvalidAudit, SinkConfigurationError
from temporal_batching.redaction import driver_message, redact_url, without_secrets
from temporal_batching.sinks.sql.connect import create_engine, make_database
from temporal_batching.sinks.sql.database import DatabaseAdapter, SinkCounters
from temporal_batching.sinks.sql.ledger import ledger_table
from temporal_batching.sinks.sql.tables import has_schemas, is_mariadb

CONNECT_TIMEOUT = timedelta(seconds=5)
NO_LIMIT = timedelta(minutes=1)
"""The adapter's limits are for transactions of the sink. An audit has none; it only reads the schema through it."""


@dataclass(frozen=True)
class OpenDatabase:
    """A connection that only reads.

    Attributes:
        connection: The connection.
        adapter: The sink's adapter for this kind of database.
        ledger: The ledger's table.
        finder: Looks rows up.
    """

    connection: sa.Connection
    adapter: DatabaseAdapter
    ledger: sa.Table
    finder: RowFinder


@contextmanager
def open_for_reading(url: str, ledger_name: str) -> Iterator[OpenDatabase]:
    """Opens a connection for an audit that cannot write.

    Args:
        url: The database's URL.
        ledger_name: The ledger's table.

    Raises:
        InvalidAudit: The URL is not that of a database that can be audited.
        AuditError: The database cannot be read. The message has its URL without secrets.
    """
    try:
        engine = create_engine(read_only_url(url), connect_timeout=CONNECT_TIMEOUT)
        ledger = ledger_table(ledger_name, schemas=has_schemas(engine.dialect))
    except SinkConfigurationError as problem:
        raise InvalidAudit("database", without_secrets(str(problem), url)) from None
    adapter = make_database(
        engine, ledger, SinkCounters(), statement_timeout=NO_LIMIT, lock_timeout=NO_LIMIT, wal=False
    )
    try:
        with _errors_named(url), engine.connect() as connection:
            yield OpenDatabase(connection, adapter, ledger, _finder(connection))
    finally:
        engine.dispose()


def _finder(connection: sa.Connection) -> RowFinder:
    if connection.dialect.name == "sqlite":
        return SqliteRowFinder(connection)
    # The drivers are imported only here, so that SQLite does not need them.
    if is_mariadb(connection.dialect):
        from temporal_batching.audit.finder_mariadb import MariadbRowFinder

        return MariadbRowFinder(connection)
    from temporal_batching.audit.finder_postgresql import PostgresqlRowFinder

    connection.execution_options(postgresql_readonly=True)
    return PostgresqlRowFinder(connection)


def read_only_url(url: str) -> str:
    """The URL of a database; for a SQLite file one that opens it read-only and does not create it.

    Raises:
        AuditError: The file does not exist.
    """
    if not url.startswith("sqlite"):
        return url
    parsed = sa.make_url(url)
    name = parsed.database or ""
    if name.startswith("file:"):
        return url
    if not name or not Path(name).is_file():
        raise AuditError(f"{redact_url(url)}: no such file")
    read_only = parsed.set(database=f"file:{quote(name)}", query={"mode": "ro", "uri": "true"})
    return read_only.render_as_string(hide_password=False)


@contextmanager
def _errors_named(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as err:
        reason = without_secrets(driver_message(err), url)
        raise AuditError(f"The database at {redact_url(url)} cannot be audited: {reason}") from None
