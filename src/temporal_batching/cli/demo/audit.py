"""What came of the demo's payments: the library's audit of their workflows, and whether it saw all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client

from temporal_batching.audit import AuditReport, audit
from temporal_batching.settings import BatcherSettings

LISTED_WITHIN = timedelta(seconds=15)
"""Visibility follows the histories with a delay: a second on a development server."""


@dataclass(frozen=True)
class AuditedRun:
    """The audit of a run.

    Attributes:
        report: What the audit found.
        problems: A line for each violation, for each payment that was not booked, and for what could not be checked.
    """

    report: AuditReport
    problems: list[str]


async def audit_run(
    client: Client,
    settings: BatcherSettings,
    *,
    task_queue: str,
    results: Mapping[str, Mapping[str, Any]],
    own_database: bool,
) -> AuditedRun:
    """Audits a run's workflows once Temporal lists all of them.

    Args:
        client: Where they ran.
        settings: Of their batcher.
        task_queue: Theirs, and of no other workflows.
        results: How each ended, by payment id.
        own_database: Nobody else writes there, so that a row too many is a problem too.
    """
    query = f"TaskQueue = '{task_queue}'"
    await _until_listed(client, f"{query} AND ExecutionStatus != 'Running'", len(results))
    report = await audit(
        client,
        settings.sink_url(),
        batcher=settings.name,
        task_queue=settings.task_queue,
        ledger_table=settings.ledger_table,
        tables=settings.tables,
        query=query,
        complete=own_database,
    )
    problems = [str(violation) for violation in report.violations]
    if report.workflows != len(results):
        problems.append(f"only {report.workflows:,} of {len(results):,} workflows could be audited")
    problems += [f"{name}: not booked ({row['error_type']})" for name, row in results.items() if not row["ok"]]
    if own_database:
        problems += [f"not checked: {count:,} x {what}" for what, count in report.unchecked.items()]
    return AuditedRun(report, problems)


async def _until_listed(client: Client, query: str, expected: int) -> None:
    async with asyncio.timeout(LISTED_WITHIN.total_seconds()):
        while (await client.count_workflows(query)).count < expected:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
