"""The promises of a sink, with one check each. A check's docstring is the promise, listed in `write-a-sink.md`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from temporal_batching.contract import Outcome, OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.testing.sink_kit import SUCCESS, Kit

WRITTEN, DUPLICATE, REJECTED = OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE, OutcomeKind.REJECTED
EXPIRED, RETRY = OutcomeKind.EXPIRED, OutcomeKind.RETRY

RACES = 8
"""Two concurrent attempts can interleave in different ways; this many are tried."""

LONG_TEXT = 300_000
MANY_RECORDS = 1_000
"""The default `max_batch_records`: a batcher sends no request with more."""


class SinkPromise(StrEnum):
    """The promises of a sink. `check_sink` checks all of them, or one."""

    OUTCOMES = "every-request-is-answered-in-order"
    WRITTEN_ONCE = "a-written-request-is-applied-once"
    DUPLICATE = "an-id-that-was-written-is-a-duplicate"
    OWN_ATTEMPT = "a-repeated-batch-is-written"
    ID_REUSED = "an-id-with-other-records-is-rejected"
    TWICE_IN_A_BATCH = "an-id-twice-in-a-batch-is-applied-once"
    REJECTED_ALONE = "a-bad-request-is-rejected-alone"
    REJECTED_WHOLE = "a-rejected-request-leaves-nothing-behind"
    ATOMIC = "the-records-of-a-request-are-applied-together"
    ORDER = "requests-of-a-key-are-applied-in-order"
    RETRIED_ALONE = "a-retried-request-blocks-only-its-key"
    OUTAGE = "an-outage-rejects-no-request"
    REOPENED = "written-requests-survive-close-and-open"
    IDENTITY = "a-store-has-one-identity"
    OVERLAPPING = "calls-may-overlap"
    CONCURRENT = "two-sinks-write-an-id-once"
    CANCELLED = "a-cancelled-attempt-can-be-repeated"
    DEADLINE = "a-late-request-is-not-written"
    NEVER_EXPIRED = "a-written-request-never-expires"
    FENCED = "a-fenced-request-is-not-written-later"
    FENCED_AS = "a-fenced-request-keeps-its-outcome"
    FENCE_RACE = "an-attempt-and-its-fence-agree"
    IDS = "every-request-id-is-distinct"
    TEXTS = "a-text-is-stored-unchanged"
    VALUES = "every-json-value-is-answered"
    LIMITS = "a-large-request-is-answered"
    DEAD_LETTERS = "a-dead-letter-is-kept-once"
    RETURNED = "what-a-request-returned-is-returned-again"
    CHANGED = "changes-of-a-row-are-applied-in-order"
    MISSING_ROW = "an-update-without-its-row-is-rejected"
    ADDED = "an-addition-counts-once"


CheckOne: TypeAlias = Callable[[Kit], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """How a promise is checked.

    Attributes:
        run: The check.
        needs: The options without which the promise cannot be checked or does not apply.
    """

    run: CheckOne
    needs: tuple[str, ...]

    @property
    def text(self) -> str:
        """The promise in words."""
        return " ".join((self.run.__doc__ or "").split())


CHECKS: dict[SinkPromise, Check] = {}


def checks(promise: SinkPromise, *needs: str) -> Callable[[CheckOne], CheckOne]:
    """Registers the check of a promise."""

    def register(run: CheckOne) -> CheckOne:
        CHECKS[promise] = Check(run, needs)
        return run

    return register


@checks(SinkPromise.OUTCOMES)
async def _outcomes(kit: Kit) -> None:
    """`write` returns an `Outcome` for each request of the batch, in the batch's order."""
    async with kit.sink() as sink:
        kit.case = "a batch of one request"
        known = kit.request()
        kit.expect(await kit.kinds(sink, kit.batch(known)), [WRITTEN])
        if kit.options.exactly_once:
            kit.case = "a batch of a new request, one that was written before, and two more new ones"
            mixed = kit.batch(kit.request(), known, kit.request(), kit.request())
            kit.expect(await kit.kinds(sink, mixed), [WRITTEN, DUPLICATE, WRITTEN, WRITTEN])
        kit.case = "a batch of 300 requests"
        many = kit.batch(*(kit.request() for _ in range(300)))
        kit.expect(await kit.kinds(sink, many), [WRITTEN] * 300)


@checks(SinkPromise.WRITTEN_ONCE, "rows")
async def _written_once(kit: Kit) -> None:
    """The records of a request that is answered `written` are in the store, each once."""
    async with kit.sink() as sink:
        kit.case = "three requests, one of them with two records"
        batch = kit.batch(kit.request(), kit.request(kit.record(), kit.record()), kit.request())
        outcomes = await kit.kinds(sink, batch)
        kit.expect([outcomes[0], outcomes[2]], [WRITTEN, WRITTEN])
        kit.expect(outcomes[1], WRITTEN, REJECTED)  # a store without transactions takes no request of several
        await kit.expect_rows(*(r for r, kind in zip(batch, outcomes, strict=True) if kind == WRITTEN))


@checks(SinkPromise.DUPLICATE, "exactly_once")
async def _duplicate(kit: Kit) -> None:
    """A request id that an earlier batch wrote is answered `duplicate`, and its records are not applied again."""
    async with kit.sink() as sink:
        first, second = kit.request(), kit.request()
        kit.case = "two requests, and then the same in another batch, with a new one between them"
        kit.expect(await kit.kinds(sink, kit.batch(first, second)), [WRITTEN, WRITTEN])
        new = kit.request()
        kit.expect(await kit.kinds(sink, kit.batch(first, new, second)), [DUPLICATE, WRITTEN, DUPLICATE])
        await kit.expect_rows(first, second, new)


@checks(SinkPromise.OWN_ATTEMPT, "exactly_once")
async def _own_attempt(kit: Kit) -> None:
    """A batch may come again under its id, with all or some of its requests, because the answer was lost: requests that
    an earlier attempt wrote are answered `written`, and are not applied again.
    """
    async with kit.sink() as sink:
        one, two, three = kit.request(), kit.request(), kit.request()
        batch = kit.batch(one, two, three)
        kit.case = "a batch, and the same again"
        kit.expect(await kit.kinds(sink, batch), [WRITTEN] * 3)
        kit.expect(await kit.kinds(sink, kit.again(batch)), [WRITTEN] * 3)
        await kit.expect_rows(one, two, three)
        kit.case = "the same batch id, with some of its requests and with one that it did not have"
        four = kit.request()
        kit.expect(await kit.kinds(sink, kit.again(batch, three, four, one)), [WRITTEN] * 3)
        await kit.expect_rows(one, two, three, four)


@checks(SinkPromise.ID_REUSED, "exactly_once")
async def _id_reused(kit: Kit) -> None:
    """A request id that was written before with other records is `rejected` with code ``id_reused``."""
    async with kit.sink() as sink:
        first = kit.request()
        batch = kit.batch(first)
        kit.case = "an id that was written, with another record"
        kit.expect(await kit.kinds(sink, batch), [WRITTEN])
        other, neighbour = kit.request(request_id=first.request_id), kit.request()
        for asked in (kit.batch(neighbour, other), kit.again(batch, other)):
            outcome = (await kit.write(sink, asked))[-1]
            kit.expect((outcome.kind, outcome.code), (REJECTED, RejectCode.ID_REUSED))
        kit.case = "an id that was written, with one record more"
        more = kit.request(*first.records, kit.record(), request_id=first.request_id)
        (outcome,) = await kit.write(sink, kit.batch(more))
        kit.expect(outcome.kind, REJECTED)
        await kit.expect_rows(first, neighbour)


@checks(SinkPromise.TWICE_IN_A_BATCH, "exactly_once")
async def _twice_in_a_batch(kit: Kit) -> None:
    """Of two requests with one id in a batch, one is applied. The second is `duplicate` or `written`, or with other
    records `rejected`.
    """
    async with kit.sink() as sink:
        kit.case = "the same request twice in a batch"
        twice, neighbour = kit.request(), kit.request()
        outcomes = await kit.kinds(sink, kit.batch(twice, neighbour, twice))
        kit.expect(outcomes[:2], [WRITTEN, WRITTEN])
        kit.expect(outcomes[2], *SUCCESS)
        kit.case = "the same id twice in a batch, with other records"
        first = kit.request()
        outcomes = await kit.kinds(sink, kit.batch(first, kit.request(request_id=first.request_id)))
        kit.expect(outcomes, [WRITTEN, REJECTED])
        await kit.expect_rows(twice, neighbour, first)


@checks(SinkPromise.REJECTED_ALONE, "bad")
async def _rejected_alone(kit: Kit) -> None:
    """A request that cannot be written is `rejected`, with a code and a reason; the others are written."""
    async with kit.sink() as sink:
        for case, bad_at in (("in the middle", {1}), ("first", {0}), ("last", {2}), ("two of three", {0, 2})):
            kit.case = f"a batch with a bad request: {case}"
            batch = kit.batch(*(kit.bad_request() if n in bad_at else kit.request() for n in range(3)))
            kit.expect(await kit.kinds(sink, batch), [REJECTED if n in bad_at else WRITTEN for n in range(3)])
            for n in set(range(3)) - bad_at:
                kit.expect(await kit.is_there(batch[n]), True, None)
        kit.case = "a batch of one bad request"
        kit.expect(await kit.kinds(sink, kit.batch(kit.bad_request())), [REJECTED])


@checks(SinkPromise.REJECTED_WHOLE, "bad")
async def _rejected_whole(kit: Kit) -> None:
    """A rejected request leaves nothing behind: no row is applied, and a corrected request can use its id."""
    async with kit.sink() as sink:
        kit.case = "a request of a good record and a bad one"
        mixed, neighbour = kit.bad_request(kit.record()), kit.request()
        kit.expect(await kit.kinds(sink, kit.batch(mixed, neighbour)), [REJECTED, WRITTEN])
        await kit.expect_rows(neighbour)
        kit.case = "the id of a rejected request, with a good record, in a later batch"
        corrected = kit.request(request_id=mixed.request_id)
        kit.expect(await kit.kinds(sink, kit.batch(corrected)), [WRITTEN])
        await kit.expect_rows(neighbour, corrected)


@checks(SinkPromise.ATOMIC)
async def _atomic(kit: Kit) -> None:
    """The records of one request are applied together or not at all. A sink may reject several records."""
    async with kit.sink() as sink:
        kit.case = "a request of five records"
        request = kit.request(*(kit.record() for _ in range(5)))
        (kind,) = await kit.kinds(sink, kit.batch(request))
        kit.expect(kind, WRITTEN, REJECTED)
        kit.expect(await kit.is_there(request), kind == WRITTEN, None)


@checks(SinkPromise.ORDER, "rows", "ordered")
async def _order(kit: Kit) -> None:
    """Requests of one key are applied in the order of the batch, and in the order of the batches."""
    async with kit.sink() as sink:
        kit.case = "three batches with requests of two keys and of none"
        asked: dict[str, list[WriteRequest]] = {"a": [], "b": [], "": []}
        for _ in range(3):
            requests = [kit.request(key=key) for key in ("a", "b", "a", "", "b", "a", "b", "a")]
            for request in requests:
                asked[request.key].append(request)
            kit.expect(await kit.kinds(sink, kit.batch(*requests)), [WRITTEN] * len(requests))
        rows = await kit.rows()
        for key in ("a", "b"):
            wanted = [kit.pairs(request)[0] for request in asked[key]]
            kit.expect([row for row in rows if row in wanted], wanted)


@checks(SinkPromise.RETRIED_ALONE, "busy")
async def _retried_alone(kit: Kit) -> None:
    """A request that is answered `retry` is not applied. Later requests of its key in the batch are answered `retry`
    too, and not applied. The others are written.
    """
    async with kit.sink() as sink:
        kit.case = "a batch in which a request has to be retried, with others of its key before and behind it"
        before, other, behind, no_key = (kit.request(key=key) for key in ("a", "b", "a", ""))
        busy = kit.request(kit.record(make=kit.options.busy), key="a")
        outcomes = await kit.write(sink, kit.batch(before, busy, other, behind, no_key))
        kit.expect([outcome.kind for outcome in outcomes], [WRITTEN, RETRY, WRITTEN, RETRY, WRITTEN])
        kit.expect(bool(outcomes[1].reason), True)
        await kit.expect_rows(before, other, no_key)
        kit.case = "a request that has to be retried and has no key"
        busy, neighbour = kit.request(kit.record(make=kit.options.busy)), kit.request()
        kit.expect(await kit.kinds(sink, kit.batch(busy, neighbour)), [RETRY, WRITTEN])
        await kit.expect_rows(before, other, no_key, neighbour)


@checks(SinkPromise.OUTAGE, "outage")
async def _outage(kit: Kit) -> None:
    """While its store is unavailable, a sink raises `SinkUnavailable` or answers `retry` for all requests. It rejects
    none, and writes the same batch when the store is available again.
    """
    async with kit.sink() as sink:
        kit.case = "a batch while the store is unavailable"
        before = kit.request()
        kit.expect(await kit.kinds(sink, kit.batch(before)), [WRITTEN])
        batch = kit.batch(kit.request(), kit.request())
        away = kit.options.outage() if kit.options.outage else None
        if isinstance(away, AbstractAsyncContextManager):
            async with away:
                await _is_unavailable(kit, sink, batch)
        elif away is not None:
            with away:
                await _is_unavailable(kit, sink, batch)
        kit.case = "the same batch when the store is available again"
        kit.expect(await kit.kinds(sink, kit.again(batch)), [WRITTEN] * len(batch))
        await kit.expect_rows(before, *batch)


async def _is_unavailable(kit: Kit, sink: Sink, batch: Batch) -> None:
    try:
        outcomes = await kit.attempt(sink, batch)
    except SinkUnavailable:
        return
    kinds = [outcome.kind.value for outcome in outcomes]
    if set(kinds) != {OutcomeKind.RETRY.value}:
        raise kit.broken("SinkUnavailable, or `retry` for every request", kinds)


@checks(SinkPromise.REOPENED, "exactly_once")
async def _reopened(kit: Kit) -> None:
    """A new sink over the same store, after a restart or in another process, knows which requests are written."""
    first, second = kit.request(), kit.request()
    batch = kit.batch(first, second)
    kit.case = "a batch, then close, and a new sink over the same store"
    async with kit.sink() as sink:
        kit.expect(await kit.kinds(sink, batch), [WRITTEN, WRITTEN])
    async with kit.sink() as sink:
        kit.expect(await kit.kinds(sink, kit.again(batch)), [WRITTEN, WRITTEN])
        kit.expect(await kit.kinds(sink, kit.batch(second, first)), [DUPLICATE, DUPLICATE])
        await kit.expect_rows(first, second)
    kit.case = "a sink that is opened and closed without a batch"
    async with kit.sink():
        pass


@checks(SinkPromise.IDENTITY)
async def _identity(kit: Kit) -> None:
    """Once they are open, all sinks over one store have the same `identity`, or none has one."""
    async with kit.sink() as one, kit.sink() as two:
        kit.case = "two sinks over one store"
        kit.expect(two.identity, one.identity)
        first = one.identity
    async with kit.sink() as later:
        kit.case = "a sink that is opened later"
        kit.expect(later.identity, first)
        kit.expect(first != "", True)


@checks(SinkPromise.OVERLAPPING)
async def _overlapping(kit: Kit) -> None:
    """Calls may overlap: several shards use one sink concurrently."""
    async with kit.sink() as sink:
        kit.case = "eight concurrent batches of five requests"
        batches = [kit.batch(*(kit.request() for _ in range(5))) for _ in range(8)]
        answers = await asyncio.gather(*(kit.kinds(sink, batch) for batch in batches))
        kit.expect(answers, [[WRITTEN] * 5] * 8)
        await kit.expect_rows(*(request for batch in batches for request in batch))


@checks(SinkPromise.CONCURRENT, "exactly_once")
async def _concurrent(kit: Kit) -> None:
    """If two sinks over one store write an id concurrently, it is applied once: one sink answers `written`, the other
    one `duplicate`.
    """
    async with kit.sink() as one, kit.sink() as two:
        for _ in range(RACES):
            kit.case = "the same two requests, in two batches, by two sinks concurrently"
            a, b = kit.request(), kit.request()
            answers = await asyncio.gather(kit.kinds(one, kit.batch(a, b)), kit.kinds(two, kit.batch(b, a)))
            kit.expect(sorted([answers[0][0], answers[1][1]]), [DUPLICATE, WRITTEN])
            kit.expect(sorted([answers[0][1], answers[1][0]]), [DUPLICATE, WRITTEN])
            kit.expect((await kit.is_there(a), await kit.is_there(b)), (True, True), (None, None))
        kit.case = "two concurrent attempts at one batch"
        batch = kit.batch(kit.request(), kit.request())
        answers = await asyncio.gather(kit.kinds(one, batch), kit.kinds(two, kit.again(batch)))
        kit.expect(answers, [[WRITTEN] * 2] * 2)
        for request in batch:
            kit.expect(await kit.is_there(request), True, None)


@checks(SinkPromise.CANCELLED, "exactly_once")
async def _cancelled(kit: Kit) -> None:
    """An attempt may be cancelled at any moment: the sink stays usable, and a repetition writes the batch once."""
    async with kit.sink() as sink:
        batches = []
        for ticks in (0, 1, 2, 3, 5, 10, 30, 100):
            kit.case = "a batch, repeated after its first attempt was cancelled"
            batch = kit.batch(kit.request(), kit.request())
            batches.append(batch)
            attempt = asyncio.ensure_future(sink.write(batch))
            for _ in range(ticks):
                await asyncio.sleep(0)
            attempt.cancel()
            await asyncio.wait([attempt])
            if not attempt.cancelled():
                attempt.exception()  # it was done, or failed, before
            kit.expect(await kit.kinds(sink, kit.again(batch)), [WRITTEN, WRITTEN])
        await kit.expect_rows(*(request for batch in batches for request in batch))


@checks(SinkPromise.IDS, "exactly_once")
async def _ids(kit: Kit) -> None:
    """Request ids are compared exactly: case, accents, spaces and code points count. An id that the sink cannot hold is
    `rejected`, and the others are written.
    """
    endings = ["a", "A", "a ", "a\t", "\u00e9", "e\u0301", "e", "stra\u00dfe", "strasse", "\u4f60\u597d", "\U0001f600"]
    endings += ["'; DROP TABLE x; --", "%s", "$1", "{}", "a/b\\c", "line\nbreak", "0", "00", "x" * 600, "x" * 601]
    async with kit.sink() as sink:
        kit.case = "request ids that differ little"
        requests = [kit.request(request_id=kit.unique(ending)) for ending in endings]
        kit.expect(await kit.kinds(sink, kit.batch(*requests)), [WRITTEN] * len(requests))
        kit.expect(await kit.kinds(sink, kit.batch(*requests)), [DUPLICATE] * len(requests))
        await kit.expect_rows(*requests)
        kit.case = "request ids that few stores can hold, and a plain one"
        strange = [kit.request(request_id=kit.unique(ending)) for ending in ("nul\0", "x" * 100_000, "lone \ud800")]
        plain = kit.request()
        outcomes = await kit.kinds(sink, kit.batch(*strange, plain))
        kit.expect(outcomes[-1], WRITTEN)
        for request, kind in zip(strange, outcomes, strict=False):
            kit.expect(kind, WRITTEN, REJECTED)
            kit.expect(await kit.is_there(request), kind == WRITTEN, None)


@checks(SinkPromise.TEXTS)
async def _texts(kit: Kit) -> None:
    """A text is stored unchanged, or its request is `rejected`: nothing is trimmed, cut, folded or replaced."""
    texts = [" ", " led and trailed ", "caf\u00e9", "cafe\u0301", "\u4f60\u597d \U0001f600", "tab\tline\nreturn\r\n"]
    texts += ["quote ' double \" back\\slash", "%s $1 :name {0}", "null", "NULL", "true", "01", "1e3", "\u202eright"]
    texts += ["x" * 70_000, "nul \0 inside", "lone \ud800 surrogate"]
    async with kit.sink() as sink:
        kit.case = "records with texts of many kinds"
        batch = kit.batch(*(kit.request(kit.record(text)) for text in texts))
        outcomes = await kit.kinds(sink, batch)
        for text, request, kind in zip(texts, batch, outcomes, strict=True):
            kit.case = f"a record with the text {text[:30]!r}"
            kit.expect(kind, WRITTEN, REJECTED)
            kit.expect(await kit.is_there(request), kind == WRITTEN, None)
        kit.case = "an empty text"
        empty = kit.empty_text()
        (kind,) = await kit.kinds(sink, kit.batch(empty))
        kit.expect(kind, WRITTEN, REJECTED)
        kit.expect(await kit.is_there(empty), kind == WRITTEN, None)


@checks(SinkPromise.VALUES)
async def _values(kit: Kit) -> None:
    """A request with any JSON value, any table and any column gets an outcome, and the others are written."""
    values = [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        -(2**70),
        1.5,
        1e308,
        [],
        {},
        [1, [None, {"a": []}]],
        {"": {"b": 1}},
        "x",
    ]
    async with kit.sink() as sink:
        for value in values:
            kit.case = f"a record in which the text is {value!r}"
            record, neighbour = kit.record(), kit.request()
            odd = Record(record.table, {n: value if isinstance(v, str) else v for n, v in record.values.items()})
            outcomes = await kit.kinds(sink, kit.batch(kit.request(odd), neighbour))
            kit.expect(outcomes[0], WRITTEN, REJECTED)
            kit.expect(outcomes[1], WRITTEN)
        good = kit.record()
        strange = {
            "of an unknown table": Record("no_such_table", dict(good.values)),
            "with an unknown column": Record(good.table, {**good.values, "no_such_column": 1}),
            "without values": Record(good.table, {}),
            "of a table with a strange name": Record("a.b;\"'\n", dict(good.values)),
        }
        for case, record in strange.items():
            kit.case = f"a record {case}"
            outcomes = await kit.kinds(sink, kit.batch(kit.request(record), kit.request()))
            kit.expect(outcomes[0], WRITTEN, REJECTED)
            kit.expect(outcomes[1], WRITTEN)


@checks(SinkPromise.LIMITS)
async def _limits(kit: Kit) -> None:
    """The largest request that a batcher accepts is written or `rejected` as a whole, and the others are written."""
    async with kit.sink() as sink:
        large = {
            f"of {MANY_RECORDS:,} records": kit.request(*(kit.record() for _ in range(MANY_RECORDS))),
            f"with a text of {LONG_TEXT:,} characters": kit.request(kit.record("x" * LONG_TEXT)),
        }
        for case, request in large.items():
            kit.case = f"a request {case}"
            outcomes = await kit.kinds(sink, kit.batch(kit.request(), request, kit.request()))
            kit.expect(outcomes[::2], [WRITTEN, WRITTEN])
            kit.expect(outcomes[1], WRITTEN, REJECTED)
            kit.expect(await kit.is_there(request), outcomes[1] == WRITTEN, None)


@checks(SinkPromise.RETURNED, "returning", "exactly_once")
async def _returned(kit: Kit) -> None:
    """A request that asks for columns gets them, with one element for each record. A duplicate, a repeated attempt and
    `read_returned` give the same again.
    """
    columns = tuple(kit.options.returning)
    async with kit.sink() as sink:
        kit.case = "a request that asks for columns, and one of two records of which the second asks"
        asks = kit.request(replace(kit.record(), returning=columns))
        both = kit.request(kit.record(), replace(kit.record(), returning=columns))
        batch = kit.batch(asks, kit.request(), both)
        first, _, second = await kit.write(sink, batch)
        kit.expect(first.kind, WRITTEN)
        kit.expect(second.kind, WRITTEN, REJECTED)
        kit.expect(_missing(asks, first), [[]])
        if second.kind == WRITTEN:
            kit.expect(_missing(both, second), [[], []])
        kit.case = "the same in another attempt, and in another batch, also without asking"
        repeated = (await kit.write(sink, kit.again(batch)))[0]
        (duplicate,) = await kit.write(sink, kit.batch(asks))
        plain = replace(asks, records=[replace(record, returning=()) for record in asks.records])
        (unasked,) = await kit.write(sink, kit.batch(plain))
        kit.expect([repeated.kind, duplicate.kind, unasked.kind], [WRITTEN, DUPLICATE, DUPLICATE])
        for outcome in (repeated, duplicate, unasked):
            kit.expect(outcome.returned, first.returned)
        kit.case = "read_returned, through a sink that was opened later"
    async with kit.sink() as sink:
        kit.expect((await sink.read_returned([asks.request_id])).get(asks.request_id), first.returned)


def _missing(request: WriteRequest, outcome: Outcome) -> list[list[str]]:
    """For each row that was returned, the columns that its record asked for and that it lacks."""
    rows = outcome.returned or ()
    asked = [record.returning for record in request.records][: len(rows)]
    return [sorted(set(columns) - set(row or ())) for columns, row in zip(asked, rows, strict=False)]


@checks(SinkPromise.DEAD_LETTERS)
async def _dead_letters(kit: Kit) -> None:
    """`keep_dead_letters` returns whether it keeps dead letters. If it does, a letter that comes again with a later
    attempt at its batch is kept once.
    """
    async with kit.sink() as sink:
        kit.case = "the same letters twice, and one more"
        requests = [kit.request(), kit.request(kit.record("nul \0, lone \ud800"))]
        batch = kit.batch(*requests)
        outcome = Outcome.rejected(RejectCode.CONSTRAINT, "the check of sinks rejects it")
        letters = [DeadLetter(request, outcome, batch.id) for request in requests]
        more = DeadLetter(kit.request(), outcome, batch.id)
        kept = [await kit.keep(sink, some) for some in (letters, [*letters, more])]
        wanted = kit.options.dead_letters is not None
        kit.expect(kept, *([[True, True]] if wanted else [[False, False], [True, True]]))
        await kit.expect_letters(*requests, more.request)
