"""From a URL or an engine to a database that the sink can use. Errors say what to install or to fix."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.sql.database import DatabaseAdapter, SinkCounters
from temporal_batching.sinks.sql.mariadb_modes import INIT_COMMAND, OWNED
from temporal_batching.sinks.sql.tables import is_mariadb

SUPPORTED = (
    "sqlite:///file.db, postgresql://user@host/database (psycopg 3) and mariadb://user@host/database (PyMySQL) are "
    "supported"
)

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    **dict.fromkeys(("mariadb", "mysql", "mariadb+pymysql", "mysql+pymysql"), "mariadb+pymysql"),
}
"""The driver's name for each name that a URL may begin with. A server that ``mysql`` leads to must be MariaDB."""

_ENGINES = (("sqlite", "pysqlite"), ("postgresql", "psycopg"), ("mariadb", "pymysql"), ("mysql", "pymysql"))


ANSWER_MARGIN = 5
"""Seconds that an answer of MariaDB may take longer than its statement."""


@dataclass(frozen=True, kw_only=True)
class ConnectedEngine:
    """An engine for a sink.

    Attributes:
        engine: The engine.
        owned: Whether it was created here, so that it is disposed of with the sink.
        threads: How many threads may use it at a time.
    """

    engine: sa.Engine
    owned: bool
    threads: int


def connect_engine(
    url_or_engine: str | sa.URL | sa.Engine,
    *,
    max_connections: int,
    connect_timeout: timedelta,
    statement_timeout: timedelta,
) -> ConnectedEngine:
    """The engine of a sink: a new one for a URL, or the one that is given.

    Raises:
        SinkConfigurationError: The URL, its driver, or the engine cannot be used. The message never has the URL.
    """
    if isinstance(url_or_engine, sa.Engine):
        _check_engine(url_or_engine)
        engine, owned = url_or_engine, False
    else:
        engine, owned = (
            create_engine(
                url_or_engine,
                max_connections=max_connections,
                connect_timeout=connect_timeout,
                statement_timeout=statement_timeout,
            ),
            True,
        )
    threads = 1 if engine.dialect.name == "sqlite" else max_connections  # SQLite has one writer
    return ConnectedEngine(engine=engine, owned=owned, threads=threads)


def create_engine(
    url: str | sa.URL,
    *,
    connect_timeout: timedelta,
    max_connections: int | None = None,
    statement_timeout: timedelta = timedelta(minutes=1),
) -> sa.Engine:
    """A synchronous engine for a database that the sink supports. The only place where one is created from a URL.

    Args:
        url: The database.
        connect_timeout: The longest wait for a connection to PostgreSQL.
        max_connections: The size of the pool. None for no pool: each connection is closed after its use.
        statement_timeout: The longest that PostgreSQL's answers may take before the connection counts as lost.

    Raises:
        SinkConfigurationError: The URL is not supported, or its driver is not installed. The message says what is
            supported, or what to install, and never has the URL, which holds a password.
    """
    parsed = read_url(url)
    options: dict[str, Any] = {"hide_parameters": True}
    if max_connections is None:
        options["poolclass"] = NullPool
    if parsed.get_backend_name() == "sqlite":
        options["connect_args"] = {"check_same_thread": False}
        if _in_memory(parsed):
            options["poolclass"] = StaticPool
    else:
        if parsed.get_backend_name() == "postgresql":
            options["connect_args"] = _postgresql_options(parsed, connect_timeout, statement_timeout)
        else:
            options["connect_args"] = _mariadb_options(parsed, connect_timeout, statement_timeout)
        if max_connections is not None:
            options |= {
                "pool_size": max_connections,
                "max_overflow": 2,
                "pool_timeout": connect_timeout.total_seconds(),
            }
            options["execution_options"] = {OWNED: True}
            if parsed.get_backend_name() == "mariadb":
                # The sink ends every transaction itself. A rollback on return would cost a round trip each time.
                options["pool_reset_on_return"] = None
    try:
        return sa.create_engine(parsed, **options)
    except ModuleNotFoundError as err:
        extra = parsed.get_backend_name() if parsed.get_backend_name() in ("postgresql", "mariadb") else "sql"
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


def _check_engine(engine: sa.Engine) -> None:
    name, driver = engine.dialect.name, engine.dialect.driver
    if (name, driver) not in _ENGINES:
        raise SinkConfigurationError(f"an engine for {name}+{driver}: {SUPPORTED}")
    if isinstance(engine.pool, SingletonThreadPool):
        raise SinkConfigurationError(
            "this engine gives every thread a SQLite database of its own: create it with "
            "poolclass=StaticPool and connect_args={'check_same_thread': False}"
        )


def read_url(given: str | sa.URL) -> sa.URL:
    """Parses a database URL, and adds the driver that is used for its database.

    Raises:
        SinkConfigurationError: It is not a database URL, or it is for another database or driver.
    """
    if not isinstance(given, str | sa.URL):
        raise SinkConfigurationError(f"a {type(given).__name__} is neither a URL nor a synchronous engine; {SUPPORTED}")
    if isinstance(given, str) and given.startswith("postgres:"):
        given = "postgresql" + given.removeprefix("postgres")
    try:
        url = sa.make_url(given)
    except (sa.exc.ArgumentError, ValueError):
        raise SinkConfigurationError(f"this is not a database URL; {SUPPORTED}") from None
    if url.drivername not in _DRIVERS:
        raise SinkConfigurationError(f"a database URL for {url.drivername!r}; {SUPPORTED}")
    return url.set(drivername=_DRIVERS[url.drivername])


def _in_memory(url: sa.URL) -> bool:
    return url.database in (None, "", ":memory:") or "mode=memory" in str(url.database) + str(url.query)


def _postgresql_options(url: sa.URL, connect_timeout: timedelta, statement_timeout: timedelta) -> dict[str, Any]:
    """The driver's options, unless the URL has them.

    Most of them detect a server that vanished without closing the connection.
    """
    options: dict[str, Any] = {
        "connect_timeout": max(2, round(connect_timeout.total_seconds())),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": int(statement_timeout.total_seconds() * 1000),
        "application_name": "temporal-batching",
        # From the first message on: Python knows no codec for some encodings that a database may have.
        "client_encoding": "utf8",
        # No named prepared statements: a pooler in transaction mode would not find them again.
        "prepare_threshold": None,
    }
    return {name: value for name, value in options.items() if name not in url.query}


def _mariadb_options(url: sa.URL, connect_timeout: timedelta, statement_timeout: timedelta) -> dict[str, Any]:
    """The driver's options, unless the URL has them."""
    seconds = statement_timeout.total_seconds()
    options: dict[str, Any] = {
        "charset": "utf8mb4",
        "connect_timeout": max(2, round(connect_timeout.total_seconds())),
        # They detect a server that vanished without closing the connection. The server ends a statement before.
        "read_timeout": seconds + ANSWER_MARGIN,
        "write_timeout": seconds + ANSWER_MARGIN,
        "init_command": INIT_COMMAND,
        "program_name": "temporal-batching",
    }
    if "unix_socket" in url.query and not any(name.startswith("ssl") for name in url.query):
        # The driver would offer TLS, and read the machine's certificates for it: 50 ms of CPU for each connection.
        options["ssl_disabled"] = True
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
    """The adapter for the engine's kind of database."""
    lock_seconds = lock_timeout.total_seconds()
    if engine.dialect.name == "sqlite":
        from temporal_batching.sinks.sql.sqlite import SqliteDatabase

        return SqliteDatabase(engine, ledger, counters, lock_timeout=lock_seconds, wal=wal)
    # The drivers are imported only here, so that SQLite does not need them.
    if is_mariadb(engine.dialect):
        from temporal_batching.sinks.sql.mariadb import MariadbDatabase

        return MariadbDatabase(
            engine, ledger, counters, statement_timeout=statement_timeout.total_seconds(), lock_timeout=lock_seconds
        )
    from temporal_batching.sinks.sql.postgresql import PostgresqlDatabase

    return PostgresqlDatabase(
        engine, ledger, counters, statement_timeout=statement_timeout.total_seconds(), lock_timeout=lock_seconds
    )
