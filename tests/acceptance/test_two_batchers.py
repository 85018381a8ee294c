"""Two full `temporal-batching worker`s on one server: each writes into its own database, and stays with it."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from temporalio.client import Client
from tests.support.waiting import assert_eventually

from temporal_batching import BatchClient, BatcherHandle

if TYPE_CHECKING:
    from tests.acceptance.conftest import Process, Start

TABLE = "CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY, batcher TEXT)"


def database(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(TABLE)
    return f"sqlite:///{path}"


def rows(path: Path) -> Sequence[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT n, batcher FROM notes ORDER BY n").fetchall()


async def worker(start: Start, temporal: str, name: str, sink: str, *options: str) -> Process:
    process = await start(
        "temporal-batching", "worker", "--name", name, "--sink", sink, "--linger", "0", *options,
        TEMPORAL_ADDRESS=temporal,
    )  # fmt: skip
    await process.says("Ctrl-C stops it")
    return process


async def write(client: Client, name: str, numbers: range, *, task_queue: str | None = None) -> set[str]:
    batches = BatchClient(client, name, task_queue=task_queue)
    confirmations = await asyncio.gather(
        *(batches.write("notes", {"n": n, "batcher": name}, request_id=f"{name}-{n}") for n in numbers)
    )
    return {str(confirmation.outcome) for confirmation in confirmations}


@pytest.mark.parametrize("queue", ["its own, by default", "one for both"])
async def test_workers_that_differ_in_name_and_sink_write_into_their_own_databases(
    start: Start, temporal: str, tmp_path: Path, queue: str
) -> None:
    client = await Client.connect(temporal)
    suffix = uuid4().hex[:6]
    names = (f"one-{suffix}", f"two-{suffix}")
    paths = {name: tmp_path / f"{name}.db" for name in names}
    shared = f"shared-{suffix}"
    # On one queue every second flush or so meets the wrong worker. With the breaker's default pauses, up to 30 s, seven
    # such in a row outlast a caller.
    options = ("--task-queue", shared, "--retry-max", "1s") if queue == "one for both" else ()
    for name in names:
        await worker(start, temporal, name, database(paths[name]), *options)
    results = await asyncio.gather(
        *(write(client, name, range(10), task_queue=shared if options else None) for name in names)
    )
    assert set().union(*results) <= {"written", "duplicate"}
    for name in names:
        assert rows(paths[name]) == [(n, name) for n in range(10)]


async def test_a_worker_with_another_database_writes_nothing_until_the_command_of_its_error_is_run(
    start: Start, temporal: str, tmp_path: Path
) -> None:
    client = await Client.connect(temporal)
    name = f"moved-{uuid4().hex[:6]}"
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    before = await worker(start, temporal, name, database(first))
    assert await write(client, name, range(3)) == {"written"}
    before.signal(signal.SIGTERM)
    await before.ends()

    after = await worker(start, temporal, name, database(second))
    waiting = asyncio.create_task(write(client, name, range(3, 6)))
    await after.says(f"temporal-batching adopt-ledger --name {name} --identity ")
    (command,) = set(re.findall(r"temporal-batching adopt-ledger --name \S+ --identity \S+", after.output))

    async def refused() -> None:
        (shard,) = await BatcherHandle(client, name).stats()
        assert shard.breaker == "open"
        assert command in (shard.sink_error or "")

    await assert_eventually(refused)
    assert rows(second) == []
    adopted = await start(*command.split(), TEMPORAL_ADDRESS=temporal)
    assert await adopted.ends() == 0, adopted.output
    assert await waiting == {"written"}
    assert [n for n, _ in rows(first)] == [0, 1, 2]
    assert [n for n, _ in rows(second)] == [3, 4, 5]
