"""Temporal itself dies by SIGKILL under load, and comes back on its file."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.conftest import CONTINUE_SOON, PROMPT
from tests.faults.processes import temporal
from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.faults

DOWN = 4.0
"""Seconds without a server."""


async def test_temporal_is_killed_and_comes_back(tmp_path: Path, database: TestDatabase, new_scene: NewScene) -> None:
    async with temporal(tmp_path, *PROMPT, *CONTINUE_SOON) as server:
        scene = await new_scene(await Client.connect(server.address), database)
        await scene.start_batcher()
        for turn in range(2):
            async with scene.load(rate=8, timeout=90.0):
                await scene.until_some_notified(15)
                await server.kill()
                await asyncio.sleep(DOWN)
                began = time.time()
                await server.start()
            ready = time.time() - began
            under_way = scene.unanswered()
            await scene.until_notified()
            print(
                f"\nTemporal killed, turn {turn + 1}, {database.dialect}: {under_way} under way, answers again after "
                f"{ready:.1f} s; the last notified {max(one.notified_at for one in scene.asked) - began:.1f} s after it"
            )
        await scene.audit()
        assert set(scene.verdicts()) <= {"written", "duplicate"}
        await scene.clear()
