"""A ledger is recognised: a shard stays with the one it has written to, and no request writes to any ledger."""

from __future__ import annotations

from uuid import uuid4

import pytest
from temporalio.client import Client

from temporal_batching import Batch, Record, SinkConfigurationError, SinkUnavailable, SqlSink, TableRule, WriteRequest
from tests.support.callers import Write
from tests.support.databases import TestDatabase
from tests.support.service import QUICK, Service, entry, running
from tests.support.waiting import assert_eventually

ENTRIES = "CREATE TABLE entries (n integer PRIMARY KEY)"


def batch(number: int, *, n: int, request_id: str = "r") -> Batch:
    return Batch([WriteRequest(request_id, [Record("entries", {"n": n})])], id=f"main-0/{number}")


@pytest.mark.parametrize("loss", ["DROP TABLE batching_ledger", "DELETE FROM batching_ledger"])
async def test_a_ledger_that_disappears_is_never_replaced(database: TestDatabase, loss: str) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    assert [o.kind.value for o in await sink.write(batch(1, n=1))] == ["written"]
    database.execute(loss)
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match="ledger") as caught:
            await sink.write(batch(2, n=2))
        assert not caught.value.in_doubt
        with pytest.raises(SinkUnavailable, match="ledger"):
            await sink.settle(batch(2, n=2))
    assert database.rows("SELECT n FROM entries") == [(1,)]


async def test_a_ledger_keeps_its_identity_and_another_one_has_another(database: TestDatabase) -> None:
    first, second, other = database.sink(), database.sink(), database.sink(ledger_table="other_ledger")
    for sink in (first, second, other):
        await sink.open()
    assert first.identity == second.identity
    assert first.identity is not None
    assert first.identity != other.identity
    assert await first.lookup([""]) == {}


@pytest.mark.parametrize("table", ["other_ledger", "other_letters", "a_view", "wider_ledger"])
async def test_no_request_writes_to_the_ledger_or_the_letters_of_any_batcher(
    database: TestDatabase, table: str
) -> None:
    other = database.sink(ledger_table="other_ledger", dead_letters="other_letters")
    await other.open()
    database.execute(other.dead_letters_ddl())
    database.execute("CREATE VIEW a_view AS SELECT * FROM other_ledger")
    await database.sink(ledger_table="wider_ledger").open()
    database.execute("ALTER TABLE wider_ledger ADD COLUMN tenant text")
    values = {"request_id": "x", "digest": "d", "batch_id": "b", "status": "written", "committed_at": "2026-01-01"}
    (outcome,) = await database.sink().write(Batch([WriteRequest("r", [Record(table, values)])], id="main-0/1"))
    assert (outcome.kind.value, outcome.code) == ("rejected", "unknown_table")
    with pytest.raises(SinkConfigurationError, match="no table"):
        await database.sink(tables={table: TableRule()}).open()


async def failing_with(service: Service, words: str) -> None:
    async def check() -> None:
        stats = await service.stats()
        assert stats.breaker == "open"
        assert words in (stats.sink_error or "")

    await assert_eventually(check, within=20)


async def test_a_shard_does_not_go_on_in_another_database_until_it_is_told_to(
    continuing_client: Client, database: TestDatabase, sqlite: TestDatabase
) -> None:
    database.execute(ENTRIES)
    another = SqlSink(f"{sqlite.url}.another")
    async with running(continuing_client, database.sink(), QUICK) as service:
        assert (await service.call("activity", [entry(1)]))[0].outcome == "written"
        await service.stop_batcher()
        await service.start_batcher(sink=another)
        caller = await service.start("activity", [Write([["entries", {"n": 2}]], request_id=uuid4().hex)])
        await failing_with(service, "adopt-ledger")
        await service.stop_batcher()
        await service.start_batcher(sink=database.sink())
        assert (await caller.result())[0].outcome == "written"
        # On purpose.
        await service.stop_batcher()
        sqlite_url = f"{sqlite.url}.another"
        moved = SqlSink(sqlite_url)
        await moved.open()
        with moved._engine.begin() as connection:
            connection.exec_driver_sql(ENTRIES)
        await moved.close()
        await service.start_batcher(sink=SqlSink(sqlite_url))
        caller = await service.start("activity", [entry(3)])
        await failing_with(service, "adopt-ledger")
        await service.handle.adopt_ledger()
        assert (await caller.result())[0].outcome == "written"
    assert database.rows("SELECT n FROM entries ORDER BY n") == [(1,), (2,)]
