"""Batches in flight at the same time: the order of keys holds, other keys do not wait, and rows are not fought over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from temporalio.client import Client

from temporal_batching import MemorySink, Outcome, SinkUnavailable, SqlSink, TableRule
from temporal_batching.contract import SIGNAL_ADD, OutcomeKind, Record, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase
from tests.support.service import QUICK, Service, running
from tests.support.waiting import assert_eventually

NUMBERED = {
    "sqlite": "INTEGER PRIMARY KEY",
    "postgresql": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "mariadb": "BIGINT AUTO_INCREMENT PRIMARY KEY",
}
"""A column that counts rows in the order in which they are inserted."""


class Unsteady(SqlSink):
    """Slow, at two of eight calls cut off, before or after its commit; and it hangs on one key until it is released."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.rng = Random(7)
        self.running = self.most = self.calls = self.cuts = 0
        self.released = asyncio.Event()

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if any(request.key == "hot" for request in batch):
                await self.released.wait()
            await asyncio.sleep(self.rng.uniform(0.05, 0.2))  # so slow that the next batch is there meanwhile
            self.calls += 1
            cut = {2: "before", 3: "after"}.get(self.calls % 8, "")  # the breaker is closed in between
            self.cuts += bool(cut)
            if cut == "before":
                raise SinkUnavailable("cut before the commit", in_doubt=True)
            outcomes = await super().write(batch)
            if cut == "after":
                raise SinkUnavailable("cut after the commit", in_doubt=True)
            return outcomes
        finally:
            self.running -= 1


async def send(service: Service, numbers: range, key: str) -> None:
    """Requests without a reply address, in this order."""
    for n in numbers:
        values = {"k": key, "n": n}
        wire = {"request_id": f"{key}-{n}", "key": key, "records": [{"table": "log", "values": values}]}
        await service.shard().signal(SIGNAL_ADD, wire)


async def test_the_order_of_each_key_holds_and_other_keys_do_not_wait_for_one_that_hangs(
    client: Client, database: TestDatabase
) -> None:
    database.execute(f"CREATE TABLE log (seq {NUMBERED[database.dialect]}, k VARCHAR(20), n INTEGER)")
    sink = Unsteady(database.url)
    policy = replace(QUICK, max_in_flight=4, max_batch_size=5)
    keys = [f"k{number}" for number in range(6)]

    def written(*wanted: str) -> list[tuple[str, int]]:
        return [(k, n) for k, n in database.rows("SELECT k, n FROM log ORDER BY seq") if k in wanted]

    async with running(client, sink, policy) as service:
        await send(service, range(1), "first")  # a shard's first batch goes alone: it decides on the ledger

        async def first_is_written() -> None:
            assert len(written("first")) == 1

        await assert_eventually(first_is_written)
        await send(service, range(6), "hot")
        await asyncio.gather(*(send(service, range(12), key) for key in keys))

        async def others_are_written() -> None:
            assert len(written(*keys)) == 12 * len(keys)

        await assert_eventually(others_are_written, within=60)
        assert written("hot") == []

        async def only_the_hot_key_waits() -> None:  # a batch that was cut after its commit is asked about once more
            stats = await service.stats()
            assert stats.pending + stats.in_flight == 6

        await assert_eventually(only_the_hot_key_waits)
        sink.released.set()

        async def all_is_settled() -> None:
            stats = await service.stats()
            assert (stats.pending, stats.in_flight) == (0, 0)

        await assert_eventually(all_is_settled, within=60)
    for key, count in [("hot", 6), *((key, 12) for key in keys)]:
        assert written(key) == [(key, n) for n in range(count)]
    assert sink.most >= 3, "batches overlapped"
    assert sink.cuts >= 3


async def test_batches_that_start_together_fit_the_message_of_a_workflow_task(client: Client) -> None:
    """Temporal ends a workflow whose commands of one task have more than 4 MiB."""
    sink = MemorySink()
    policy = replace(QUICK, linger=timedelta(0), max_in_flight=16, max_batch_size=1)
    async with running(client, sink, policy) as service:
        await service.handle.pause()
        for n in range(10):
            values = {"n": n, "text": "x" * 480_000}
            wire = {"request_id": f"r{n}", "records": [{"table": "t", "values": values}]}
            await service.shard().signal(SIGNAL_ADD, wire)
        await service.handle.resume()

        async def all_are_written() -> None:
            assert len(sink.rows.get("t", ())) == 10

        await assert_eventually(all_are_written, within=30)
        assert (await service.stats()).flush_failures == 0


# Rows that two batches write


@pytest.fixture(params=["postgresql", "mariadb"])
def locking(request: pytest.FixtureRequest) -> TestDatabase:
    """A fresh database of each kind whose transactions lock rows."""
    chosen: TestDatabase = request.getfixturevalue(request.param)
    chosen.execute("CREATE TABLE rates (code VARCHAR(20) PRIMARY KEY, rate INTEGER, source VARCHAR(20))")
    return chosen


def rates(number: int, codes: Sequence[int], **more: Any) -> Batch:
    """A batch of requests without key, each for one row."""
    return Batch(
        [
            WriteRequest(f"{number}/{code}", [Record("rates", {"code": f"c{code:04}", "rate": number, **more})])
            for code in codes
        ],
        id=f"main-0/{number}",
    )


ROWS = 600


@pytest.mark.parametrize("conflict", ["update", "ignore"])
async def test_batches_that_write_the_same_rows_in_opposite_orders_do_not_deadlock(
    locking: TestDatabase, conflict: Any
) -> None:
    sink = locking.sink(tables={"rates": TableRule(conflict=conflict, key=["code"])})
    await sink.open()
    for number in range(0, 12, 4):
        orders = [range(ROWS), range(ROWS - 1, -1, -1), Random(1).sample(range(ROWS), ROWS), range(ROWS)]
        batches = [rates(number + k, order) for k, order in enumerate(orders)]
        for outcomes in await asyncio.gather(*map(sink.write, batches)):
            assert {outcome.kind for outcome in outcomes} == {OutcomeKind.WRITTEN}
        if conflict == "ignore":
            locking.execute("DELETE FROM rates")
    assert sink.counters.retries == 0, "deadlocks"


async def test_a_deadlock_that_no_order_prevents_is_retried_at_once_and_does_no_harm(locking: TestDatabase) -> None:
    """Rows with other columns are in statements of their own, so one transaction may lock them the other way round."""
    sink = locking.sink(tables={"rates": TableRule(conflict="update", key=["code"])})
    await sink.open()
    half = ROWS // 2
    for number in range(0, 6, 2):
        one = [*rates(number, range(half)), *rates(number, range(half, ROWS), source="s")]
        other = [*rates(number + 1, range(half, ROWS)), *rates(number + 1, range(half), source="s")]
        batches = [Batch(one, id=f"main-0/{number}"), Batch(other, id=f"main-0/{number + 1}")]
        for outcomes in await asyncio.gather(*map(sink.write, batches)):
            assert {outcome.kind for outcome in outcomes} == {OutcomeKind.WRITTEN}
    assert locking.scalar("SELECT count(*) FROM rates") == ROWS
    assert sink.counters.requeued == 0


async def test_batches_with_the_same_ids_in_opposite_orders_apply_each_once(locking: TestDatabase) -> None:
    """The ids meet in the ledger, whatever the rows do."""
    sink = locking.sink(tables={"rates": TableRule(conflict="update", key=["code"])})
    await sink.open()
    for number in range(3):
        batch = rates(number, range(ROWS))
        again = Batch(list(reversed(batch)), id=f"main-1/{number}")
        kinds = [[o.kind for o in outcomes] for outcomes in await asyncio.gather(sink.write(batch), sink.write(again))]
        pairs = {frozenset(pair) for pair in zip(kinds[0], reversed(kinds[1]), strict=True)}
        assert pairs == {frozenset({OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE})}
    assert locking.scalar("SELECT count(*) FROM rates") == ROWS
