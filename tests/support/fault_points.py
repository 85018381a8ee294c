"""Fault points: the instants at which a test may stop, delay or kill a batcher's worker, by public means alone.

`FaultInterceptor` serves as an interceptor of the client and of its worker, `FaultSink` wraps the sink, and
`tests.support.statements` sees what reaches the database's driver. None of them touches the library's own objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from temporalio import activity, client, worker, workflow

from temporal_batching import Batch, Outcome, Sink
from temporal_batching.contract import (
    ACTIVITY_FLUSH,
    OPERATIONS,
    SIGNAL_ADD,
    SIGNAL_CONFIRMATION,
    UPDATE_SUBMIT,
    ReturnedRow,
)
from temporal_batching.sinks.dead_letters import DeadLetter


class FaultPoint(StrEnum):
    """The instants on the way of a write, in their order."""

    BEFORE_ACCEPT = "before_accept"
    """A request has reached its shard; the workflow task that would accept it is never completed."""
    AFTER_ACCEPT = "after_accept"
    """The gateway has the shard's answer; the gateway's activity has not ended."""
    BEFORE_WRITE = "before_write"
    """A flush has begun; its batch has not been given to the sink."""
    BEFORE_COMMIT = "before_commit"
    """Ledger and rows are inserted; their transaction is not committed."""
    AFTER_COMMIT = "after_commit"
    """The batch is committed; no caller is notified."""
    BEFORE_CONFIRMATION = "before_confirmation"
    """One caller is about to be notified; how many were notified before is the test's choice."""
    AFTER_CONFIRMATIONS = "after_confirmations"
    """Every caller of the batch is notified; the flush has not reported to its shard."""
    BEFORE_CONTINUE_AS_NEW = "before_continue_as_new"
    """The shard's run has decided to continue as new; its workflow task is never completed."""
    AFTER_CONTINUE_AS_NEW = "after_continue_as_new"
    """The shard's new run has begun; it has not taken over the state that it was given."""


OnFault = Callable[[FaultPoint], None]
"""Called at every fault point that is passed. It may kill the process."""


class FaultSink(Sink):
    """A sink with the fault points around its write."""

    takes_references = True
    operations = OPERATIONS

    def __init__(self, sink: Sink, on_fault: OnFault) -> None:
        self._sink = sink
        self._on_fault = on_fault

    @property
    def identity(self) -> str | None:  # type: ignore[override]
        """The wrapped sink's, which has it once it is open."""
        return self._sink.identity

    async def open(self) -> None:
        await self._sink.open()

    async def close(self) -> None:
        await self._sink.close()

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        self._on_fault(FaultPoint.BEFORE_WRITE)
        outcomes = await self._sink.write(batch)
        self._on_fault(FaultPoint.AFTER_COMMIT)
        return outcomes

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        return await self._sink.fence(batch)

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        return await self._sink.read_returned(request_ids)

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        return await self._sink.keep_dead_letters(letters)


class FaultInterceptor(client.Interceptor, worker.Interceptor):
    """The fault points of the gateway, of the delivery, of the flush and of the shard.

    A worker takes it over from its client, so it is given to the client alone.
    """

    def __init__(self, on_fault: OnFault) -> None:
        self._on_fault = on_fault

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        return _Calls(next, self._on_fault)

    def intercept_activity(self, next: worker.ActivityInboundInterceptor) -> worker.ActivityInboundInterceptor:
        return _Activities(next, self._on_fault)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        on_fault = self._on_fault

        class Shard(_Shard):
            def __init__(self, next: worker.WorkflowInboundInterceptor) -> None:
                super().__init__(next, on_fault)

        return Shard


def with_interceptor(connected: client.Client, interceptor: client.Interceptor) -> client.Client:
    """The same client, with another interceptor."""
    config: dict[str, Any] = {**connected.config()}
    config["interceptors"] = [*config.get("interceptors", []), interceptor]
    return client.Client(**config)


class _Calls(client.OutboundInterceptor):
    """What the gateway and the delivery call."""

    def __init__(self, next: client.OutboundInterceptor, on_fault: OnFault) -> None:
        super().__init__(next)
        self._on_fault = on_fault
        self._one_by_one = asyncio.Lock()

    async def start_workflow_update(self, input: client.StartWorkflowUpdateInput) -> client.WorkflowUpdateHandle[Any]:
        handle = await super().start_workflow_update(input)
        if input.update == UPDATE_SUBMIT:
            self._on_fault(FaultPoint.AFTER_ACCEPT)
        return handle

    async def start_update_with_start_workflow(
        self, input: client.StartWorkflowUpdateWithStartInput
    ) -> client.WorkflowUpdateHandle[Any]:
        handle = await super().start_update_with_start_workflow(input)
        if input.update_workflow_input.update == UPDATE_SUBMIT:
            self._on_fault(FaultPoint.AFTER_ACCEPT)
        return handle

    # One confirmation at a time, so that those before a fault have arrived and those after it have not.

    async def complete_async_activity(self, input: client.CompleteAsyncActivityInput) -> None:
        async with self._one_by_one:
            self._on_fault(FaultPoint.BEFORE_CONFIRMATION)
            await super().complete_async_activity(input)

    async def fail_async_activity(self, input: client.FailAsyncActivityInput) -> None:
        async with self._one_by_one:
            self._on_fault(FaultPoint.BEFORE_CONFIRMATION)
            await super().fail_async_activity(input)

    async def signal_workflow(self, input: client.SignalWorkflowInput) -> None:
        if input.signal != SIGNAL_CONFIRMATION:
            await super().signal_workflow(input)
            return
        async with self._one_by_one:
            self._on_fault(FaultPoint.BEFORE_CONFIRMATION)
            await super().signal_workflow(input)


class _Activities(worker.ActivityInboundInterceptor):
    def __init__(self, next: worker.ActivityInboundInterceptor, on_fault: OnFault) -> None:
        super().__init__(next)
        self._on_fault = on_fault

    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:
        result = await super().execute_activity(input)
        if activity.info().activity_type == ACTIVITY_FLUSH:
            self._on_fault(FaultPoint.AFTER_CONFIRMATIONS)
        return result


class _Shard(worker.WorkflowInboundInterceptor):
    def __init__(self, next: worker.WorkflowInboundInterceptor, on_fault: OnFault) -> None:
        super().__init__(next)
        self._on_fault = on_fault

    def init(self, outbound: worker.WorkflowOutboundInterceptor) -> None:
        super().init(_ShardCalls(outbound, self._on_fault))

    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:
        if workflow.info().continued_run_id:
            self._on_fault(FaultPoint.AFTER_CONTINUE_AS_NEW)
        return await super().execute_workflow(input)

    async def handle_signal(self, input: worker.HandleSignalInput) -> None:
        if input.signal == SIGNAL_ADD:
            self._on_fault(FaultPoint.BEFORE_ACCEPT)
        await super().handle_signal(input)

    async def handle_update_handler(self, input: worker.HandleUpdateInput) -> Any:
        if input.update == UPDATE_SUBMIT:
            self._on_fault(FaultPoint.BEFORE_ACCEPT)
        return await super().handle_update_handler(input)


class _ShardCalls(worker.WorkflowOutboundInterceptor):
    def __init__(self, next: worker.WorkflowOutboundInterceptor, on_fault: OnFault) -> None:
        super().__init__(next)
        self._on_fault = on_fault

    def continue_as_new(self, input: worker.ContinueAsNewInput) -> Any:
        self._on_fault(FaultPoint.BEFORE_CONTINUE_AS_NEW)
        super().continue_as_new(input)
