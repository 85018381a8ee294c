"""``temporal-batching check``: what a deployment needs, looked at one by one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated

from rich.markup import escape
from temporalio.client import Client

from temporal_batching import BatcherHandle, Sink
from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import (
    EXIT_FAILED,
    EXIT_TROUBLE,
    CommandError,
    fail,
    out,
    plural,
    run,
    sql_is_installed,
)
from temporal_batching.cli.options import BATCHER, SINK, switch, with_settings
from temporal_batching.errors import BatchingError, SinkConfigurationError
from temporal_batching.health import Finding, Level
from temporal_batching.health import check as look
from temporal_batching.health.findings import any_failed, failed, skipped
from temporal_batching.health.report import look_at_sink
from temporal_batching.settings import CONSOLE, BatcherSettings

COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "red", Level.SKIPPED: "dim"}


@with_settings(*BATCHER, *SINK)
def check(
    settings: BatcherSettings, target: Target, json: Annotated[bool, switch("--json", "As JSON.")] = False
) -> None:
    """Look at Temporal, the workers, the shards, the sink, its ledger and the clocks: a line for each finding.

    It changes nothing. With --sink the database is looked at from here too, and not only by a worker. The exit status
    is 0 if nothing has to be repaired, 1 if something has, and 2 if it could not be looked at.
    """
    run(_check(settings, target, as_json=json))


async def _check(settings: BatcherSettings, target: Target, *, as_json: bool) -> int:
    try:
        sink = _sink_of(settings)
    except BatchingError as err:
        fail(err, EXIT_TROUBLE)
    try:
        client: Client = await target.connect()
    except CommandError as err:
        findings = [failed("temporal", str(err)), *await _without_temporal(sink)]
    else:
        handle = BatcherHandle(client, settings.name, shards=settings.shards, task_queue=settings.task_queue)
        findings = await look(client, handle, sink=sink)
    _show(findings, as_json=as_json)
    return EXIT_FAILED if any_failed(findings) else 0


async def _without_temporal(sink: Sink | None) -> list[Finding]:
    rest = [skipped("shards", "Temporal cannot be asked")]
    if sink is None:
        return rest
    report = await look_at_sink(sink, opened=False)
    if report.problem is not None:
        return [*rest, failed("sink", report.problem)]
    return [*rest, Finding("sink", Level.OK, f"{report.kind} answers this machine")]


def _sink_of(settings: BatcherSettings) -> Sink | None:
    """The database that the settings name, if they do; nothing is created in it."""
    if settings.sink_url() == CONSOLE:
        return None
    with sql_is_installed("--sink needs"):
        from temporal_batching.sinks.sql import SqlSink

        try:
            return SqlSink(settings.sink_url(), **settings.sink_options() | {"create_ledger": False, "wal": False})
        except SinkConfigurationError as err:
            raise CommandError(f"{settings.describe_sink()}: {err}") from None


def _show(findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        out.print(json.dumps([dataclasses.asdict(finding) for finding in findings]), markup=False)
        return
    for finding in findings:
        level, rest = str(finding)[: len(finding.level)], str(finding)[len(finding.level) :]
        out.print(f"[{COLOURS[finding.level]}]{level}[/]{escape(rest)}")
    count = sum(finding.level is Level.FAILED for finding in findings)
    out.print(f"{plural(count, 'thing')} to repair." if count else "Nothing to repair.")
