"""No request writes to a ledger or to dead letters, whichever batcher's and however they are named."""

from __future__ import annotations

from typing import Any

import pytest

from temporal_batching import Batch, Outcome, Record, RejectCode, SinkConfigurationError, SqlSink, WriteRequest
from tests.support.databases import TestDatabase

LEDGER = {
    "request_id": "x",
    "digest": "d",
    "batch_id": "b",
    "status": "written",
    "committed_at": "2026-01-01T00:00:00Z",
}


async def write(sink: SqlSink, table: str, values: dict[str, Any]) -> Outcome:
    (outcome,) = await sink.write(Batch([WriteRequest("r", [Record(table, values)])], id="main-0/1"))
    return outcome


@pytest.fixture
async def another(database: TestDatabase) -> TestDatabase:
    """A database with the tables of another batcher."""
    other = database.sink(ledger_table="Other_Ledger", dead_letters="other_letters")
    await other.open()
    database.execute(other.dead_letters_ddl())
    return database


async def is_kept_out(database: TestDatabase, table: str, values: dict[str, Any]) -> None:
    outcome = await write(database.sink(), table, values)
    assert (outcome.kind.value, outcome.code) == ("rejected", RejectCode.UNKNOWN_TABLE)
    assert f"{table} " in str(outcome.reason)
    assert "is a batcher's own table" in str(outcome.reason)
    with pytest.raises(SinkConfigurationError, match=f"{table} is a batcher's own table"):
        await database.sink(tables=[table]).open()


@pytest.mark.parametrize("table", ["Other_Ledger", "other_letters", "batching_ledger"])
async def test_a_table_of_a_batcher_is_named_as_such(another: TestDatabase, table: str) -> None:
    await another.sink().open()
    await is_kept_out(another, table, LEDGER)


async def test_a_ledger_with_columns_of_its_own_is_one(another: TestDatabase) -> None:
    another.execute('ALTER TABLE "Other_Ledger" ADD COLUMN note text')
    await is_kept_out(another, "Other_Ledger", LEDGER)


async def test_a_view_of_a_ledger_is_one(another: TestDatabase) -> None:
    another.execute('CREATE VIEW a_view AS SELECT * FROM "Other_Ledger"')
    await is_kept_out(another, "a_view", LEDGER)


async def test_on_postgresql_a_view_of_a_ledger_is_one_whatever_it_calls_its_columns(postgresql: TestDatabase) -> None:
    await postgresql.sink(ledger_table="other_ledger").open()
    postgresql.execute(
        "CREATE VIEW renamed (a, b, c, d, e) AS"
        " SELECT request_id, digest, batch_id, status, committed_at FROM other_ledger;;"
        "CREATE VIEW of_it AS SELECT * FROM renamed"
    )
    values = dict(zip("abcde", LEDGER.values(), strict=True))
    await is_kept_out(postgresql, "renamed", values)
    await is_kept_out(postgresql, "of_it", values)


async def test_a_partition_of_a_ledger_is_one(postgresql: TestDatabase) -> None:
    postgresql.execute(
        "CREATE TABLE wide (request_id text PRIMARY KEY, digest text NOT NULL, batch_id text NOT NULL,"
        " status text NOT NULL, committed_at timestamptz NOT NULL) PARTITION BY HASH (request_id);;"
        "CREATE TABLE part PARTITION OF wide FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    for table in ("wide", "part"):
        await is_kept_out(postgresql, table, LEDGER)


async def test_a_table_that_only_has_such_columns_is_a_table_like_any_other(database: TestDatabase) -> None:
    """A ledger's key is its request id: without it no request ids are at risk."""
    database.execute(
        "CREATE TABLE calls (id integer PRIMARY KEY, request_id text, digest text, batch_id text, status text,"
        " committed_at timestamp, cost integer)"
    )
    assert (await write(database.sink(), "calls", {"id": 1, **LEDGER, "cost": 2})).kind == "written"


async def test_a_table_whose_rule_writes_to_a_ledger_is_refused_and_so_is_a_child_of_one(
    postgresql: TestDatabase,
) -> None:
    await postgresql.sink(ledger_table="other_ledger").open()
    postgresql.execute(
        "CREATE TABLE innocent (a text);;"
        "CREATE RULE leak AS ON INSERT TO innocent DO ALSO"
        " INSERT INTO other_ledger VALUES (new.a, 'd', 'b', 'written', now());;"
        "CREATE TABLE child () INHERITS (other_ledger);;"
        "CREATE SCHEMA hidden;;"
        "CREATE TABLE hidden.ledger (LIKE other_ledger INCLUDING ALL);;"
        "CREATE VIEW over_hidden (a, b, c, d, e) AS SELECT request_id, digest, batch_id, status, committed_at"
        " FROM hidden.ledger"
    )
    await is_kept_out(postgresql, "innocent", {"a": "x"})
    await is_kept_out(postgresql, "child", LEDGER)
    await is_kept_out(postgresql, "over_hidden", dict(zip("abcde", LEDGER.values(), strict=True)))


async def test_on_sqlite_a_trigger_that_writes_to_a_ledger_makes_its_table_one(sqlite: TestDatabase) -> None:
    await sqlite.sink(ledger_table="other_ledger").open()
    into = "BEGIN INSERT INTO other_ledger VALUES (new.a, 'd', 'b', 'written', '2026-01-01'); END"
    sqlite.execute(
        "CREATE VIEW renamed (a) AS SELECT request_id FROM other_ledger;;"
        f"CREATE TRIGGER on_view INSTEAD OF INSERT ON renamed {into};;"
        "CREATE TABLE innocent (a text);;"
        f"CREATE TRIGGER on_table AFTER INSERT ON innocent {into};;"
        "CREATE TABLE emptied (a text);;"
        "CREATE TRIGGER on_delete AFTER DELETE ON emptied BEGIN DELETE FROM other_ledger; END;;"
        "CREATE TABLE counted (a text);;CREATE TABLE counts (n integer);;"
        "CREATE TRIGGER counts_it AFTER INSERT ON counted BEGIN INSERT INTO counts VALUES (1); END"
    )
    for table in ("renamed", "innocent", "emptied"):
        await is_kept_out(sqlite, table, {"a": "x"})
    assert (await write(sqlite.sink(), "counted", {"a": "x"})).kind == "written"
    assert sqlite.scalar("SELECT count(*) FROM counts") == 1
