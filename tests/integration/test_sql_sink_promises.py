"""`SqlSink` keeps every promise of `check_sink`, on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa

from temporal_batching import Record, SqlSink, TableRule
from temporal_batching.testing import SinkPromise, check_sink
from tests.support.databases import TestDatabase

NUMBERED = {
    "postgresql": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "sqlite": "integer PRIMARY KEY AUTOINCREMENT",
    "mariadb": "bigint AUTO_INCREMENT PRIMARY KEY",
}


def bad(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": None})


@asynccontextmanager
async def outage(database: TestDatabase) -> AsyncIterator[None]:
    """Nobody can write: another process holds the SQLite file, or the server's ledger."""
    with database.locked("batching_ledger"):
        yield


@contextmanager
def locked_row(database: TestDatabase) -> Iterator[None]:
    """Texts that say so need a row that somebody else has locked. SQLite has no locks on rows."""
    if database.dialect == "sqlite":
        yield
        return
    if database.dialect == "mariadb":
        # A trigger of MariaDB cannot ask for a lock without waiting; it can say that it has waited.
        database.execute(
            "CREATE TRIGGER need_lock BEFORE INSERT ON check_sink FOR EACH ROW IF NEW.text = 'busy'"
            " THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205, MESSAGE_TEXT = 'Lock wait timeout exceeded'; END IF"
        )
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


def update(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": text}, operation="update")


def delete(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number}, operation="delete")


def add(number: int, text: str) -> Record:
    return Record("check_totals", {"name": text, "total": number})


RULES = {
    "check_sink": TableRule(key=["number"], operations={"insert", "update", "delete"}),
    "check_totals": TableRule(conflict="add", key=["name"], add=["total"]),
}
CHANGES = (SinkPromise.CHANGED, SinkPromise.MISSING_ROW, SinkPromise.ADDED)


@pytest.mark.parametrize("promise", CHANGES)
async def test_the_sql_sink_with_rules_keeps(promise: SinkPromise, database: TestDatabase) -> None:
    database.execute("CREATE TABLE check_sink (number integer PRIMARY KEY, text text NOT NULL)")
    database.execute("CREATE TABLE check_totals (name varchar(100) PRIMARY KEY, total bigint NOT NULL)")
    await check_sink(
        lambda: SqlSink(database.url, tables=RULES),
        promise,
        rows=lambda: database.rows("SELECT number, text FROM check_sink"),
        update=update,
        delete=delete,
        add=add,
        totals=lambda: database.rows("SELECT total, name FROM check_totals"),
        ordered=False,
    )


@pytest.mark.parametrize("promise", [promise for promise in SinkPromise if promise not in CHANGES])
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
            busy=None if database.dialect == "sqlite" else busy,
            outage=lambda: outage(database),
            returning=["number", "place"],
            dead_letters=lambda: [i for (i,) in database.rows("SELECT request_id FROM batching_dead_letters")],
        )
