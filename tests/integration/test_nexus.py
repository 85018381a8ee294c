"""Writes by Nexus from another namespace, whose workers have nothing of the batcher's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Worker

from temporal_batching import BatchPolicy, MemorySink
from tests.support.callers import Caller, CallerResult, Job, Write, endpoint_of
from tests.support.many_callers import ManyCaller, ManyJob, OneOfMany, OneResult
from tests.support.nexus import callers_namespace, nexus_endpoint
from tests.support.service import LONGEST_CALLER, QUICK, Service, entry, running
from tests.support.waiting import assert_eventually


@dataclass
class Elsewhere:
    """Callers in a namespace of their own, in the default sandbox and without a plugin."""

    client: Client
    queue: str
    service: Service

    async def start(
        self, *writes: Write, timeout: float = 30.0, batcher: str | None = None
    ) -> WorkflowHandle[Any, list[CallerResult]]:
        job = Job(self.service.name, self.service.queue, "nexus", list(writes), timeout=timeout)
        job.batcher, job.endpoint = batcher or job.batcher, endpoint_of(self.service.name)
        return await self._start(Caller.run, job)

    async def call(self, *writes: Write, **options: Any) -> list[CallerResult]:
        return await (await self.start(*writes, **options)).result()

    async def call_many(self, requests: list[OneOfMany], **options: Any) -> list[OneResult]:
        endpoint = endpoint_of(self.service.name)
        job = ManyJob(self.service.name, self.service.queue, requests, endpoint=endpoint, **options)
        results: list[OneResult] = await (await self._start(ManyCaller.run, job)).result()
        return results

    async def _start(self, run: Any, job: Any) -> WorkflowHandle[Any, Any]:
        started: WorkflowHandle[Any, Any] = await self.client.start_workflow(
            run, job, id=f"{self.queue}-{uuid4().hex[:8]}", task_queue=self.queue, execution_timeout=LONGEST_CALLER
        )
        return started


@asynccontextmanager
async def elsewhere(service: Service) -> AsyncIterator[Elsewhere]:
    client = await callers_namespace(service.client)
    queue = f"{service.name}-elsewhere"
    async with Worker(client, task_queue=queue, workflows=[Caller, ManyCaller]):
        yield Elsewhere(client, queue, service)


def endpoint(service: Service) -> Any:
    return nexus_endpoint(service.client, endpoint_of(service.name), service.queue)


async def test_a_caller_of_another_namespace_receives_what_every_caller_receives(client: Client) -> None:
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] == 13 else None)
    async with running(client, sink, QUICK, shards=3) as service, endpoint(service), elsewhere(service) as callers:
        first = Write([["entries", {"n": 1}, ["n"]]], key="k", request_id="one")
        results = await callers.call(first, entry(13), entry(2))
        assert [(one.outcome, one.code, one.error, one.returned) for one in results] == [
            ("written", None, None, [{"n": 1}]),
            ("rejected", "constraint", "WriteRejected", None),
            ("written", None, None, None),
        ]
        (again,) = await callers.call(first)
        assert (again.outcome, again.returned) == ("duplicate", [{"n": 1}])
        (other,) = await callers.call(Write([["entries", {"n": 3}]], key="k", request_id="one"))
        assert (other.outcome, other.code) == ("rejected", "id_reused")
        # By another way, the same request is a duplicate as well.
        (local,) = await service.call("activity", [first])
        assert local.outcome == "duplicate"

        requests = [OneOfMany("entries", {"n": n}, f"many-{n}", returning=["n"]) for n in range(50, 80)]
        wrong, many, together = await asyncio.gather(
            callers.call(entry(4), batcher="another", timeout=6.0),
            callers.call_many(requests),
            callers.call(*(entry(n) for n in range(100, 150))),  # more than one workflow may have under way
        )
    assert [(one.error, "meant for 'another'" in one.reason) for one in wrong] == [("WriteNotSubmitted", True)]
    assert [(one.outcome, one.returned) for one in many] == [("written", [{"n": n}]) for n in range(50, 80)]
    assert [one.outcome for one in together] == ["written"] * 50
    assert sorted(row["n"] for row in sink.rows["entries"]) == [1, 2, *range(50, 80), *range(100, 150)]


async def test_a_cancellation_reaches_the_batcher_before_its_caller_has_ended(client: Client) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=LONGEST_CALLER)
    async with running(client, sink, policy) as service, endpoint(service), elsewhere(service) as callers:
        leaves, stays = await callers.start(entry(1)), await callers.start(entry(2))

        async def both_wait() -> None:
            assert (await service.stats()).pending == 2

        await assert_eventually(both_wait)
        await leaves.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await leaves.result()
        assert isinstance(failure.value.cause, CancelledError)
        assert (await service.stats()).pending == 1
        await service.handle.flush()
        assert (await stays.result())[0].outcome == "written"

        async def nothing_is_open() -> None:
            query = f"TaskQueue = '{service.queue}' AND ExecutionStatus = 'Running'"
            assert [one.activity_id async for one in client.list_activities(query)] == []

        await assert_eventually(nothing_is_open)
    assert sink.rows["entries"] == [{"n": 2}]


async def test_without_an_endpoint_or_a_worker_a_caller_waits_and_its_error_claims_nothing(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, batcher=False) as service, elsewhere(service) as callers:
        waits = await callers.start(entry(1))

        async def has_no_endpoint() -> None:
            failed = [
                event.workflow_task_failed_event_attributes
                async for event in waits.fetch_history_events()
                if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
            ]
            cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES
            assert [one.cause for one in failed][:1] == [cause]

        await assert_eventually(has_no_endpoint)
        async with endpoint(service):
            (lost,) = await callers.call(entry(2), timeout=3.0)
            assert (lost.error, lost.outcome) == ("WriteNotConfirmed", "")
            await service.start_batcher()
            (late,) = await waits.result()
    assert late.outcome == "written"
    assert {row["n"] for row in sink.rows["entries"]} == {1}
