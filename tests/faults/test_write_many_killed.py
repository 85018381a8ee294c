"""The batcher's worker dies while a workflow has parcels under way; another one takes over."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_batching.audit import audit
from tests.faults.auditing import TABLE
from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase
from tests.support.fault_points import FaultPoint
from tests.support.many_callers import ManyCaller, ManyJob, OneOfMany, OneResult

pytestmark = pytest.mark.faults

ROWS = 450


@pytest.mark.parametrize("point", [FaultPoint.BEFORE_ACCEPT, FaultPoint.BEFORE_COMMIT, FaultPoint.AFTER_COMMIT])
async def test_each_request_of_a_parcel_is_written_once_and_has_its_result(
    point: FaultPoint, client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql, callers=False)
    requests = [
        OneOfMany(TABLE, {"request_id": f"r{n}", "position": 0, "content": "c"}, f"{scene.name}-{n}", f"k{n % 5}")
        for n in range(ROWS)
    ]
    first = await scene.start_batcher(fault=point)
    async with Worker(client, task_queue=scene.callers_queue, workflows=[ManyCaller]):
        caller = await client.start_workflow(
            ManyCaller.run,
            ManyJob(scene.name, scene.queue, requests, timeout=90.0),
            id=f"{scene.name}-many",
            task_queue=scene.callers_queue,
            execution_timeout=timedelta(minutes=4),
        )
        await first.dies()
        await scene.start_batcher()
        results: list[OneResult] = await caller.result()
    assert [one.request_id for one in results] == [f"{scene.name}-{n}" for n in range(ROWS)]
    assert {one.outcome for one in results} <= {"written", "duplicate"}
    assert postgresql.scalar(f"SELECT count(*) FROM {TABLE}") == ROWS
    assert postgresql.scalar(f"SELECT count(DISTINCT request_id) FROM {TABLE}") == ROWS
    in_order = postgresql.rows(f"SELECT request_id FROM {TABLE} ORDER BY number")
    for key in range(5):
        numbers = [int(request_id[1:]) for (request_id,) in in_order if int(request_id[1:]) % 5 == key]
        assert numbers == sorted(numbers)
    report = await audit(
        client, postgresql.url, batcher=scene.name, task_queue=scene.queue, query=f"WorkflowId = '{caller.id}'"
    )
    assert report.holds, report.violations
