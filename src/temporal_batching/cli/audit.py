"""``temporal-batching audit``: compares what callers asked for and got with the database."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import EXIT_TROUBLE, complain, run, sql_is_installed
from temporal_batching.cli.options import switch, with_settings
from temporal_batching.errors import BatchingError
from temporal_batching.settings import BatcherSettings


@with_settings("name", "task_queue", "sink", "tables", "ledger_table")
def audit(
    settings: BatcherSettings,
    target: Target,
    query: Annotated[
        str | None,
        typer.Option("--query", metavar="QUERY", help="Which workflows: a visibility query.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Only what was asked since then: 24h, or 2026-01-31.", show_default=False
        ),
    ] = None,
    complete: Annotated[bool, switch("--complete", "No one else writes there: an unexpected row is an error.")] = False,
    json: Annotated[bool, switch("--json", "As JSON.")] = False,
) -> None:
    """Compare what callers asked for and got with the ledger and the rows.

    Exit status 0 if every promise was kept, 1 if one was not, 2 if that could not be found out.
    """
    run(_audit(settings, target, (query, since, complete), json))


async def _audit(settings: BatcherSettings, target: Target, scope: tuple[Any, ...], json: bool) -> int:
    try:
        with sql_is_installed("an audit needs"):
            from temporal_batching.cli.audit_report import Scope, audit_deployment
        return await audit_deployment(settings, target, Scope(*scope), as_json=json)
    except BatchingError as problem:
        complain(problem)
        return EXIT_TROUBLE
