"""Servers of MariaDB that are set differently: what the sink relies on is either set by itself, or seen and said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa

from temporal_batching import Batch, Outcome, Record, SinkUnavailable, SqlSink, TableRule, WriteRequest
from tests.support.databases import TestDatabase, mariadb_database
from tests.support.mariadb import mariadb_server, missing
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, amount integer)"


@contextmanager
def database_of_a_server(*options: str) -> Iterator[TestDatabase]:
    """A database of a server with these options."""
    with mariadb_server(*options) as server, mariadb_database(server.url, "own", poolclass=sa.NullPool) as database:
        database.execute(ENTRIES)
        yield database


def entry(number: int, amount: int = 1) -> WriteRequest:
    return WriteRequest(f"r{number}", [Record("entries", {"id": number, "amount": amount})])


async def test_a_server_that_rolls_back_everything_at_a_lock_timeout_writes_no_row_without_its_id() -> None:
    """A statement that is tried again would be in a transaction that has lost the ids."""
    with database_of_a_server("--innodb-rollback-on-timeout=ON") as database:
        database.execute("INSERT INTO entries VALUES (2, 0)")
        rules = {"entries": TableRule(conflict="update", key=["id"])}
        sink = database.sink(tables=rules, lock_timeout=timedelta(seconds=0.9))
        await sink.open()
        with database.engine.connect() as outsider:
            outsider.execute(sa.text("SELECT * FROM entries WHERE id = 2 FOR UPDATE"))
            writing = asyncio.create_task(_write(sink, Batch([entry(n) for n in range(3)], id="main-0/1")))

            async def waits() -> None:
                assert sink.counters.statements >= 3  # ids, the rule's index, rows

            await assert_eventually(waits)
            outsider.rollback()
        outcomes = await writing
        assert [o.kind.value for o in outcomes] == ["written"] * 3
        written = database.rows("SELECT request_id FROM batching_ledger WHERE status = 'written'")
        assert {row[0] for row in written} == {"r0", "r1", "r2"}
        assert database.scalar("SELECT count(*) FROM entries WHERE amount = 1") == 3


async def _write(sink: SqlSink, batch: Batch) -> Sequence[Outcome]:
    return await sink.write(batch)


async def test_a_server_whose_binary_log_cannot_take_the_transactions_is_unavailable() -> None:
    """It refuses every write at READ COMMITTED: no request is at fault."""
    with database_of_a_server("--log-bin", "--binlog-format=STATEMENT") as database:
        with pytest.raises(SinkUnavailable, match="BINLOG_FORMAT = STATEMENT") as caught:
            await database.sink().write(Batch([entry(1)], id="main-0/1"))
        assert not caught.value.in_doubt
        assert database.scalar("SELECT count(*) FROM entries") == 0
