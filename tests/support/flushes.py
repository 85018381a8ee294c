"""A flush in few words, for its tests: a sink, a batch, and a Temporal client that notes its deliveries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import MagicMock

from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from temporal_batching.contract import (
    FlushInput,
    FlushResult,
    JsonObject,
    Outcome,
    ReplyTo,
)
from temporal_batching.flush.activity import Flusher
from temporal_batching.flush.settlement import BatchResult, write_batch
from temporal_batching.metrics.flushes import FlushMetrics
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.wire.submission import load_submission
from tests.support.buffers import caller


class FakeSink(Sink):
    """Calls what the test gives it, and remembers what it was asked."""

    def __init__(self, write: Callable[[Batch], Sequence[Outcome]]) -> None:
        self.written: list[list[str]] = []
        self.settled: list[list[str]] = []
        self.batches: list[Batch] = []
        self._write = write

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        self.written.append([request.request_id for request in batch])
        self.batches.append(batch)
        return self._write(batch)

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        self.settled.append([request.request_id for request in batch])
        return [Outcome.written() if "committed" in r.request_id else Outcome.expired() for r in batch]


def all_written(batch: Batch) -> Sequence[Outcome]:
    return [Outcome.written() for _ in batch]


def wire(request_id: str, *callers: ReplyTo, expires_at: float | None = None, n: Any = 1) -> JsonObject:
    return {
        "request_id": request_id,
        "key": "",
        "records": [{"table": "t", "values": {"n": n}}],
        "expires_at": expires_at,
        "reply_to": [one.to_wire() for one in callers or [caller(f"w-{request_id}")]],
    }


def asking(request_id: str, *columns: str) -> JsonObject:
    """A request for columns of its row, by default ``note``."""
    record = {"table": "t", "values": {"n": 1}, "returning": list(columns or ["note"])}
    return wire(request_id) | {"records": [record]}


def flush_of(*submissions: JsonObject, in_doubt: bool = False) -> FlushInput:
    return FlushInput("main", 3, "main-3/7", "count", list(submissions), in_doubt)


class Calls:
    """A Temporal client that notes what it is given to deliver."""

    def __init__(self, fail: Callable[[str], RPCStatusCode | None] = lambda _: None) -> None:
        self.completed: dict[str, Any] = {}
        self.failed: dict[str, ApplicationError] = {}
        self.signalled: list[tuple[str, Any]] = []
        self._fail = fail
        self.client = MagicMock(spec=Client)
        self.client.get_async_activity_handle.side_effect = self._activity
        self.client.get_workflow_handle.side_effect = self._workflow

    def _activity(self, *, workflow_id: str = "", run_id: str = "", activity_id: str = "") -> Any:
        async def complete(body: Any) -> None:
            self._may_fail(workflow_id)
            self.completed[workflow_id] = body

        async def fail(error: ApplicationError) -> None:
            self._may_fail(workflow_id)
            self.failed[workflow_id] = error

        return MagicMock(complete=complete, fail=fail)

    def _workflow(self, workflow_id: str, *, run_id: str | None = None) -> Any:
        async def signal(name: str, arg: Any) -> None:
            self._may_fail(workflow_id)
            self.signalled.append((workflow_id, arg))

        return MagicMock(signal=signal)

    def _may_fail(self, name: str) -> None:
        status = self._fail(name)
        if status is not None:
            raise RPCError("no", status, b"")


async def run(
    sink: Sink,
    flush: FlushInput,
    calls: Calls | None = None,
    *,
    metrics: FlushMetrics | None = None,
    longest: timedelta = timedelta(minutes=1),
) -> FlushResult:
    environment = ActivityEnvironment(client=(calls or Calls()).client)
    environment.info = replace(environment.info, start_to_close_timeout=longest)
    activity: Callable[[FlushInput], Awaitable[FlushResult]] = Flusher(sink, metrics=metrics).flush_batch
    return await environment.run(activity, flush)


async def settle(sink: Sink, flush: FlushInput, **options: Any) -> BatchResult:
    return await write_batch(sink, flush, [load_submission(one) for one in flush.submissions or ()], **options)


def confirmed(result: BatchResult) -> list[tuple[str, str]]:
    """Of each confirmation, the request and its outcome."""
    confirmations = [delivery.confirmation for delivery in result.deliveries]
    return [(one.request_id, str(one.outcome)) for one in confirmations if one is not None]


async def outcomes(sink: Sink, flush: FlushInput) -> list[tuple[str, str]]:
    return confirmed(await settle(sink, flush))
