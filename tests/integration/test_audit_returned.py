"""An audit compares what callers received of their rows with what the ledger says was returned."""

from __future__ import annotations

from temporalio.client import Client

from temporal_batching.audit import audit
from tests.support.callers import WAYS_IN, Write
from tests.support.databases import TestDatabase
from tests.support.service import running
from tests.support.waiting import assert_eventually

KEY = {
    "sqlite": "integer PRIMARY KEY",
    "postgresql": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "mariadb": "bigint AUTO_INCREMENT PRIMARY KEY",
}


async def test_returned_values_are_compared(client: Client, database: TestDatabase) -> None:
    database.execute(
        f"CREATE TABLE orders (id {KEY[database.dialect]}, n integer);;"
        f"CREATE TABLE items (n {KEY[database.dialect]}, order_id bigint, article text)"
    )
    async with running(client, database.sink()) as service:
        write = Write(
            [["orders", {"n": 1}, ["id"]], ["items", {"article": "a"}, [], {"order_id": [0, "id"]}]],
            request_id=f"{service.name}-1",
        )
        for way_in in WAYS_IN:
            await service.call(way_in, [write, Write([["orders", {"n": 2}, ["id"]]]), Write([["orders", {"n": 3}]])])
        await service.writer.write("orders", {"n": 4}, returning=["id", "n"])
        expected: set[tuple[str, str]] = set()

        async def compared() -> None:
            report = await audit(
                client,
                database.url,
                query=f"TaskQueue = '{service.callers_queue}'",
                batcher=service.name,
                task_queue=service.queue,
                complete=True,
            )
            found = {(str(violation.rule), violation.request_id) for violation in report.violations}
            # The item's reference is taken from the ledger too: damaged, it seems to be one of another order.
            assert found >= expected, report.violations
            assert bool(found) is bool(expected), report.violations
            assert report.records == 2 + 2 * len(WAYS_IN) + 1

        await assert_eventually(compared, within=30)
        database.execute(
            "UPDATE batching_ledger SET returned = :other WHERE request_id = :id",
            other='[{"id":0},{}]',
            id=f"{service.name}-1",
        )
        expected = {("other returned values", f"{service.name}-1")}
        await assert_eventually(compared, within=30)
