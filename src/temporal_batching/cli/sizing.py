"""``temporal-batching size`` and ``savings``: how large a batcher has to be, and what one has saved."""

from __future__ import annotations

from typing import Annotated

import typer

from temporal_batching.cli.connect import Target, connect_to_batcher
from temporal_batching.cli.console import out, run, show_figures
from temporal_batching.cli.options import POLICY, read_duration, read_moment, read_value, switch, with_settings
from temporal_batching.cli.sizing_report import saved_as_json, saved_lines, sized_as_json, sized_lines
from temporal_batching.errors import InvalidLoad
from temporal_batching.settings import (
    BatcherSettings,
    SettingsError,
    format_duration,
    format_size,
    parse_size,
    parse_whole,
)
from temporal_batching.sizing import Gateway, Load, Surroundings, Via, estimate
from temporal_batching.sizing import savings as read_savings
from temporal_batching.sizing.deployment import MAX_HISTORY_BYTES

OPTIONS = {
    "rate": "--rate",
    "record_bytes": "--bytes",
    "records": "--records",
    "via": "--via",
    "gateway": "--gateway",
    "gateways": "--gateways",
    "shards": "--shards",
    "database": "--database-time",
    "call": "--call-time",
    "task": "--task-time",
    "since": "--since",
    "max_history_bytes": "--max-history",
}
"""The option for each argument of `estimate` and `savings`."""

_SPEEDS = Surroundings()
_DATABASE_TIME, _CALL_TIME, _TASK_TIME = map(format_duration, (_SPEEDS.database, _SPEEDS.call, _SPEEDS.task))
_MAX_HISTORY = format_size(MAX_HISTORY_BYTES)

Rate = Annotated[str, typer.Option("--rate", metavar="N", help="Writes a second: 5000, 0.5.")]
Bytes = Annotated[str, typer.Option("--bytes", metavar="SIZE", help="One record's values as JSON: 300, 4KiB.")]
Records = Annotated[str, typer.Option("--records", metavar="N", help="Records in one write.")]
Way = Annotated[Via, typer.Option("--via", metavar="activity|signal|write_many", help="How the writes come in.")]
Where = Annotated[
    Gateway, typer.Option("--gateway", metavar="batcher|local", help="On the batcher's workers, or on the callers'.")
]
Gateways = Annotated[str, typer.Option("--gateways", metavar="N", help="Processes that run a gateway.")]
DatabaseTime = Annotated[
    str, typer.Option("--database-time", metavar="DURATION", help="One transaction with its commit.")
]
CallTime = Annotated[str, typer.Option("--call-time", metavar="DURATION", help="One call to Temporal.")]
TaskTime = Annotated[str, typer.Option("--task-time", metavar="DURATION", help="One workflow task of a shard.")]
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="What to count: 24h, or since 2026-01-31.")]
MaxHistory = Annotated[
    str, typer.Option("--max-history", metavar="SIZE", help="No further run is read after so many bytes.")
]


@with_settings("shards", *POLICY, temporal=False)
def size(
    settings: BatcherSettings,
    target: Target,
    rate: Rate,
    record_bytes: Bytes,
    records: Records = "1",
    via: Way = "activity",
    gateway: Where = "batcher",
    gateways: Gateways = "1",
    database_time: DatabaseTime = _DATABASE_TIME,
    call_time: CallTime = _CALL_TIME,
    task_time: TaskTime = _TASK_TIME,
    json: Annotated[bool, switch("--json", "As JSON.")] = False,
) -> None:
    """Compute what a load needs and costs: shards, transactions, history, billable actions.

    Without a number of shards it computes how many are needed; with one, whether they bear the load.
    """
    load = (rate, record_bytes, records, gateways)
    run(_size(settings, load, via, gateway, (database_time, call_time, task_time), json))


@with_settings("name")
def savings(
    settings: BatcherSettings,
    target: Target,
    since: Since = "24h",
    max_history: MaxHistory = _MAX_HISTORY,
    json: Annotated[bool, switch("--json", "As JSON.")] = False,
) -> None:
    """Read a batcher's own histories: which transactions were not needed, and what that cost in billable actions."""
    run(_savings(settings, target, since, max_history, json))


async def _size(
    settings: BatcherSettings,
    given: tuple[str, str, str, str],
    via: Via,
    gateway: Gateway,
    times: tuple[str, str, str],
    json: bool,
) -> int:
    rate, record_bytes, records, gateways = given
    database, call, task = times
    policy = settings.policy()
    try:
        load = Load(
            rate=read_value("--rate", rate, _parse_rate),
            record_bytes=read_value("--bytes", record_bytes, parse_size),
            records=read_value("--records", records, parse_whole),
            via=via,
            gateway=gateway,
            gateways=read_value("--gateways", gateways, parse_whole),
        )
        surroundings = Surroundings(
            database=read_duration("--database-time", database, zero=True),
            call=read_duration("--call-time", call),
            task=read_duration("--task-time", task),
        )
        shards = settings.shards if "shards" in settings.model_fields_set else None
        sized = estimate(load, policy, shards=shards, surroundings=surroundings)
    except InvalidLoad as problem:
        raise _by_option(problem) from None
    if json:
        out.print(sized_as_json(load, policy, sized), markup=False)
    else:
        show_figures("Sizing", sized_lines(load, sized))
    return 0


async def _savings(settings: BatcherSettings, target: Target, since: str, max_history: str, json: bool) -> int:
    begin = read_moment("--since", since)
    most = read_value("--max-history", max_history, parse_size)
    client = await connect_to_batcher(target, settings)
    try:
        saved = await read_savings(client, batcher=settings.name, since=begin, max_history_bytes=most)
    except InvalidLoad as problem:
        raise _by_option(problem) from None
    if json:
        out.print(saved_as_json(saved), markup=False)
    else:
        show_figures("Savings", saved_lines(saved))
    return 0


def _by_option(problem: InvalidLoad) -> SettingsError:
    return SettingsError(f"{OPTIONS[problem.argument]} {problem.reason}")


def _parse_rate(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise ValueError("writes a second, such as 5000 or 0.5") from None
