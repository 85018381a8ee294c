"""What the tests share that kill processes: servers that can be killed, and the scene of a test."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from tests.faults import reaper
from tests.faults.processes import Postgres, fresh_database, postgres_server
from tests.faults.reaper import Reaper
from tests.faults.scene import NewScene, Scene
from tests.support.databases import TestDatabase

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

        async def new(client: Client, database: TestDatabase, *, shards: int = 1, callers: bool = True) -> Scene:
            scene = Scene(client, database, tmp_path, shards=shards)
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
