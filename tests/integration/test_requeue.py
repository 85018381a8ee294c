"""A request that cannot be written now waits alone: its neighbours, and other keys, do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowFailureError

from temporal_batching import BatchPolicy, Confirmation, MemorySink, Outcome, Record, Sink, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.callers import WAYS_IN, Write
from tests.support.service import QUICK, entry, running
from tests.support.waiting import assert_eventually
from tests.support.ways import by_every_way_in


class Locked(MemorySink):
    """Rows that somebody else holds a lock on; later requests of their key have to wait as well."""

    def __init__(self, *locked: int) -> None:
        super().__init__()
        self.locked = set(locked)

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        waiting: set[str] = set()
        free, outcomes = [], []
        for request in batch:
            if request.records[0].values["n"] in self.locked or request.key in waiting:
                waiting |= {request.key} - {""}
                outcomes.append(Outcome.retry("the row is locked"))
            else:
                free.append(request)
                outcomes.append(Outcome.written())
        written = iter(await super().write(Batch(free, id=batch.id)) if free else [])
        return [one if one.kind == "retry" else next(written) for one in outcomes]


class BreaksAfterItsEffect(Sink):
    """Has no ledger and no `fence` of its own; when a row is written whose number ends in 3, it raises."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        for request in batch:
            n = request.records[0].values["n"]
            if n not in self.rows:
                self.rows.append(n)
        if 3 in [request.records[0].values["n"] % 10 for request in batch]:
            raise ConnectionResetError("the answer was lost, and it held 'a value'")
        return [Outcome.written() for _ in batch]


async def test_a_row_that_is_written_is_never_confirmed_as_rejected_whatever_the_sink_raises(client: Client) -> None:
    sink = BreaksAfterItsEffect()
    async with running(client, sink) as service:
        writes = {way_in: [entry(10 * number + n) for n in (2, 3, 4)] for number, way_in in enumerate(WAYS_IN)}
        received = await asyncio.gather(*(service.call(*of_way, timeout=8.0) for of_way in writes.items()))

        async def gone() -> None:
            stats = await service.stats()
            assert (stats.pending, stats.in_flight, stats.unknown) == (0, 0, 3)
            assert stats.sink_errors >= 1
            assert stats.outcomes == {"written": 6}

        await assert_eventually(gone)
    for way_in, results in zip(WAYS_IN, received, strict=True):
        assert [one.outcome for one in results] == ["written", "", "written"], way_in
        assert results[1].error == "WriteNotConfirmed", way_in
    assert sorted(sink.rows) == [2, 3, 4, 12, 13, 14, 22, 23, 24]


@by_every_way_in
async def test_a_request_that_has_to_wait_blocks_its_key_and_no_other(client: Client, way_in: str) -> None:
    sink = Locked(1)
    async with running(client, sink) as service:
        waiting = await service.start(way_in, [Write([["t", {"n": 1}]], key="k")])

        async def tried() -> None:
            assert (await service.stats()).batches >= 1

        await assert_eventually(tried)
        same_key = await service.start(way_in, [Write([["t", {"n": 2}]], key="k")])
        others = await service.call(way_in, [Write([["t", {"n": n}]], key=f"k{n}") for n in range(3, 6)])
        assert [one.outcome for one in others] == ["written"] * 3

        async def both_wait() -> None:  # between two attempts; during one the first is in flight
            stats = await service.stats()
            assert (stats.breaker, stats.pending, stats.requeued) == ("closed", 2, 1)
            assert stats.retries >= 1

        await assert_eventually(both_wait)
        sink.locked.clear()
        assert [(await caller.result())[0].outcome for caller in (waiting, same_key)] == ["written"] * 2
    written = [row["n"] for row in sink.rows["t"]]
    assert written.index(1) < written.index(2)
    assert sorted(written) == list(range(1, 6))


async def test_requests_that_fill_a_batch_and_never_get_through_do_not_stop_the_shard(client: Client) -> None:
    sink = Locked(1, 2)
    policy = BatchPolicy(linger=QUICK.linger, retry_initial=timedelta(milliseconds=100), max_batch_size=2)
    async with running(client, sink, policy) as service:
        stuck = await service.start("activity", [entry(1), entry(2)], timeout=60.0)

        async def tried() -> None:
            stats = await service.stats()
            assert stats.batches >= 1
            assert stats.pending == 2

        await assert_eventually(tried)
        others = await service.call("activity", [entry(n) for n in range(3, 9)], timeout=20.0)
        assert [one.outcome for one in others] == ["written"] * 6
        sink.locked.clear()
        assert [one.outcome for one in await stuck.result()] == ["written"] * 2


async def test_a_request_that_waits_in_vain_expires_at_its_deadline(client: Client) -> None:
    sink = Locked(1)
    async with running(client, sink) as service:
        (late,) = await service.call("activity", [entry(1)], timeout=8.0)
        stats = await service.stats()
    assert (late.error, late.outcome) == ("WriteExpired", "expired")
    assert not sink.rows
    assert stats.pending == 0


async def test_a_parcel_with_a_request_that_has_to_wait_goes_back_whole(client: Client) -> None:
    sink = Locked(1)
    async with running(client, sink) as service:

        async def release() -> None:
            assert len(sink.rows.get("t", ())) == 2
            sink.locked.clear()

        requests = [WriteRequest(f"{service.name}-{n}", [Record("t", {"n": n})]) for n in range(3)]
        results, _ = await asyncio.gather(service.writer.write_many(requests), assert_eventually(release))
    confirmations = [one for one in results if isinstance(one, Confirmation)]
    assert [str(one.outcome) for one in confirmations] == ["written"] * 3
    assert len({one.batch_id for one in confirmations}) == 1
    assert sorted(row["n"] for row in sink.rows["t"]) == [0, 1, 2]


async def test_a_caller_that_is_cancelled_while_its_write_waits_for_a_retry_has_it_back(client: Client) -> None:
    sink = Locked(1)
    async with running(client, sink) as service:
        callers = [await service.start(way_in, [entry(1)]) for way_in in WAYS_IN]

        async def are_taken_back() -> None:
            assert (await service.stats()).outcomes == {"rejected": 3}

        async def are_retried() -> None:
            assert (await service.stats()).requeued == 3

        await assert_eventually(are_retried)
        for caller in callers:
            await caller.cancel()
            with pytest.raises(WorkflowFailureError):
                await caller.result()
        await assert_eventually(are_taken_back)  # one that is in flight would be written from now on
        sink.locked.clear()
        assert [one.outcome for one in await service.call("activity", [entry(2)])] == ["written"]
        assert (await service.stats()).outcomes == {"rejected": 3, "written": 1}
    assert sink.rows["entries"] == [{"n": 2}]


class FirstBatchWaits(MemorySink):
    """Nothing of its first batch can be written until it is told; of every other one all can."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = True
        self._first = ""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        self._first = self._first or batch.id
        if self.waits and batch.id == self._first:
            return [Outcome.retry("the row is locked") for _ in batch]
        return await super().write(batch)


@by_every_way_in
async def test_an_id_that_waits_for_its_retry_is_confirmed_as_written_once_even_if_written_concurrently(
    client: Client, way_in: str
) -> None:
    sink = FirstBatchWaits()
    async with running(client, sink) as service:
        request_id = f"{service.name}-1"
        write = Write([["entries", {"n": 1}]], request_id=request_id)
        first = await service.start(way_in, [write])

        async def is_retried() -> None:
            assert (await service.stats()).retries >= 1

        await assert_eventually(is_retried)
        second = await service.start("activity", [write])
        # In a parcel it is a submission of its own, and goes into another batch.
        same = WriteRequest(request_id, [Record("entries", {"n": 1})])
        (in_parcel, other) = await service.writer.write_many([same, Record("entries", {"n": 2})])
        assert isinstance(in_parcel, Confirmation)
        assert isinstance(other, Confirmation)
        sink.waits = False
        results = [str((await caller.result())[0].outcome) for caller in (first, second)]
    assert sorted([*results, str(in_parcel.outcome)]) == ["duplicate", "duplicate", "written"]
    assert sorted(row["n"] for row in sink.rows["entries"]) == [1, 2]
