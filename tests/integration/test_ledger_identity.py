"""A ledger is recognised: a shard stays with the one it has written to, and no request writes to any ledger."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio.client import Client

from temporal_batching import (
    Batch,
    BatchPolicy,
    ConsoleSink,
    MemorySink,
    Outcome,
    Record,
    SinkConfigurationError,
    SinkUnavailable,
    SqlSink,
    TableRule,
    WriteRequest,
)
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
            await sink.fence(batch(2, n=2))
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
    with pytest.raises(SinkConfigurationError, match="batcher's own table"):
        await database.sink(tables={table: TableRule()}).open()


async def failing_with(service: Service, words: str) -> None:
    async def check() -> None:
        stats = await service.stats()
        assert stats.breaker == "open"
        assert words in (stats.sink_error or "")

    await assert_eventually(check, within=20)


async def test_a_shard_does_not_go_on_in_another_database_until_an_operator_says_so(
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
        with moved.connections.engine.begin() as connection:
            connection.exec_driver_sql(ENTRIES)
        await moved.close()
        await service.start_batcher(sink=SqlSink(sqlite_url))
        caller = await service.start("activity", [entry(3)])
        await failing_with(service, f"adopt-ledger --name {service.name} --identity {moved.identity}")
        await service.handle.adopt_ledger(moved.identity)
        assert (await caller.result())[0].outcome == "written"
    assert database.rows("SELECT n FROM entries ORDER BY n") == [(1,), (2,)]


# A shard and its ledger


class Named(MemorySink):
    """A store with an identity, of which the first attempts end as the test says."""

    def __init__(self, identity: str | None) -> None:
        super().__init__()
        self.identity = identity


async def refuses(service: Service, sink: MemorySink, *names: str) -> None:
    """The shard goes on with another sink, which gets nothing: the error names both stores, and the command."""
    for name in names:
        await failing_with(service, name)
    await failing_with(service, f"temporal-batching adopt-ledger --name {service.name}")
    assert sink.rows == {}


async def test_a_first_flush_in_doubt_ties_the_shard_to_the_ledger_that_it_may_be_in(client: Client) -> None:
    first, other = Named("one"), Named("two")
    first.fail_next(1_000, committed=True)
    async with running(client, first, QUICK) as service:
        caller = await service.start("activity", [entry(1)])
        await failing_with(service, "fails on request")
        await service.stop_batcher()
        await service.start_batcher(sink=other)
        await refuses(service, other, "one", "two")
        await service.stop_batcher()
        first.stop_failing()
        await service.start_batcher(sink=first)
        assert (await caller.result())[0].outcome == "written"
    assert first.rows["entries"] == [{"n": 1}]


async def test_a_first_flush_whose_worker_is_lost_ties_the_shard_to_its_ledger(client: Client) -> None:
    class Hangs(Named):
        async def write(self, batch: Batch) -> Sequence[Outcome]:
            await super().write(batch)
            await asyncio.sleep(60)
            return []

    other = Named("two")
    policy = BatchPolicy(
        linger=timedelta(0), flush_timeout=timedelta(seconds=1), retry_initial=timedelta(milliseconds=100)
    )
    async with running(client, Hangs("one"), policy) as service:
        await service.start("activity", [entry(1)])
        await failing_with(service, "StartToClose timeout")
        assert (await service.stats()).ledger == "one", "its attempts are lost, and say nothing any more"
        await service.stop_batcher()
        await service.start_batcher(sink=other)
        await refuses(service, other, "one", "two")


async def test_from_no_ledger_to_one_is_free_and_back_is_not(client: Client) -> None:
    without = Named(None)
    async with running(client, ConsoleSink(), QUICK) as service:
        assert (await service.call("activity", [entry(1)]))[0].outcome == "written"
        await service.stop_batcher()
        await service.start_batcher(sink=Named("one"))
        assert (await service.call("activity", [entry(2)]))[0].outcome == "written"
        assert (await service.stats()).ledger == "one"
        await service.stop_batcher()
        await service.start_batcher(sink=without)
        caller = await service.start("activity", [entry(3)])
        await refuses(service, without, "one", "without a ledger")
        await service.handle.adopt_ledger(None)
        assert (await caller.result())[0].outcome == "written"


async def test_a_worker_with_the_earlier_ledger_gets_nothing_once_another_one_is_adopted(client: Client) -> None:
    """Adopted is the one that the command names, not the one whose worker comes first."""
    first, other = Named("one"), Named("two")
    async with running(client, first, QUICK) as service:
        assert (await service.call("activity", [entry(0)]))[0].outcome == "written"
        await service.handle.adopt_ledger("two")
        caller = await service.start("activity", [entry(1)])
        await failing_with(service, "adopt-ledger")
        assert (await service.stats()).ledger == "two"
        await service.stop_batcher()
        await service.start_batcher(sink=other)
        assert (await caller.result())[0].outcome == "written"
        await service.handle.adopt_ledger(None)
        caller = await service.start("activity", [entry(2)])
        await failing_with(service, "was set to use no ledger")
    assert (first.rows["entries"], other.rows["entries"]) == ([{"n": 0}], [{"n": 1}])


async def test_the_first_batch_in_a_ledger_goes_alone(client: Client) -> None:
    """From no ledger to one, beside other flushes: two could go into two ledgers."""
    policy = dataclasses.replace(QUICK, max_in_flight=4, max_batch_size=1)
    async with running(client, Named(None), policy) as service:
        await service.call("activity", [entry(0)])
        await service.stop_batcher()
        seen: list[int] = []

        class Counts(Named):
            async def write(self, batch: Batch) -> Sequence[Outcome]:
                seen.append((await service.stats()).in_flight if not self.batches else 0)
                return await super().write(batch)

        await service.start_batcher(sink=Counts("one"))
        results = await service.call("activity", [entry(n) for n in range(1, 9)])
        assert {one.outcome for one in results} == {"written"}
        assert seen[0] == 1
        assert (await service.stats()).ledger == "one"


async def test_a_run_that_ends_hands_its_ledger_on(tiny_client: Client) -> None:
    async with running(tiny_client, Named("one"), QUICK) as service:
        for n in range(3):
            assert (await service.call("activity", [entry(n)]))[0].outcome == "written"
        assert (await service.stats()).continue_as_new > 0
        await service.stop_batcher()
        other = Named("two")
        await service.start_batcher(sink=other)
        await service.start("activity", [entry(9)])
        await refuses(service, other, "one", "two")


# The database's own


async def test_the_error_of_a_lost_ledger_does_not_advise_to_create_another(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    identity = str(sink.identity)
    for loss in ("DELETE FROM batching_ledger", "DROP TABLE batching_ledger"):
        database.execute(loss)
        with pytest.raises(SinkUnavailable):
            await sink.write(batch(1, n=1))
        with pytest.raises(SinkUnavailable, match="until it is restored") as caught:  # read again
            await sink.write(batch(1, n=1))
        assert identity in str(caught.value)
        assert "create it" not in str(caught.value)
        with pytest.raises(SinkConfigurationError, match="until it is restored"):
            await sink.open()
    assert database.rows("SELECT n FROM entries") == []


async def test_a_ledger_that_was_made_beforehand_has_its_identity_from_there(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink(create_ledger=False)
    create, identify = (statement for statement in sink.ledger_ddl().split(";\n") if statement.strip())
    database.execute(create)
    with pytest.raises(SinkConfigurationError, match=r"has no identity.*INSERT INTO"):
        await sink.open()
    assert database.scalar("SELECT count(*) FROM batching_ledger") == 0
    for _ in range(2):  # it may be run again
        database.execute(identify.strip().removesuffix(";"))
    await sink.open()
    other = database.sink()
    await other.open()
    assert sink.identity == other.identity
    assert len(str(sink.identity)) == 36
    assert [o.kind.value for o in await sink.write(batch(1, n=1))] == ["written"]
    # Whoever deletes old ids by their date keeps it.
    assert database.scalar("SELECT count(*) FROM batching_ledger WHERE committed_at < '9000-01-01'") == 1
