"""The callers' own worker dies by SIGKILL, with the gateways in it; another one takes over."""

from __future__ import annotations

import time

import pytest
from temporalio.client import Client

from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.faults


async def test_the_callers_worker_is_killed_under_load(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql, callers=False)
    await scene.start_batcher()
    worker = await scene.start_main_worker()
    for turn in range(2):
        async with scene.load(rate=10):
            await scene.until_some_notified(30)
            await worker.kill()
        killed = time.time()
        under_way = scene.unanswered()
        worker = await scene.start_main_worker()
        await scene.until_notified()
        print(
            f"\ncallers killed, turn {turn + 1}: {under_way} under way; "
            f"the last notified after: {', '.join(scene.slowest(killed))}"
        )
        assert max(one.notified_at for one in scene.asked) - killed < 45
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
