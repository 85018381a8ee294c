"""Updates, deletes and additions come by every way in, and each caller gets what became of its row."""

from __future__ import annotations

import asyncio

from temporalio.client import Client

from temporal_batching import Confirmation, Record, TableRule, WriteRequest
from tests.support.callers import WAYS_IN, Listener, Write
from tests.support.databases import TestDatabase
from tests.support.service import Service, running

RULES = {
    "totals": TableRule(conflict="add", key=["id"], add=["amount"]),
    "states": TableRule(key=["id"], operations=["insert", "update", "delete"]),
}
TABLES = (
    "CREATE TABLE totals (id integer PRIMARY KEY, amount integer NOT NULL)"
    ";;CREATE TABLE states (id varchar(20) PRIMARY KEY, v integer)"
)


async def by_workflow(service: Service, way_in: str) -> None:
    """Each step after the one before: their order is that of the caller."""

    async def step(operation: str, values: dict[str, object], returning: list[str]) -> tuple[str, object]:
        rows = [["totals", {"id": 1, "amount": 1}], ["states", {"id": way_in, **values}, returning, {}, operation]]
        (result,) = await service.call(way_in, [Write(rows)])
        return result.code or result.outcome, result.returned

    assert await step("insert", {"v": 1}, []) == ("written", None)
    assert await step("update", {"v": 2}, ["v"]) == ("written", [{}, {"v": 2}])
    assert await step("delete", {}, ["v"]) == ("written", [{}, {"v": 2}])
    assert await step("update", {"v": 3}, []) == ("missing_row", None)


async def by_program(service: Service) -> None:
    writer = service.writer
    await writer.write("states", {"id": "program", "v": 1})
    changed = await writer.write("states", {"id": "program", "v": 2}, operation="update", returning=["v"])
    assert changed.returned == [{"v": 2}]
    await writer.write("states", {"id": "program"}, operation="delete")


async def by_parcel(service: Service) -> None:
    """In one parcel: the requests of a key are applied in their order."""
    steps = [
        Record("states", {"id": "parcel", "v": 1}),
        Record("states", {"id": "parcel", "v": 2}, ["v"], "update"),
        Record("states", {"id": "parcel"}, (), "delete"),
        Record("states", {"id": "parcel", "v": 3}, (), "update"),
        Record("totals", {"id": 1, "amount": 1}),
    ]
    requests = [WriteRequest(f"{service.name}-{n}", [one], "parcel") for n, one in enumerate(steps)]
    results = await service.writer.write_many(requests)
    received = [one if isinstance(one, Confirmation) else one.confirmation for one in results]
    assert [one and (one.code or one.outcome) for one in received] == ["written"] * 3 + ["missing_row", "written"]
    assert received[1] is not None
    assert received[1].returned == [{"v": 2}]


async def by_signal_of_another_language(service: Service) -> None:
    listener = await service.run(Listener.run, 2)
    reply_to = {"workflow_id": listener.id}
    states = [("insert", {"id": "wire", "v": 1}), ("delete", {"id": "wire"})]
    requests = [
        {
            "request_id": f"{service.name}-{operation}",
            "key": "wire",
            "records": [{"table": "states", "values": values, "operation": operation, "returning": ["id"]}],
            "reply_to": reply_to,
        }
        for operation, values in states
    ]
    await service.shard().signal("add_write_request", requests)
    assert [one["returned"] for one in await listener.result()] == [[{"id": "wire"}]] * 2


async def test_updates_deletes_and_additions_come_by_nexus_too(client: Client, database: TestDatabase) -> None:
    database.execute(TABLES)
    async with running(client, database.sink(tables=RULES)) as service:
        await asyncio.gather(
            *(by_workflow(service, way_in) for way_in in WAYS_IN),
            by_program(service),
            by_parcel(service),
            by_signal_of_another_language(service),
        )
    assert database.rows("SELECT * FROM states") == []
    # Three of a workflow's four requests are written: the last one's addition is undone with its update.
    assert database.rows("SELECT * FROM totals") == [(1, 3 * len(WAYS_IN) + 1)]
