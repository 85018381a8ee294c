"""From a URL or an engine to a database that the sink knows how to use, with errors that say what to install or fix."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from temporal_batching.errors import SinkConfigurationError
from temporal_batching.redaction import without_secrets
from temporal_batching.sinks.sql.database import DatabaseAdapter, SinkCounters

SUPPORTED = "sqlite:///file.db and postgresql://user@host/database (psycopg 3) are supported"


def connect_engine(
    url_or_engine: str | sa.URL | sa.Engine,
    *,
    max_connections: int,
    connect_timeout: timedelta,
    statement_timeout: timedelta,
) -> tuple[sa.Engine, bool, int]:
    """Returns the engine, whether it was made here, and how many threads may use it.

    Raises:
        SinkConfigurationError: With what is supported, or what to install. Never with the URL: it holds a password.
    """
    if isinstance(url_or_engine, sa.Engine):
        engine = url_or_engine
        driver = (engine.dialect.name, engine.dialect.driver)
        if driver not in (("sqlite", "pysqlite"), ("postgresql", "psycopg")):
            raise SinkConfigurationError(f"an engine for {driver[0]}+{driver[1]}: {SUPPORTED}")
        if isinstance(engine.pool, SingletonThreadPool):
            raise SinkConfigurationError(
                "this engine gives every thread a SQLite database of its own: create it with "
                "poolclass=StaticPool and connect_args={'check_same_thread': False}"
            )
        return engine, False, 1 if driver[0] == "sqlite" else max_connections
    url = read_url(url_or_engine)
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        threads = 1
        options["connect_args"] = {"check_same_thread": False}
        if _in_memory(url):
            options["poolclass"] = StaticPool
    else:
        threads = max_connections
        options |= {"pool_size": max_connections, "max_overflow": 2, "pool_timeout": connect_timeout.total_seconds()}
        options["connect_args"] = _postgresql_options(url, connect_timeout, statement_timeout)
    try:
        return sa.create_engine(url, **options), True, threads
    except ModuleNotFoundError as err:
        extra = "postgresql" if url.get_backend_name() == "postgresql" else "sql"
        raise SinkConfigurationError(f"{err.name} is not installed: install temporal-batching[{extra}]") from None
    except ImportError as err:
        # psycopg without a libpq to load.
        raise SinkConfigurationError(
            f"psycopg cannot be loaded; install temporal-batching[postgresql]: {err}"
        ) from None
    except (sa.exc.ArgumentError, TypeError, ValueError):
        raise SinkConfigurationError(
            f"a database URL with options that its driver does not know; {SUPPORTED}"
        ) from None


def read_url(given: str | sa.URL) -> sa.URL:
    """The URL, with the driver that is used for its database.

    Raises:
        SinkConfigurationError: It is none, or one for another database or driver.
    """
    if not isinstance(given, str | sa.URL):
        raise SinkConfigurationError(f"a {type(given).__name__} is no URL and no synchronous engine; {SUPPORTED}")
    if isinstance(given, str) and given.startswith("postgres:"):
        given = "postgresql" + given.removeprefix("postgres")
    try:
        url = sa.make_url(given)
    except (sa.exc.ArgumentError, ValueError):
        raise SinkConfigurationError(f"this is not a database URL; {SUPPORTED}") from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise SinkConfigurationError(f"a database URL for {url.drivername!r}; {SUPPORTED}")
    return url


def _in_memory(url: sa.URL) -> bool:
    return url.database in (None, "", ":memory:") or "mode=memory" in str(url.database) + str(url.query)


def _postgresql_options(url: sa.URL, connect_timeout: timedelta, statement_timeout: timedelta) -> dict[str, Any]:
    """What libpq is told, unless the URL tells it.

    Most of it is to notice a server that vanished without closing the connection.
    """
    options: dict[str, Any] = {
        "connect_timeout": max(2, round(connect_timeout.total_seconds())),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": int(statement_timeout.total_seconds() * 1000),
        "application_name": "temporal-batching",
        # From the first word on: Python knows no codec for some encodings that a database may have.
        "client_encoding": "utf8",
    }
    return {name: value for name, value in options.items() if name not in url.query}


def make_database(
    engine: sa.Engine,
    ledger: sa.Table,
    counters: SinkCounters,
    *,
    statement_timeout: timedelta,
    lock_timeout: timedelta,
    wal: bool,
) -> DatabaseAdapter:
    lock_seconds = lock_timeout.total_seconds()
    if engine.dialect.name == "sqlite":
        from temporal_batching.sinks.sql.sqlite import SqliteDatabase

        return SqliteDatabase(engine, ledger, counters, lock_timeout=lock_seconds, wal=wal)
    # The driver is imported where it is needed, and nowhere else.
    from temporal_batching.sinks.sql.postgresql import PostgresqlDatabase

    return PostgresqlDatabase(
        engine, ledger, counters, statement_timeout=statement_timeout.total_seconds(), lock_timeout=lock_seconds
    )


def without_password(text: str, engine: sa.Engine) -> str:
    """A message that may be stored in a history: drivers quote the URL's parts now and then."""
    return without_secrets(text, engine.url.render_as_string(hide_password=False))
