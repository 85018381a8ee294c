"""`SqlSink` keeps every promise of `check_sink`, on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa

from temporal_batching import Record, SqlSink
from temporal_batching.testing import SinkPromise, check_sink
from tests.support.databases import TestDatabase

NUMBERED = {
    "postgresql": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "sqlite": "integer PRIMARY KEY AUTOINCREMENT",
}


def bad(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": None})


@asynccontextmanager
async def outage(database: TestDatabase) -> AsyncIterator[None]:
    """Nobody can write: another process holds the SQLite file, or PostgreSQL's ledger."""
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.text("LOCK TABLE batching_ledger IN ACCESS EXCLUSIVE MODE"))
        yield
        connection.rollback()


@contextmanager
def locked_row(database: TestDatabase) -> Iterator[None]:
    """Texts that say so need a row of PostgreSQL that somebody else has locked. SQLite has no locks on rows."""
    if database.dialect != "postgresql":
        yield
        return
    database.execute(
        "CREATE TABLE locks (id integer);;INSERT INTO locks VALUES (1)"
        ";;CREATE FUNCTION need_lock() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM 1 FROM locks FOR SHARE NOWAIT; RETURN NEW; END $$"
        ";;CREATE TRIGGER need_lock BEFORE INSERT ON check_sink FOR EACH ROW WHEN (NEW.text = 'busy')"
        " EXECUTE FUNCTION need_lock()"
    )
    with database.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1 FROM locks FOR UPDATE"))
        yield


def busy(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": "busy"})


@pytest.mark.parametrize("promise", SinkPromise)
async def test_the_sql_sink_keeps(promise: SinkPromise, database: TestDatabase) -> None:
    database.execute(
        f"CREATE TABLE check_sink (place {NUMBERED[database.dialect]}, number integer NOT NULL, text text NOT NULL)"
    )
    # An outage is noticed at the lock, which others here are never kept waiting for so long.
    lock_timeout = timedelta(seconds=0.5 if promise is SinkPromise.OUTAGE else 10)

    with locked_row(database):
        await check_sink(
            lambda: SqlSink(database.url, lock_timeout=lock_timeout),
            promise,
            rows=lambda: database.rows("SELECT number, text FROM check_sink ORDER BY place"),
            bad=bad,
            busy=busy if database.dialect == "postgresql" else None,
            outage=lambda: outage(database),
            dead_letters=lambda: [i for (i,) in database.rows("SELECT request_id FROM batching_dead_letters")],
        )
