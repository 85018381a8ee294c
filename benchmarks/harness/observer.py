"""What a database feels while others write to it: a process that watches it from nearby.

    python -m benchmarks.harness.observer URL

It is somebody else who uses the same database: ten times a second it commits a small transaction in a table of its own,
and notes how long that took. In between it looks at who is connected, in a transaction, or waiting for a lock. A line
``begin`` on its standard input starts an observation, ``end`` prints it.
"""

from __future__ import annotations

import asyncio
import json
import select
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from temporal_batching.testing.servers import stop

PROBE_SECONDS = 0.1
SAMPLE_SECONDS = 0.025
ANSWER_SECONDS = 20.0

TABLE = "somebody_else"
PROBE = f"UPDATE {TABLE} SET n = n + 1"
SAMPLE = """SELECT count(*), count(*) FILTER (WHERE xact_start IS NOT NULL),
    count(*) FILTER (WHERE wait_event_type = 'Lock')
    FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'observer'
    AND backend_type = 'client backend'"""
OWN_FSYNCS = "SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_get_backend_io(pg_backend_pid()) WHERE object = 'wal'"


@dataclass
class Observation:
    """What was seen from ``begin`` to ``end``.

    Attributes:
        connections: The most at one time.
        in_transaction: Transactions open at a time, on average.
        lock_waits: Connections that wait for a lock at a time, on average.
        probes: Transactions of the observer's own.
        probe_fsyncs: WAL flushes that those made themselves; others they shared with whoever committed just then.
        others: How long its transactions took, in seconds.
    """

    connections: int = 0
    in_transaction: float = 0.0
    lock_waits: float = 0.0
    probes: int = 0
    probe_fsyncs: int = 0
    others: list[float] = field(default_factory=list)


class Observer:
    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, application_name="observer")
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (n bigint NOT NULL)")
        self._connection.execute(f"INSERT INTO {TABLE} VALUES (0)")
        self._connection.execute(PROBE)

    def observe(self) -> Observation:
        """Until there is something to read on standard input."""
        fsyncs = self._own_fsyncs()
        seen = Observation()
        samples: list[tuple[int, int, int]] = []
        next_probe = time.perf_counter()
        while not select.select([sys.stdin], [], [], SAMPLE_SECONDS)[0]:
            now = time.perf_counter()
            if now >= next_probe:
                self._connection.execute(PROBE)
                seen.others.append(time.perf_counter() - now)
                next_probe = now + PROBE_SECONDS
            samples.append(self._one(SAMPLE))
        sys.stdin.readline()
        seen.probes = len(seen.others)
        seen.probe_fsyncs = self._own_fsyncs() - fsyncs
        if samples:
            connected, open_, waiting = zip(*samples, strict=True)
            seen.connections = max(connected)
            seen.in_transaction, seen.lock_waits = statistics.fmean(open_), statistics.fmean(waiting)
        return seen

    def _own_fsyncs(self) -> int:
        self._connection.execute("SELECT pg_stat_force_next_flush()")
        return int(self._one(OWN_FSYNCS)[0])

    def _one(self, query: str) -> Any:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row


class ObserverProcess:
    """The driver's end of it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self) -> None:
        await self._say("begin")
        await self._answer()

    async def end(self) -> Observation:
        await self._say("end")
        return Observation(**json.loads(await self._answer()))

    async def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        await self._process.stdin.drain()

    async def _answer(self) -> bytes:
        assert self._process.stdout is not None
        return await asyncio.wait_for(self._process.stdout.readline(), ANSWER_SECONDS)


@asynccontextmanager
async def observer_process(url: str) -> AsyncIterator[ObserverProcess]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.harness.observer",
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        limit=1 << 20,
        start_new_session=True,
    )
    try:
        yield ObserverProcess(process)
    finally:
        await asyncio.shield(stop(process))


def main() -> None:
    url = sa.make_url(sys.argv[1]).set(drivername="postgresql").render_as_string(hide_password=False)
    observer = Observer(url)
    while sys.stdin.readline():
        print("begun", flush=True)
        print(json.dumps(asdict(observer.observe())), flush=True)


if __name__ == "__main__":
    main()
