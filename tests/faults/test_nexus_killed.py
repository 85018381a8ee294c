"""The batcher's worker dies by SIGKILL with Nexus operations in its hands; another one takes over."""

from __future__ import annotations

import time

import pytest
from temporalio.client import Client

from tests.faults.scene import NewScene
from tests.support.callers import endpoint_of
from tests.support.databases import TestDatabase
from tests.support.nexus import nexus_endpoint

pytestmark = pytest.mark.faults


async def test_a_worker_killed_with_operations_in_its_hands_loses_and_repeats_none(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql)
    async with nexus_endpoint(client, endpoint_of(scene.name), scene.queue):
        worker = await scene.start_batcher()
        for turn in range(2):
            async with scene.load(rate=10, ways_in=["nexus"], timeout=120.0):
                await scene.until_some_notified(30)
                await worker.kill()
            killed = time.time()
            under_way = scene.unanswered()
            worker = await scene.start_batcher()
            await scene.until_notified()
            last = max(one.notified_at for one in scene.asked) - killed
            print(f"\nkilled, turn {turn + 1}: {under_way} under way; the last notified after {last:.1f} s")
        await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
