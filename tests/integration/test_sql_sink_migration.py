"""After a migration no request is rejected because of the earlier schema; misfits alone do not reload the schema."""

from __future__ import annotations

from typing import Any

from temporal_batching.contract import OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase


def request(number: int, table: str = "entries", **values: Any) -> WriteRequest:
    return WriteRequest(f"r{number}", [Record(table, {"id": number, **values})])


def count_looks(sink: Any) -> list[Any]:
    """Grows with every look at the schema."""
    looks: list[Any] = []
    listed = sink.connections.adapter.list_names

    def list_names(connection: Any) -> Any:
        looks.append(connection)
        return listed(connection)

    sink.connections.adapter.list_names = list_names
    return looks


async def kinds(sink: Any, *requests: WriteRequest, batch: str = "main-0/1") -> list[str]:
    return [o.kind.value for o in await sink.write(Batch(requests, id=batch))]


async def test_what_a_migration_added_is_taken_at_once(database: TestDatabase) -> None:
    database.execute("CREATE TABLE entries (id integer PRIMARY KEY)")
    sink = database.sink()
    assert await kinds(sink, request(0), request(1, "later"), request(2, note="x")) == [
        "written",
        "rejected",
        "rejected",
    ]
    database.execute("ALTER TABLE entries ADD COLUMN note text;;CREATE TABLE later (id integer PRIMARY KEY)")
    assert await kinds(sink, request(3, "later"), request(4, note="x"), request(5)) == ["written"] * 3


async def test_a_value_of_the_new_type_is_taken_at_once(postgresql: TestDatabase) -> None:
    postgresql.execute("CREATE TABLE entries (id integer PRIMARY KEY, note integer)")
    sink = postgresql.sink()
    assert await kinds(sink, request(0, note=1), request(1, note="x")) == ["written", "rejected"]
    postgresql.execute("ALTER TABLE entries ALTER COLUMN note TYPE text")
    assert await kinds(sink, request(2, note="x"), request(3, note="y")) == ["written"] * 2


async def test_misfits_do_not_make_the_sink_look_all_the_time(database: TestDatabase) -> None:
    database.execute("CREATE TABLE entries (id integer PRIMARY KEY)")
    sink = database.sink()
    await sink.open()
    looks = count_looks(sink)
    for batch in range(60):
        requests = [request(batch * 10 + n, f"nowhere-{batch}-{n}") for n in range(3)]
        outcomes = await sink.write(Batch([*requests, request(batch)], id=f"main-0/{batch}"))
        assert outcomes[3].kind is OutcomeKind.WRITTEN
        assert {outcome.code for outcome in outcomes[:3]} == {RejectCode.UNKNOWN_TABLE}
    assert len(looks) <= 3


async def test_one_misfit_again_and_again_costs_no_look_each_time(database: TestDatabase) -> None:
    database.execute("CREATE TABLE entries (id integer PRIMARY KEY)")
    sink = database.sink()
    await sink.open()
    looks = count_looks(sink)
    for batch in range(60):
        assert await kinds(sink, request(0, "nowhere"), batch=f"main-0/{batch}") == ["rejected"]
    assert len(looks) <= 3
