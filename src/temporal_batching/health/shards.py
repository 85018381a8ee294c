"""The shards: whether each runs and answers, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.batcher.current_run import describe_current
from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.batcher.silence import ANSWER_TIMEOUT, NO_ANSWER, UNREADABLE
from temporal_batching.batcher.versions import Routing, ShardVersion
from temporal_batching.contract import NO_LEDGER, BatcherStats
from temporal_batching.health.findings import Finding, failed, ok, skipped, warning
from temporal_batching.health.temporal import RPC_TIMEOUT
from temporal_batching.health.versions import silence_finding, version_findings
from temporal_batching.metrics.shards import used
from temporal_batching.routing import batcher_workflow_id

NEARLY_FULL = 0.8

CONVERTER = "it cannot be read: pass the data converter of the batcher's workers and callers, --data-converter"


async def look_at_shard(
    client: Client, batcher: BatcherHandle, shard: int, *, polled: bool, routing: Routing | None = None
) -> tuple[list[Finding], BatcherStats | None]:
    """Whether a shard runs, and what it says.

    Args:
        client: Of the batcher's namespace.
        batcher: The batcher.
        shard: Which shard.
        polled: Whether any worker polls, so that it can answer.
        routing: Which worker deployment version is current, if that is known.
    """
    subject, workflow_id = f"shard {shard}", batcher_workflow_id(batcher.name, shard)
    try:
        described = await describe_current(client.get_workflow_handle(workflow_id), timeout=RPC_TIMEOUT)
    except RPCError as err:
        if err.status is RPCStatusCode.NOT_FOUND:
            return [failed(subject, f"{workflow_id} does not run: {_start(batcher)}")], None
        return [failed(subject, f"{workflow_id} cannot be described: {err.message}")], None
    if (problem := run_problem(described, batcher)) is not None:
        return [failed(subject, problem)], None
    if not polled:
        return [skipped(subject, f"{workflow_id} runs, and no worker can answer for it")], None
    version = ShardVersion.of(described.raw_info.versioning_info)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT.total_seconds()):
            stats = await batcher.stats_of(shard)
    except UNREADABLE:
        return [failed(subject, f"{workflow_id} answers, but {CONVERTER}")], None
    except NO_ANSWER as err:
        if routing is not None and (found := silence_finding(subject, workflow_id, version, routing)) is not None:
            return [found], None
        why = str(err) or f"no answer within {ANSWER_TIMEOUT.total_seconds():g} s"
        hint = f"see its history, `temporal workflow show -w {workflow_id}`, for workflow tasks that fail"
        return [failed(subject, f"{workflow_id} runs and does not answer: {why}; {hint}")], None
    versions = () if routing is None else version_findings(subject, workflow_id, version, routing)
    findings = [*versions, *stats_findings(subject, stats)]
    return findings or [ok(subject, _in_short(stats))], stats


def run_problem(described: WorkflowExecutionDescription, batcher: BatcherHandle) -> str | None:
    """Why no worker of this batcher can serve a shard's workflow."""
    if described.status is not WorkflowExecutionStatus.RUNNING:
        status = described.status.name.lower().replace("_", " ") if described.status else "not known"
        return f"{described.id} does not run, its status is {status}: {_start(batcher)}"
    if described.task_queue != batcher.task_queue:
        return (
            f"{described.id} runs on the task queue '{described.task_queue}', not on '{batcher.task_queue}': set "
            "--task-queue to it, or terminate the workflow and start it again"
        )
    return None


def _start(batcher: BatcherHandle) -> str:
    return f"start it, `temporal-batching start --name {batcher.name} --shards {batcher.shards}`, or a worker"


def stats_findings(subject: str, stats: BatcherStats) -> Iterator[Finding]:
    """What a shard says that somebody should look at."""
    if stats.breaker != "closed":
        error = stats.sink_error or "no reason given"
        yield failed(subject, f"the sink is unavailable since the last attempt: {error}; {_waits(stats)}")
    if stats.paused:
        yield warning(subject, f"it is paused: `temporal-batching resume` ends it; {_waits(stats)}")
    if stats.draining:
        yield warning(subject, "it is draining, and takes no request: `temporal-batching resume` ends a drain")
    if stats.idle_cycles:
        yield warning(subject, f"{stats.idle_cycles} runs in a row settled nothing; {_waits(stats)}")
    if (part := used(stats)) >= NEARLY_FULL:
        yield warning(subject, f"its buffer is {part:.0%} full: callers are about to wait in Temporal; {_waits(stats)}")
    if stats.requeued:
        yield warning(subject, f"{stats.requeued:,} requests wait for a retry of their own")


def _waits(stats: BatcherStats) -> str:
    if not stats.pending:
        return "nothing waits"
    return f"{stats.pending:,} requests wait, the oldest for {stats.oldest_pending_seconds:.0f} s"


def _in_short(stats: BatcherStats) -> str:
    written = stats.outcomes.get("written", 0)
    return f"it answers: {stats.batches:,} batches, {written:,} requests written; {_waits(stats)}"


def ledger_findings(
    batcher: BatcherHandle, stats: list[BatcherStats], ledger: str | None, *, whose: str
) -> Iterator[Finding]:
    """Whether the shards have been written to the ledger of the sink.

    Args:
        batcher: The batcher.
        stats: Of the shards that answered.
        ledger: The identity of the sink's ledger; None for a sink without one.
        whose: Where that sink was looked at.
    """
    others = [s for s in stats if s.ledger is not None and s.ledger != (ledger or NO_LEDGER)]
    adopt = f"temporal-batching adopt-ledger --name {batcher.name} --shards {batcher.shards} --identity"
    for shard in others:
        theirs = f"the ledger {shard.ledger}" if shard.ledger else "a sink without a ledger"
        here = f"the ledger {ledger}" if ledger else "a sink without one"
        yield failed(
            "ledger",
            f"shard {shard.shard} has {theirs}, and {whose} has {here}: nothing is written. If the database was "
            f"replaced on purpose: `{adopt} {ledger or 'none'}`",
        )
    if not others:
        yield ok("ledger", f"{ledger or 'a sink without one'}, that of every shard that was written to one")


def timeout_findings(stats: list[BatcherStats], write_seconds: float | None, *, whose: str) -> Iterator[Finding]:
    """Whether a flush is given up before the sink's own limit ends it.

    Args:
        stats: Of the shards that answered.
        write_seconds: The longest that a write of the sink takes; None for a sink without a limit.
        whose: Where that sink was looked at.
    """
    if write_seconds is None:
        return
    # A shard of an earlier version may not say its policy.
    limits = [one.policy["flush_timeout"] for one in stats if "flush_timeout" in one.policy]
    if limits and (shortest := min(limits)) <= write_seconds:
        yield warning(
            "sink",
            f"from {whose}: a write may take {write_seconds:g} s, and a flush is given up after {shortest:g} s and "
            "repeated: lower the sink's limit (--statement-timeout of the workers), or raise the flush timeout, "
            "`temporal-batching configure --flush-timeout`",
        )
