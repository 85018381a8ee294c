"""The ledger's status of a request is the outcome that its caller received: `written`, `rejected` or `expired`."""

from __future__ import annotations

from uuid import uuid4

from temporalio.client import Client

from temporal_batching import Batch, MemorySink, OutcomeKind, Record, SqlSink, WriteRequest
from tests.support.callers import Write
from tests.support.databases import TestDatabase
from tests.support.service import entry, running

ENTRIES = "CREATE TABLE entries (n integer PRIMARY KEY CHECK (n > 0))"


async def test_the_ledger_says_rejected_of_what_was_rejected(client: Client, database: TestDatabase) -> None:
    database.execute(ENTRIES)
    status = "SELECT status FROM batching_ledger WHERE request_id = :id"
    async with running(client, SqlSink(database.url)) as service:
        request_id = f"r-{uuid4().hex}"
        bad, good = Write([["entries", {"n": -1}]], request_id=request_id), entry(1)
        results = await service.call("activity", [bad, good])
        assert [one.outcome for one in results] == ["rejected", "written"]
        assert database.scalar(status, id=request_id) == "rejected"
        assert database.scalar(status, id=results[1].request_id) == "written"
        # Corrected, it is another batch's to write.
        (again,) = await service.call("activity", [Write([["entries", {"n": 2}]], request_id=request_id)])
        assert again.outcome == "written"
        assert database.scalar(status, id=request_id) == "written"
    assert database.rows("SELECT n FROM entries ORDER BY n") == [(1,), (2,)]


async def fenced_as_rejected(sink: SqlSink | MemorySink) -> None:
    request, late = (WriteRequest(name, [Record("entries", {"n": 1})]) for name in ("r", "late"))
    outcomes = await sink.fence(Batch([request], id="main-0/1", fence_as=OutcomeKind.REJECTED))
    outcomes = [*outcomes, *await sink.fence(Batch([late], id="main-0/1"))]
    assert [outcome.kind.value for outcome in outcomes] == ["rejected", "expired"]
    known = await sink.lookup(["r", "late"])
    assert {name: known[name].status.value for name in known} == {"r": "rejected", "late": "expired"}
    # A later attempt of the same batch gets the same outcome, and so does a second fence.
    attempt = Batch([request, late], id="main-0/1")
    assert [outcome.kind.value for outcome in await sink.write(attempt)] == ["rejected", "expired"]
    assert [outcome.kind.value for outcome in await sink.fence(attempt)] == ["rejected", "expired"]
    assert [outcome.kind.value for outcome in await sink.write(Batch([request], id="main-0/2"))] == ["written"]
    assert (await sink.lookup(["r"]))["r"].status.value == "written"


async def test_a_fence_says_what_it_is_for(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    await fenced_as_rejected(database.sink())


async def test_a_fence_in_memory_says_what_it_is_for() -> None:
    await fenced_as_rejected(MemorySink())
