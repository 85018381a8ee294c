"""How commands speak: results on stdout, everything else on stderr, errors as one line and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from temporal_batching.errors import BatchingError
from temporal_batching.terminal import CleanConsole, printable
from temporal_batching.tracing import tracing

out: Console = CleanConsole(highlight=False, soft_wrap=True)
err: Console = CleanConsole(stderr=True, highlight=False, soft_wrap=True)

EXIT_FAILED = 1
EXIT_TROUBLE = 2
"""Of a command that judges: it could not. As with `diff` and `grep`, 1 is the judgement."""
EXIT_INTERRUPTED = 130


class CommandError(BatchingError):
    """A command cannot go on. The message is for people: what, where, and what to do."""


def fail(message: object, code: int = EXIT_FAILED) -> NoReturn:
    complain(message)
    sys.exit(code)


@contextlib.contextmanager
def sql_is_installed(who_needs: str) -> Iterator[None]:
    """Names the extra if an import in the block fails."""
    try:
        yield
    except ImportError as err:
        raise CommandError(
            f"{who_needs} the extra 'sql', for PostgreSQL 'postgresql', for MariaDB 'mariadb': {err}"
        ) from None


def complain(message: object) -> None:
    err.print(f"[red]error:[/red] {escape(str(message))}")


def run(work: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Runs a command to its exit code. SIGINT, SIGTERM and SIGHUP cancel it, so that its clean-up runs."""
    try:
        code = asyncio.run(_cancelled_by_signals(work))
    except BatchingError as problem:
        complain(problem)
        code = EXIT_FAILED
    except Exception:  # unexpected: its stack is shown, without a crash at exit
        traceback.print_exc()
        code = EXIT_FAILED
    _leave(code or 0)


def _leave(code: int) -> NoReturn:
    """Ends the process without tearing the interpreter down.

    The SDK's runtime has threads of its own, and one that calls into a dying interpreter aborts the process: a worker
    that stopped in good order would end with a crash.
    """
    tracing().finish()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


async def _cancelled_by_signals(work: Coroutine[Any, Any, int | None]) -> int | None:
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def stop(which: signal.Signals) -> None:
        # Only the first: an impatient second one must not break into the clean-up.
        if not received:
            received.append(which)
            task.cancel()

    loop = asyncio.get_running_loop()
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(which, stop, which)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]


def show_figures(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Prints names and values: a table for a terminal, a line for each otherwise."""
    shown = list(lines)
    if out.is_terminal:
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
        for name, value in shown:
            table.add_row(name, escape(value))
        out.print(table)
    else:
        width = max((len(name) for name, _ in shown), default=0) + 2
        for name, value in shown:
            out.print(f"{name + ':':<{width}}{printable(value)}", markup=False)


def plural(count: int, noun: str) -> str:
    if count == 1:
        return f"{count:,} {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith('ch') else 's'}"
