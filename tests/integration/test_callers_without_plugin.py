"""Callers whose worker has nothing of ours: the default sandbox, and no plugin."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from temporal_batching import GatewayPlugin, MemorySink
from tests.support.callers import Caller, Job
from tests.support.service import LONGEST_CALLER, QUICK, entry, running
from tests.support.ways import by_way_in


@by_way_in("activity", "signal")
async def test_a_callers_worker_needs_nothing_of_ours(client: Client, way_in: str) -> None:
    async with running(client, MemorySink(), QUICK) as service:
        queue = f"plain-{uuid4().hex}"
        async with Worker(client, task_queue=queue, workflows=[Caller]):
            job = Job(service.name, service.queue, way_in, [entry(1)], timeout=20)
            results = await client.execute_workflow(
                Caller.run, job, id=queue, task_queue=queue, execution_timeout=LONGEST_CALLER
            )
    assert [one.outcome for one in results] == ["written"]


@workflow.defn
class LocalActivityCaller:
    @workflow.run
    async def run(self, way_in: str, wire: dict[str, Any]) -> None:
        await workflow.execute_local_activity(way_in, wire, schedule_to_close_timeout=timedelta(seconds=3))


@by_way_in("batch_write", "batch_write_many")
async def test_a_write_by_local_activity_is_refused_before_it_is_submitted(client: Client, way_in: str) -> None:
    """Nobody could complete it: a local activity has no id that the server knows."""
    sink = MemorySink()
    request = {"request_id": "r", "records": [{"table": "entries", "values": {"n": 1}}]}
    wire = request if way_in == "batch_write" else {"request_id": "p", "shard_key": "k", "requests": [request]}
    async with running(client, sink, QUICK) as service:
        queue = f"local-{uuid4().hex}"
        plugin = GatewayPlugin(name=service.name, task_queue=service.queue)
        async with Worker(client, task_queue=queue, workflows=[LocalActivityCaller], plugins=[plugin]):
            with pytest.raises(WorkflowFailureError) as failed:
                await client.execute_workflow(
                    LocalActivityCaller.run,
                    args=[way_in, wire],
                    id=queue,
                    task_queue=queue,
                    execution_timeout=LONGEST_CALLER,
                )
        assert (await service.stats()).run_updates == 1  # the worker's own
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("WriteRejected", True)
    assert "local activity" in cause.message
    assert not sink.rows
