"""A workflow that writes many requests at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from temporal_batching import BatchPolicy, BatchWriter, Confirmation, Record, WriteRequest, WriteResult


@dataclass
class OneOfMany:
    """A request; without an id it is given as a bare record."""

    table: str
    values: dict[str, Any]
    request_id: str | None = None
    key: str = ""
    returning: list[str] = field(default_factory=list)


@dataclass
class ManyJob:
    """What a caller is to write by `write_many`, and how.

    Attributes:
        count: Requests into ``entries`` that it makes itself, in each call.
        padding: Characters that make each of these longer.
        keys: How many keys these share; 0 for none.
        calls: Calls at the same time.
        max_batch_size: The batcher's, where the writer is to know it.
        endpoint: Of the batcher, where it is to be reached by Nexus.
    """

    batcher: str
    queue: str
    requests: list[OneOfMany] = field(default_factory=list)
    count: int = 0
    padding: int = 0
    keys: int = 0
    calls: int = 1
    gateway: Literal["batcher", "local"] = "batcher"
    shards: int = 1
    timeout: float = 30.0
    max_batch_size: int | None = None
    endpoint: str | None = None


@dataclass
class OneResult:
    """The result of one request: an outcome, or the type of its error."""

    outcome: str
    request_id: str
    code: str | None = None
    reason: str | None = None
    returned: list[Any] | None = None


@workflow.defn
class ManyCaller:
    """Returns the results of all its calls, one call's after the other's."""

    @workflow.run
    async def run(self, job: ManyJob) -> list[OneResult]:
        policy = BatchPolicy() if job.max_batch_size is None else BatchPolicy(max_batch_size=job.max_batch_size)
        writer = BatchWriter(
            job.batcher,
            via="activity" if job.endpoint is None else "nexus",
            endpoint=job.endpoint,
            gateway=job.gateway,
            shards=job.shards,
            policy=policy,
            task_queue=job.queue,
            timeout=timedelta(seconds=job.timeout),
        )
        calls = (writer.write_many(_requests(job, call)) for call in range(job.calls))
        return [_one(result) for results in await asyncio.gather(*calls) for result in results]


def _requests(job: ManyJob, call: int) -> list[WriteRequest | Record]:
    given: list[WriteRequest | Record] = [
        Record(one.table, one.values, one.returning)
        if one.request_id is None
        else WriteRequest(one.request_id, [Record(one.table, one.values, one.returning)], one.key)
        for one in job.requests
    ]
    text = {"text": "x" * job.padding} if job.padding else {}
    for number in range(call * job.count, (call + 1) * job.count):
        key = f"key-{number % job.keys}" if job.keys else ""
        given.append(WriteRequest(f"{job.batcher}-{number}", [Record("entries", {"n": number, **text})], key))
    return given


def _one(result: WriteResult) -> OneResult:
    if isinstance(result, Confirmation):
        return OneResult(result.outcome, result.request_id, result.code, result.reason, result.returned)
    code = result.confirmation.code if result.confirmation else None
    return OneResult(type(result).__name__, result.request_id, code, result.message)
