"""Exactly once, and each request by itself, into SQLite and PostgreSQL by every way in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle

from temporal_batching import SqlSink
from tests.support.callers import WAYS_IN, CallerResult, Resettable, Write
from tests.support.databases import TestDatabase
from tests.support.service import Service, running
from tests.support.waiting import assert_eventually

SCHEMA = """
CREATE TABLE entries (id INTEGER PRIMARY KEY, account VARCHAR(20) NOT NULL, amount NUMERIC(10, 2) CHECK (amount > 0));;
CREATE TABLE balances (account VARCHAR(20) PRIMARY KEY, amount NUMERIC(10, 2))
"""

Running = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def into(client: Client, database: TestDatabase) -> Running:
    """A batcher that writes into a database of its own."""
    database.execute(SCHEMA)

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[Service]:
        async with running(client, SqlSink(database.url), **options) as service:
            yield service

    return start


def row(number: int, *, account: str = "a", amount: Any = "1.00", **fields: Any) -> list[Any]:
    return ["entries", {"id": number, "account": account, "amount": amount, **fields}]


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_bad_requests_are_rejected_with_a_reason_while_their_neighbours_commit(
    into: Running, database: TestDatabase, way_in: str
) -> None:
    bad: dict[str, tuple[Any, str, str]] = {
        "unknown table": (["nowhere", {"a": 1}], "unknown_table", "nowhere"),
        "unknown column": (row(1, colour="red"), "unknown_column", "colour"),
        "wrong type": (row(2, amount="a lot"), "type", "amount"),
        "check": (row(3, amount="-1.00"), "constraint", ""),
        "not null": (["entries", {"id": 4, "amount": "1.00"}], "constraint", "account"),
        "unique": (row(100), "constraint", ""),
        "nothing in it": (["entries", {}], "invalid", "at least one column"),
        "no table": (["", {"a": 1}], "invalid", "table is empty"),
        "huge integer": (row(10**30), "type", "id"),
    }
    async with into() as service:
        assert (await service.call(way_in, [Write([row(100)])]))[0].outcome == "written"
        good = [Write([row(n)]) for n in range(200, 210)]
        results = await service.call(way_in, [*(Write([record]) for record, _, _ in bad.values()), *good])
        stats = await service.stats()
    for (name, (_, code, word)), one in zip(bad.items(), results, strict=False):
        assert (one.error, one.code) == ("WriteRejected", code), (name, one)
        assert word in one.reason, (name, one)
    assert [one.outcome for one in results[len(bad) :]] == ["written"] * 10
    assert (stats.breaker, stats.flush_failures) == ("closed", 0)
    assert database.scalar("SELECT count(*) FROM entries") == 11


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_a_request_whose_second_record_fails_leaves_nothing_behind(
    into: Running, database: TestDatabase, way_in: str
) -> None:
    async with into() as service:
        both = Write([row(1), ["balances", {"account": "a", "amount": "9.50"}]])
        half = Write([row(2), ["balances", {"account": "b", "amount": "a lot"}]])
        clash = Write([row(3), row(3)])
        results = await service.call(way_in, [both, half, clash])
    assert [one.outcome for one in results] == ["written", "rejected", "rejected"]
    assert database.rows("SELECT id FROM entries") == [(1,)]
    assert database.rows("SELECT account FROM balances") == [("a",)]


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_the_same_id_is_written_once(into: Running, database: TestDatabase, way_in: str) -> None:
    """At the same time, and again after success; with other records it is refused."""
    async with into() as service:
        write = Write([row(1)], request_id=f"{service.name}-1")
        together = await service.call_each(way_in, [write] * 5)
        after = await service.call_each(way_in, [write] * 2)
        (other,) = await service.call(way_in, [Write([row(2)], request_id=write.request_id)])
    assert sorted(one.outcome for one in together) == ["duplicate"] * 4 + ["written"]
    assert [one.outcome for one in after] == ["duplicate"] * 2
    assert (other.error, other.code) == ("WriteRejected", "id_reused")
    assert database.rows("SELECT id FROM entries") == [(1,)]


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_a_workflow_that_is_reset_does_not_write_twice(
    client: Client, into: Running, database: TestDatabase, way_in: str
) -> None:
    """Under an id that it chose itself. A fresh one is kept up to the point of the reset only."""
    async with into() as service:
        write = Write([row(1)], request_id=f"{service.name}-1")
        caller = await service.run(Resettable.run, service.job(way_in, [write]))
        first = await _notified(caller)
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=caller.id),
                reason="a test",
                workflow_task_finish_event_id=4,
                request_id=f"{service.name}-reset",
            )
        )
        current: WorkflowHandle[Any, Any] = client.get_workflow_handle(caller.id)
        again = await _notified(current)
        await current.signal(Resettable.finish)
        await current.result()
    # A reset brings the signals after its point along, so by signal its first confirmation may be received again.
    assert (first.outcome, again.outcome) == ("written", "written" if way_in == "signal" else "duplicate")
    assert first.request_id == again.request_id
    assert database.rows("SELECT id FROM entries") == [(1,)]


async def _notified(caller: Any) -> CallerResult:
    found: list[CallerResult] = []

    async def check() -> None:
        found[:] = await caller.query(Resettable.results)
        assert found

    await assert_eventually(check)
    return found[0]


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_an_id_stays_known_when_the_number_of_shards_changes(
    client: Client, database: TestDatabase, way_in: str
) -> None:
    database.execute(SCHEMA)
    async with running(client, SqlSink(database.url)) as service:
        writes = [Write([row(n)], request_id=f"{service.name}-{n}") for n in range(20)]
        before = await service.call(way_in, writes)
    async with running(client, SqlSink(database.url), shards=3) as wider:
        after = await wider.call(way_in, writes)
    assert {one.outcome for one in before} == {"written"}
    assert {one.outcome for one in after} == {"duplicate"}
    assert len({one.shard for one in after}) > 1
    assert database.scalar("SELECT count(*) FROM entries") == 20


async def test_many_shards_and_callers_write_each_row_once(into: Running, database: TestDatabase) -> None:
    async with into(shards=3) as service:
        jobs = [
            service.call(way_in, [Write([row(1000 * number + n)]) for n in range(60)])
            for number, way_in in enumerate(WAYS_IN)
        ]
        results = [one for part in await asyncio.gather(*jobs) for one in part]
    assert {one.outcome for one in results} == {"written"}
    assert database.scalar("SELECT count(*) FROM entries") == 180
