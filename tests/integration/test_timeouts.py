"""A caller's timeout is kept, whatever is slow between it and the batcher."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import (
    Interceptor,
    SignalExternalWorkflowInput,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from temporal_batching import MemorySink
from tests.support.callers import CALLERS, Caller
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


@pytest.mark.xfail(strict=True, reason="a signal that is under way is waited for past the timeout")
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
            (told,) = await handle.result()
            took = await _seconds(handle)
    assert told.error == "WriteNotConfirmed"
    assert took < UNRESOLVED - 1


async def _seconds(handle: Any) -> float:
    described = await handle.describe()
    return float((described.close_time - described.start_time).total_seconds())
