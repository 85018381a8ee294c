"""How commands speak: results on stdout, everything else on stderr, errors as one line and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Coroutine, Iterator
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from temporalio.exceptions import FailureError

from temporal_batching.errors import BatchingError
from temporal_batching.terminal import CleanConsole, printable

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
        raise CommandError(f"{who_needs} the extra 'sql', for PostgreSQL 'postgresql': {err}") from None


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


class _Brief(logging.Formatter):
    """A failure that was raised on purpose is printed in its own words; a stack is printed for an unexpected one.

    A message is one line: what it quotes can neither begin another one nor move a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return f"  {ei[1]}" if isinstance(ei[1], FailureError) else super().formatException(ei)


def log_to_stderr(level: int = logging.INFO) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Brief("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    # It announces its own shutdown, which the command does already.
    logging.getLogger("temporalio.worker").setLevel(logging.WARNING)


def plural(count: int, noun: str) -> str:
    if count == 1:
        return f"{count:,} {noun}"
    if noun.endswith("y"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith('ch') else 's'}"
