"""The page about flushes on a task queue of their own: its commands and its program, as they stand there."""

from __future__ import annotations

import asyncio
import re
import shlex
import sqlite3
import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client
from temporalio.worker import Worker
from tests.acceptance.conftest import ROOT
from tests.support.databases import TestDatabase
from tests.support.observing import get
from tests.support.waiting import assert_eventually

from temporal_batching import BatchClient, BatcherPlugin, BatchPolicy
from temporal_batching.testing.servers import FAST, find_temporal, free_port, temporal_server

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

pytestmark = pytest.mark.documents

PAGE = (ROOT / "docs" / "how-to" / "limit-flushes.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*)\n```$", PAGE, re.MULTILINE)
METADATA = "temporal workflow metadata --workflow-id batcher-main-0"


def temporals(command: str, address: str) -> str:
    """What a command of Temporal's prints."""
    program = [str(find_temporal()), *shlex.split(command)[1:], "--address", address]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout


async def test_the_commands_of_the_page_flush_elsewhere_under_a_limit(start: Start, tmp_path: Path) -> None:
    both, limit, shards, flushes = COMMANDS
    file = tmp_path / "app.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE entries (n integer)")
    async with temporal_server(directory=tmp_path, port=0, ui_port=0, options=FAST) as server:
        for command in (flushes, shards, both):
            options = shlex.split(command.replace("sqlite:///app.db", f"sqlite:///{file}"))[1:]
            worker = await start("temporal-batching", *options, TEMPORAL_ADDRESS=server.address, BATCHING_LINGER="0")
            await worker.says("Ctrl-C stops it")
        assert "Successfully updated" in await asyncio.to_thread(temporals, limit, server.address)
        confirmation = await BatchClient(await Client.connect(server.address)).write("entries", {"n": 1})
        assert confirmation.outcome == "written"
        shown = await asyncio.to_thread(temporals, METADATA, server.address)
        assert "Healthy" in shown
        assert "main-flushes" in shown
        checked = await start("temporal-batching", "check", TEMPORAL_ADDRESS=server.address)
        assert await checked.ends() == 0, checked.output
        assert any(line.split()[:3] == ["ok", "flush", "queue"] for line in checked.lines), checked.output


async def test_the_program_of_the_page_flushes_for_a_batcher_without_a_sink(
    postgresql: TestDatabase, tmp_path: Path
) -> None:
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    postgresql.execute("CREATE TABLE entries (n integer)")
    health = f"127.0.0.1:{free_port()}"
    async with temporal_server(directory=tmp_path, port=0, ui_port=0, options=FAST) as server:
        here = {
            "localhost:7233": server.address,
            "postgresql://app@localhost/app": postgresql.url,
            "127.0.0.1:8080": health,
        }
        for shown, real in here.items():
            assert source.count(shown) == 1
            source = source.replace(shown, real)
        program: dict[str, Any] = {}
        exec(compile(source, "limit-flushes.md", "exec"), program)
        flushing = asyncio.create_task(program["serve"]())
        client = await Client.connect(server.address)
        plugin = BatcherPlugin(None, policy=BatchPolicy(linger=timedelta(0)), flush_task_queue="main-flushes")
        async with Worker(client, task_queue="batcher-queue", plugins=[plugin]):
            assert (await BatchClient(client).write("entries", {"n": 1})).outcome == "written"

            async def ready() -> None:
                status, body = await get(f"http://{health}/readyz")
                assert (status, "sink: ok" in body) == (200, True), body

            await assert_eventually(ready, within=30)
        flushing.cancel()
        with suppress(asyncio.CancelledError):
            await flushing
    assert postgresql.scalar("SELECT count(*) FROM entries") == 1
