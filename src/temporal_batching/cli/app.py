"""The command ``temporal-batching``: its commands in the order of its help. Each is in a file of its own family."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from temporal_batching.cli.audit import audit
from temporal_batching.cli.check import check
from temporal_batching.cli.console import out
from temporal_batching.cli.dead_letters import dead_letters, resend
from temporal_batching.cli.demo.command import demo
from temporal_batching.cli.ledger import lookup, prune
from temporal_batching.cli.monitor import monitor, stats
from temporal_batching.cli.operate import adopt_ledger, configure, drain, flush, pause, resume, start
from temporal_batching.cli.options import Command, Group, switch
from temporal_batching.cli.sizing import savings, size
from temporal_batching.cli.worker import worker

COMMANDS = (
    demo, worker, start, check, monitor, stats,
    flush, pause, resume, drain, configure, adopt_ledger,
    audit, lookup, prune, dead_letters, resend,
    size, savings,
)  # fmt: skip


app = typer.Typer(
    name="temporal-batching",
    help="Batch the writes of many Temporal workflows into few database transactions, each exactly once.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"), cls=Command)(command)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, switch("--version", "Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show_version:
        out.print(f"temporal-batching {version('temporal-batching')}")
        raise typer.Exit
