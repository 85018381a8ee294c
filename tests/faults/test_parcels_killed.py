"""A program's parcels are by reference: workers die with the content, and others read it where it lies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from temporal_batching import BatchClient, Record, WriteRequest
from temporal_batching.audit import audit
from temporal_batching.contract import Confirmation
from temporal_batching.writers.parcels import WriteResult
from tests.faults.auditing import TABLE
from tests.faults.scene import NewScene, Scene
from tests.support.databases import TestDatabase
from tests.support.fault_points import FaultPoint

pytestmark = pytest.mark.faults

ROWS = 1_500
KEYS = 400
"""More than a reference names: in parcels of 100 some are named, in those of 300 none."""


def requests_of(scene: Scene, count: int = ROWS, keys: int = KEYS) -> list[WriteRequest]:
    records = [Record(TABLE, {"request_id": f"r{n}", "position": 0, "content": "c"}) for n in range(count)]
    return [WriteRequest(f"{scene.name}-{n}", [one], f"k{n % keys}") for n, one in enumerate(records)]


async def check(scene: Scene, results: Sequence[WriteResult], count: int = ROWS, keys: int = KEYS) -> None:
    """Every request is written once, in the order of its key, and its caller knows."""
    outcomes = [one.outcome if isinstance(one, Confirmation) else repr(one) for one in results]
    assert set(outcomes) <= {"written", "duplicate"}
    assert [one.request_id for one in results] == [f"{scene.name}-{n}" for n in range(count)]
    in_order = scene.database.rows(f"SELECT request_id FROM {TABLE} ORDER BY number")
    assert sorted(one for (one,) in in_order) == sorted(f"r{n}" for n in range(count))
    for key in range(keys):
        numbers = [int(request_id[1:]) for (request_id,) in in_order if int(request_id[1:]) % keys == key]
        assert numbers == sorted(numbers)
    report = await audit(
        scene.client,
        scene.database.url,
        batcher=scene.name,
        task_queue=scene.queue,
        query="WorkflowId = 'nobody'",
    )
    assert report.holds, report.violations
    assert report.requests == count


def writer(scene: Scene) -> BatchClient:
    return BatchClient(scene.client, scene.name, task_queue=scene.queue, timeout=timedelta(seconds=90))


@pytest.mark.parametrize("point", [FaultPoint.AFTER_ACCEPT, FaultPoint.BEFORE_WRITE, FaultPoint.BEFORE_COMMIT])
@pytest.mark.parametrize("size", ["100", "300"], ids=["keys named", "keys many"])
async def test_the_gateways_process_dies_with_what_it_kept(
    point: FaultPoint, size: str, client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    """After acceptance, between the content and the sink, and between the sink and the commit."""
    scene = await new_scene(client, postgresql, callers=False)
    policy: dict[str, Any] = {"linger": "1s", "max_batch_size": size, "max_in_flight": "4"}
    first = await scene.start_batcher(fault=point, **policy)
    writing = asyncio.create_task(writer(scene).write_many(requests_of(scene)))
    await first.dies()
    await scene.start_batcher(**policy)
    await check(scene, await writing)


async def test_of_two_workers_one_dies_with_what_the_other_flushes(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql, callers=False)
    policy: dict[str, Any] = {"linger": "300ms", "max_in_flight": "4"}
    dying = await scene.start_batcher(fault=FaultPoint.AFTER_ACCEPT, after=3, **policy)
    await scene.start_batcher(**policy)
    writing = asyncio.create_task(writer(scene).write_many(requests_of(scene)))
    await dying.dies()
    await check(scene, await writing)


@pytest.mark.parametrize("point", [FaultPoint.BEFORE_CONTINUE_AS_NEW, FaultPoint.AFTER_CONTINUE_AS_NEW])
async def test_a_shard_moves_with_references_in_its_hands(
    point: FaultPoint, continuing_client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(continuing_client, postgresql, callers=False)
    policy: dict[str, Any] = {"linger": "100ms", "max_batch_size": "20"}
    first = await scene.start_batcher(fault=point, **policy)
    writing = asyncio.create_task(writer(scene).write_many(requests_of(scene)))
    await first.dies()
    await scene.start_batcher(**policy)
    await check(scene, await writing)
    assert (await scene.stats())[0].continue_as_new >= 1
