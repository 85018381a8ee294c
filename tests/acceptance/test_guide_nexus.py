"""The guide to writing from another namespace runs as it stands, and so do the example services."""

from __future__ import annotations

import asyncio
import importlib
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker
from tests.acceptance.test_guides import block
from tests.support.waiting import assert_eventually

from temporal_batching.testing import running_batcher
from temporal_batching.testing.servers import FAST, find_temporal, temporal_server

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

pytestmark = pytest.mark.documents

PAGE = "write-from-another-namespace.md"
SERVER, *ON_THE_SERVER, WORKER, CHECK = block(PAGE, "sh").strip().splitlines()
COMMANDS = [SERVER, *ON_THE_SERVER]


async def run(command: str, address: str) -> None:
    program = [str(find_temporal()), *shlex.split(command)[1:], "--address", address]
    done = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_a_workflow_and_the_services_write_from_another_namespace(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (WORKER, CHECK) == ("temporal-batching worker", "temporal-batching check")
    (tmp_path / "guide_nexus.py").write_text(block(PAGE, "python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "guide_nexus", raising=False)
    order = importlib.import_module("guide_nexus").Order
    options = (*FAST, *shlex.split(SERVER)[3:])
    async with temporal_server(directory=tmp_path, port=0, ui_port=0, options=options) as server:
        for command in ON_THE_SERVER:
            await run(command, server.address)
        shop = await Client.connect(server.address, namespace="shop")

        async def is_known() -> None:  # the server's parts learn of a namespace one after the other
            try:
                await shop.count_workflows()
            except RPCError as err:
                raise AssertionError(err.message) from None

        await assert_eventually(is_known)
        async with (
            running_batcher(await Client.connect(server.address)) as batcher,
            Worker(shop, task_queue="orders", workflows=[order]),
        ):
            outcome = await shop.execute_workflow(
                order.run,
                args=["order-1", "a-7"],
                id="order-1",
                task_queue="orders",
                execution_timeout=timedelta(seconds=60),
            )
            assert outcome == "written"
            assert batcher.rows == {"orders": [{"article": "a-7"}]}

            checked = await start("temporal-batching", "check", TEMPORAL_ADDRESS=server.address)
            await checked.ends()
            assert "ok       nexus      batcher-main leads to 'batcher-queue'" in checked.lines

            there = {"TEMPORAL_ADDRESS": server.address, "TEMPORAL_NAMESPACE": "shop"}
            await start("main worker", **there)
            by_nexus = ["--via", "nexus", "--nexus-endpoint", "batcher-main"]
            paid = await start("main starter", "--workflows", "3", *by_nexus, **there)
            assert await paid.ends() == 0, paid.output
            assert len(batcher.rows["entries"]) == 3

    nowhere = await start("main starter", "--via", "nexus")
    assert await nowhere.ends() == 1
    assert nowhere.lines[-1].startswith("error: via='nexus' without endpoint")
