"""Ten times as much as may wait, by all ways in at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from temporalio.client import Client

from temporal_batching.audit.rules import CallResult
from tests.faults.auditing import slow_down
from tests.faults.scene import NewScene, results
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults

MAX_PENDING = 40


async def test_overload_is_bounded_and_over_by_itself(
    client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database)
    batcher = await scene.start_batcher(max_pending=str(MAX_PENDING), max_batch_size="20", linger="100ms")
    if database.dialect == "postgresql":
        # A statement slows down, and in a table with triggers each row that is read back has one of its own.
        scene.returning = False
        slow_down(database, 0.5)
    await scene.handle.pause()
    memory = _memory(batcher.raw.pid)
    most = refused = 0

    async def watch() -> None:
        nonlocal most, refused
        while True:
            (stats,) = await scene.stats()
            most, refused = max(most, stats.pending), stats.refused
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    began = time.time()
    crowd = scene.ask_each(count=10 * MAX_PENDING // 3)

    async def is_crowded() -> None:
        assert most == MAX_PENDING
        assert refused > MAX_PENDING

    # However slow the machine is that brings the crowd.
    await assert_eventually(is_crowded, within=60)
    await scene.handle.resume()
    await scene.until_notified(within=120)
    seconds = time.time() - began
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    after = scene.ask_each(count=3)
    await scene.until_notified(after, within=20)
    grown, events = _memory(batcher.raw.pid) - memory, (await scene.stats())[0].run_events
    by_door = Counter(f"{one.way_in} {one.verdict}" for one in crowd)
    print(
        f"\n{len(crowd)} callers where {MAX_PENDING} may wait: all notified in {seconds:.1f} s, at most {most} waited, "
        f"{refused} refusals; {events} events, {grown:.0f} MiB more; {dict(by_door)}"
    )
    await scene.audit()
    assert 0 < most <= MAX_PENDING
    assert refused > 0
    # A write by activity that is rejected as busy leaves nothing in history.
    assert events < 10 * len(crowd)
    assert grown < 100
    assert {one.code for one in results(crowd) if one.error == "WriteRejected"} == {"overloaded"}
    # Only a write by signal, which cannot be rejected as busy, is rejected; the others wait and are written.
    assert {one.verdict for one in crowd if one.way_in != "signal"} <= {CallResult.WRITTEN, CallResult.DUPLICATE}
    assert {one.verdict for one in after} == {CallResult.WRITTEN}


def _memory(pid: int) -> float:
    """What a process has in memory, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
