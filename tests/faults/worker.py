"""The batcher's worker, in a process that kills itself at a fault point, or whose SQLite file fails for a while.

``python -m tests.faults.worker`` with the settings of ``temporal-batching worker`` as environment, and

- ``FAULT_POINT``: the `FaultPoint` at which it dies;
- ``FAULT_AFTER``: how often it passes there before;
- ``FAULT_TROUBLE``: the `Trouble` that the SQLite file has while the file ``FAULT_WHILE`` is there.

Everything but the fault is the library's own.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Any

from temporal_batching.cli.connect import connect
from temporal_batching.cli.console import out, run
from temporal_batching.cli.logs import log_to_stderr
from temporal_batching.cli.worker import batcher_worker, open_sink, serve
from temporal_batching.settings import load
from tests.support.fault_points import FaultInterceptor, FaultPoint, FaultSink, with_interceptor
from tests.support.statements import BEGIN, COMMIT, Statements, intercepted


class Trouble(StrEnum):
    """What a SQLite file may suffer for a while, as the setting of a connection that brings it about."""

    FULL = "max_page_count"
    """The disk is full."""
    READ_ONLY = "query_only"
    """The file cannot be written."""


_TROUBLED = {Trouble.FULL: 1, Trouble.READ_ONLY: 1}
_WELL = {Trouble.FULL: 2**30, Trouble.READ_ONLY: 0}


class Killer:
    """Kills the process at a fault point."""

    def __init__(self, point: FaultPoint, after: int) -> None:
        self._point = point
        self._left = after

    def __call__(self, passed: FaultPoint) -> None:
        if passed is not self._point:
            return
        if self._left > 0:
            self._left -= 1
            return
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive after SIGKILL")

    def before_statement(self, _: Any, statement: str) -> None:
        if statement == COMMIT:
            self(FaultPoint.BEFORE_COMMIT)


class TroubledFile:
    """Gives every transaction on SQLite the trouble, or takes it away."""

    def __init__(self, trouble: Trouble, while_there: Path) -> None:
        self._trouble = trouble
        self._while = while_there

    def before_statement(self, connection: Any, statement: str) -> None:
        if statement.startswith(BEGIN):
            value = (_TROUBLED if self._while.exists() else _WELL)[self._trouble]
            connection.execute(f"PRAGMA {self._trouble} = {value}")


async def main() -> int:
    log_to_stderr()
    settings = load({})
    client = await connect()
    with ExitStack() as stack:
        statements: Statements = stack.enter_context(intercepted())
        sink = await open_sink(settings)
        if trouble := os.environ.get("FAULT_TROUBLE"):
            statements.before = TroubledFile(Trouble(trouble), Path(os.environ["FAULT_WHILE"])).before_statement
        else:
            kill = Killer(FaultPoint(os.environ["FAULT_POINT"]), int(os.environ["FAULT_AFTER"]))
            statements.before = kill.before_statement
            client = with_interceptor(client, FaultInterceptor(kill))
            sink = FaultSink(sink, kill)
        worker = batcher_worker(client, settings, sink)
        out.print("Batcher: armed.")
        return await serve(worker)


if __name__ == "__main__":
    run(main())
