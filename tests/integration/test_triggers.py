"""When a batch starts, and what fits into it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import Client

from temporal_batching import BatchPolicy, MemorySink
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.routing import shard_of
from tests.support.callers import WAYS_IN, Write
from tests.support.service import entry, running
from tests.support.waiting import assert_eventually
from tests.support.ways import by_every_way_in

LONG = timedelta(minutes=10)


@by_every_way_in
async def test_a_full_batch_starts_at_once(client: Client, way_in: str) -> None:
    sink = MemorySink()
    async with running(client, sink, BatchPolicy(linger=LONG, max_batch_size=4)) as service:
        results = await service.call(way_in, [entry(n) for n in range(12)])
        stats = await service.stats()
    assert {one.outcome for one in results} == {"written"}
    assert [len(batch) for batch in sink.batches] == [4, 4, 4]
    assert stats.batches_by_trigger == {"count": 3}
    assert stats.largest_batch == 4


@by_every_way_in
async def test_a_batch_counts_requests_and_has_a_cap_on_their_records(client: Client, way_in: str) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=LONG, max_batch_size=5, max_batch_records=20)
    async with running(client, sink, policy) as service:
        await service.call(way_in, [Write([["entries", {"n": n}]] * 3) for n in range(5)])
        await service.call(way_in, [Write([["entries", {"n": n}]] * 10) for n in range(2)])
    assert [len(batch) for batch in sink.batches] == [5, 2]


@by_every_way_in
async def test_batches_split_by_bytes_and_none_is_above_the_cap(client: Client, way_in: str) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=timedelta(seconds=1), max_batch_size=1_000, max_batch_bytes=100_000)
    async with running(client, sink, policy) as service:
        results = await service.call(way_in, [entry(n, text="x" * 30_000) for n in range(15)])
        stats = await service.stats()
    assert {(one.outcome, one.error, one.reason) for one in results} == {("written", None, "")}
    assert "bytes" in stats.batches_by_trigger
    assert all(len(batch) * 30_000 <= 100_000 for batch in sink.batches)
    assert 5 <= len(sink.batches) <= 10


async def test_no_linger_is_group_commit(client: Client) -> None:
    """An idle shard flushes at once; what arrives during a flush forms the next batch."""
    gate = asyncio.Event()

    class Slow(MemorySink):
        async def write(self, batch):  # type: ignore[no-untyped-def]
            if not self.batches:
                self.batches.append(batch)
                await gate.wait()
                self.batches.pop()
            return await super().write(batch)

    sink = Slow()
    async with running(client, sink, BatchPolicy(linger=timedelta(0))) as service:
        first = await service.start("activity", [entry(0)])

        async def under_way() -> None:
            assert (await service.stats()).in_flight == 1

        await assert_eventually(under_way)
        others = [await service.start("activity", [entry(n)]) for n in range(1, 9)]

        async def gathered() -> None:
            assert (await service.stats()).pending == 8

        await assert_eventually(gathered)
        gate.set()
        for caller in (first, *others):
            assert (await caller.result())[0].outcome == "written"
    assert [len(batch) for batch in sink.batches] == [1, 8]


@by_every_way_in
async def test_a_deadline_that_comes_near_starts_a_batch_that_is_not_full(client: Client, way_in: str) -> None:
    policy = BatchPolicy(linger=LONG, deadline_margin=timedelta(seconds=3))
    async with running(client, MemorySink(), policy) as service:
        (result,) = await service.call(way_in, [entry()], timeout=8.0)
        stats = await service.stats()
    assert result.outcome == "written"
    assert stats.batches_by_trigger == {"deadline": 1}


async def test_an_explicit_flush_settles_what_is_pending(client: Client) -> None:
    async with running(client, MemorySink(), BatchPolicy(linger=LONG)) as service:
        callers = [await service.start(way_in, [entry(n) for n in range(3)]) for way_in in WAYS_IN]

        async def pending() -> None:
            assert (await service.stats()).pending == 9

        await assert_eventually(pending)
        await service.handle.flush()
        stats = await service.stats()
        assert (stats.pending, stats.outcomes) == (0, {"written": 9})
        for caller in callers:
            assert {one.outcome for one in await caller.result()} == {"written"}
        assert stats.batches_by_trigger == {"manual": 1}


async def test_a_request_too_large_is_rejected_with_its_size_and_the_limit(client: Client) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=timedelta(milliseconds=100), max_batch_records=3, max_batch_bytes=20_000)
    rows = Write([["entries", {"n": n}] for n in range(4)])
    writes = [rows, entry(1, text="x" * 30_000), entry(2, text="x" * MAX_REQUEST_BYTES), entry(3)]
    async with running(client, sink, policy) as service:
        received = await asyncio.gather(*(service.call(way_in, writes) for way_in in WAYS_IN))
    for way_in, (wide, heavy, huge, good) in zip(WAYS_IN, received, strict=True):
        assert [one.code for one in (wide, heavy, huge)] == ["too_large"] * 3, way_in
        assert "4 records" in wide.reason
        assert "3 fit" in wide.reason
        assert "30," in heavy.reason
        assert "20,000" in heavy.reason
        assert "1,500,000" in huge.reason
        assert good.outcome == "written", way_in
    assert sink.rows["entries"] == [{"n": 3}] * len(WAYS_IN)


@pytest.mark.parametrize("way", ["signal", "update"])
async def test_requests_of_one_key_are_applied_in_the_order_they_arrived(client: Client, way: str) -> None:
    """Over batches that fail and are set back, too."""
    sink = MemorySink()
    sink.fail_next(2)
    policy = BatchPolicy(linger=timedelta(milliseconds=50), max_batch_size=7, retry_initial=timedelta(milliseconds=50))
    wires = [
        {"request_id": f"r-{n}", "key": "one", "records": [{"table": "entries", "values": {"n": n}}]} for n in range(30)
    ]
    async with running(client, sink, policy) as service:
        for start in range(0, 30, 10):
            part = wires[start : start + 10]
            if way == "signal":
                await service.shard().signal("add_write_request", part)
            else:
                await service.shard().execute_update("submit", part)
        await service.handle.flush()
    assert [row["n"] for row in sink.rows["entries"]] == list(range(30))


async def test_each_key_has_its_shard(client: Client) -> None:
    sink = MemorySink()
    keys = [f"key-{n}" for n in range(12)]
    async with running(client, sink, shards=3) as service:
        writes = [Write([["entries", {"n": n}]], key=key) for n, key in enumerate(keys)]
        received = await asyncio.gather(
            *(
                service.call(
                    way_in,
                    [*writes, *(Write([["entries", {"n": -1}]], request_id=f"{way_in}-{n}") for n in range(6))],
                )
                for way_in in WAYS_IN
            )
        )
        written = [sum(one.shard == number for results in received for one in results) for number in range(3)]

        async def counted() -> None:  # a flush ends after its callers have their answers
            assert [one.outcomes.get("written", 0) for one in await service.handle.stats()] == written

        await assert_eventually(counted)
    for way_in, results in zip(WAYS_IN, received, strict=True):
        assert [one.shard for one in results[:12]] == [shard_of(key, 3) for key in keys], way_in
        assert [one.shard for one in results[12:]] == [shard_of(one.request_id, 3) for one in results[12:]], way_in
        assert {one.shard for one in results} == {0, 1, 2}
