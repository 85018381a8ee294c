"""The servers under measurement and their counters: a fresh Temporal and a fresh database for every run."""

from __future__ import annotations

import asyncio
import itertools
import re
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import sqlalchemy as sa

from temporal_batching.embedded import FAST, free_port, temporal_server
from temporal_batching.sinks.sql import SqlSink

ENTRIES = """CREATE TABLE entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL,
    amount numeric(14,2) NOT NULL, note text, at timestamptz NOT NULL)"""
_COUNTED = re.compile(r"^(persistence_requests|service_requests|action)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_numbers = itertools.count(1)


def scrape(text: str) -> dict[str, Counter[str]]:
    """The counters this benchmark is about: metric to operation to count, all namespaces together."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("persistence", "frontend", "service", "action")}
    for metric, labels, value in _COUNTED.findall(text):
        label = dict(_LABEL.findall(labels))
        count = round(float(value))
        if metric == "persistence_requests":
            found["persistence"][label["operation"]] += count
        elif metric == "service_requests":
            found["service"][label["service_name"] + "." + label["operation"]] += count
            if label["service_name"] == "frontend":
                found["frontend"][label["operation"]] += count
        else:
            found["action"][label["action_type"]] += count
    return found


@dataclass(frozen=True)
class Temporal:
    """A development server, its metrics and its process."""

    address: str
    metrics_port: int
    process: psutil.Process

    async def counters(self) -> dict[str, Counter[str]]:
        return scrape(await asyncio.to_thread(self._read))

    def _read(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def fresh_temporal(directory: Path) -> AsyncIterator[Temporal]:
    port = free_port()
    before = {child.pid for child in psutil.Process().children()}
    async with temporal_server(
        directory=directory, port=0, ui_port=0, options=[*FAST, "--metrics-port", str(port)]
    ) as server:
        (process,) = [c for c in psutil.Process().children() if c.pid not in before and "temporal" in c.name()]
        yield Temporal(server.address, port, process)


@dataclass(frozen=True)
class PostgresCounters:
    """What PostgreSQL did so far.

    Transaction ids and WAL positions are exact at once, but of the whole server, its own housekeeping included. The
    statistics of the database are exact once its connections are closed.
    """

    writing_transactions: int
    wal_bytes: int
    commits: int
    wal_fsyncs: int


class Postgres:
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
                name: str(connection.scalar(sa.text(f"SHOW {name}")))
                for name in ("server_version", "fsync", "synchronous_commit", "autovacuum")
            }

    async def fresh_database(self) -> str:
        """Makes a database with the table and the ledger in it, and returns its URL."""
        name = f"bench_{next(_numbers)}"
        with self._engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        url = self._url.set(database=name).render_as_string(hide_password=False)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(ENTRIES))
        engine.dispose()
        sink = SqlSink(url)
        await sink.open()
        await sink.close()
        return url

    def counters(self, url: str) -> PostgresCounters:
        name = sa.make_url(url).database
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.text(
                    "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
                    " pg_current_wal_insert_lsn() - '0/0'::pg_lsn,"
                    " (SELECT xact_commit FROM pg_stat_database WHERE datname = :name),"
                    " (SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal')"
                ),
                {"name": name},
            ).one()
        return PostgresCounters(*(int(value) for value in row))

    def rows(self, url: str) -> int:
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            count = connection.scalar(sa.text("SELECT count(*) FROM entries"))
        engine.dispose()
        return int(count or 0)

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
