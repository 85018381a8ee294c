"""MariaDB goes away, cuts connections, and blocks, under load."""

from __future__ import annotations

import asyncio
import time

import pytest
from temporalio.client import Client

from temporal_batching.audit.rules import CallResult
from tests.faults.auditing import TABLE, slow_down, verdicts
from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase
from tests.support.mariadb import MariadbServer
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults

OURS = "db = DATABASE() AND id <> CONNECTION_ID() AND command <> 'Sleep'"


async def test_mariadb_is_killed_and_comes_back(
    client: Client, mariadb: TestDatabase, mariadb_process: MariadbServer, new_scene: NewScene
) -> None:
    scene = await new_scene(client, mariadb)
    await scene.start_batcher()
    async with scene.load(rate=15):
        for _ in range(2):
            await scene.until_some_notified(15)
            mariadb_process.kill()
            failures = (await scene.stats())[0].flush_failures

            async def is_tried_again_and_again(least: int = failures + 4) -> None:
                (stats,) = await scene.stats()
                assert (stats.breaker, stats.flush_failures > least) == ("open", True)

            await assert_eventually(is_tried_again_and_again)
            waiting = [one for one in scene.asked if one.result is None]
            await asyncio.to_thread(mariadb_process.start)
        up = time.time()
        await scene.until_some_notified(15)
    await scene.until_notified()
    last = max(one.notified_at for one in waiting) - up
    print(f"\nMariaDB killed twice: {len(waiting)} waited, the last notified after {last:.1f} s; {scene.verdicts()}")
    await scene.audit()
    assert (await scene.stats())[0].breaker == "closed"
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    assert last < 20


async def test_connections_are_cut_in_the_middle_of_transactions(
    client: Client, mariadb: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, mariadb)
    slow_down(mariadb, 0.04)
    await scene.start_batcher(linger="200ms")
    cut = 0
    async with scene.load(rate=15):
        await scene.until_some_notified(5)
        while cut < 12:
            for (number,) in mariadb.rows(f"SELECT id FROM information_schema.PROCESSLIST WHERE {OURS}"):
                mariadb.execute(f"KILL CONNECTION {number}")
                cut += 1
            await asyncio.sleep(0.15)
    await scene.until_notified()
    stats = (await scene.stats())[0]
    print(f"\n{cut} connections cut, {stats.flush_failures} flushes requeued; {scene.verdicts()}")
    await scene.audit()
    assert stats.flush_failures > 0
    assert set(scene.verdicts()) <= {"written", "duplicate"}


@pytest.mark.parametrize("locked", [TABLE, "batching_ledger"])
async def test_a_table_that_somebody_else_has_locked_is_waited_for_until_a_deadline(
    locked: str, client: Client, mariadb: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, mariadb)
    await scene.start_batcher(flush_timeout="3s")
    await scene.until_notified(scene.ask_each(count=2))
    with mariadb.locked(locked):
        hasty = scene.ask_each(count=3, timeout=8.0)
        patient = scene.ask_each(count=3)
        await scene.until_notified(hasty, within=25)
    freed = time.time()
    await scene.until_notified()
    last = max(one.notified_at for one in patient) - freed
    print(f"\n{locked} locked: hasty {verdicts(hasty)}; the patient notified {last:.1f} s after")
    await scene.audit()
    assert {one.verdict for one in hasty} <= {CallResult.EXPIRED, CallResult.NOT_CONFIRMED}
    assert {one.verdict for one in patient} <= {CallResult.WRITTEN, CallResult.DUPLICATE}
    assert last < 20
