"""Shards that Temporal suggests to end in every task, that carry as much as they may, and whose limits change."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

import pytest
from temporalio.client import Client

from temporal_batching import BatchPolicy
from temporal_batching.audit.rules import CallResult
from temporal_batching.policy import CARRY_LIMIT_BYTES
from tests.faults.auditing import full_disk, histories
from tests.faults.scene import NewScene
from tests.support.callers import WAYS_IN
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults


async def test_a_shard_whose_runs_must_end_at_once_still_writes(
    tiny_client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(tiny_client, database)
    batcher = await scene.start_batcher(linger="200ms")
    async with scene.load(rate=6):
        await scene.until_some_notified(25)
        await batcher.kill()
        batcher = await scene.start_batcher(linger="200ms")
        await scene.until_some_notified(25)
    await scene.until_notified()
    (stats,) = await scene.stats()
    waits = sorted(one.notified_at - one.asked_at for one in scene.asked)
    print(
        f"\n{database.dialect}: {len(scene.asked)} writes in {stats.continue_as_new + 1} runs and {stats.batches} "
        f"batches; {waits[len(waits) // 2]:.1f} s (median), {waits[-1]:.1f} s at most"
    )
    await scene.audit()
    assert stats.continue_as_new > 5
    assert set(scene.verdicts()) <= {"written", "duplicate"}


async def test_what_is_carried_over_stays_below_its_bound(
    continuing_client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    """Twice as much waits as a run may carry, nothing can be written, and a worker is killed on top."""
    scene = await new_scene(continuing_client, postgresql)
    batcher = await scene.start_batcher(linger="8s", max_batch_size="1000")
    with full_disk(postgresql):
        # Not so many callers at a time that their signals make the shard's run end over and over.
        for _ in range(5):
            scene.ask_each(count=2, padding=35_000, timeout=120.0)
            await asyncio.sleep(0.3)

        async def holds_too_much() -> None:
            (stats,) = await scene.stats()
            assert stats.pending_bytes > CARRY_LIMIT_BYTES
            assert stats.flush_failures + stats.retries > 0

        await assert_eventually(holds_too_much, within=30)
        await batcher.kill()
        await scene.start_batcher(linger="8s", max_batch_size="1000")
        async with scene.load(rate=4, timeout=120.0, padding=3_000):
            await asyncio.sleep(5)
        (stats,) = await scene.stats()
    await scene.handle.flush()
    await scene.until_notified()
    carried = [
        len(event.workflow_execution_started_event_attributes.input.payloads[0].data)
        for events in await histories(scene.client, scene.name, scene.shards)
        for event in events
        if event.HasField("workflow_execution_started_event_attributes")
    ]
    print(
        f"\n{stats.pending_bytes:,} bytes waited after {stats.flush_failures} tries; {len(carried)} runs, "
        f"of which the most burdened began with {max(carried):,} bytes; {scene.verdicts()}"
    )
    await scene.audit()
    assert len(carried) > 1
    assert max(carried) < 1.1 * CARRY_LIMIT_BYTES
    assert {one.verdict for one in scene.asked} == {CallResult.WRITTEN}


POLICIES = [
    BatchPolicy(linger=timedelta(0), max_batch_size=3),
    BatchPolicy(linger=timedelta(seconds=2), max_batch_size=500),
    BatchPolicy(linger=timedelta(milliseconds=100), max_batch_bytes=1024, max_pending_bytes=4096),
    BatchPolicy(linger=timedelta(milliseconds=100), max_pending=3),
    BatchPolicy(linger=timedelta(milliseconds=300), flush_timeout=timedelta(seconds=1)),
    BatchPolicy(linger=timedelta(milliseconds=50), confirmation_timeout=timedelta(seconds=1)),
]


async def test_limits_that_change_under_load_fail_no_caller(
    continuing_client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(continuing_client, database)
    batcher = await scene.start_batcher()
    async with scene.load(rate=20):
        for number, policy in enumerate(itertools.chain(POLICIES, reversed(POLICIES))):
            await scene.handle.configure(policy)
            if number == len(POLICIES):
                await batcher.kill()
                # It announces limits of its own, which yield to those of an operator.
                await scene.start_batcher(max_batch_size="7")
            await scene.until_some_notified(8)
            assert (await scene.stats())[0].policy == policy.to_wire()
    await scene.until_notified()
    (stats,) = await scene.stats()
    print(f"\n{database.dialect}: {stats.batches} batches in {stats.continue_as_new + 1} runs, {scene.verdicts()}")
    await scene.audit()
    refused = [one for one in scene.asked if one.verdict is CallResult.REJECTED]
    # A signal cannot be rejected as busy: where three may wait, some are rejected as overloaded.
    assert {(one.way_in, one.result and one.result.code) for one in refused} <= {("signal", "overloaded")}
    assert {one.verdict for one in scene.asked if one.way_in in WAYS_IN[:2]} <= {
        CallResult.WRITTEN,
        CallResult.DUPLICATE,
    }
