"""A caller's timeout is kept, whatever is slow between it and the batcher."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    SignalExternalWorkflowInput,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from temporal_batching import GatewayPlugin, MemorySink
from tests.support.callers import CALLERS, WAYS_IN, Caller
from tests.support.service import QUICK, entry, running

TIMEOUT = 1.0
UNRESOLVED = 6.0
"""Seconds that Temporal needs to say that a signal has arrived."""


class _SlowOutbound(WorkflowOutboundInterceptor):
    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:
        """As the SDK does it: a signal that has left the workflow cannot be cancelled, and is waited for."""
        resolved = asyncio.create_task(asyncio.sleep(UNRESOLVED))
        cancelled = False
        while not resolved.done():
            try:
                await asyncio.shield(resolved)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
        await super().signal_external_workflow(input)


class _SlowInbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_SlowOutbound(outbound))


class SlowSignals(Interceptor):
    """Temporal delivers a workflow's signals late, as a busy server does that tries one again after seconds."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _SlowInbound


async def test_a_signal_that_temporal_delivers_late_does_not_hold_its_caller_up(client: Client) -> None:
    async with running(client, MemorySink(), QUICK) as service:
        queue = f"{service.name}-slow"
        async with Worker(client, task_queue=queue, workflows=CALLERS, interceptors=[SlowSignals()]):
            handle = await client.start_workflow(
                Caller.run,
                service.job("signal", [entry(1)], timeout=TIMEOUT),
                id=f"{service.name}-slow",
                task_queue=queue,
                execution_timeout=timedelta(seconds=30),
            )
            (result,) = await handle.result()
            took = await _seconds(handle)
    assert result.error == "WriteNotConfirmed"
    assert took < UNRESOLVED - 1


async def _seconds(handle: WorkflowHandle[Any, Any]) -> float:
    described = await handle.describe()
    assert described.close_time is not None
    return (described.close_time - described.start_time).total_seconds()


SLOW_TASK = 1.5
"""Seconds of a workflow task on a machine without CPU to spare; the SDK takes 2 for a deadlock."""


class _SlowStart(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        time.sleep(SLOW_TASK)  # noqa: ASYNC251  the whole worker is slow: that is the point
        return await super().execute_workflow(input)


class SlowWorker(Interceptor):
    """The first workflow task takes long, as it does where forty callers start at once and CPU is short."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _SlowStart


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_a_timeout_counts_from_the_write_however_long_its_caller_took_to_ask(way_in: str, client: Client) -> None:
    async with running(client, MemorySink(), QUICK) as service:
        await service.handle.pause()
        queue = f"{service.name}-slow"
        gateway = GatewayPlugin(name=service.name, task_queue=service.queue)
        async with Worker(
            client,
            task_queue=queue,
            workflows=CALLERS,
            plugins=[gateway],
            interceptors=[SlowWorker()],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            handle = await client.start_workflow(
                Caller.run,
                service.job(way_in, [entry(1)], timeout=2 * SLOW_TASK),
                id=f"{service.name}-slow",
                task_queue=queue,
                execution_timeout=timedelta(seconds=30),
            )
            await handle.result()
            took = await _seconds(handle)
            waited = await _waited(handle)
    assert took > SLOW_TASK + waited
    assert waited < 2 * SLOW_TASK + 1


async def _waited(handle: WorkflowHandle[Any, Any]) -> float:
    """Seconds from the end of the workflow task that asked to the one that had the answer to begin."""
    at = [(e.event_type, e.event_time.ToNanoseconds() / 1e9) async for e in handle.fetch_history_events()]
    asked = next(moment for kind, moment in at if kind == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    return max(moment for kind, moment in at if kind == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED) - asked
