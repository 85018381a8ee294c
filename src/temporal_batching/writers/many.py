"""`write_many`: parcels under way, as many as there is room for, those that share a key one after the other.

It runs in workflows too: tasks and events alone, nothing whose order could differ in a replay (sets of tasks, as
`asyncio.wait` and `asyncio.TaskGroup` have them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from weakref import WeakKeyDictionary

from temporal_batching.contract import ParcelReceipt, ReturnedRow
from temporal_batching.writers.parcels import ManyWrites, OutgoingParcel, ParcelFailure, ParcelLimits

PARCELS_UNDER_WAY = 16
"""Parcels that wait for their confirmation at the same time."""

PARCELS_AHEAD = 64
"""Parcels of one call that are cut and not done: under way, or waiting for room or for another parcel of their key.
More than those under way, so that one key does not hold up the others; bounded, because what is cut is encoded."""

WORKFLOW_BYTES = 1_500_000
"""Bytes of the parcels that one workflow run has under way. Temporal takes what a workflow task schedules in one
message, and terminates a workflow whose message is larger than 4 MiB. The rest is left to what else the workflow
schedules, and to what a codec adds."""

Submit: TypeAlias = Callable[[OutgoingParcel], Awaitable[ParcelReceipt | ParcelFailure]]
"""Submits a parcel and waits for its receipt."""


IDS_AT_ONCE = 1_000
"""Request ids in one reading of returned values."""

ReadReturned: TypeAlias = Callable[[list[str], str], Awaitable[Mapping[str, list[ReturnedRow | None]]]]
"""Reads what requests returned, by workers of a task queue: of the first of them, as many as one message holds."""


class Room:
    """How many parcels may be under way at the same time, and of how many bytes together.

    Args:
        parcels: At the most.
        size: Bytes at the most; a parcel that is larger by itself goes alone. None: only their number counts.
    """

    def __init__(self, parcels: int = PARCELS_UNDER_WAY, size: int | None = None) -> None:
        self._most_parcels, self._most_bytes = parcels, size
        self._parcels = self._bytes = 0
        # Nothing here may refer to a workflow's event loop for longer than a wait: see `_rooms`.
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def is_full(self) -> bool:
        """What asks now has to wait."""
        return bool(self._waiting) or not self._has_room(0)

    async def take(self, size: int) -> None:
        """Waits until there is room for a parcel, and takes it. What asks first has it first."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asked = (size, granted)
        self._waiting.append(asked)
        self._admit()
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self.give_back(size)
            elif asked in self._waiting:
                self._waiting.remove(asked)
                self._admit()
            raise

    def give_back(self, size: int) -> None:
        self._parcels -= 1
        self._bytes -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, granted = self._waiting[0]
            if not granted.cancelled():
                if not self._has_room(size):
                    return
                self._parcels += 1
                self._bytes += size
                granted.set_result(None)
            del self._waiting[0]

    def _has_room(self, size: int) -> bool:
        if not self._parcels:
            return True
        fits = self._most_bytes is None or self._bytes + size <= self._most_bytes
        return fits and self._parcels < self._most_parcels


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, Room] = WeakKeyDictionary()


def room_of_this_run() -> Room:
    """The room of the workflow run that is executed: all its calls of `write_many` share it.

    Each run has an event loop of its own, and so has each replay of it.
    """
    loop = asyncio.get_running_loop()
    room = _rooms.get(loop)
    if room is None:
        room = _rooms[loop] = Room(size=WORKFLOW_BYTES)
    return room


async def write_parcels(writes: ManyWrites, limits: ParcelLimits, shards: int, room: Room, submit: Submit) -> None:
    """Submits all parcels, and settles each request.

    Parcels under way at the same time may overtake each other: those that share a key go one after the other, and take
    room only when it is their turn. A cancellation ends all that are under way, waits for their ends, and is raised
    then. An error of `submit` is raised once the parcels under way have ended; no other is submitted.
    """
    tasks: list[asyncio.Task[None]] = []
    latest: dict[str, asyncio.Event] = {}
    errors: list[Exception] = []
    ahead = Room(PARCELS_AHEAD)

    async def write_one(parcel: OutgoingParcel, before: list[asyncio.Event], done: asyncio.Event) -> None:
        try:
            for predecessor in before:
                await predecessor.wait()
            await room.take(parcel.size)
            try:
                if not errors:
                    await _write(writes, parcel, submit)
            finally:
                room.give_back(parcel.size)
        except Exception as err:
            errors.append(err)
        finally:
            done.set()

    try:
        for parcel in writes.parcels(limits, shards):
            await ahead.take(0)
            if errors:
                break
            keys, done = parcel.keys, asyncio.Event()
            before = list(dict.fromkeys(latest[key] for key in keys if key in latest))
            latest.update(dict.fromkeys(keys, done))
            task = asyncio.create_task(write_one(parcel, before, done))
            task.add_done_callback(lambda _: ahead.give_back(0))
            tasks.append(task)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    # A cancellation of this wait cancels each task once, and waits for all: they may have something to withdraw.
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in [*errors, *ends]:
        if isinstance(end, BaseException):
            raise end


async def read_returned(writes: ManyWrites, read: ReadReturned) -> None:
    """Reads the returned values that receipts left out, as many at a time as one message holds.

    What cannot be read is left out: a sink may not keep what it returned.
    """
    while ids := writes.unread[:IDS_AT_ONCE]:
        page = await read(ids, writes.read_from)
        writes.fill(page)
        if not page:
            return


async def _write(writes: ManyWrites, parcel: OutgoingParcel, submit: Submit) -> None:
    """Submits a parcel; in halves, one after the other, if the limits in force are narrower than expected."""
    answer = await submit(parcel)
    if isinstance(answer, ParcelFailure) and len(parcel) > 1 and answer.is_too_large(parcel):
        for half in parcel.halves():
            await _write(writes, half, submit)
    else:
        writes.settle(parcel, answer)
