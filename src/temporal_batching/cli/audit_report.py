"""Runs an audit as the command's options say, and prints its report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.markup import escape
from rich.table import Table

from temporal_batching.audit import AuditReport, audit
from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import EXIT_FAILED, err, out, plural
from temporal_batching.cli.options import read_moment
from temporal_batching.errors import InvalidAudit
from temporal_batching.settings import CONSOLE, BatcherSettings, SettingsError
from temporal_batching.terminal import printable

OPTIONS = {"query": "--query", "tables": "--table", "database": "--sink", "complete": "--complete", "since": "--since"}
"""The option of the command for each argument of `audit`."""
SHOWN = 100
"""Violations that are printed one by one; `--json` has all that are kept."""


@dataclass(frozen=True)
class Scope:
    """What was asked for.

    Attributes:
        query: A visibility query for the callers' workflows.
        since: Only what was asked after this: a moment, or a duration back from now.
        complete: All who write through this ledger are among them.
    """

    query: str | None
    since: str | None
    complete: bool


async def audit_deployment(settings: BatcherSettings, target: Target, scope: Scope, *, as_json: bool) -> int:
    """Runs the audit. Returns 0 if every promise that could be checked was kept, otherwise 1."""
    url = settings.sink_url()
    if url == CONSOLE:
        raise SettingsError("the console keeps nothing to audit: pass the database with --sink, or BATCHING_SINK")
    since = None if scope.since is None else read_moment("--since", scope.since)
    if since is not None and scope.complete:
        raise SettingsError("--complete looks at everything that was ever written: not together with --since")
    client = await target.connect()
    try:
        report = await audit(
            client,
            url,
            batcher=settings.name,
            task_queue=settings.task_queue,
            ledger_table=settings.ledger_table,
            tables=settings.tables,
            query=scope.query,
            since=since,
            complete=scope.complete,
        )
    except InvalidAudit as problem:
        raise SettingsError(f"{OPTIONS[problem.argument]}: {problem}") from None
    if as_json:
        _print_json(report)
    else:
        _show(report)
    return 0 if report.holds else EXIT_FAILED


def _print_json(report: AuditReport) -> None:
    out.print(json.dumps({"holds": report.holds, **asdict(report)}), markup=False)


def _show(report: AuditReport) -> None:
    results = ", ".join(f"{count:,} {result}" for result, count in report.results.items()) or "none"
    lines = [
        ("read", f"{plural(report.workflows, 'workflow')}, {plural(report.activities, 'activity')} of programs"),
        ("results of calls", results),
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
    for violation in report.violations[:SHOWN]:
        err.print(f"[red]violation:[/red] {escape(printable(str(violation)))}")
    if (more := sum(report.broken.values()) - min(SHOWN, len(report.violations))) > 0:
        err.print(f"[red]violation:[/red] ... and {more:,} more")


def _verdict(report: AuditReport) -> str:
    if report.holds:
        return "kept"
    return "broken: " + ", ".join(f"{count:,} x {rule}" for rule, count in report.broken.items())
