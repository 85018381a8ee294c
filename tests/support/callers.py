"""Workflows that write: what a user of the library has. They return the result of each write instead of failing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from temporal_batching import BatchWriter, Confirmation, Record, Returned, WriteError

WAYS_IN = ("activity", "local", "signal")
"""The activity with the gateway on the batcher, the activity with a gateway beside the caller, the signal."""

EVERY_WAY_IN = (*WAYS_IN, "nexus")
"""These, and the operation; it needs an endpoint, which a `Service` creates."""

VIA: dict[str, Literal["activity", "signal", "nexus"]] = {"signal": "signal", "nexus": "nexus"}


def endpoint_of(batcher: str) -> str:
    return f"batcher-{batcher}"


@dataclass
class Write:
    """One write request of a caller; ``rows`` are [table, values], then returning, references and operation if any."""

    rows: list[list[Any]]
    key: str = ""
    request_id: str | None = None


@dataclass
class Job:
    """What a caller is to write, concurrently, and by which way in."""

    batcher: str
    queue: str
    way_in: str
    writes: list[Write]
    shards: int = 1
    timeout: float = 30.0
    attempt_timeout: float = 30.0
    details: str = ""
    """Current details that the caller sets itself."""
    endpoint: str | None = None  # with "nexus"; by default the one that a `Service` creates


@dataclass
class CallerResult:
    """What a caller received for one write: an outcome, or the type of its error."""

    outcome: str
    request_id: str = ""
    batch_id: str = ""
    batch_size: int = 0
    shard: int = 0
    code: str | None = None
    reason: str = ""
    error: str | None = None
    returned: list[Any] | None = None


@dataclass
class Carry:
    """Input of `Continuer`: the job and which run this is."""

    job: Job
    run: int = 0
    results: list[CallerResult] = field(default_factory=list)


def writer_for(job: Job) -> BatchWriter:
    return BatchWriter(
        job.batcher,
        via=VIA.get(job.way_in, "activity"),
        endpoint=(job.endpoint or endpoint_of(job.batcher)) if job.way_in == "nexus" else None,
        gateway="local" if job.way_in == "local" else "batcher",
        shards=job.shards,
        task_queue=job.queue,
        timeout=timedelta(seconds=job.timeout),
        attempt_timeout=timedelta(seconds=job.attempt_timeout),
    )


def record_of(row: list[Any]) -> Record:
    table, values = row[:2]
    references: dict[str, Any] = row[3] if len(row) > 3 else {}
    refers = {name: Returned(number, column) for name, (number, column) in references.items()}
    operation: Any = row[4] if len(row) > 4 else "insert"
    return Record(table, {**values, **refers}, row[2] if len(row) > 2 else [], operation)


async def write_one(writer: BatchWriter, write: Write) -> CallerResult:
    records = [record_of(row) for row in write.rows]
    try:
        confirmation = await writer.write_all(records, key=write.key, request_id=write.request_id)
    except WriteError as err:
        result = _result(err.confirmation) if err.confirmation else CallerResult(outcome="")
        result.error, result.reason, result.request_id = type(err).__name__, err.message, err.request_id
        return result
    return _result(confirmation)


def _result(confirmation: Confirmation) -> CallerResult:
    return CallerResult(
        outcome=confirmation.outcome,
        request_id=confirmation.request_id,
        batch_id=confirmation.batch_id,
        batch_size=confirmation.batch_size,
        shard=confirmation.shard,
        code=confirmation.code,
        reason=confirmation.reason or "",
        returned=confirmation.returned,
    )


@workflow.defn
class Caller:
    """Makes its writes concurrently."""

    @workflow.run
    async def run(self, job: Job) -> list[CallerResult]:
        writer = writer_for(job)
        if job.details:
            workflow.set_current_details(job.details)
        return list(await asyncio.gather(*(write_one(writer, write) for write in job.writes)))


@workflow.defn
class FailingCaller:
    """Makes one write and lets its error end the workflow, as most callers do."""

    @workflow.run
    async def run(self, job: Job) -> None:
        writer = writer_for(job)
        write = job.writes[0]
        await writer.write_all([record_of(row) for row in write.rows], request_id=write.request_id)


@workflow.defn
class Resettable:
    """Writes with its default request id, then waits for the signal to end: something to reset back to the start."""

    def __init__(self) -> None:
        self._results: list[CallerResult] = []
        self._over = False

    @workflow.run
    async def run(self, job: Job) -> list[CallerResult]:
        writer = writer_for(job)
        for write in job.writes:
            self._results.append(await write_one(writer, write))
        await workflow.wait_condition(lambda: self._over)
        return self._results

    @workflow.signal
    def finish(self) -> None:
        self._over = True

    @workflow.query
    def results(self) -> list[CallerResult]:
        return self._results


@workflow.defn
class Continuer:
    """Continues as new while its write is pending, and asks again in the new run under the same id."""

    def __init__(self) -> None:
        self._go_on = False

    @workflow.run
    async def run(self, carry: Carry) -> list[CallerResult]:
        writer = writer_for(carry.job)
        if carry.run == 0:
            task = asyncio.create_task(write_one(writer, carry.job.writes[0]))
            await workflow.wait_condition(lambda: self._go_on or task.done())
            workflow.continue_as_new(Carry(carry.job, 1, [task.result()] if task.done() else []))
        return [*carry.results, await write_one(writer, carry.job.writes[0])]

    @workflow.signal
    def go_on(self) -> None:
        self._go_on = True


@workflow.defn
class Listener:
    """Keeps the confirmations that come by signal, as they travel, and ends when it has enough."""

    def __init__(self) -> None:
        self._received: list[dict[str, Any]] = []

    @workflow.run
    async def run(self, answers: int) -> list[dict[str, Any]]:
        await workflow.wait_condition(lambda: len(self._received) >= answers)
        return self._received

    @workflow.signal(name="write_confirmation")
    def receive(self, confirmations: list[dict[str, Any]]) -> None:
        self._received.extend(confirmations)


CALLERS: list[type] = [Caller, FailingCaller, Resettable, Continuer, Listener]
