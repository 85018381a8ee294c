"""Two workers of one batcher under load: one is killed, then the other; and both are replaced, one after the other."""

from __future__ import annotations

import time

import pytest
from temporalio.client import Client

from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.faults


async def test_of_two_workers_one_is_killed_and_then_the_other(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql, shards=2)
    workers = [await scene.start_batcher(), await scene.start_batcher()]
    async with scene.load(rate=8):
        for position in range(2):
            await scene.until_some_notified(10)
            await workers[position].kill()
            killed = time.time()
            under_way = [one for one in scene.asked if one.result is None]
            await scene.until_notified(under_way)
            recovered = max(one.notified_at for one in under_way) - killed
            print(f"\none of two killed: {len(under_way)} under way, the last notified after {recovered:.1f} s")
            assert recovered < 45
            workers[position] = await scene.start_batcher()
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}


async def test_a_rolling_restart_under_load_fails_no_caller(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    """All workers, the callers' as well: no one's write takes longer than a task that has to be handed on."""
    scene = await new_scene(client, postgresql, shards=2, callers=False)
    starts = [scene.start_batcher, scene.start_main_worker] * 2
    workers = [await start() for start in starts]
    async with scene.load(rate=8):
        for position, start in enumerate(starts):
            await scene.until_some_notified(10)
            began = time.time()
            assert await workers[position].terminate() == 0
            print(f"\nworker {position + 1} of {len(starts)} ended in order in {time.time() - began:.1f} s")
            workers[position] = await start()
        await scene.until_some_notified(10)
    await scene.audit()
    waits = sorted(one.notified_at - one.asked_at for one in scene.asked)
    print(f"{len(waits)} callers waited {waits[len(waits) // 2]:.1f} s (median), {waits[-1]:.1f} s at most")
    assert set(scene.verdicts()) == {"written"}
    assert waits[-1] < 30
