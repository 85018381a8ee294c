"""The ledger as a table: its columns, its creation, its identity, and the check of an existing ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from temporal_batching.contract import ReturnedRow
from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry, LedgerStatus
from temporal_batching.sinks.sql import tables
from temporal_batching.sinks.sql.columns import MARIADB_TABLE, long_text, moment, request_id, short_text
from temporal_batching.sinks.sql.tables import is_mariadb, own_name, table_ddl

_MARIADB_IDENTITY = ("UUID()", "9999-12-31 00:00:00")

_IDENTITY = {
    # The server generates it, so that a migration that runs on two databases gives each its own. The date protects the
    # row from jobs that delete old ids.
    "postgresql": ("CAST(gen_random_uuid() AS text)", "9999-12-31 00:00:00+00"),
    "sqlite": (
        "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a'"
        " || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))",
        "9999-12-31 00:00:00.000000",
    ),
    "mariadb": _MARIADB_IDENTITY,
    "mysql": _MARIADB_IDENTITY,
}
"""By dialect: the expression that generates an identity, and the literal of the end of the year 9999."""


def ledger_table(name: str, *, schemas: bool) -> sa.Table:
    """The ledger's definition.

    Args:
        name: The table's name; it may be ``schema.table`` where the database has schemas.
        schemas: Whether the database has schemas.
    """
    where = own_name(name, schemas=schemas)
    return sa.Table(
        where.name,
        sa.MetaData(),
        sa.Column("request_id", request_id(), primary_key=True),
        sa.Column("digest", short_text(), nullable=False),
        sa.Column("batch_id", short_text(), nullable=False),
        sa.Column("status", short_text(), nullable=False),
        sa.Column("committed_at", moment(), nullable=False),
        sa.Column("returned", long_text()),
        schema=where.schema,
        # Without a rowid SQLite stores the ids once, in the primary key.
        sqlite_with_rowid=False,
        **MARIADB_TABLE,
    )


def identity_ddl(ledger: sa.Table, dialect: sa.Dialect) -> str:
    """The statement that enters an identity into a ledger that has none. It may be run repeatedly."""
    generated, at = _IDENTITY[dialect.name]
    columns = ", ".join(column.name for column in ledger.columns if not column.nullable)
    # MariaDB has no clause that does nothing on a conflict, but one that sets a column to its own value.
    unless = "ON DUPLICATE KEY UPDATE digest = digest" if is_mariadb(dialect) else "ON CONFLICT DO NOTHING"
    return (
        f"INSERT INTO {dialect.identifier_preparer.format_table(ledger)} ({columns})"
        f" VALUES ('{IDENTITY_ID}', {generated}, '', '{LedgerStatus.IDENTITY}', '{at}') {unless};"
    )


def describe_loss(ledger: sa.Table, identity: str, what: str) -> str:
    """The message for an operator whose ledger is lost."""
    return (
        f"the ledger {ledger.fullname} with the identity {identity} {what}: nothing is written until it is restored "
        "from a backup. A new ledger does not know the request ids that the lost one knew, so they would be applied "
        "again if they are resubmitted. If that is intended, restart the workers, which open a new ledger, and run the "
        "command temporal-batching adopt-ledger that their error names"
    )


def check_still_there(connection: sa.Connection, ledger: sa.Table, identity: str) -> None:
    """Checks that a ledger that was opened before is still the same one. It never creates anything.

    Raises:
        SinkConfigurationError: The ledger was dropped, emptied, or replaced.
    """
    if not tables.exists(connection, ledger):
        raise SinkConfigurationError(describe_loss(ledger, identity, "was dropped"))
    _check(connection, ledger)
    now = read_identity(connection, ledger)
    if now != identity:
        raise SinkConfigurationError(describe_loss(ledger, identity, describe_change(now)))


def describe_change(now: str | None) -> str:
    """What happened to a ledger whose identity is ``now`` another one, or None."""
    return "was emptied" if now is None else f"was replaced by another ledger, {now}"


def ensure_ledger(connection: sa.Connection, ledger: sa.Table, *, create: bool) -> None:
    """Creates the ledger if it is missing, and checks its columns. No DDL is attempted if it exists.

    Raises:
        SinkConfigurationError: It is missing and must not be created, or its columns are not those of a ledger.
        sqlalchemy.exc.DBAPIError: It could not be created.
    """
    if not tables.exists(connection, ledger):
        if not create:
            ddl = table_ddl(ledger, connection.dialect)
            raise SinkConfigurationError(
                f"the ledger {ledger.fullname} does not exist. If this database has never had one, run: {ddl} "
                f"{identity_ddl(ledger, connection.dialect)} If it had one, restore it from a backup"
            )
        tables.create(connection, ledger)
    _check(connection, ledger)


def _check(connection: sa.Connection, ledger: sa.Table) -> None:
    inspector = sa.inspect(connection)
    found = {column["name"]: column for column in inspector.get_columns(ledger.name, schema=ledger.schema)}
    missing = [column.name for column in ledger.columns if column.name not in found]
    if missing:
        raise SinkConfigurationError(
            f"the ledger {ledger.fullname} has no column {', '.join(missing)}: is it another table of that name?"
        )
    required = [n for n, c in found.items() if n not in ledger.columns and not c["nullable"] and c["default"] is None]
    if required:
        raise SinkConfigurationError(
            f"the ledger {ledger.fullname} requires {', '.join(required)}, which the sink does not write"
        )
    key = inspector.get_pk_constraint(ledger.name, schema=ledger.schema)["constrained_columns"]
    if key != ["request_id"]:
        raise SinkConfigurationError(
            f"the ledger {ledger.fullname} must have request_id as its primary key, not ({', '.join(key)})"
        )


def read_identity(connection: sa.Connection, ledger: sa.Table) -> str | None:
    """The ledger's identity; None if it has none yet."""
    identity: str | None = connection.scalar(
        sa.select(ledger.c.digest).where(ledger.c.request_id == IDENTITY_ID, ledger.c.status == LedgerStatus.IDENTITY)
    )
    return identity


def ensure_identity(connection: sa.Connection, ledger: sa.Table, *, create: bool) -> str:
    """The ledger's identity. The ledger's DDL enters it, or else the first sink that may create the ledger.

    Raises:
        SinkConfigurationError: The ledger has no identity, and this sink must not enter one.
        sqlalchemy.exc.DBAPIError: It could not be entered.
    """
    known = read_identity(connection, ledger)
    if known is not None:
        return known
    statement = identity_ddl(ledger, connection.dialect)
    if not create:
        raise SinkConfigurationError(
            f"the ledger {ledger.fullname} has no identity. If it is new, run: {statement} If it was emptied, restore "
            "it from a backup"
        )
    connection.exec_driver_sql(statement.removesuffix(";"))
    entered = read_identity(connection, ledger)
    if entered is None:
        raise SinkConfigurationError(f"the ledger {ledger.fullname} has a row with an empty request id")
    return entered


def read_entry(row: Any) -> LedgerEntry:
    """Reads a row of the ledger, in the order of the table's columns."""
    request_id, digest, batch_id, status, at, returned = row
    moment: datetime = at if at.tzinfo else at.replace(tzinfo=UTC)
    rows = None if returned is None else json.loads(returned)
    return LedgerEntry(request_id, LedgerStatus(status), batch_id, moment.astimezone(UTC), digest, rows)


def encode_returned(returned: Sequence[ReturnedRow | None]) -> str:
    """What a request returned, as the ledger keeps it."""
    return json.dumps(returned, separators=(",", ":"))
