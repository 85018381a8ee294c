"""What the checks of a sink share: sinks over one store, new requests, and the rows that were applied."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar
from uuid import uuid4

from temporal_batching.contract import Outcome, OutcomeKind, Record, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.dead_letters import DeadLetter

T = TypeVar("T")

MakeSink: TypeAlias = Callable[[], Sink | Awaitable[Sink] | AbstractAsyncContextManager[Sink]]
MakeRecord: TypeAlias = Callable[[int, str], Record]
ReadRows: TypeAlias = Callable[[], Iterable[Sequence[Any]] | Awaitable[Iterable[Sequence[Any]]]]
ReadIds: TypeAlias = Callable[[], Iterable[str] | Awaitable[Iterable[str]]]
Outage: TypeAlias = Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]

TRIES = 6
"""How often one batch is tried: two writers of one store may block each other occasionally."""

SUCCESS = (OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE)


class BrokenPromise(AssertionError):
    """A sink does not keep a promise.

    Attributes:
        promise: The promise's name in `SinkPromise`.
        case: The step that was tried.
        expected: The expected result.
        actual: The actual result.
    """

    def __init__(self, promise: str, case: str, *, expected: str, actual: str) -> None:
        super().__init__(f"{promise}: {case}\n  expected: {expected}\n  actual:   {actual}")
        self.promise = promise
        self.case = case
        self.expected = expected
        self.actual = actual


def default_record(number: int, text: str) -> Record:
    """A row of the table ``check_sink`` with a number and a text."""
    return Record("check_sink", {"number": number, "text": text})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The sink under test. `check_sink` explains the fields."""

    make_sink: MakeSink
    record: MakeRecord = default_record
    rows: ReadRows | None = None
    bad: MakeRecord | None = None
    busy: MakeRecord | None = None
    outage: Outage | None = None
    dead_letters: ReadIds | None = None
    returning: Sequence[str] = ()
    update: MakeRecord | None = None
    delete: MakeRecord | None = None
    add: MakeRecord | None = None
    totals: ReadRows | None = None
    exactly_once: bool = True
    fences: bool = True
    ordered: bool = True
    timeout: timedelta = timedelta(seconds=30)

    def has(self, need: str) -> bool:
        """Whether an option is set."""
        return bool(getattr(self, need))


@dataclass
class Kit:
    """The check of one promise: its requests are new to the store, and `rows` returns only their rows.

    Attributes:
        options: The sink under test.
        promise: The promise that is checked.
        case: The current step, for the message if it fails.
    """

    options: Options
    promise: str
    case: str = ""
    _run: str = field(default_factory=lambda: uuid4().hex[:12])
    # Below 2**31, so that it fits an integer column of four bytes.
    _number: int = field(default_factory=lambda: random.randrange(1, 400_000) * 5_000)
    _first: int = field(init=False)
    _batches: int = 0
    _requests: int = 0

    def __post_init__(self) -> None:
        self._first = self._number

    # Requests and batches

    def record(self, text: str = "", *, make: MakeRecord | None = None) -> Record:
        """A record with a number of its own."""
        self._number += 1
        return (make or self.options.record)(self._number, text or f"text {self._number}")

    def request(self, *records: Record, request_id: str = "", key: str = "", **options: Any) -> WriteRequest:
        """A request with an id of its own, and one record unless others are given."""
        self._requests += 1
        request_id = request_id or f"check-{self._run}-{self._requests}"
        return WriteRequest(request_id, records or (self.record(),), key, **options)

    def empty_text(self) -> WriteRequest:
        """A request whose record has an empty text."""
        self._number += 1
        return self.request(self.options.record(self._number, ""))

    def unique(self, text: str) -> str:
        """A request id that ends with ``text``, so that a comparison that ignores the end is noticed."""
        return f"check-{self._run}-{text}"

    def bad_request(self, *before: Record) -> WriteRequest:
        """A request that the sink rejects for its last record."""
        return self.request(*before, self.record(make=self.options.bad))

    def batch(self, *requests: WriteRequest) -> Batch:
        """A batch with an id of its own."""
        self._batches += 1
        return Batch(requests, id=f"check-0.{self._run}/{self._batches}")

    def again(self, batch: Batch, *requests: WriteRequest) -> Batch:
        """A later attempt at a batch, with the same requests unless others are given."""
        attempt = batch.attempt + 1
        return Batch(requests or batch, id=batch.id, shard=batch.shard, attempt=attempt, fence_as=batch.fence_as)

    def rejecting(self, batch: Batch) -> Batch:
        """The batch, for a fence as `rejected`."""
        return Batch(batch, id=batch.id, shard=batch.shard, attempt=batch.attempt, fence_as=OutcomeKind.REJECTED)

    # The sink

    @asynccontextmanager
    async def sink(self) -> AsyncIterator[Sink]:
        """An open sink over the store. It is closed at the end."""
        async with AsyncExitStack() as stack:
            made = self.options.make_sink()
            if inspect.isawaitable(made):
                made = await made
            sink = made if isinstance(made, Sink) else await stack.enter_async_context(made)
            if not isinstance(sink, Sink):
                raise TypeError(f"make_sink gave {type(sink).__name__}, not a Sink")
            await self._answer("open", sink.open())
            try:
                yield sink
            finally:
                await self._answer("close", sink.close())

    async def write(self, sink: Sink, batch: Batch) -> list[Outcome]:
        """Writes a batch as a batcher does: while the sink is unavailable the batch is retried under its id."""
        return await self._until_available("write", batch, sink.write)

    async def fence(self, sink: Sink, batch: Batch) -> list[Outcome]:
        """Fences a batch; while the sink is unavailable the call is repeated."""
        return await self._until_available("fence", batch, sink.fence)

    async def attempt(self, sink: Sink, batch: Batch) -> list[Outcome]:
        """Writes a batch without retries.

        Raises:
            SinkUnavailable: The sink is unavailable.
        """
        return self._checked("write", batch, await self._answer("write", sink.write(batch)))

    async def keep(self, sink: Sink, letters: Sequence[DeadLetter]) -> bool:
        """Passes dead letters to the sink, and returns its answer."""
        return await self._answer("keep_dead_letters", sink.keep_dead_letters(letters))

    async def kinds(self, sink: Sink, batch: Batch) -> list[str]:
        """Writes a batch, and returns the kinds of the outcomes."""
        return [outcome.kind.value for outcome in await self.write(sink, batch)]

    async def _until_available(
        self, name: str, batch: Batch, call: Callable[[Batch], Awaitable[Sequence[Outcome]]]
    ) -> list[Outcome]:
        for tries in range(TRIES):
            try:
                return self._checked(name, batch, await self._answer(name, call(batch)))
            except SinkUnavailable as err:
                problem = err
            await asyncio.sleep(0.02 * 2**tries)
            batch = self.again(batch)
        raise self.broken(f"{name} takes the batch", f"SinkUnavailable, {TRIES} times, at last: {problem}")

    async def _answer(self, name: str, call: Awaitable[T]) -> T:
        seconds = self.options.timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await call
        except SinkUnavailable:
            raise
        except TimeoutError:
            raise self.broken(f"{name} answers", f"no answer within {seconds:g} s") from None
        except Exception as err:
            allowed = "an outcome for each request, or SinkUnavailable" if name in ("write", "fence") else "no error"
            raise self.broken(allowed, f"{name} raised {type(err).__name__}: {err}") from err

    def _checked(self, name: str, batch: Batch, outcomes: Sequence[Outcome]) -> list[Outcome]:
        strange = [one for one in outcomes if not isinstance(one, Outcome)]
        if strange:
            raise self.broken("Outcome objects", f"{name} answered {strange[0]!r}")
        if len(outcomes) != len(batch):
            raise self.broken(f"{len(batch)} outcomes for {len(batch)} requests", f"{name} answered {len(outcomes)}")
        for outcome in outcomes:
            if outcome.kind is OutcomeKind.REJECTED and not (outcome.code and outcome.reason):
                raise self.broken("a rejection with its code and its reason", repr(outcome))
        return list(outcomes)

    # Results

    def broken(self, expected: object, actual: object) -> BrokenPromise:
        """The error for the current step."""
        return BrokenPromise(self.promise, self.case, expected=str(expected), actual=str(actual))

    def expect(self, actual: object, *allowed: object) -> None:
        """Fails unless ``actual`` is one of the values allowed."""
        if actual not in allowed:
            raise self.broken(" or ".join(map(_plain, allowed)), _plain(actual))

    async def rows(self) -> list[tuple[int, str]]:
        """The rows of this promise in the order in which they were applied; none without the option ``rows``."""
        if self.options.rows is None:
            return []
        found = self.options.rows()
        if inspect.isawaitable(found):
            found = await found
        pairs = [(int(row[0]), str(row[1])) for row in found]
        return [pair for pair in pairs if self._first < pair[0] <= self._number]

    async def totals(self, names: Iterable[str]) -> dict[str, int]:
        """The totals of these names. It needs the option ``totals``."""
        assert self.options.totals is not None
        found = self.options.totals()
        if inspect.isawaitable(found):
            found = await found
        known = {str(name): int(total) for total, name in found}
        return {name: known[name] for name in names if name in known}

    async def expect_rows(self, *there: WriteRequest) -> None:
        """Fails unless the store has the records of these requests once each, and no other rows of this promise."""
        if self.options.rows is None:
            return
        expected = Counter(pair for request in there for pair in self.pairs(request))
        actual = Counter(await self.rows())
        if actual == expected:
            return
        missing, surplus = expected - actual, actual - expected
        what = "; ".join(f"{word}: {_few(some)}" for word, some in (("missing", missing), ("more", surplus)) if some)
        raise self.broken(f"{expected.total()} rows, each once", f"{actual.total()} rows; {what}")

    def pairs(self, request: WriteRequest) -> list[tuple[int, str]]:
        """The rows of a request, in the form of ``rows``."""
        return [self._pair(record) for record in request.records]

    def _pair(self, record: Record) -> tuple[int, str]:
        number = next((v for v in record.values.values() if type(v) is int and self._first < v <= self._number), None)
        text = next((v for v in record.values.values() if isinstance(v, str)), "")
        if number is None:
            raise TypeError("record(number, text) must give a Record with both among its values")
        return number, text

    async def expect_letters(self, *requests: WriteRequest) -> None:
        """Fails unless each of these requests has one dead letter. It needs the option ``dead_letters``."""
        if self.options.dead_letters is None:
            return
        found = self.options.dead_letters()
        if inspect.isawaitable(found):
            found = await found
        actual = sorted(request_id for request_id in found if request_id.startswith(self.unique("")))
        self.expect(actual, sorted(request.request_id for request in requests))

    async def is_there(self, request: WriteRequest) -> bool | None:
        """Whether all rows of a request are in the store; None without the option ``rows``."""
        if self.options.rows is None:
            return None
        actual, expected = Counter(await self.rows()), Counter(self.pairs(request))
        some = {pair: actual[pair] for pair in expected}
        if some == dict(expected):
            return True
        if not any(some.values()):
            return False
        raise self.broken("all rows of a request once, or none", f"{some}")


def _few(some: Counter[tuple[int, str]]) -> str:
    shown = ", ".join(f"{number} {text[:40]!r} x{times}" for (number, text), times in list(some.items())[:3])
    return f"{shown}{', ...' if len(some) > 3 else ''}"


def _plain(value: object) -> str:
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
