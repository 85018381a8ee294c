"""The promises of a sink about deadlines and fences, with one check each, as in `sink_promises`."""

from __future__ import annotations

import asyncio
import time

from temporal_batching.contract import Outcome, OutcomeKind, WriteRequest
from temporal_batching.testing.sink_kit import Kit
from temporal_batching.testing.sink_promises import RACES, SinkPromise, checks

WRITTEN, DUPLICATE, REJECTED = OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE, OutcomeKind.REJECTED
EXPIRED = OutcomeKind.EXPIRED


@checks(SinkPromise.DEADLINE)
async def _deadline(kit: Kit) -> None:
    """A request past its deadline is `expired` and not written, and the others are written. A sink that does not fence
    may leave deadlines to the batcher, which checks them before each flush.
    """
    async with kit.sink() as sink:
        kit.case = "a batch in which one request is late, and one has a deadline far ahead"
        late = kit.request(expires_at=time.time() - 1)
        ahead, none = kit.request(expires_at=time.time() + 3600), kit.request()
        outcomes = await kit.kinds(sink, kit.batch(ahead, late, none))
        kit.expect(outcomes[::2], [WRITTEN, WRITTEN])
        kit.expect(outcomes[1], *((EXPIRED,) if kit.options.fences else (EXPIRED, WRITTEN)))
        await kit.expect_rows(ahead, none, *([late] if outcomes[1] == WRITTEN else []))


@checks(SinkPromise.NEVER_EXPIRED, "exactly_once")
async def _never_expired(kit: Kit) -> None:
    """A request that is written is never answered `expired`, by `write` or by `fence`, however late the call is."""
    async with kit.sink() as sink:
        kit.case = "a batch that was written, repeated after the deadline of its request"
        first = kit.request(expires_at=time.time() + 3600)
        late = WriteRequest(first.request_id, first.records, first.key, time.time() - 1)
        batch = kit.batch(first)
        kit.expect(await kit.kinds(sink, batch), [WRITTEN])
        kit.expect(await kit.kinds(sink, kit.again(batch, late)), [WRITTEN])
        kit.expect(await kit.kinds(sink, kit.batch(late)), [DUPLICATE])
        if kit.options.fences:
            kit.case = "a fence of a request that was written"
            kit.expect(_kinds(await kit.fence(sink, kit.again(batch, late))), [WRITTEN])
            kit.expect(_kinds(await kit.fence(sink, kit.batch(late))), [DUPLICATE], [WRITTEN])
        await kit.expect_rows(first)


@checks(SinkPromise.FENCED, "exactly_once", "fences")
async def _fenced(kit: Kit) -> None:
    """A request that `fence` answers with `expired` is not written by any attempt at its batch, also not by a later one
    or through another sink. A new batch may write it: then its caller has resubmitted it.
    """
    async with kit.sink() as sink, kit.sink() as other:
        kit.case = "a late attempt at a batch that was fenced as expired"
        gone, there = kit.request(), kit.request()
        batch = kit.batch(there, gone)
        kit.expect(await kit.kinds(sink, kit.again(batch, there)), [WRITTEN])
        kit.expect(_kinds(await kit.fence(sink, batch)), [WRITTEN, EXPIRED])
        for late in (sink, other):
            kit.expect(await kit.kinds(late, kit.again(batch)), [WRITTEN, EXPIRED])
        await kit.expect_rows(there)
        kit.case = "a second fence"
        kit.expect(_kinds(await kit.fence(other, kit.again(batch))), [WRITTEN, EXPIRED])
        kit.case = "the same id in a later batch, after it was fenced as expired"
        kit.expect(await kit.kinds(sink, kit.batch(gone)), [WRITTEN])
        await kit.expect_rows(there, gone)


@checks(SinkPromise.FENCE_RACE, "exactly_once", "fences")
async def _fence_race(kit: Kit) -> None:
    """A concurrent attempt and `fence` of the same batch give the same outcome, `written` or `expired`, and the rows
    agree with it.
    """
    async with kit.sink() as one, kit.sink() as two:
        for race in range(RACES):
            kit.case = "concurrent write and fence of the same batch"
            request = kit.request()
            batch = kit.batch(request)
            attempt = asyncio.ensure_future(kit.kinds(one, batch))
            for _ in range(race):
                await asyncio.sleep(0)
            (settled,) = _kinds(await kit.fence(two, kit.again(batch)))
            (written,) = await attempt
            kit.expect((written, settled), (WRITTEN, WRITTEN), (EXPIRED, EXPIRED))
            kit.expect(await kit.is_there(request), written == WRITTEN, None)


@checks(SinkPromise.FENCED_AS, "exactly_once", "fences")
async def _fenced_as(kit: Kit) -> None:
    """A request that is not written gets the outcome ``batch.fence_as``, `expired` or `rejected`, from `fence` and from
    every later attempt at its batch, also if a later fence asks for the other outcome.
    """
    async with kit.sink() as sink, kit.sink() as other:
        kit.case = "a fence of requests that are rejected"
        gone, there = kit.request(), kit.request()
        batch = kit.batch(there, gone)
        kit.expect(await kit.kinds(sink, kit.again(batch, there)), [WRITTEN])
        kit.expect(_kinds(await kit.fence(sink, kit.rejecting(batch))), [WRITTEN, REJECTED])
        kit.case = "a late attempt at a batch that was fenced as rejected, and a second fence as expired"
        kit.expect(await kit.kinds(other, kit.again(batch)), [WRITTEN, REJECTED])
        kit.expect(_kinds(await kit.fence(other, kit.again(batch))), [WRITTEN, REJECTED])
        kit.case = "a batch that was fenced as expired, and then as rejected"
        late = kit.batch(kit.request())
        kit.expect(_kinds(await kit.fence(sink, late)), [EXPIRED])
        kit.expect(_kinds(await kit.fence(other, kit.rejecting(late))), [EXPIRED])
        kit.case = "the same id in a later batch, after it was fenced as rejected"
        kit.expect(await kit.kinds(sink, kit.batch(gone)), [WRITTEN])
        await kit.expect_rows(there, gone)


def _kinds(outcomes: list[Outcome]) -> list[str]:
    return [outcome.kind.value for outcome in outcomes]
