"""Parcels under way: bounded, in the order of their keys, and all ended when `write_many` ends."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from temporal_batching import BatchPolicy, BatchWriter, Confirmation, Record, WriteRejected, WriteRequest
from temporal_batching.contract import ParcelReceipt
from temporal_batching.errors import ErrorType
from temporal_batching.writers.many import PARCELS_AHEAD, WORKFLOW_BYTES, Room, room_of_this_run, write_parcels
from temporal_batching.writers.parcels import ManyWrites, OutgoingParcel, ParcelFailure, ParcelLimits

LIMITS = ParcelLimits(requests=3, records=100, size=10_000)
TOO_LARGE = ApplicationError("no", {"outcome": "rejected", "code": "too_large"}, type=ErrorType.REJECTED)


def requests(count: int, *, keys: int = 0, padding: int = 0) -> list[WriteRequest]:
    return [
        WriteRequest(f"r-{n}", [Record("t", {"n": n, "text": "x" * padding})], f"key-{n % keys}" if keys else "")
        for n in range(count)
    ]


def writes_of(made: list[WriteRequest]) -> ManyWrites:
    return ManyWrites(made, new_id=str)


class Submitting:
    """In the place of an activity: notes what is under way, and ends it a few turns of the loop later."""

    def __init__(self, seed: int = 0, *, most: int | None = None, gate: asyncio.Event | None = None) -> None:
        self.random, self.most, self.gate = random.Random(seed), most, gate
        self.under_way: list[OutgoingParcel] = []
        self.most_parcels = self.most_bytes = 0
        self.written: list[str] = []
        self.cancelled: list[OutgoingParcel] = []
        self.refused = 0

    async def __call__(self, parcel: OutgoingParcel) -> ParcelReceipt | ParcelFailure:
        assert not any(set(parcel.keys) & set(other.keys) for other in self.under_way), "it may overtake the other"
        self.under_way.append(parcel)
        self.most_parcels = max(self.most_parcels, len(self.under_way))
        self.most_bytes = max(self.most_bytes, sum(one.size for one in self.under_way))
        try:
            for _ in range(self.random.randrange(4)):
                await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(parcel)
            raise
        finally:
            self.under_way.remove(parcel)
        if self.most is not None and len(parcel) > self.most:
            self.refused += 1
            return ParcelFailure(TOO_LARGE, timedelta(seconds=1))
        self.written += parcel.request_ids
        return ParcelReceipt("b", len(parcel), 0)


@given(
    count=st.integers(0, 40),
    keys=st.integers(0, 5),
    shards=st.integers(1, 3),
    parcels=st.integers(1, 4),
    size=st.none() | st.integers(1, 2_000),
    most=st.none() | st.integers(1, 3),
    seed=st.integers(0, 1_000),
)
def test_each_request_is_written_once_in_the_order_of_its_key_within_the_room(
    count: int, keys: int, shards: int, parcels: int, size: int | None, most: int | None, seed: int
) -> None:
    writes, submit = writes_of(requests(count, keys=keys)), Submitting(seed, most=most)
    room = Room(parcels, size)
    asyncio.run(write_parcels(writes, LIMITS, shards, room, submit))
    assert sorted(submit.written) == sorted(f"r-{n}" for n in range(count))
    assert [one.request_id for one in writes.results] == [f"r-{n}" for n in range(count)]
    assert all(isinstance(one, Confirmation) and one.outcome == "written" for one in writes.results)
    for key in range(keys):
        numbers = [int(one[2:]) for one in submit.written if int(one[2:]) % keys == key]
        assert numbers == sorted(numbers)
    assert submit.most_parcels <= parcels
    assert size is None or submit.most_parcels <= 1 or submit.most_bytes <= size
    assert (room._parcels, room._bytes, room._waiting) == (0, 0, [])


async def test_parcels_that_wait_for_their_key_take_no_room_from_others() -> None:
    """Neither from those of the same call, nor from another call of the same workflow."""
    submit, room = Submitting(gate=asyncio.Event()), Room(4)
    one_key = [WriteRequest(f"k-{n}", [Record("t", {"n": n})], "key") for n in range(30)]
    without = [WriteRequest(f"w-{n}", [Record("t", {"n": n})]) for n in range(3)]
    calls = [write_parcels(writes_of(made), LIMITS, 1, room, submit) for made in (one_key + without, without * 2)]
    task = asyncio.gather(*calls)
    await turns()
    assert [parcel.first_id for parcel in submit.under_way] == ["k-0", "w-0", "w-0", "w-0"]
    assert submit.gate is not None
    submit.gate.set()
    await task
    assert len(submit.written) == 39
    assert submit.most_parcels == 4


async def test_parcels_are_cut_a_portion_ahead_and_no_more() -> None:
    """However many wait for one key: what is cut is encoded, and a workflow may not compute for long."""
    drawn: list[int] = []
    submit = Submitting(gate=asyncio.Event())
    assert submit.gate is not None

    def draw() -> str:
        drawn.append(1)
        return f"r-{len(drawn)}"

    writes = ManyWrites([Record("t", {"n": n}) for n in range(1_000)], new_id=draw)
    task = asyncio.create_task(write_parcels(writes, LIMITS, 1, Room(), submit))
    await turns()
    # The parcel after the last of these has been cut, and the request that was too much for it is read.
    assert len(drawn) == (PARCELS_AHEAD + 1) * LIMITS.requests + 1
    submit.gate.set()
    await task
    assert len(submit.written) == 1_000


async def test_room_is_given_in_the_order_in_which_it_is_asked_for() -> None:
    """So that small parcels do not keep a large one waiting forever."""
    room, got = Room(size=10), list[str]()

    async def take(name: str, size: int) -> None:
        await room.take(size)
        got.append(name)

    await room.take(6)
    waiting = [asyncio.create_task(take(*one)) for one in (("large", 9), ("cancelled", 2), ("small", 1), ("next", 9))]
    await turns()
    assert got == []
    waiting[1].cancel()
    room.give_back(6)
    await turns()
    assert got == ["large", "small"]
    waiting[3].cancel()
    room.give_back(9)
    await turns()
    assert (room._parcels, room._bytes, room._waiting) == (1, 1, [])
    granted = asyncio.create_task(take("granted", 10))
    await turns()
    room.give_back(1)
    granted.cancel()  # it has the room, and does not know it yet
    await turns()
    assert (room._parcels, room._bytes, room._waiting) == (0, 0, [])


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("count", "parcels"),
    [(30, 2), (30, 100), (300, 2)],
    ids=["while parcels wait for room", "while it waits for the last", "while others are not cut yet"],
)
async def test_a_cancellation_ends_what_is_under_way_and_submits_nothing_else(count: int, parcels: int) -> None:
    submit = Submitting(gate=asyncio.Event())
    room = Room(parcels)
    task = asyncio.create_task(write_parcels(writes_of(requests(count, keys=9)), LIMITS, 1, room, submit))
    await turns()
    under_way = list(submit.under_way)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert under_way
    assert submit.cancelled == under_way
    assert not submit.written
    assert (room._parcels, room._bytes, room._waiting) == (0, 0, [])


async def test_a_cancellation_waits_until_everything_is_withdrawn() -> None:
    started, gate, withdrawn = asyncio.Event(), asyncio.Event(), []

    async def submit(parcel: OutgoingParcel) -> ParcelReceipt | ParcelFailure:
        started.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            await gate.wait()
            withdrawn.append(parcel)
            raise

    task = asyncio.create_task(write_parcels(writes_of(requests(9)), LIMITS, 1, Room(), submit))
    await started.wait()
    task.cancel()
    await turns()
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(withdrawn) == 3


async def test_an_error_of_a_submission_is_raised_and_nothing_else_is_submitted() -> None:
    submitted: list[OutgoingParcel] = []

    async def submit(parcel: OutgoingParcel) -> ParcelReceipt | ParcelFailure:
        submitted.append(parcel)
        await turns(len(submitted))
        raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError):
        await write_parcels(writes_of(requests(300)), LIMITS, 1, Room(2), submit)
    assert len(submitted) <= 3


async def test_calls_at_the_same_time_share_the_room() -> None:
    submit, room = Submitting(), Room(size=3_000)
    calls = [write_parcels(writes_of(requests(20, padding=200)), LIMITS, 1, room, submit) for _ in range(3)]
    await asyncio.gather(*calls)
    assert len(submit.written) == 60
    assert submit.most_bytes <= 3_000


async def test_a_parcel_larger_than_the_room_goes_alone() -> None:
    submit = Submitting()
    await write_parcels(writes_of(requests(9, padding=200)), LIMITS, 1, Room(size=10), submit)
    assert (len(submit.written), submit.most_parcels) == (9, 1)


async def test_a_run_has_no_more_under_way_than_one_workflow_task_may_schedule() -> None:
    submit, limits = Submitting(), ParcelLimits.of(BatchPolicy())
    calls = [
        write_parcels(writes_of(requests(60, padding=39_000)), limits, 1, room_of_this_run(), submit) for _ in range(3)
    ]
    await asyncio.gather(*calls)
    assert len(submit.written) == 180
    assert 1_000_000 < submit.most_bytes <= 2 * 1_048_576


def test_the_room_of_a_run_ends_with_its_event_loop() -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def fill() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        room = room_of_this_run()
        assert room is room_of_this_run()
        calls = [write_parcels(writes_of(requests(20, padding=9_000)), WIDE, 1, room, Submitting()) for _ in range(20)]
        await asyncio.gather(*calls)

    WIDE = ParcelLimits(100, 100, WORKFLOW_BYTES // 3)
    asyncio.run(fill())
    gc.collect()
    assert [loop() for loop in loops] == [None]


@pytest.mark.parametrize(
    ("writer", "call", "error", "message"),
    [
        (
            BatchWriter("main", via="signal"),
            lambda w: w.write_many([]),
            ValueError,
            "only a writer with via='activity'",
        ),
        (
            BatchWriter("main"),
            lambda w: w.write_many([Record("t", {"n": 1})], timeout=timedelta(0)),
            WriteRejected,
            "more than zero",
        ),
        (BatchWriter("main"), lambda w: w.write_many(7), WriteRejected, "a list of WriteRequest and Record"),
    ],
    ids=["by signal", "timeout", "no list"],
)
async def test_a_call_that_cannot_be_meant_says_so(
    writer: BatchWriter, call: Callable[[BatchWriter], Awaitable[object]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await call(writer)


async def test_nothing_is_written_at_no_cost() -> None:
    assert await BatchWriter("main").write_many([]) == []
