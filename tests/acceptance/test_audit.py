"""`temporal-batching audit` as an operator runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.client import Client
from tests.support.callers import Write
from tests.support.databases import TestDatabase
from tests.support.service import running
from tests.support.waiting import assert_eventually

from temporal_batching import SqlSink
from temporal_batching.cli.database import prepare_database

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start


def booking(number: int) -> Write:
    values = {"payment_id": f"P-{number}", "account": "a", "amount": "9.50", "fee": "0", "currency": "EUR"}
    return Write([["entries", {**values, "booked_at": "2026-01-31T12:00:00Z"}]], request_id=f"P-{number}")


async def test_a_deployment_holds_its_audit_until_it_is_damaged(
    start: Start, temporal: str, sqlite: TestDatabase
) -> None:
    await prepare_database(sqlite.url, create_tables=True)
    client = await Client.connect(temporal)
    async with running(client, SqlSink(sqlite.url)) as service:
        results = await service.call("activity", [booking(number) for number in range(20)])
        assert {one.outcome for one in results} == {"written"}
    query = f"TaskQueue = '{service.callers_queue}'"

    async def ended() -> None:
        assert (await client.count_workflows(f"{query} AND ExecutionStatus = 'Completed'")).count == 1

    await assert_eventually(ended)
    where = {"TEMPORAL_ADDRESS": temporal, "BATCHING_NAME": service.name, "BATCHING_TASK_QUEUE": service.queue}
    command = ("temporal-batching", "audit", "--complete", "--query", query, "--sink", sqlite.url)
    process = await start(*command, **where)
    assert await process.ends() == 0, process.output
    said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in process.lines}
    assert said["read"] == "1 workflow, 0 activities of programs"
    assert said["results of calls"] == "20 written"
    assert said["request ids"] == "20, of which the ledger holds 20 as written"
    assert said["promises"] == "kept"

    sqlite.execute("DELETE FROM entries WHERE payment_id = 'P-7'")
    sqlite.execute("UPDATE batching_ledger SET request_id = :id WHERE request_id = 'P-9'", id="P\x1b[31m-x")
    process = await start(*command, **where)
    assert await process.ends() == 1
    assert "violation: ledger without rows: P-7: the ledger holds it as written, no row does" in process.lines
    assert any(r"unexpected ledger id: P\x1b[31m-x" in line for line in process.lines)
    assert "\x1b" not in process.output


async def test_an_audit_of_a_database_that_does_not_answer_ends_with_one_line(start: Start, temporal: str) -> None:
    sink = "postgresql://ann:s3cret@127.0.0.1:1/ledger"
    process = await start("temporal-batching", "audit", "--sink", sink, TEMPORAL_ADDRESS=temporal)
    assert await process.ends() == 2
    assert ["127.0.0.1:1/ledger cannot be audited" in line for line in process.lines] == [True]
    assert "s3cret" not in process.output
