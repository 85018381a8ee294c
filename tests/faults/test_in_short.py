"""The most common faults, quick enough for every run of the tests."""

from __future__ import annotations

import time

from temporalio.client import Client

from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase
from tests.support.fault_points import FaultPoint


async def test_a_worker_killed_between_commit_and_confirmation_costs_seconds(
    client: Client, sqlite: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, sqlite)
    first = await scene.start_batcher(fault=FaultPoint.AFTER_COMMIT)
    scene.ask_each(count=4)
    await first.dies()
    killed = time.time()
    scene.ask_each(count=2)
    await scene.start_batcher()
    await scene.until_notified()
    print(f"\nkilled: the last notified after: {', '.join(scene.slowest(killed))}; {scene.verdicts()}")
    await scene.audit()
    assert set(scene.verdicts()) == {"written"}
    assert max(one.notified_at for one in scene.asked) - killed < 30


async def test_ids_requested_by_every_way_in_are_written_once(
    client: Client, sqlite: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, sqlite)
    await scene.start_batcher()
    first = scene.ask_each(count=3)
    for one in first:
        scene.ask_each(again=one)
    await scene.until_notified()
    for one in first:
        scene.ask_each(request_id=one.request_id)
    await scene.audit()
    assert scene.verdicts() == {"written": 9, "duplicate": 27, "rejected": 27}
