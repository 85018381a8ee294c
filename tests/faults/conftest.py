"""What the tests share that kill processes: servers that can be killed, and the scene of a test."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa
from temporalio.client import Client

from tests.faults import reaper
from tests.faults.processes import Postgres, fresh_database, postgres_server
from tests.faults.reaper import Reaper
from tests.faults.scene import NewScene, Scene
from tests.support.databases import TestDatabase, mariadb_database
from tests.support.mariadb import MariadbServer, mariadb_server, missing

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def reaped() -> Iterator[Reaper]:
    """Nothing that these tests start outlives them, even if they are interrupted."""
    with reaper.watch() as watching:
        yield watching


@pytest.fixture(scope="session")
def postgres(reaped: Reaper) -> Iterator[Postgres]:
    """A server of these tests' own, since they kill it."""
    with postgres_server(reaped) as server:
        yield server


@pytest_asyncio.fixture
async def new_scene(tmp_path: Path) -> AsyncIterator[NewScene]:
    """Sets scenes, which are cleared with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def new(
            client: Client, database: TestDatabase, *, shards: int = 1, callers: bool = True, changes: bool = False
        ) -> Scene:
            scene = Scene(client, database, tmp_path, shards=shards)
            scene.changes = changes
            stack.push_async_callback(scene.clear)
            await scene.set(callers=callers)
            return scene

        yield new


@pytest_asyncio.fixture
async def postgresql(postgres: Postgres) -> AsyncIterator[TestDatabase]:
    """A fresh database, looked into with a new connection each time: those of before a restart are dead."""
    await postgres.start()  # a test that failed may have left it down
    with fresh_database(postgres, f"faults_{next(_numbers)}") as database:
        yield database
        await postgres.start()


@pytest.fixture(scope="session")
def mariadb_process(reaped: Reaper) -> Iterator[MariadbServer]:
    """A server of these tests' own, since they kill it."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with mariadb_server() as server:
        yield server


@pytest.fixture
def mariadb(mariadb_process: MariadbServer) -> Iterator[TestDatabase]:
    """A fresh database, looked into with a new connection each time."""
    mariadb_process.start()  # a test that failed may have left it down
    name = f"faults_{next(_numbers)}"
    with mariadb_database(mariadb_process.url, name, poolclass=sa.NullPool) as database:
        yield database
        mariadb_process.start()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> TestDatabase:
    """Two kinds: on MariaDB only those faults are tried in which the database's own behaviour matters."""
    chosen: TestDatabase = request.getfixturevalue(request.param)
    return chosen
