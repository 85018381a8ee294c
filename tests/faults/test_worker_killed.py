"""The batcher's worker dies by SIGKILL at every fault point on a write's way; another one takes over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.faults.auditing import TABLE, create_table
from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase, sqlite_file
from tests.support.fault_points import FaultPoint

pytestmark = pytest.mark.faults

WITHIN = 45.0
"""Seconds until the last caller is notified. Mostly it takes less than ten: a flush that stops beating is noticed after
5 s, a shard's next task waits 3 s for the dead worker, one that it had begun 10 s. The longest is an attempt of
an activity whose gateway died with the request in its hands: 30 s by default, whatever the point."""

CONTINUING = [FaultPoint.BEFORE_CONTINUE_AS_NEW, FaultPoint.AFTER_CONTINUE_AS_NEW]
POINTS = [point for point in FaultPoint if point not in CONTINUING]


@pytest.mark.parametrize(
    ("point", "database"),
    [
        *((point, "postgresql") for point in POINTS),
        *((point, "sqlite") for point in (FaultPoint.BEFORE_COMMIT, FaultPoint.AFTER_COMMIT)),
        *((point, "mariadb") for point in (FaultPoint.BEFORE_COMMIT, FaultPoint.AFTER_COMMIT)),
    ],
    indirect=["database"],
)
async def test_a_worker_killed_at_a_fault_point_costs_seconds(
    point: FaultPoint, database: TestDatabase, client: Client, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database)
    after = 10 if point is FaultPoint.BEFORE_CONFIRMATION else 0
    first = await scene.start_batcher(fault=point, after=after, linger="1500ms")
    scene.ask_each(count=12)
    await first.dies()
    killed = time.time()
    await scene.start_batcher(linger="1500ms")
    ready = time.time() - killed
    await scene.until_notified()
    early = sum(one.notified_at - killed < 1.5 for one in scene.asked)
    print(
        f"\nkilled {point}, {database.dialect}: {early} notified all the same; a new worker after {ready:.1f} s; "
        f"the last notified after: {', '.join(scene.slowest(killed))}; {scene.verdicts()}"
    )
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    assert max(one.notified_at for one in scene.asked) - killed < WITHIN
    if point is FaultPoint.BEFORE_CONFIRMATION:
        assert 0 < early < len(scene.asked)


async def test_a_gateway_killed_with_every_request_in_its_hands(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    """Nothing is accepted, all activities are started: they are tried again when their attempt has timed out."""
    scene = await new_scene(client, postgresql)
    first = await scene.start_batcher(fault=FaultPoint.BEFORE_ACCEPT)
    scene.ask_each(["activity"], count=20)
    await first.dies()
    killed = time.time()
    await scene.start_batcher()
    await scene.until_notified()
    print(f"\nkilled with all in the gateway's hands: the last notified after: {', '.join(scene.slowest(killed))}")
    await scene.audit()
    assert set(scene.verdicts()) == {"written"}
    assert max(one.notified_at for one in scene.asked) - killed < WITHIN


@pytest.mark.parametrize("point", CONTINUING)
async def test_a_worker_killed_while_its_shard_continues_as_new(
    point: FaultPoint, continuing_client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(continuing_client, postgresql)
    first = await scene.start_batcher(fault=point, linger="100ms")
    async with scene.load(rate=30):
        await first.dies()
        killed = time.time()
        under_way = [one for one in scene.asked if one.result is None]
        await scene.start_batcher(linger="100ms")
    await scene.until_notified(under_way)
    recovered = max(one.notified_at for one in under_way) - killed
    print(f"\nkilled {point}: {len(under_way)} under way, the last of them notified after {recovered:.1f} s")
    await scene.audit()
    stats = (await scene.stats())[0]
    assert stats.continue_as_new >= 1
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    assert recovered < WITHIN


async def test_a_first_batch_whose_worker_is_killed_after_its_commit_goes_into_no_other_database(
    client: Client, sqlite: TestDatabase, new_scene: NewScene, tmp_path: Path
) -> None:
    scene = await new_scene(client, sqlite)
    first = await scene.start_batcher(fault=FaultPoint.AFTER_COMMIT)
    scene.ask_each(count=1)
    await first.dies()
    with sqlite_file(tmp_path / "other.db") as other:
        create_table(other)
        stranger = await scene.start_batcher(url=other.url)
        await stranger.says("has been written to the ledger")
        await stranger.kill()
        assert other.scalar(f"SELECT count(*) FROM {TABLE}") == 0
    await scene.start_batcher()
    await scene.until_notified()
    await scene.audit()
    assert set(scene.verdicts()) == {"written"}
