"""Sinks that are each broken in one way that people break sinks in, and the promise that it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from temporal_batching import (
    Batch,
    Outcome,
    OutcomeKind,
    RejectCode,
    WriteRequest,
)
from temporal_batching.contract import ReturnedRow
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.testing import SinkPromise
from tests.unit.testing.good_sink import GoodSink, Store


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

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        return [Outcome.expired() for _ in batch]


class FencesForEver(GoodSink):
    """Never lets an expired id in again."""

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        _, status, _ = self.store.known.get(request.request_id, ("", "", ""))
        return Outcome.expired() if status == "expired" else super().known(batch, request)


class FencesAfterALook(GoodSink):
    """An attempt gets in between its look and its fence."""

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
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

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        return [self.fence_one(batch, request, OutcomeKind.EXPIRED) for request in batch]


class ForgetsWhatTheFenceWasFor(GoodSink):
    """Answers the fence rightly, and the next attempt not."""

    def remember(self, batch: Batch, request: WriteRequest, status: str) -> None:
        super().remember(batch, request, "expired" if status == "rejected" else status)

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        outcomes = await super().fence(batch)
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


class ReturnsOnce(GoodSink):
    """Returns values to the first caller alone."""

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        answer = super().known(batch, request)
        return answer if answer is None else replace(answer, returned=None)


class CannotReadReturned(GoodSink):
    """Has nothing for a confirmation that is sent again."""

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        return {}


class ReturnsWhateverIsAsked(GoodSink):
    """Returns an element for each record that asks, and none for the others."""

    def returned(self, request: WriteRequest) -> list[ReturnedRow | None] | None:
        rows = super().returned(request)
        return rows and [row for row in rows if row]


class DeletesLast(GoodSink):
    """Groups operations: whatever is deleted is deleted when all else is done."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        outcomes = await super().write(batch)
        for request, outcome in zip(batch, outcomes, strict=True):
            if outcome.kind is OutcomeKind.WRITTEN:
                for record in request.records:
                    if record.operation == "delete":
                        self.apply_one(record)
        return outcomes


class InsertsWhatIsMissing(GoodSink):
    """Takes an update for an upsert."""

    def problem(self, request: WriteRequest) -> Outcome | None:
        problem = super().problem(request)
        return None if problem and problem.code is RejectCode.MISSING_ROW else problem


class AddsAgain(GoodSink):
    """Adds what a duplicate brings."""

    def known(self, batch: Batch, request: WriteRequest) -> Outcome | None:
        answer = super().known(batch, request)
        if answer is not None and answer.kind is OutcomeKind.DUPLICATE:
            self.apply(replace(request, records=[r for r in request.records if r.table == "check_totals"]))
        return answer


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
    ExpiresWhateverIsFenced: SinkPromise.FENCED_AS,
    ForgetsWhatTheFenceWasFor: SinkPromise.FENCED_AS,
    FencesAfterALook: SinkPromise.FENCE_RACE,
    IgnoresCase: SinkPromise.IDS,
    Trims: SinkPromise.TEXTS,
    EmptyIsNull: SinkPromise.TEXTS,
    StumblesOverValues: SinkPromise.VALUES,
    CutsOff: SinkPromise.LIMITS,
    KeepsLettersAgain: SinkPromise.DEAD_LETTERS,
    Silent: SinkPromise.DEAD_LETTERS,
    ReturnsOnce: SinkPromise.RETURNED,
    CannotReadReturned: SinkPromise.RETURNED,
    ReturnsWhateverIsAsked: SinkPromise.RETURNED,
    DeletesLast: SinkPromise.CHANGED,
    InsertsWhatIsMissing: SinkPromise.MISSING_ROW,
    AddsAgain: SinkPromise.ADDED,
}
