"""Callers whose worker has nothing of ours: the default sandbox, and no plugin."""

from __future__ import annotations

from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_batching import MemorySink
from tests.support.callers import Caller, Job
from tests.support.service import LONGEST_CALLER, QUICK, entry, running


@pytest.mark.parametrize("door", ["activity", "signal"])
async def test_a_callers_worker_needs_nothing_of_ours(client: Client, door: str) -> None:
    async with running(client, MemorySink(), QUICK) as service:
        queue = f"plain-{uuid4().hex}"
        async with Worker(client, task_queue=queue, workflows=[Caller]):
            job = Job(service.name, service.queue, door, [entry(1)], timeout=20)
            told = await client.execute_workflow(
                Caller.run, job, id=queue, task_queue=queue, execution_timeout=LONGEST_CALLER
            )
    assert [one.outcome for one in told] == ["written"]
