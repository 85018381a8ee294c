"""What the how-to guides show runs as it stands: their programs, workflows, commands and settings."""

from __future__ import annotations

import asyncio
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.worker import Worker
from tests.acceptance.conftest import ROOT
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

from temporal_batching import BatchClient, BatcherHandle, WriteRequest
from temporal_batching.testing import RunningBatcher, running_batcher
from temporal_batching.testing.servers import FAST, find_temporal, temporal_server

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

pytestmark = pytest.mark.documents

GUIDES = ROOT / "docs" / "how-to"


def block(guide: str, language: str) -> str:
    """The one block of a language in a guide."""
    text = (GUIDES / guide).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(found)


SIGNAL = block("write-from-another-language.md", "sh").strip()


@pytest.fixture
def _transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workflow of its guide, as a module that can be imported."""
    (tmp_path / "guide_transfer.py").write_text(block("write-from-a-workflow.md", "python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "guide_transfer", raising=False)


@pytest.fixture(scope="module")
async def quiet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server on which no other test runs a batcher by the name that the guides use."""
    directory = tmp_path_factory.mktemp("guides")
    async with temporal_server(directory=directory, port=0, ui_port=0, options=FAST) as server:
        yield server.address


async def transfer(client: Client, workflow: Any) -> str:
    options: Any = {"task_queue": "guides", "execution_timeout": timedelta(seconds=60)}
    request = uuid4().hex
    result: str = await client.execute_workflow(
        workflow.run, args=[request, "a-1", "a-2", "9.50"], id=request, **options
    )
    return result


@asynccontextmanager
async def transfers(address: str, **options: Any) -> AsyncIterator[tuple[Client, Any, RunningBatcher]]:
    workflow = importlib.import_module("guide_transfer").Transfer
    client = await Client.connect(address)
    async with running_batcher(client, **options) as batcher, Worker(client, task_queue="guides", workflows=[workflow]):
        yield client, workflow, batcher


@pytest.mark.usefixtures("_transfer")
async def test_the_workflow_writes_both_records(quiet: str) -> None:
    async with transfers(quiet) as (client, workflow, batcher):
        assert await transfer(client, workflow) == "written"
        assert batcher.rows == {
            "entries": [{"account": "a-1", "amount": "-9.50"}, {"account": "a-2", "amount": "9.50"}]
        }


@pytest.mark.usefixtures("_transfer")
async def test_the_workflow_says_why_it_was_rejected(quiet: str) -> None:
    def reject(_: WriteRequest) -> str:
        return "the account is closed"

    async with transfers(quiet, reject=reject) as (client, workflow, batcher):
        assert re.fullmatch(r"rejected: .*\bthe account is closed", await transfer(client, workflow))
        assert batcher.rows == {}


async def test_the_program_writes_one_and_many(quiet: str, start: Start, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    source = block("write-from-a-program.md", "python")
    assert source.count("localhost:7233") == 1
    program.write_text(source.replace("localhost:7233", quiet), encoding="utf-8")
    async with running_batcher(await Client.connect(quiet)) as batcher:
        for outcome in ("written", "duplicate"):
            process = await start("python", str(program))
            assert await process.ends() == 0, process.output
            assert process.lines == [outcome, "1000 written, 0 not"]
        assert len(batcher.rows["entries"]) == 1001


async def test_a_signal_from_the_command_line_is_written(quiet: str) -> None:
    async with running_batcher(await Client.connect(quiet)) as batcher:
        command = [str(find_temporal()), *shlex.split(SIGNAL)[1:], "--address", quiet]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

        async def it_is_written() -> None:
            assert batcher.rows == {"entries": [{"account": "account-1", "amount": "1.00"}]}

        await assert_eventually(it_is_written, within=20)


async def test_the_configured_batcher_runs_with_its_name_and_shards(
    quiet: str, start: Start, postgresql: TestDatabase, tmp_path: Path
) -> None:
    source = block("configure.md", "python")
    for shown, real in {"localhost:7233": quiet, "postgresql://app@localhost/app": postgresql.url}.items():
        assert source.count(shown) == 1
        source = source.replace(shown, real)
    postgresql.execute("CREATE TABLE entries (n integer);;CREATE TABLE balances (account text PRIMARY KEY, n integer)")
    (tmp_path / "batcher.py").write_text(source, encoding="utf-8")
    process = await start("python", str(tmp_path / "batcher.py"))
    client = await Client.connect(quiet)
    writer = BatchClient(client, "payments", shards=4)
    for number in (1, 2):
        confirmation = await writer.write("balances", {"account": "a", "n": number})
        assert confirmation.outcome == "written", process.output
    assert postgresql.rows("SELECT account, n FROM balances") == [("a", 2)]
    assert len(await BatcherHandle(client, "payments", shards=4).stats()) == 4
