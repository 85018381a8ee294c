"""Ten times as much as may wait, through all doors at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

import pytest
from temporalio.client import Client

from tests.auditor import Verdict
from tests.databases import TestDatabase
from tests.faults.auditing import slow_down
from tests.faults.scene import NewScene, told

pytestmark = pytest.mark.faults

MAX_PENDING = 40


async def test_overload_is_bounded_and_over_by_itself(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql)
    # Slow enough that what comes in outruns it.
    slow_down(postgresql, 0.5)
    await scene.start_batcher(max_pending=str(MAX_PENDING), max_batch_size="20", linger="100ms")
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
    await scene.until_told(within=120)
    seconds = time.time() - began
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    after = scene.ask_each(count=3)
    await scene.until_told(after, within=20)
    by_door = Counter(f"{one.door} {one.verdict}" for one in crowd)
    print(
        f"\n{len(crowd)} callers where {MAX_PENDING} may wait: all told in {seconds:.1f} s, at most {most} waited, "
        f"{refused} refusals; {dict(by_door)}"
    )
    await scene.audit()
    assert 0 < most <= MAX_PENDING
    assert refused > 0
    assert {one.code for one in told(crowd) if one.error == "WriteRejected"} == {"overloaded"}
    # Only the signal door, which cannot turn anyone back, says no; at the others whoever waits is written.
    assert {one.verdict for one in crowd if one.door != "signal"} <= {Verdict.WRITTEN, Verdict.DUPLICATE}
    assert {one.verdict for one in after} == {Verdict.WRITTEN}
