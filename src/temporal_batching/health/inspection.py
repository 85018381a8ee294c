"""`check`: looks at everything that a batcher needs, and says what is wrong with it."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from uuid import uuid4

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import ActivityFailureError, Client
from temporalio.service import RPCError

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.batcher.versions import Routing, routing_of
from temporal_batching.contract import ACTIVITY_REPORT, BatcherStats
from temporal_batching.health.clocks import clock_findings, offset
from temporal_batching.health.findings import Finding, any_failed, failed, ok, skipped
from temporal_batching.health.nexus import look_at_nexus
from temporal_batching.health.report import SinkReport, WorkerReport, library_version, look_at_sink
from temporal_batching.health.shards import CONVERTER, ledger_findings, look_at_shard, timeout_findings
from temporal_batching.health.temporal import RPC_TIMEOUT, look_at_flush_queue, look_at_queue, look_at_server
from temporal_batching.health.versions import routing_findings, server_findings
from temporal_batching.sinks.base import Sink

REPORT_TIMEOUT = timedelta(seconds=15)
"""For a worker to take the question and look at its sink."""


async def check(client: Client, batcher: BatcherHandle, *, sink: Sink | None = None) -> list[Finding]:
    """Looks at Temporal, the batcher's task queue, its Nexus endpoints, its shards, a worker, the sink, and the clocks.

    It changes nothing. It costs a query for each shard, and one standalone activity, which one worker answers.

    Args:
        client: Of the batcher's namespace.
        batcher: The batcher.
        sink: A sink that is not open, to look at it from here as well. Have it create nothing.

    Returns:
        What was found, in the order in which it is best repaired.
    """
    findings = await look_at_server(client)
    here = None if sink is None else await look_at_sink(sink, opened=False)
    if any_failed(findings[:1]):
        return [*findings, *_sink_findings(batcher, here, None, [])]
    queue = await look_at_queue(client, batcher.task_queue)
    polled = not any_failed(queue)
    routing, versions = await _look_at_versions(client, batcher)
    looks = [look_at_shard(client, batcher, shard, polled=polled, routing=routing) for shard in range(batcher.shards)]
    shards = await asyncio.gather(*looks)
    readable = not any(CONVERTER in finding.text for found, _ in shards for finding in found)
    stats = [one for _, one in shards if one is not None]
    flush_queues = sorted({one.flush_task_queue for one in stats} - {""})
    flush_findings = [finding for one in flush_queues for finding in await look_at_flush_queue(client, one)]
    # The workers that flush have the sink.
    polled = not any_failed(flush_findings) if flush_queues else polled and not any_failed(versions)
    asked = time.time()
    report, workers = await _ask_a_worker(
        client, batcher, flush_queues[0] if flush_queues else batcher.task_queue, can_answer=polled and readable
    )
    answered = time.time()
    return [
        *findings,
        *queue,
        *versions,
        await look_at_nexus(client, batcher),
        *(finding for found, _ in shards for finding in found),
        *flush_findings,
        workers,
        *_sink_findings(batcher, here, report, stats),
        *_clock_findings(here, report, asked=asked, answered=answered),
    ]


async def _look_at_versions(client: Client, batcher: BatcherHandle) -> tuple[Routing | None, list[Finding]]:
    try:
        routing = await routing_of(client, batcher.task_queue, timeout=RPC_TIMEOUT)
        if not routing.versioned:
            return routing, []
        system = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=RPC_TIMEOUT)
    except RPCError:  # the queue's own finding says why
        return None, []
    return routing, [*server_findings(system.server_version), *routing_findings(batcher.task_queue, routing)]


async def _ask_a_worker(
    client: Client, batcher: BatcherHandle, task_queue: str, *, can_answer: bool
) -> tuple[WorkerReport | None, Finding]:
    if not can_answer:
        return None, skipped("worker", "there is none to ask, or none that could be understood")
    try:
        report: WorkerReport = await client.execute_activity(
            ACTIVITY_REPORT,
            batcher.name,
            id=f"{ACTIVITY_REPORT}-{uuid4()}",
            task_queue=task_queue,
            result_type=WorkerReport,
            schedule_to_close_timeout=REPORT_TIMEOUT,
            start_to_close_timeout=REPORT_TIMEOUT,
        )
    except ActivityFailureError as err:
        why = getattr(err.cause, "message", "") or type(err.cause).__name__
        return None, failed("worker", f"a worker of '{task_queue}' was asked and did not answer: {why}")
    except RPCError as err:
        return None, skipped("worker", f"none can be asked: {err.message}")
    own = library_version()
    text = f"{report.identity} runs version {report.version or 'unknown'}"
    if own and report.version and own != report.version:
        text += f"; this command is of version {own}"
    return report, ok("worker", text)


def _sink_findings(
    batcher: BatcherHandle, here: SinkReport | None, report: WorkerReport | None, stats: list[BatcherStats]
) -> list[Finding]:
    found = [(whose, sink) for whose, sink in (("this machine", here), (_whose(report), _sink_of(report))) if sink]
    if not found:
        return [skipped("sink", "there is no worker to ask, and no --sink to look at from here")]
    findings: list[Finding] = []
    for whose, sink in found:
        if sink.problem is None:
            findings.append(ok("sink", f"{sink.kind} answers {whose}"))
            findings += [failed("tables", f"from {whose}: {problem}") for problem in sink.tables]
        elif sink.configuration:
            findings.append(failed("ledger" if "ledger" in sink.problem else "sink", f"from {whose}: {sink.problem}"))
        else:
            findings.append(failed("sink", f"{sink.kind} does not answer {whose}: {sink.problem}"))
    whose, sink = found[-1]  # the worker's, if one was asked: that is where it is written
    if all(one.problem is None for _, one in found):
        findings += ledger_findings(batcher, stats, sink.ledger, whose=whose)
        findings += timeout_findings(stats, sink.write_seconds, whose=whose)
    return findings


def _whose(report: WorkerReport | None) -> str:
    return f"the worker {report.identity}" if report else ""


def _sink_of(report: WorkerReport | None) -> SinkReport | None:
    return report.sink if report else None


def _clock_findings(
    here: SinkReport | None, report: WorkerReport | None, *, asked: float, answered: float
) -> list[Finding]:
    if report is None:
        return [skipped("clocks", "Temporal's clock is known by a worker that answers, and none has")]
    ahead = {
        "this machine": -offset(report.scheduled_at, not_before=asked, not_after=answered),
        "the worker": report.ahead_seconds,
    }
    if report.sink is not None and report.sink.ahead_seconds is not None:
        ahead["the database"] = report.ahead_seconds + report.sink.ahead_seconds
    elif here is not None and here.ahead_seconds is not None:
        ahead["the database"] = ahead["this machine"] + here.ahead_seconds
    return list(clock_findings(ahead))
