"""``temporal-batching audit``: holds what callers were told against the database, and says what does not agree."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table
from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.audit.check import Findings, Question, check
from temporal_batching.audit.facts import Facts
from temporal_batching.audit.histories import QueryRefused, Reader, Tally
from temporal_batching.cli.connect import connect_to
from temporal_batching.cli.console import EXIT_FAILED, CommandError, err, out, plural, printable
from temporal_batching.cli.options import Target
from temporal_batching.errors import SinkConfigurationError
from temporal_batching.settings import CONSOLE, BatcherSettings, SettingsError, parse_duration
from temporal_batching.sinks.sql.schema import TableRule

SHOWN = 100
"""Violations that are printed one by one; `--json` has all that are kept."""


@dataclass(frozen=True)
class Scope:
    """What was asked for.

    Attributes:
        query: A visibility query for the callers' workflows.
        since: Only what was asked after this: a moment, or a duration back from now.
        complete: All who write through this ledger are among them.
        ledger: The ledger's table.
        rules: ``TABLE=ignore``, ``TABLE=update:COLUMN,...``.
    """

    query: str | None
    since: str | None
    complete: bool
    ledger: str
    rules: Sequence[str]


@dataclass(frozen=True)
class Report:
    """The audit in figures; `--json` prints exactly these, and the violations."""

    holds: bool
    workflows: int
    activities: int
    requests: int
    told: Mapping[str, int]
    written: int
    records: int
    outside: int
    broken: Mapping[str, int]
    unchecked: Mapping[str, int]


async def audit_deployment(settings: BatcherSettings, target: Target, scope: Scope, *, as_json: bool) -> int:
    """Runs the audit. Returns 0 if every promise that could be checked was kept, otherwise 1."""
    url = settings.sink_url()
    if url == CONSOLE:
        raise SettingsError("the console keeps nothing to audit: pass the database with --sink, or BATCHING_SINK")
    began = time.time()
    since = read_moment(scope.since, now=began)
    if since and scope.complete:
        raise SettingsError("--complete looks at everything that was ever written: not together with --since")
    question = Question(url, settings.name, scope.ledger, read_rules(scope.rules), scope.complete, since, began)
    client = await connect_to(target)
    report, found = await audit(client, question, task_queue=settings.task_queue, query=scope.query)
    if as_json:
        _print_json(report, found)
    else:
        _show(report, found)
    return 0 if report.holds else EXIT_FAILED


async def audit(
    client: Client, question: Question, *, task_queue: str, query: str | None = None
) -> tuple[Report, Findings]:
    """Reads Temporal, then the database: what was answered by then must be there.

    Raises:
        SettingsError: The query, or a rule, will not do.
        CommandError: Temporal or the database cannot be read.
    """
    facts = Facts()
    try:
        reader = Reader(client, facts, name=question.batcher, task_queue=task_queue, since=question.since)
        tally = await _read(reader, query)
        facts.gathered()
        try:
            found = await asyncio.to_thread(check, facts, question)
        except SinkConfigurationError as problem:
            raise SettingsError(f"--rule: {problem}") from None
        return _report(facts, tally, found), found
    finally:
        facts.close()


async def _read(reader: Reader, query: str | None) -> Tally:
    try:
        return await reader.read(query)
    except* QueryRefused as refused:
        raise SettingsError(f"--query: {refused.exceptions[0]}") from None
    except* RPCError as refused:
        first: Any = refused.exceptions[0]
        raise CommandError(f"Temporal's histories cannot be read: {first.message}") from None


def _report(facts: Facts, tally: Tally, found: Findings) -> Report:
    unchecked = dict(found.unchecked)
    if tally.unreadable:
        unchecked["payloads that this client cannot read"] = tally.unreadable
    if tally.gone:
        unchecked["histories that were deleted meanwhile"] = tally.gone
    if tally.no_activities:
        unchecked["programs' activities: this server cannot list them"] = 1
    return Report(
        holds=not found.broken,
        workflows=tally.workflows,
        activities=tally.activities,
        requests=found.requests,
        told=facts.verdicts(),
        written=found.written,
        records=found.records,
        outside=found.outside,
        broken=dict(found.broken),
        unchecked=unchecked,
    )


def _print_json(report: Report, found: Findings) -> None:
    violations = [asdict(violation) for violation in found.violations]
    out.print(json.dumps({**asdict(report), "violations": violations}), markup=False)


def _show(report: Report, found: Findings) -> None:
    told = ", ".join(f"{count:,} {verdict}" for verdict, count in report.told.items()) or "nothing"
    lines = [
        ("read", f"{plural(report.workflows, 'workflow')}, {plural(report.activities, 'activity')} of programs"),
        ("callers were told", told),
        ("request ids", f"{report.requests:,}, of which the ledger holds {report.written:,} as written"),
        ("records looked up", f"{report.records:,}"),
        ("in the ledger besides", f"{report.outside:,} that no caller here asked for"),
        *(("not checked", f"{count:,} x {what}") for what, count in report.unchecked.items()),
        ("promises", _verdict(report)),
    ]
    if out.is_terminal:
        table = Table(title="Audit", title_justify="left", title_style="bold", show_header=False)
        for name, value in lines:
            table.add_row(name, escape(value), style="red" if name == "promises" and not report.holds else None)
        out.print(table)
    else:
        for name, value in lines:
            out.print(f"{name + ':':<23}{printable(value)}", markup=False)
    for violation in found.violations[:SHOWN]:
        err.print(f"[red]violation:[/red] {escape(printable(str(violation)))}")
    if (more := sum(found.broken.values()) - min(SHOWN, len(found.violations))) > 0:
        err.print(f"[red]violation:[/red] ... and {more:,} more")


def _verdict(report: Report) -> str:
    if report.holds:
        return "kept"
    return "broken: " + ", ".join(f"{count:,} x {rule}" for rule, count in report.broken.items())


def read_moment(text: str | None, *, now: float) -> float:
    """A moment in seconds since the epoch, from ``2026-01-31``, a timestamp, or a duration back from now."""
    if text is None:
        return 0.0
    try:
        return now - parse_duration(text).total_seconds()
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"--since {text!r}: a duration such as 24h, or a moment such as 2026-01-31T12:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_rules(given: Sequence[str]) -> dict[str, TableRule]:
    """Rules as the sink has them, from ``TABLE=ignore``, ``TABLE=ignore:COLUMN`` and ``TABLE=update:COLUMN,COLUMN``."""
    rules = {}
    for text in given:
        table, _, rule = text.partition("=")
        conflict, _, columns = rule.partition(":")
        key = [column for column in columns.split(",") if column]
        if not table or conflict not in ("ignore", "update") or (conflict == "update" and not key):
            raise SettingsError(f"--rule {text!r}: TABLE=ignore, TABLE=ignore:COLUMN,... or TABLE=update:COLUMN,...")
        rules[table] = TableRule(conflict="ignore" if conflict == "ignore" else "update", key=key)
    return rules
