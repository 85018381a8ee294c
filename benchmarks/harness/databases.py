"""The databases that writes go to, and their counters: PostgreSQL from a wheel with fsync on, or SQLite."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]
import sqlalchemy as sa

from benchmarks.harness import hot_row
from temporal_batching.sinks.sql import SqlSink
from temporal_batching.testing.servers import postgres_server

COLUMNS = "account text NOT NULL, amount numeric(14,2) NOT NULL, note text, at {timestamp} NOT NULL"
ENTRIES_POSTGRESQL = (
    "CREATE TABLE entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
    + COLUMNS.format(timestamp="timestamptz")
    + ")"
)
ENTRIES_SQLITE = "CREATE TABLE entries (id integer PRIMARY KEY, " + COLUMNS.format(timestamp="text") + ")"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class DatabaseCounters:
    """What a database did so far; None where it does not say.

    PostgreSQL's transaction ids and WAL positions are exact at once, but of the whole server, its own housekeeping
    included. Its count of fsyncs is exact once the connections that asked for them are closed.
    """

    writing_transactions: int | None = None
    wal_bytes: int | None = None
    wal_fsyncs: int | None = None


class BenchDatabase(ABC):
    """Makes fresh databases with the table and the ledger in them, and looks at what they did."""

    async def fresh(self) -> str:
        """A database of its own for one measurement; returns its URL."""
        url = self._create(next(_numbers))
        sink = SqlSink(url)
        await sink.open()
        await sink.close()
        return url

    @abstractmethod
    def _create(self, number: int) -> str: ...

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """What a reader must know about it."""

    @abstractmethod
    def counters(self) -> DatabaseCounters: ...

    @abstractmethod
    def cpu(self) -> float:
        """Seconds, of its own processes."""

    def rows(self, url: str) -> int:
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            count = connection.scalar(sa.text("SELECT count(*) FROM entries"))
        engine.dispose()
        return int(count or 0)


class Postgres(BenchDatabase):
    """The embedded PostgreSQL with its settings as they come, fsync on; only autovacuum is off."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url = sa.make_url(url)
        self._engine = sa.create_engine(self._url, isolation_level="AUTOCOMMIT")
        with self._engine.connect() as connection:
            # Its transactions would be counted among those of the writes.
            connection.execute(sa.text("ALTER SYSTEM SET autovacuum = off"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
        self._postmaster = psutil.Process(int((directory / "postgres" / "postmaster.pid").read_text().split()[0]))

    def settings(self) -> dict[str, str]:
        with self._engine.connect() as connection:
            return {
                f"PostgreSQL {name}": str(connection.scalar(sa.text(f"SHOW {name}")))
                for name in ("server_version", "fsync", "synchronous_commit", "autovacuum")
            }

    def empty(self, number: int) -> str:
        """Makes a database without tables, and returns its URL."""
        name = f"bench_{number}"
        with self._engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _create(self, number: int) -> str:
        url = self.empty(number)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            for statement in (ENTRIES_POSTGRESQL, *hot_row.DDL):
                connection.execute(sa.text(statement))
        engine.dispose()
        return url

    def hot_total(self, url: str) -> Decimal:
        """What was added to the hot row."""
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            total = connection.scalar(sa.text(f"SELECT amount FROM {hot_row.TABLE}"))
        engine.dispose()
        return Decimal(total or 0)

    def counters(self) -> DatabaseCounters:
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.text(
                    "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
                    " pg_current_wal_insert_lsn() - '0/0'::pg_lsn,"
                    " (SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal')"
                )
            ).one()
        return DatabaseCounters(*(int(value) for value in row))

    def cpu(self) -> float:
        """Of the postmaster and its children, those that have ended included."""
        times = self._postmaster.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in self._postmaster.children():
            try:
                own = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += own.user + own.system
        return float(total)

    def close(self) -> None:
        self._engine.dispose()


class Sqlite(BenchDatabase):
    """Files in a directory. It runs inside the workers, so its CPU time is theirs, and it counts nothing itself."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def settings(self) -> dict[str, str]:
        engine = sa.create_engine("sqlite://")
        with engine.connect() as connection:
            version = connection.scalar(sa.text("SELECT sqlite_version()"))
        return {"SQLite version": str(version)}

    def _create(self, number: int) -> str:
        url = f"sqlite:///{self._directory / f'bench_{number}.db'}"
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(ENTRIES_SQLITE))
        engine.dispose()
        return url

    def counters(self) -> DatabaseCounters:
        return DatabaseCounters()

    def cpu(self) -> float:
        return 0.0


@asynccontextmanager
async def open_database(kind: Literal["postgresql", "sqlite"], directory: Path) -> AsyncIterator[BenchDatabase]:
    if kind == "sqlite":
        yield Sqlite(directory)
        return
    async with postgres_server(directory=directory) as url:
        postgres = Postgres(url, directory)
        try:
            yield postgres
        finally:
            postgres.close()
