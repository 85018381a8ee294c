"""The ledger as a table: its columns, its creation, and the check of one that is there already."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry, LedgerStatus
from temporal_batching.sinks.sql import tables
from temporal_batching.sinks.sql.tables import own_name, table_ddl

DEFAULT_LEDGER = "batching_ledger"

_NEVER_OLD = datetime(9999, 12, 31, tzinfo=UTC)
"""The date of a ledger's identity: whoever deletes old ids by their date keeps it."""


def ledger_table(name: str, *, schemas: bool) -> sa.Table:
    """The ledger's definition. ``name`` may be ``schema.table`` where the database has schemas."""
    where = own_name(name, schemas=schemas)
    return sa.Table(
        where.name,
        sa.MetaData(),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False),
        schema=where.schema,
        # The ids are the index: SQLite then keeps each of them once.
        sqlite_with_rowid=False,
    )


def ensure_ledger(connection: sa.Connection, ledger: sa.Table, *, create: bool) -> None:
    """Creates the ledger if it is missing, and checks it if it is there. Where it exists, no DDL is attempted.

    Raises:
        SinkConfigurationError: It is missing and must not be created, or is not shaped like a ledger.
        sqlalchemy.exc.DBAPIError: It could not be created.
    """
    if not tables.exists(connection, ledger):
        if not create:
            ddl = table_ddl(ledger, connection.dialect)
            raise SinkConfigurationError(f"the ledger {ledger.fullname} does not exist; create it with: {ddl}")
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


def ensure_identity(connection: sa.Connection, ledger: sa.Table) -> str:
    """The ledger's identity, which it gets from whoever opens it first.

    Raises:
        sqlalchemy.exc.DBAPIError: It could not be entered.
    """
    known = read_identity(connection, ledger)
    if known is not None:
        return known
    row = {"request_id": IDENTITY_ID, "digest": str(uuid4()), "batch_id": "", "status": LedgerStatus.IDENTITY.value}
    try:
        connection.execute(sa.insert(ledger).values(**row, committed_at=_NEVER_OLD))
        connection.commit()
    except sa.exc.IntegrityError:  # another worker was faster
        connection.rollback()
    entered = read_identity(connection, ledger)
    if entered is None:
        raise SinkConfigurationError(f"the ledger {ledger.fullname} has a row with an empty request id")
    return entered


def read_entry(row: Any) -> LedgerEntry:
    """A ledger row, in the order of the table's columns."""
    request_id, digest, batch_id, status, at = row
    moment: datetime = at if at.tzinfo else at.replace(tzinfo=UTC)
    return LedgerEntry(request_id, LedgerStatus(status), batch_id, moment.astimezone(UTC), digest)
