"""What the database made of a write reaches its caller by every way in, also when a confirmation is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching import (
    Batch,
    BatchPolicy,
    Confirmation,
    MemorySink,
    Outcome,
    Record,
    Sink,
    SinkUnavailable,
    WriteRequest,
)
from temporal_batching.contract import ReturnedRow
from tests.support.callers import EVERY_WAY_IN, WAYS_IN, Listener, Write
from tests.support.databases import TestDatabase
from tests.support.fault_points import FaultInterceptor, FaultPoint, with_interceptor
from tests.support.many_callers import ManyCaller, ManyJob, OneOfMany
from tests.support.service import QUICK, running
from tests.support.ways import by_nexus_too

PAIR = Write([["orders", {"n": 1}, ["id"]], ["items", {}, ["order_id"], {"order_id": [0, "id"]}]])


def sink_with_keys() -> MemorySink:
    return MemorySink(identities={"orders": "id"})


async def test_each_caller_gets_its_own_key_and_who_asks_for_nothing_gets_nothing(client: Client) -> None:
    sink = sink_with_keys()
    async with running(client, sink) as service:

        async def write(way_in: str, first: int) -> None:
            asking = [Write([["orders", {"n": n}, ["id", "n"]]]) for n in range(first, first + 5)]
            *results, silent = await service.call_each(way_in, [*asking, Write([["orders", {"n": -1}]])])
            ids = {row["n"]: row["id"] for row in sink.rows["orders"]}
            assert [one.returned for one in results] == [[{"id": ids[n], "n": n}] for n in range(first, first + 5)]
            assert (silent.outcome, silent.returned) == ("written", None)

        await asyncio.gather(*(write(way_in, 10 * number) for number, way_in in enumerate(EVERY_WAY_IN)))


async def test_a_child_is_written_with_its_parents_key_and_a_duplicate_gets_what_the_first_one_got(
    client: Client,
) -> None:
    sink = sink_with_keys()
    async with running(client, sink) as service:

        async def write(way_in: str) -> int:
            pair = Write(PAIR.rows, request_id=f"{service.name}-{way_in}")
            (first,) = await service.call(way_in, [pair])
            (second,) = await service.call(way_in, [pair])
            assert (first.outcome, second.outcome) == ("written", "duplicate")
            assert first.returned is not None
            key: int = first.returned[0]["id"]
            assert first.returned == second.returned == [{"id": key}, {"order_id": key}]
            return key

        keys = await asyncio.gather(*map(write, EVERY_WAY_IN))
    assert sorted(keys) == [1, 2, 3, 4]
    assert sorted(row["id"] for row in sink.rows["orders"]) == [1, 2, 3, 4]
    assert sorted(row["order_id"] for row in sink.rows["items"]) == [1, 2, 3, 4]


async def test_a_program_gets_what_it_asked_for(client: Client) -> None:
    async with running(client, sink_with_keys()) as service:
        confirmation = await service.writer.write("orders", {"n": 1}, returning=["id"])
    assert confirmation.returned == [{"id": 1}]


async def test_a_caller_in_any_language_gets_it_as_json(client: Client) -> None:
    async with running(client, sink_with_keys()) as service:
        listener = await service.run(Listener.run, 4)
        records = [
            {"table": "orders", "values": {"n": 1}, "returning": ["id"]},
            {"table": "items", "values": {}, "references": {"order_id": [0, "id"]}},
        ]
        reply_to = {"workflow_id": listener.id}
        large = {"table": "orders", "values": {"n": 2**53 + 1}, "returning": ["n"]}
        later = {"table": "items", "values": {"n": 1}, "references": {"order_id": [1, "id"]}}
        requests = [
            {"request_id": f"{service.name}-1", "records": records, "reply_to": reply_to},
            {"request_id": f"{service.name}-2", "records": [later], "reply_to": reply_to},
            {"request_id": f"{service.name}-3", "records": [large], "reply_to": reply_to},
            {"request_id": f"{service.name}-4", "records": [large], "reply_to": reply_to, "safe_integers": True},
        ]
        await service.shard().signal("add_write_request", requests)
        received = {one["request_id"][-1]: one for one in await listener.result()}
    assert received["1"]["returned"] == [{"id": 1}, {}]
    assert (received["2"]["outcome"], received["2"]["code"]) == ("rejected", "invalid")
    assert "it is the first, and can refer to none" in received["2"]["reason"]
    # A caller whose numbers are doubles says so.
    assert [received[n]["returned"] for n in "34"] == [[{"n": 2**53 + 1}], [{"n": "9007199254740993"}]]


class Flaky:
    """Fails deliveries for a while."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_CONFIRMATION and self.left:
            self.left -= 1
            raise RPCError("not now", RPCStatusCode.UNAVAILABLE, b"")


class Unreadable(MemorySink):
    """Its returned values cannot be read at first."""

    unreadable = 2

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        if self.unreadable:
            self.unreadable -= 1
            raise SinkUnavailable("down", in_doubt=False)
        return await super().read_returned(request_ids)


@by_nexus_too
async def test_a_lost_confirmation_brings_the_same_values_when_it_is_sent_again(client: Client, way_in: str) -> None:
    sink = Unreadable(identities={"orders": "id"})
    flaky = Flaky(times=3)
    async with running(with_interceptor(client, FaultInterceptor(flaky)), sink) as service:
        writes = [Write([["orders", {"n": n}, ["id"]]]) for n in range(2)]
        results = await service.call_each(way_in, [*writes, Write([["orders", {"n": 9}]])])
        events = await service.events()
    assert flaky.left == sink.unreadable == 0
    ids = {row["n"]: row["id"] for row in sink.rows["orders"]}
    assert [one.returned for one in results] == [*([{"id": ids[n]}] for n in range(2)), None]
    outbox = [
        e
        for e in events
        if "deliver_confirmations" in str(e) and e.HasField("activity_task_scheduled_event_attributes")
    ]
    assert outbox
    assert not any('"id"' in str(event) for event in outbox), "the shard's history holds no returned value"


async def test_the_key_a_database_generated_reaches_each_caller(client: Client, database: TestDatabase) -> None:
    keys = {"sqlite": "integer PRIMARY KEY", "postgresql": "bigserial PRIMARY KEY"}
    key = keys.get(database.dialect, "bigint AUTO_INCREMENT PRIMARY KEY")
    database.execute(f"CREATE TABLE orders (id {key}, n integer, at timestamp DEFAULT CURRENT_TIMESTAMP)")
    database.execute("CREATE TABLE items (order_id bigint NOT NULL REFERENCES orders (id))")
    policy = BatchPolicy(linger=QUICK.linger, max_in_flight=1)
    async with running(client, database.sink(), policy) as service:
        pairs = [
            Write([["orders", {"n": n}, ["id", "at"]], ["items", {}, [], {"order_id": [0, "id"]}]]) for n in range(15)
        ]
        parts = [service.call_each(way_in, pairs[5 * i : 5 * (i + 1)]) for i, way_in in enumerate(WAYS_IN)]
        results = [one for part in await asyncio.gather(*parts) for one in part]
    ids = dict(database.rows("SELECT n, id FROM orders"))
    for n, one in enumerate(results):
        assert one.returned is not None
        assert (one.returned[0]["id"], one.returned[1]) == (ids[n], {})
        assert one.returned[0]["at"].startswith("20")
    assert database.scalar("SELECT count(*) FROM items JOIN orders ON orders.id = order_id") == 15


class Verbose(Sink):
    """Makes much of little."""

    def __init__(self) -> None:
        self.returned: dict[str, list[ReturnedRow | None]] = {}

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        for request in batch:
            self.returned[request.request_id] = [{"note": f"{request.records[0].values['n']}{LONG}"}]
        return [Outcome.written(self.returned[request.request_id]) for request in batch]

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        return {i: self.returned[i] for i in request_ids if i in self.returned}


LONG = "x" * 15_000


async def test_many_values_for_one_workflow_come_in_several_signals(client: Client) -> None:
    writes = [Write([["orders", {"n": n}, ["note"]]]) for n in range(80)]
    async with running(client, Verbose(), QUICK) as service:
        results = await service.call("signal", writes)
    assert [one.returned for one in results] == [[{"note": f"{n}{LONG}"}] for n in range(80)]


async def test_many_requests_of_a_program_get_each_its_own_values(client: Client) -> None:
    """More than one receipt holds: the rest is read from the sink."""
    requests = [WriteRequest(f"r-{n}", [Record("orders", {"n": n}, ["note"] if n != 7 else [])]) for n in range(95)]
    async with running(client, Verbose(), QUICK) as service:
        results = await service.writer.write_many(requests)
    notes = [one.returned for one in results if isinstance(one, Confirmation)]
    assert [returned for n, returned in enumerate(notes) if n != 7] == [
        [{"note": f"{n}{LONG}"}] for n in range(95) if n != 7
    ]


async def test_many_requests_of_a_workflow_get_each_its_own_values(client: Client) -> None:
    sink = sink_with_keys()
    async with running(client, sink, QUICK) as service:
        writes = [OneOfMany("orders", {"n": n}, returning=["id"]) for n in range(30)]
        handle = await service.run(ManyCaller.run, ManyJob(service.name, service.queue, writes))
        results = await handle.result()
    ids = {row["n"]: row["id"] for row in sink.rows["orders"]}
    assert [one.returned for one in results] == [[{"id": ids[n]}] for n in range(30)]


async def test_many_requests_of_a_workflow_read_what_their_receipt_left_out(client: Client) -> None:
    async with running(client, Verbose(), QUICK) as service:
        writes = [OneOfMany("orders", {"n": n}, returning=["note"]) for n in range(75)]
        handle = await service.run(ManyCaller.run, ManyJob(service.name, service.queue, writes))
        results = await handle.result()
    assert [one.returned for one in results] == [[{"note": f"{n}{LONG}"}] for n in range(75)]
