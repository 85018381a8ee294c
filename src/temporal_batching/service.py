"""For the scripts that run a service: settings as options, Temporal's address, errors as one line. Needs extra ``cli``.

Example:
    A worker in a script of its own, with ``--name``, ``--sink``, ``--table``, ``--linger`` and so on as options::

        @command(*SINK, *POLICY)
        async def main(settings: BatcherSettings, target: Target) -> None:
            client = await connect_to_batcher(target, settings)
            sink = SqlSink(settings.sink_url(), **settings.sink_options())
            plugin = BatcherPlugin(sink, policy=settings.policy(), name=settings.name)
            await run_worker(Worker(client, task_queue=settings.task_queue, plugins=[plugin]))


        if __name__ == "__main__":
            main()
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from temporal_batching.cli.connect import Target, connect_to_batcher
from temporal_batching.cli.console import CommandError, out, plural, run
from temporal_batching.cli.database import prepare_database
from temporal_batching.cli.logs import log_to_stderr
from temporal_batching.cli.monitor import Interval
from temporal_batching.cli.options import (
    BATCHER,
    LOGGED,
    OBSERVED,
    POLICY,
    SINK,
    VERSION,
    Command,
    read_duration,
    with_settings,
)
from temporal_batching.cli.pollers import advice_on_missing_workers, failure_of
from temporal_batching.cli.worker import CreateTables
from temporal_batching.settings import BatcherSettings, SettingsError

__all__ = [
    "OBSERVED",
    "POLICY",
    "SINK",
    "VERSION",
    "BatcherSettings",
    "CommandError",
    "CreateTables",
    "Interval",
    "SettingsError",
    "Target",
    "TaskQueue",
    "advice_on_missing_workers",
    "command",
    "connect_to_batcher",
    "failure_of",
    "out",
    "plural",
    "prepare_database",
    "read_duration",
]

TaskQueue = Annotated[
    str,
    typer.Option("--main-task-queue", envvar="MAIN_TASK_QUEUE", metavar="NAME", help="The callers' own task queue."),
]


def command(*settings: str) -> Callable[[Callable[..., Coroutine[Any, Any, int | None]]], Callable[[], None]]:
    """Makes a script's command of a coroutine function ``main(settings, target, ...)``.

    It has the batcher's name, queue and shards as options, these settings, its log's level and format, and Temporal's
    address; each is also a variable and a key of the file that ``--config`` names. Further parameters are options of
    its own, as in Typer. A `BatchingError` ends it with one line on standard error and status 1; SIGINT, SIGTERM and
    SIGHUP cancel it.

    Args:
        settings: Names of more settings that are options; ``*SINK`` are the sink and what can be set of
            a database, ``*POLICY`` the batcher's limits.

    Returns:
        The decorator. What it makes takes no arguments: it reads the process's, and ends the process.
    """

    def decorate(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[[], None]:
        @functools.wraps(function)
        def work(settings: BatcherSettings, *args: Any, **options: Any) -> None:
            log_to_stderr(settings.log_level, settings.log_format)
            run(function(settings, *args, **options))

        app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        app.command(cls=Command)(with_settings(*BATCHER, *settings, *LOGGED)(work))

        def main() -> None:
            app(prog_name=sys.argv[0])

        main.__doc__ = function.__doc__
        return main

    return decorate
