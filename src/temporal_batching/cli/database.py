"""The demo's table, and a first look at the database before a worker starts to take work."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporal_batching.cli.console import CommandError
from temporal_batching.errors import SinkConfigurationError
from temporal_batching.redaction import driver_message, redact_url, without_secrets

CONNECT_SECONDS = 5

try:
    import sqlalchemy as sa

    from temporal_batching.sinks.sql.columns import MARIADB_TABLE, moment
    from temporal_batching.sinks.sql.connect import create_engine
except ImportError:  # pragma: no cover - the console sink does without
    sa = None  # type: ignore[assignment]


def entries_table() -> sa.Table:
    """The demo's ledger of payments.

    ``payment_id`` is deliberately not unique: if a payment could be booked twice, it would show.
    """
    return sa.Table(
        "entries",
        sa.MetaData(),
        sa.Column("entry_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("payment_id", sa.String(64), nullable=False, index=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("amount", sa.Numeric(18, 2), nullable=False),
        sa.Column("fee", sa.Numeric(18, 2), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("booked_at", moment(), nullable=False),
        sa.Column("memo", sa.Text),
        **MARIADB_TABLE,
    )


def sync_engine(url: str) -> sa.Engine:
    """An engine for set-up and audits, with a driver that needs no event loop and a connection that gives up soon."""
    if sa is None:
        raise CommandError(
            "a database URL as sink needs the extra 'sql' (pip install 'temporal-batching[sql]'), "
            "for PostgreSQL the extra 'postgresql', for MariaDB the extra 'mariadb'"
        )
    try:
        return create_engine(url, connect_timeout=timedelta(seconds=CONNECT_SECONDS))
    except SinkConfigurationError as err:
        raise CommandError(f"{redact_url(url)}: {err}") from None


async def prepare_database(url: str, *, create_tables: bool) -> None:
    """Connects once, so that a wrong address is one line at the start; makes the demo's table if that is wanted.

    Raises:
        CommandError: With the address, without its secrets.
    """
    engine = sync_engine(url)
    try:
        async with asyncio.timeout(2 * CONNECT_SECONDS):
            await asyncio.to_thread(_prepare, engine, create_tables)
    except (sa.exc.SQLAlchemyError, OSError, TimeoutError) as err:
        message = driver_message(err) if str(err) else f"no answer within {2 * CONNECT_SECONDS} s"
        reason = without_secrets(message, url)
        raise CommandError(
            f"Cannot use the database at {redact_url(url)}: {reason}. Check --sink (or BATCHING_SINK)."
        ) from None
    finally:
        engine.dispose()


def _prepare(engine: sa.Engine, create_tables: bool) -> None:
    with engine.begin() as connection:
        connection.execute(sa.select(1))
        if create_tables:
            entries_table().create(connection, checkfirst=True)
