"""A caller whose write cannot be written receives the most certain error that is true, by every way in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest
from temporalio.client import Client

from temporal_batching import (
    Batch,
    Confirmation,
    MemorySink,
    Outcome,
    Record,
    SinkUnavailable,
    WriteError,
    WriteRequest,
)
from tests.support.callers import EVERY_WAY_IN
from tests.support.databases import TestDatabase
from tests.support.service import QUICK, Service, entry, running
from tests.support.waiting import assert_eventually

TIMEOUT = timedelta(seconds=10)
"""The deadline of a request is a fifth of it earlier: so long may an outcome take on a machine under load."""

EXPIRED = dict.fromkeys([*EVERY_WAY_IN, "BatchClient.write", "write_many", "parcel"], "WriteExpired")
NOT_CONFIRMED = dict.fromkeys(EXPIRED, "WriteNotConfirmed")
HEARD = {
    "paused": EXPIRED,
    "drained": {**dict.fromkeys(EXPIRED, "WriteNotSubmitted"), "signal": "WriteRejected: overloaded"},
    "full": {**dict.fromkeys(EXPIRED, "WriteNotSubmitted"), "signal": "WriteRejected: overloaded"},
    "locked": EXPIRED,
    "breaker open": EXPIRED,
}
"""By state and way in. docs/explanation/guarantees.md has it as a table."""


async def write_by(service: Service, way: str, n: int, timeout: timedelta = TIMEOUT) -> set[str]:
    """What one caller receives: for each of its requests an outcome, or the type of its error."""
    if way in EVERY_WAY_IN:
        (result,) = await service.call(way, [entry(n)], timeout=timeout.total_seconds())
        code = f": {result.code}" if result.code else ""
        return {f"{result.error}{code}" if result.error else result.outcome}
    if way == "BatchClient.write":
        try:
            return {str((await service.writer.write("entries", {"n": n}, timeout=timeout)).outcome)}
        except WriteError as err:
            return {type(err).__name__}
    count = 1 if way == "write_many" else 3
    requests = [
        WriteRequest(f"{service.name}-{n + i}", [Record("entries", {"n": n + i})], key="together") for i in range(count)
    ]
    results = await service.writer.write_many(requests, timeout=timeout)
    received = {str(one.outcome) if isinstance(one, Confirmation) else type(one).__name__ for one in results}
    # In a list nothing is raised: an expiry is an outcome there.
    return {"WriteExpired" if one == "expired" else one for one in received}


async def assert_errors(service: Service, state: str) -> None:
    ways = HEARD[state]
    received = await asyncio.gather(*(write_by(service, way, 100 + 10 * i) for i, way in enumerate(ways)))
    assert dict(zip(ways, received, strict=True)) == {way: {error} for way, error in ways.items()}, state


async def paused(service: Service) -> None:
    await service.handle.pause()


async def drained(service: Service) -> None:
    await service.handle.drain()


async def full(service: Service) -> None:
    await service.handle.pause()
    policy = QUICK.from_wire({**QUICK.to_wire(), "max_pending": 1})
    await service.handle.configure(policy)
    await service.start("signal", [entry(1)], timeout=60.0)

    async def taken() -> None:
        assert (await service.stats()).pending == 1

    await assert_eventually(taken)


async def down(service: Service) -> None:
    assert isinstance(service.sink, MemorySink)
    service.sink.fail_next(1_000, error=SinkUnavailable("down", in_doubt=False))


STATES: dict[str, Callable[[Service], Awaitable[None]]] = {
    "paused": paused,
    "drained": drained,
    "full": full,
    "breaker open": down,
}


async def test_a_caller_receives_the_error_that_is_certain(client: Client) -> None:
    async def in_state(state: str) -> None:
        sink = MemorySink()
        async with running(client, sink) as service:
            assert (await service.call("activity", [entry(0)]))[0].outcome == "written"
            await STATES[state](service)
            await assert_errors(service, state)
        assert sink.rows["entries"] == [{"n": 0}], state

    await asyncio.gather(*map(in_state, STATES))


class Lost(MemorySink):
    """Whatever it is asked, the answer is lost."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        raise SinkUnavailable("down", in_doubt=True)

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        raise SinkUnavailable("down", in_doubt=True)


async def test_a_caller_whose_write_stays_in_doubt_receives_write_not_confirmed(client: Client) -> None:
    async def one(way: str) -> set[str]:
        # For each a batcher of its own: what waits behind another one's attempt is in no doubt, and expires.
        async with running(client, Lost()) as service:
            return await write_by(service, way, 1)

    received = await asyncio.gather(*map(one, NOT_CONFIRMED))
    assert dict(zip(NOT_CONFIRMED, received, strict=True)) == {way: {error} for way, error in NOT_CONFIRMED.items()}


async def test_a_caller_into_a_locked_table_receives_the_error_that_is_certain(
    client: Client, database: TestDatabase
) -> None:
    database.execute("CREATE TABLE entries (n integer PRIMARY KEY)")
    sink = database.sink(lock_timeout=timedelta(milliseconds=300))
    async with running(client, sink) as service:
        assert (await service.call("activity", [entry(0)]))[0].outcome == "written"
        with database.locked("entries"):
            await assert_errors(service, "locked")
    assert database.rows("SELECT n FROM entries") == [(0,)]


# How MariaDB waits is tested at the sink.
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
async def test_a_wait_for_a_lock_ends_at_the_deadline_of_the_write(client: Client, database: TestDatabase) -> None:
    """Then the outcome is certain for the request in the flush too, however long the sink may wait for locks."""
    # Each flush waits until a deadline; the callers of the last one need a fifth of this for their outcome.
    timeout = timedelta(seconds=15)
    database.execute("CREATE TABLE entries (n integer PRIMARY KEY)")
    async with running(client, database.sink(lock_timeout=timedelta(seconds=30))) as service:
        with database.locked("entries"):
            first = asyncio.create_task(write_by(service, "activity", 1, timeout))

            async def in_flight() -> None:
                assert (await service.stats()).in_flight == 1

            await assert_eventually(in_flight)
            ways = enumerate(EXPIRED)
            behind = await asyncio.gather(*(write_by(service, way, 100 + 10 * i, timeout) for i, way in ways))
            assert await first == {"WriteExpired"}
        assert dict(zip(EXPIRED, behind, strict=True)) == {way: {error} for way, error in EXPIRED.items()}
    assert database.rows("SELECT n FROM entries") == []
