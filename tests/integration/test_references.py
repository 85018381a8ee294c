"""A program's parcel goes by reference: its shard never sees a row, and its flush finds them whatever becomes of it."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from temporalio.client import ActivityExecutionStatus, ActivityFailureError, Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from temporal_batching import BatchPolicy, Confirmation, MemorySink, Record, SqlSink, WriteRequest
from temporal_batching.audit import audit
from tests.support.codec import CONVERTER, Encrypting
from tests.support.databases import TestDatabase
from tests.support.parcels import delete_activity, flush_in_another_process, packed, send
from tests.support.service import Service, running
from tests.support.waiting import assert_eventually

RETRYING = BatchPolicy(
    linger=timedelta(seconds=0.1), retry_initial=timedelta(seconds=0.1), retry_max=timedelta(seconds=0.5)
)


@pytest.fixture(params=["same process", "another process"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the flush runs: the contents are in its process, or it has to read them."""
    if request.param == "another process":
        flush_in_another_process(monkeypatch)
    return str(request.param)


async def until_pending(service: Service, number: int) -> None:
    async def shown() -> None:
        assert (await service.stats()).pending == number

    await assert_eventually(shown)


async def until_settled(service: Service, **outcomes: int) -> None:
    async def shown() -> None:
        assert (await service.stats()).outcomes == outcomes

    await assert_eventually(shown)


def rows(sink: MemorySink) -> list[str]:
    return [row["id"] for row in sink.rows.get("entries", [])]


async def test_a_shard_never_sees_a_row(client: Client, anywhere: str) -> None:
    sink = MemorySink(reject=lambda request: "no" if request.records[0].values["n"] == 7 else None)
    policy = BatchPolicy(linger=timedelta(milliseconds=100), max_batch_size=500, max_in_flight=4)
    async with running(client, sink, policy) as service:
        requests = [
            WriteRequest(
                f"{service.name}-{n}", [Record("entries", {"n": n, "text": "the-text-of-a-row"})], f"k{n % 700}"
            )
            for n in range(3_000)
        ]
        results = await service.writer.write_many(requests)
        events = await service.events()
    assert [one.request_id for one in results] == [request.request_id for request in requests]
    assert [n for n, one in enumerate(results) if isinstance(one, Confirmation) and one.outcome != "written"] == [7]
    for key in range(700):  # past a bound a shard only knows that they are many: that keeps their order too
        numbers = [row["n"] for row in sink.rows["entries"] if row["n"] % 700 == key]
        assert numbers == sorted(numbers)
    history = b"".join(event.SerializeToString() for event in events)
    assert b"the-text-of-a-row" not in history
    assert b"packed" not in history
    assert len(history) < 100_000, "of 3,000 requests with 700 keys"


@pytest.mark.parametrize("end", [ActivityExecutionStatus.TIMED_OUT, ActivityExecutionStatus.TERMINATED])
async def test_a_parcel_outlives_its_activity(client: Client, anywhere: str, end: ActivityExecutionStatus) -> None:
    sink = MemorySink()
    async with running(client, sink, RETRYING) as service:
        await service.handle.pause()
        timeout = 2.0 if end is ActivityExecutionStatus.TIMED_OUT else 60.0
        expires_at = time.time() + 60
        handle = await send(service, packed("p", ["a", "b"], keys=["k", ""]), timeout=timeout, expires_at=expires_at)
        await until_pending(service, 2)
        if end is ActivityExecutionStatus.TERMINATED:
            await handle.terminate()
        with pytest.raises(ActivityFailureError):
            await handle.result()
        assert (await handle.describe()).status in (
            ActivityExecutionStatus.TIMED_OUT,
            ActivityExecutionStatus.TERMINATED,
        )
        await service.handle.resume()
        await until_settled(service, written=2)
    assert rows(sink) == ["a", "b"]


async def test_a_parcel_whose_activity_was_deleted_is_rejected_and_its_neighbours_are_written(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush_in_another_process(monkeypatch)
    sink = MemorySink()
    async with running(client, sink, RETRYING) as service:
        await service.handle.pause()
        before = await send(service, packed("before", ["a"]))
        gone = await send(service, packed("gone", ["b", "c"]))
        after = await send(service, packed("after", ["d"]))
        await until_pending(service, 4)
        await delete_activity(client, gone)

        async def deleted() -> None:
            with pytest.raises(RPCError):
                await gone.describe()

        await assert_eventually(deleted)
        await service.handle.resume()
        receipts = [await one.result() for one in (before, after)]
        await until_settled(service, written=2, rejected=2)
    assert [receipt.others for receipt in receipts] == [{}, {}]
    assert sorted(rows(sink)) == ["a", "d"]


async def test_a_parcel_that_holds_other_keys_than_it_says_is_rejected_and_its_neighbours_are_written(
    client: Client, anywhere: str
) -> None:
    sink = MemorySink()
    async with running(client, sink, RETRYING) as service:
        await service.handle.pause()
        good, bad = (
            await send(service, packed("good", ["a"])),
            await send(service, {**packed("bad", ["b"]), "keys": ["k"]}),
        )
        await until_pending(service, 2)
        await service.handle.resume()
        assert (await good.result()).others == {}
        with pytest.raises(ActivityFailureError) as refused:
            await bad.result()
    cause = refused.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "WriteRejected"
    assert "other keys than it says" in cause.message
    assert rows(sink) == ["a"]


async def test_while_a_content_cannot_be_read_its_neighbours_are_written_and_it_is_retried(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot decode it: another one may."""
    flush_in_another_process(monkeypatch)
    config = client.config()
    config["data_converter"] = CONVERTER
    encrypting, sink = Client(**config), MemorySink()
    async with running(encrypting, sink, RETRYING) as service:
        await service.handle.pause()
        parcel = await send(service, packed("p", ["b", "c"], keys=["k", "l"]))
        await until_pending(service, 2)
        neighbours = [await send(service, packed(name, [name], keys=[key])) for name, key in (("a", "m"), ("d", "k"))]
        await until_pending(service, 4)
        decode, broken = Encrypting.decode, [True]

        async def failing(self: object, payloads: object) -> object:
            decoded = await decode(self, payloads)  # type: ignore[arg-type]
            if broken[0] and any(b'"p"' in one.data and b"packed" in one.data for one in decoded):
                raise ValueError("another key")
            return decoded

        monkeypatch.setattr(Encrypting, "decode", failing)
        await service.handle.resume()
        assert (await neighbours[0].result()).others == {}
        await until_settled(service, written=1)
        assert rows(sink) == ["a"], "what comes after it under its key waits"
        broken[0] = False
        receipts = [await one.result() for one in (parcel, neighbours[1])]
    assert rows(sink) == ["a", "b", "c", "d"]
    assert all({outcome.kind for outcome in receipt.others.values()} <= {"duplicate"} for receipt in receipts)


async def test_the_audit_reads_parcels_where_they_lie(client: Client, database: TestDatabase, anywhere: str) -> None:
    database.execute("CREATE TABLE entries (id text PRIMARY KEY)")
    async with running(client, SqlSink(database.url), RETRYING) as service:
        ids = [f"{service.name}-{n}" for n in range(50)]
        await (await send(service, packed("p", ids, keys=["k"] * 50))).result()
        query = "WorkflowId = 'nobody'"
        report = await audit(client, database.url, batcher=service.name, task_queue=service.queue, query=query)
        assert (report.holds, report.requests, report.rows, report.outside) == (True, 50, 50, 0)
        database.execute(f"DELETE FROM entries WHERE id = '{ids[3]}'")
        report = await audit(client, database.url, batcher=service.name, task_queue=service.queue, query=query)
        assert not report.holds
