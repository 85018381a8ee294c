"""`check_sink` finds what is wrong with a sink: each of these is broken in one way, and named for it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest import SkipTest

import pytest

from temporal_batching import (
    Batch,
    ConsoleSink,
    MemorySink,
    Outcome,
    OutcomeKind,
    Record,
    RejectCode,
    Sink,
    WriteRequest,
)
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.sinks.ledger import digest
from temporal_batching.testing import BrokenPromise, SinkPromise, check_sink
from temporal_batching.testing.sink_promises import CHECKS


@dataclass
class Store:
    """What a database would hold, and whether it is away."""

    rows: list[tuple[int, str]] = field(default_factory=list)
    known: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)
    away: bool = False

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.away = True
        try:
            yield
        finally:
            self.away = False


class GoodSink(Sink):
    """Keeps every promise. Each mistake below replaces one of its methods."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        await self.trip()
        waiting: set[str] = set()
        return [self.one(batch, request, waiting) for request in batch]

    async def settle(self, batch: Batch) -> Sequence[Outcome]:
        await self.trip()
        return [self.fence(batch, request, batch.fence_as) for request in batch]

    async def trip(self) -> None:
        await asyncio.sleep(0)
        if self.store.away:
            raise SinkUnavailable("the store is away", in_doubt=False)

    def one(self, batch: Batch, request: WriteRequest, waiting: set[str]) -> Outcome:
        answer = self.known(batch, request)
        if answer is not None:
            return answer
        if self.late(request):
            return self.fence(batch, request, OutcomeKind.EXPIRED)
        problem = self.problem(request)
        if problem is not None:
            return problem
        if self.retried(request, waiting):
            waiting.add(request.key or request.request_id)
            return Outcome.retry("locked")
        self.remember(batch, request, "written")
        self.apply(request)
        return Outcome.written()

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        batch_id, status, mark = self.store.known.get(request.request_id, ("", "", ""))
        if not status or (status in ("expired", "rejected") and batch_id != batch.id):
            return None
        if status == "expired":
            return Outcome.expired()
        if status == "rejected":
            return Outcome.rejected(RejectCode.DATABASE, "rejected before")
        if mark != self.mark(request):
            return Outcome.rejected(RejectCode.ID_REUSED, "other records")
        return Outcome.written() if batch_id == batch.id else Outcome.duplicate()

    def mark(self, request: WriteRequest) -> str:
        return digest(request.records)

    def late(self, request: WriteRequest) -> bool:
        return request.expires_at is not None and request.expires_at <= time.time()

    def problem(self, request: WriteRequest) -> Outcome | None:
        for record in request.records:
            if not isinstance(record.values.get("text"), str):
                return Outcome.rejected(RejectCode.TYPE, "not a text")
        return None

    def retried(self, request: WriteRequest, waiting: set[str]) -> bool:
        busy = any(record.values["text"] == "busy" for record in request.records)
        return busy or bool(request.key and request.key in waiting)

    def remember(self, batch: Batch, request: WriteRequest, status: str) -> None:
        self.store.known[request.request_id] = (batch.id, status, self.mark(request))

    def apply(self, request: WriteRequest) -> None:
        self.store.rows += [(r.values.get("number", -1), r.values["text"]) for r in request.records]

    def fence(self, batch: Batch, request: WriteRequest, fence_as: OutcomeKind) -> Outcome:
        if self.known(batch, request) is None:
            self.remember(batch, request, fence_as)
        return self.known(batch, request) or Outcome.expired()

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        self.store.letters.update({letter.id: letter.request.request_id for letter in letters})
        return True


def bad(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": None})


def busy(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": "busy"})


async def check(kind: Callable[[Store], Sink], promise: SinkPromise | None = None) -> Any:
    store = Store()
    return await check_sink(
        lambda: kind(store),
        promise,
        rows=lambda: store.rows,
        bad=bad,
        busy=busy,
        outage=store.outage,
        dead_letters=store.letters.values,
    )


@pytest.mark.parametrize("promise", SinkPromise)
async def test_a_sink_without_a_mistake_keeps(promise: SinkPromise) -> None:
    assert (await check(GoodSink, promise)).kept == [promise]


# Mistakes that people make


class Shuffled(GoodSink):
    """Answers in its own order."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        return [*await super().write(batch)][::-1]


class OneShort(GoodSink):
    """Forgets to answer for the last of many."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        outcomes = await super().write(batch)
        return outcomes[:-1] if len(outcomes) > 100 else outcomes


class Booleans(GoodSink):
    """Answers with something that is no outcome."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        answers: Any = [True for _ in await super().write(batch)]
        return list(answers)


class Boastful(GoodSink):
    """Says `written`, and writes nothing."""

    def apply(self, request: WriteRequest) -> None: ...


class Forgetful(GoodSink):
    """Has no memory of ids."""

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        return None


class ForgetsBatches(GoodSink):
    """Does not know its own earlier attempt."""

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        answer = super().known(batch, request)
        return Outcome.duplicate() if answer == Outcome.written() else answer


class RemembersTheBatchAlone(GoodSink):
    """Takes a batch id that it knows for done, whatever is in it."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        if batch.id in {batch_id for batch_id, _, _ in self.store.known.values()}:
            return [Outcome.written() for _ in batch]
        return await super().write(batch)


class NoDigest(GoodSink):
    """Compares ids and not what comes with them."""

    def mark(self, request: WriteRequest) -> str:
        return ""


class LooksUpFirst(GoodSink):
    """Looks up all ids before it writes any: a repetition within the batch is not noticed."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        answers = [self.known(batch, request) for request in batch]
        outcomes = []
        for request, answer in zip(batch, answers, strict=True):
            if answer is None:
                self.store.known.pop(request.request_id, None)
                answer = self.one(batch, request, set())
            outcomes.append(answer)
        return outcomes


class AllOrNothing(GoodSink):
    """One bad request rejects the batch."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        if any(self.problem(request) for request in batch):
            return [Outcome.rejected(RejectCode.DATABASE, "the batch failed") for _ in batch]
        return await super().write(batch)


class Raises(GoodSink):
    """A bad request raises."""

    def problem(self, request: WriteRequest) -> Outcome | None:
        if super().problem(request):
            raise ValueError("not a text")
        return None


class NoReason(GoodSink):
    """Rejects without a word."""

    def problem(self, request: WriteRequest) -> Outcome | None:
        return Outcome.rejected(RejectCode.TYPE, "") if super().problem(request) else None


class Halfway(GoodSink):
    """Applies what comes before the bad record."""

    def problem(self, request: WriteRequest) -> Outcome | None:
        problem = super().problem(request)
        if problem:
            self.apply(WriteRequest("", [r for r in request.records if isinstance(r.values.get("text"), str)]))
        return problem


class RemembersRejected(GoodSink):
    """Enters the id before it knows whether it can write."""

    def problem(self, request: WriteRequest) -> Outcome | None:
        problem = super().problem(request)
        if problem:
            self.store.known[request.request_id] = ("", "written", self.mark(request))
        return problem


class FirstOnly(GoodSink):
    """Writes the first record of a request."""

    def apply(self, request: WriteRequest) -> None:
        super().apply(WriteRequest("", request.records[:1]))


class Sorted(GoodSink):
    """Writes a batch in an order of its own."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        await self.trip()
        outcomes = {request.request_id: self.one(batch, request, set()) for request in reversed(batch)}
        return [outcomes[request.request_id] for request in batch]


class Overtakes(GoodSink):
    """Goes on with a key of which a request has to be retried."""

    def retried(self, request: WriteRequest, waiting: set[str]) -> bool:
        return super().retried(request, set())


class BlocksAll(GoodSink):
    """Has everybody wait behind the one that has to be retried."""

    def retried(self, request: WriteRequest, waiting: set[str]) -> bool:
        return bool(waiting) or super().retried(request, waiting)


class RejectsInAnOutage(GoodSink):
    """Blames its requests for what the store cannot do."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        try:
            return await super().write(batch)
        except SinkUnavailable as err:
            return [Outcome.rejected(RejectCode.DATABASE, str(err)) for _ in batch]


class RaisesInAnOutage(GoodSink):
    """Lets the driver's error through."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        try:
            return await super().write(batch)
        except SinkUnavailable as err:
            raise ConnectionError(str(err)) from err


class InItsHead(GoodSink):
    """Remembers ids in the process."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.own: dict[str, tuple[str, str, str]] = {}

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        shared, self.store.known = self.store.known, self.own
        try:
            return super().known(batch, request)
        finally:
            self.store.known = shared

    def remember(self, batch: Batch, request: WriteRequest, status: str) -> None:
        self.own[request.request_id] = (batch.id, status, self.mark(request))


class NamesItself(GoodSink):
    """Its identity is the process's."""

    async def open(self) -> None:
        self.identity = str(id(self))


class OneAtATime(GoodSink):
    """Keeps the batch it is at on itself."""

    at: Batch

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        self.at = batch
        await self.trip()
        return [self.one(self.at, request, set()) for request in self.at]


class ChecksThenActs(GoodSink):
    """Another one gets in between the look and the write."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        answers = [self.known(batch, request) for request in batch]
        await self.trip()
        waiting: set[str] = set()
        outcomes = []
        for request, answer in zip(batch, answers, strict=True):
            if answer is None:
                self.store.known.pop(request.request_id, None)
            outcomes.append(answer or self.one(batch, request, waiting))
        return outcomes


class HoldsOn(GoodSink):
    """Leaves its lock taken if it is cancelled."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.free = asyncio.Semaphore(1)

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        if self.free.locked():
            raise SinkUnavailable("locked")
        await self.free.acquire()
        outcomes = await super().write(batch)
        self.free.release()
        return outcomes


class WritesLate(GoodSink):
    """Does not look at deadlines."""

    def late(self, request: WriteRequest) -> bool:
        return False


class AsksTheClockFirst(GoodSink):
    """Calls late what it has written."""

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        return Outcome.expired() if self.late(request) else super().known(batch, request)


class InheritsSettle(GoodSink):
    """Does not fence, and says that it does."""

    async def settle(self, batch: Batch) -> Sequence[Outcome]:
        return [Outcome.expired() for _ in batch]


class FencesForEver(GoodSink):
    """Never lets an expired id in again."""

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        _, status, _ = self.store.known.get(request.request_id, ("", "", ""))
        return Outcome.expired() if status == "expired" else super().known(batch, request)


class FencesAfterALook(GoodSink):
    """An attempt gets in between its look and its fence."""

    async def settle(self, batch: Batch) -> Sequence[Outcome]:
        answers = [self.known(batch, request) for request in batch]
        await self.trip()
        for request, answer in zip(batch, answers, strict=True):
            if answer is None:
                self.remember(batch, request, batch.fence_as)
        return [
            answer or self.known(batch, request) or Outcome.expired()
            for request, answer in zip(batch, answers, strict=True)
        ]


class ExpiresWhateverIsFenced(GoodSink):
    """Does not look at what the fence is for."""

    async def settle(self, batch: Batch) -> Sequence[Outcome]:
        return [self.fence(batch, request, OutcomeKind.EXPIRED) for request in batch]


class ForgetsWhatTheFenceWasFor(GoodSink):
    """Answers the fence rightly, and the next attempt not."""

    def remember(self, batch: Batch, request: WriteRequest, status: str) -> None:
        super().remember(batch, request, "expired" if status == "rejected" else status)

    async def settle(self, batch: Batch) -> Sequence[Outcome]:
        outcomes = await super().settle(batch)
        rejected = Outcome.rejected(RejectCode.DATABASE, "fenced")
        fenced = batch.fence_as is OutcomeKind.REJECTED
        return [rejected if fenced and o.kind is OutcomeKind.EXPIRED else o for o in outcomes]


class IgnoresCase(GoodSink):
    """Has a collation."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        return await super().write(
            Batch([WriteRequest(r.request_id.casefold().strip(), r.records, r.key) for r in batch], id=batch.id)
        )


class Trims(GoodSink):
    """Tidies texts up."""

    def apply(self, request: WriteRequest) -> None:
        self.store.rows += [(r.values.get("number", -1), r.values["text"].strip()) for r in request.records]


class EmptyIsNull(GoodSink):
    """Takes an empty text for none."""

    def apply(self, request: WriteRequest) -> None:
        self.store.rows += [(r.values.get("number", -1), r.values["text"] or "None") for r in request.records]


class StumblesOverValues(GoodSink):
    """Expects a text."""

    def problem(self, request: WriteRequest) -> Outcome | None:
        text = request.records[0].values["text"]
        return Outcome.rejected(RejectCode.TYPE, "none") if text is None or not text.strip else None


class CutsOff(GoodSink):
    """Has room for 500 records."""

    def apply(self, request: WriteRequest) -> None:
        super().apply(WriteRequest("", request.records[:500]))


class KeepsLettersAgain(GoodSink):
    """Keeps a letter with each attempt."""

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        self.store.letters.update({f"{len(self.store.letters)}-{le.id}": le.request.request_id for le in letters})
        return True


class Silent(GoodSink):
    """Answers that it keeps letters, and says nothing."""

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        await super().keep_dead_letters(letters)
        nothing: Any = None
        return bool(nothing)


MISTAKES = {
    Shuffled: SinkPromise.OUTCOMES,
    OneShort: SinkPromise.OUTCOMES,
    Booleans: SinkPromise.OUTCOMES,
    Boastful: SinkPromise.WRITTEN_ONCE,
    Forgetful: SinkPromise.DUPLICATE,
    ForgetsBatches: SinkPromise.OWN_ATTEMPT,
    RemembersTheBatchAlone: SinkPromise.OWN_ATTEMPT,
    NoDigest: SinkPromise.ID_REUSED,
    LooksUpFirst: SinkPromise.TWICE_IN_A_BATCH,
    AllOrNothing: SinkPromise.REJECTED_ALONE,
    Raises: SinkPromise.REJECTED_ALONE,
    NoReason: SinkPromise.REJECTED_ALONE,
    Halfway: SinkPromise.REJECTED_WHOLE,
    RemembersRejected: SinkPromise.REJECTED_WHOLE,
    FirstOnly: SinkPromise.ATOMIC,
    Sorted: SinkPromise.ORDER,
    Overtakes: SinkPromise.RETRIED_ALONE,
    BlocksAll: SinkPromise.RETRIED_ALONE,
    RejectsInAnOutage: SinkPromise.OUTAGE,
    RaisesInAnOutage: SinkPromise.OUTAGE,
    InItsHead: SinkPromise.REOPENED,
    NamesItself: SinkPromise.IDENTITY,
    OneAtATime: SinkPromise.OVERLAPPING,
    ChecksThenActs: SinkPromise.CONCURRENT,
    HoldsOn: SinkPromise.CANCELLED,
    WritesLate: SinkPromise.DEADLINE,
    AsksTheClockFirst: SinkPromise.NEVER_EXPIRED,
    InheritsSettle: SinkPromise.FENCED,
    FencesForEver: SinkPromise.FENCED,
    FencesAfterALook: SinkPromise.FENCE_RACE,
    IgnoresCase: SinkPromise.IDS,
    Trims: SinkPromise.TEXTS,
    EmptyIsNull: SinkPromise.TEXTS,
    StumblesOverValues: SinkPromise.VALUES,
    CutsOff: SinkPromise.LIMITS,
    KeepsLettersAgain: SinkPromise.DEAD_LETTERS,
    Silent: SinkPromise.DEAD_LETTERS,
}


@pytest.mark.parametrize(("kind", "promise"), MISTAKES.items(), ids=lambda value: getattr(value, "__name__", None))
async def test_a_mistake_is_named_by_the_promise_that_it_breaks(kind: type[GoodSink], promise: SinkPromise) -> None:
    with pytest.raises(BrokenPromise) as caught:
        await check(kind, promise)
    assert caught.value.promise == promise
    assert caught.value.case
    assert str(promise) in str(caught.value)
    assert caught.value.expected in str(caught.value)
    assert caught.value.came in str(caught.value)


@pytest.mark.xfail(strict=True, reason="no check looks at what a fence is for")
@pytest.mark.parametrize("kind", [ExpiresWhateverIsFenced, ForgetsWhatTheFenceWasFor])
async def test_a_sink_that_does_not_look_at_what_a_fence_is_for_is_found(kind: type[GoodSink]) -> None:
    with pytest.raises(BrokenPromise):
        await check(kind)


def test_there_is_a_mistake_for_every_promise() -> None:
    assert set(MISTAKES.values()) == set(SinkPromise) == set(CHECKS)


async def test_a_whole_check_reports_everything_that_is_broken() -> None:
    with pytest.raises(BrokenPromise) as caught:
        await check(FirstOnly)
    assert caught.value.promise == SinkPromise.WRITTEN_ONCE
    assert {note.split(":")[0] for note in caught.value.__notes__} >= {f"and {SinkPromise.ATOMIC}"}


async def test_a_sink_that_never_answers_is_not_waited_for() -> None:
    class Stuck(GoodSink):
        async def trip(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(BrokenPromise, match=r"no answer within 0\.05 s"):
        await check_sink(lambda: Stuck(Store()), SinkPromise.OUTCOMES, timeout=timedelta(seconds=0.05))


async def test_a_sink_that_is_unavailable_for_no_reason_is_named() -> None:
    store = Store(away=True)
    with pytest.raises(BrokenPromise, match="the store is away"):
        await check_sink(lambda: GoodSink(store), SinkPromise.OUTCOMES)


# How sinks are made, and what cannot be checked


async def test_a_sink_may_come_from_a_coroutine_or_a_context_manager() -> None:
    store, ended = Store(), []

    async def made() -> Sink:
        return GoodSink(store)

    @asynccontextmanager
    async def managed() -> AsyncIterator[Sink]:
        yield GoodSink(store)
        ended.append(True)

    for make in (made, managed):
        await check_sink(make, SinkPromise.REOPENED, rows=lambda: store.rows)
    assert ended


async def test_what_cannot_be_checked_is_skipped_and_says_what_it_needs() -> None:
    store = Store()
    report = await check_sink(lambda: GoodSink(store), exactly_once=False)
    assert report.skipped[SinkPromise.REJECTED_ALONE] == "bad"
    assert report.skipped[SinkPromise.FENCED] == "exactly_once"
    assert SinkPromise.OUTCOMES in report.kept
    assert {*report.kept, *report.skipped} == set(SinkPromise)
    with pytest.raises(SkipTest, match=re.escape("`bad`")):
        await check_sink(lambda: GoodSink(store), SinkPromise.REJECTED_ALONE)


async def test_a_mistake_in_the_options_is_no_broken_promise() -> None:
    def no_sink() -> Any:
        return contextlib.nullcontext("something")

    with pytest.raises(TypeError, match="not a Sink"):
        await check_sink(no_sink, SinkPromise.OUTCOMES)


def test_it_needs_no_pytest() -> None:
    program = "import sys, temporal_batching.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


# Our own sinks that need no database


@pytest.mark.parametrize("promise", SinkPromise)
async def test_the_memory_sink_keeps(promise: SinkPromise) -> None:
    def reject(request: WriteRequest) -> str | None:
        return "no text" if any(record.values.get("text") is None for record in request.records) else None

    sink = MemorySink(reject=reject)

    @contextmanager
    def outage() -> Iterator[None]:
        sink.fail_next()
        yield

    await check_sink(
        lambda: sink,
        promise,
        rows=lambda: [(row["number"], row["text"]) for row in sink.rows.get("check_sink", [])],
        bad=bad,
        outage=outage,
        dead_letters=lambda: [letter.request.request_id for letter in sink.dead_letters.values()],
    )


@pytest.mark.parametrize("promise", SinkPromise)
async def test_the_console_sink_keeps_for_the_life_of_its_process(promise: SinkPromise) -> None:
    """What it prints is text for people, so only its answers are checked."""
    sink = ConsoleSink(io.StringIO())
    await check_sink(lambda: sink, promise, fences=False)
