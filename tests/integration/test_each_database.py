"""Exactly once, and each request by itself, into SQLite and PostgreSQL by every way in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
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


FIRST = {way_in: 1_000 * number for number, way_in in enumerate(WAYS_IN, 1)}
"""The first number of the rows that are written by a way in."""


async def each_way(body: Callable[[Service, str, int], Awaitable[None]], service: Service) -> None:
    """Runs the body of a test by each way in, at the same time."""
    await asyncio.gather(*(body(service, way_in, first) for way_in, first in FIRST.items()))


def row(number: int, *, account: str = "a", amount: Any = "1.00", **fields: Any) -> list[Any]:
    return ["entries", {"id": number, "account": account, "amount": amount, **fields}]


async def test_bad_requests_are_rejected_with_a_reason_while_their_neighbours_commit(
    into: Running, database: TestDatabase
) -> None:
    async with into() as service:
        await each_way(_bad_requests, service)
        stats = await service.stats()
    assert (stats.breaker, stats.flush_failures) == ("closed", 0)
    assert database.scalar("SELECT count(*) FROM entries") == 11 * len(WAYS_IN)


async def _bad_requests(service: Service, way_in: str, first: int) -> None:
    bad: dict[str, tuple[Any, str, str]] = {
        "unknown table": (["nowhere", {"a": 1}], "unknown_table", "nowhere"),
        "unknown column": (row(first + 1, colour="red"), "unknown_column", "colour"),
        "wrong type": (row(first + 2, amount="a lot"), "type", "amount"),
        "check": (row(first + 3, amount="-1.00"), "constraint", ""),
        "not null": (["entries", {"id": first + 4, "amount": "1.00"}], "constraint", "account"),
        "unique": (row(first + 100), "constraint", ""),
        "nothing in it": (["entries", {}], "invalid", "at least one column"),
        "no table": (["", {"a": 1}], "invalid", "table is empty"),
        "huge integer": (row(10**30), "type", "id"),
    }
    assert (await service.call(way_in, [Write([row(first + 100)])]))[0].outcome == "written"
    good = [Write([row(first + n)]) for n in range(200, 210)]
    results = await service.call(way_in, [*(Write([record]) for record, _, _ in bad.values()), *good])
    for (name, (_, code, word)), one in zip(bad.items(), results, strict=False):
        assert (one.error, one.code) == ("WriteRejected", code), (way_in, name, one)
        assert word in one.reason, (way_in, name, one)
    assert [one.outcome for one in results[len(bad) :]] == ["written"] * 10, way_in


async def test_a_request_whose_second_record_fails_leaves_nothing_behind(into: Running, database: TestDatabase) -> None:
    async def write(service: Service, way_in: str, first: int) -> None:
        both = Write([row(first), ["balances", {"account": way_in, "amount": "9.50"}]])
        half = Write([row(first + 1), ["balances", {"account": f"{way_in}-half", "amount": "a lot"}]])
        clash = Write([row(first + 2), row(first + 2)])
        results = await service.call(way_in, [both, half, clash])
        assert [one.outcome for one in results] == ["written", "rejected", "rejected"], way_in

    async with into() as service:
        await each_way(write, service)
    assert database.rows("SELECT id FROM entries ORDER BY id") == [(first,) for first in FIRST.values()]
    assert database.rows("SELECT account FROM balances ORDER BY account") == [(way_in,) for way_in in sorted(WAYS_IN)]


async def test_the_same_id_is_written_once(into: Running, database: TestDatabase) -> None:
    """At the same time, and again after success; with other records it is refused."""

    async def write(service: Service, way_in: str, first: int) -> None:
        write = Write([row(first)], request_id=f"{service.name}-{way_in}")
        together = await service.call_each(way_in, [write] * 3)
        (after,) = await service.call(way_in, [write])
        (other,) = await service.call(way_in, [Write([row(first + 1)], request_id=write.request_id)])
        assert sorted(one.outcome for one in together) == ["duplicate"] * 2 + ["written"], way_in
        assert after.outcome == "duplicate", way_in
        assert (other.error, other.code) == ("WriteRejected", "id_reused"), way_in

    async with into() as service:
        await each_way(write, service)
    assert database.rows("SELECT id FROM entries ORDER BY id") == [(first,) for first in FIRST.values()]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # what each database makes of an id is tested above
async def test_a_workflow_that_is_reset_does_not_write_twice(
    client: Client, into: Running, database: TestDatabase
) -> None:
    """Under an id that it chose itself. A fresh one is kept up to the point of the reset only."""

    async def write(service: Service, way_in: str, first_row: int) -> None:
        write = Write([row(first_row)], request_id=f"{service.name}-{way_in}")
        caller = await service.run(Resettable.run, service.job(way_in, [write]))
        first = await _notified(caller)
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=caller.id),
                reason="a test",
                workflow_task_finish_event_id=4,
                request_id=f"{caller.id}-reset",
            )
        )
        current: WorkflowHandle[Any, Any] = client.get_workflow_handle(caller.id)
        again = await _notified(current)
        await current.signal(Resettable.finish)
        await current.result()
        # A reset brings the signals after its point along, so by signal its first confirmation may be received again.
        assert (first.outcome, again.outcome) == ("written", "written" if way_in == "signal" else "duplicate"), way_in
        assert first.request_id == again.request_id

    async with into() as service:
        await each_way(write, service)
    assert database.rows("SELECT id FROM entries ORDER BY id") == [(first,) for first in FIRST.values()]


async def _notified(caller: Any) -> CallerResult:
    found: list[CallerResult] = []

    async def check() -> None:
        found[:] = await caller.query(Resettable.results)
        assert found

    await assert_eventually(check)
    return found[0]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
async def test_an_id_stays_known_when_the_number_of_shards_changes(client: Client, database: TestDatabase) -> None:
    database.execute(SCHEMA)

    async def write(service: Service, way_in: str, first: int) -> None:
        writes = [Write([row(first + n)], request_id=f"{first + n}") for n in range(6)]
        results = await service.call(way_in, writes)
        assert {one.outcome for one in results} == {"duplicate" if service.shards > 1 else "written"}, way_in
        assert len({one.shard for one in results}) > 1 or service.shards == 1, way_in

    for shards in (1, 3):
        async with running(client, SqlSink(database.url), shards=shards) as service:
            await each_way(write, service)
    assert database.scalar("SELECT count(*) FROM entries") == 6 * len(WAYS_IN)


async def test_many_shards_and_callers_write_each_row_once(into: Running, database: TestDatabase) -> None:
    async with into(shards=3) as service:
        jobs = [
            service.call(way_in, [Write([row(1000 * number + n)]) for n in range(20)])
            for number, way_in in enumerate(WAYS_IN)
        ]
        results = [one for part in await asyncio.gather(*jobs) for one in part]
    assert {one.outcome for one in results} == {"written"}
    assert database.scalar("SELECT count(*) FROM entries") == 60
