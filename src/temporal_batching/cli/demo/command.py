"""``temporal-batching demo``: its options."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import typer

from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import run
from temporal_batching.cli.options import LOGGED, POLICY, switch, with_settings
from temporal_batching.settings import SINK_FIELDS, BatcherSettings

LINGER = "20s"
"""The default, so that batches fill on a machine of any speed; the demo flushes the rest at its end."""


@with_settings("shards", *SINK_FIELDS, *LOGGED, *POLICY, defaults={"linger": LINGER})
def demo(
    settings: BatcherSettings,
    target: Target,
    workflows: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="How many payments.")] = 500,
    sink: Annotated[
        str, typer.Option(metavar="sqlite|postgresql|URL", help="An embedded database, or one of your own.")
    ] = "sqlite",
    via: Annotated[
        Literal["signal", "activity"],
        typer.Option(metavar="signal|activity", help="How the payments reach the batcher."),
    ] = "signal",
    keep: Annotated[bool, switch("--keep", "Leave everything up afterwards, until Ctrl-C.")] = False,
    json: Annotated[bool, switch("--json", "Print the figures as one JSON object in the last line.")] = False,
    hold: Annotated[
        bool | None,
        switch(
            "--hold/--no-hold",
            "Hold the writes back until all have been handed over. Default: only with --linger 0, which writes what is "
            "there at once: a few payments at a time.",
        ),
    ] = None,
) -> None:
    """See it work: Temporal, a database and both services from nothing, many concurrent payments, and an audit.

    It runs its own Temporal server with Web UI unless TEMPORAL_ADDRESS names one, and leaves nothing behind.
    """
    hold = settings.linger == timedelta(0) if hold is None else hold
    # Servers to start and the library's worker: what no other command needs is loaded here.
    from temporal_batching.cli.demo.run import Plan, run_demo

    run(run_demo(settings, target, Plan(workflows, sink, via, keep, json, hold)))
