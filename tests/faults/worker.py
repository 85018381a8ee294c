"""The batcher's worker, in a process that breaks at the seam that ``FAULT_SEAM`` names: most kill it there.

``python -m tests.faults.worker`` with the settings of ``temporal-batching worker`` as environment. Everything but
the fault is the library's own.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from temporal_batching.batcher import buffer
from temporal_batching.batcher import workflow as batcher
from temporal_batching.cli.connect import connect
from temporal_batching.cli.console import log_to_stderr, out, run
from temporal_batching.cli.worker import batcher_worker, open_sink, serve
from temporal_batching.flush import activity as flush
from temporal_batching.flush import delivery as confirm
from temporal_batching.gateway import submitter as gateway
from temporal_batching.settings import load
from temporal_batching.sinks.sql.postgresql import PostgresqlTransaction
from temporal_batching.sinks.sql.sqlite import SqliteTransaction


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive after SIGKILL")


async def die_later(*_: Any, **__: Any) -> NoReturn:
    die()


def accepting() -> None:
    """The shard handles its first request: its workflow task is never completed."""
    setattr(buffer.Buffer, "accept", die)  # noqa: B010


def accepted() -> None:
    """The gateway has the shard's word, and its activity has not ended yet."""
    send = gateway.ShardSubmitter._send

    async def send_and_die(lane: gateway.ShardSubmitter, wires: list[Any]) -> NoReturn:
        await send(lane, wires)
        die()

    setattr(gateway.ShardSubmitter, "_send", send_and_die)  # noqa: B010


def flushing() -> None:
    """A flush has begun, and has not gone to the sink."""
    setattr(flush, "write_batch", die_later)  # noqa: B010


def inserting() -> None:
    """Ledger and rows are inserted, and not committed."""
    setattr(PostgresqlTransaction, "commit", die)  # noqa: B010
    setattr(SqliteTransaction, "commit", die)  # noqa: B010


def committed() -> None:
    """The batch is committed, and nobody has been told."""
    setattr(flush, "deliver", die_later)  # noqa: B010


def confirming() -> None:
    """Some callers of a batch have been told, the others have not."""
    send, left, one_by_one = confirm._send, int(os.environ["FAULT_AFTER"]), asyncio.Lock()

    async def send_or_die(client: Any, call: Any) -> None:
        nonlocal left
        async with one_by_one:
            if left == 0:
                die()
            left -= 1
            await send(client, call)

    setattr(confirm, "_send", send_or_die)  # noqa: B010


def reporting() -> None:
    """All callers have been told, the shard does not know."""
    deliver = confirm.deliver

    async def deliver_and_die(client: Any, answers: Any) -> NoReturn:
        await deliver(client, answers)
        die()

    setattr(flush, "deliver", deliver_and_die)  # noqa: B010


def closing() -> None:
    """The shard is about to continue as new."""
    setattr(batcher.BatcherWorkflow, "_continue_as_new", die)  # noqa: B010


def opening() -> None:
    """The shard's new run takes over what the old one carried."""
    setattr(buffer.Buffer, "restore", classmethod(die))  # noqa: B010


def full() -> None:
    """The disk of the SQLite file is full for a while."""
    _set_for_a_while("max_page_count", 1, 2**30)


def read_only() -> None:
    """The SQLite file cannot be written for a while."""
    _set_for_a_while("query_only", 1, 0)


def _set_for_a_while(pragma: str, ill: int, well: int) -> None:
    begin = SqliteTransaction.begin

    def set_and_begin(transaction: SqliteTransaction) -> None:
        value = ill if Path(os.environ["FAULT_WHILE"]).exists() else well
        transaction.connection.exec_driver_sql(f"PRAGMA {pragma} = {value}")
        begin(transaction)

    setattr(SqliteTransaction, "begin", set_and_begin)  # noqa: B010


SEAMS: dict[str, Callable[[], None]] = {
    seam.__name__: seam
    for seam in (
        *(accepting, accepted, flushing, inserting, committed, confirming, reporting, closing, opening),
        *(full, read_only),
    )
}


async def main() -> int:
    log_to_stderr()
    settings = load({})
    client = await connect()
    worker = batcher_worker(client, settings, await open_sink(settings))
    SEAMS[os.environ["FAULT_SEAM"]]()
    out.print("Batcher: armed.")
    return await serve(worker)


if __name__ == "__main__":
    run(main())
