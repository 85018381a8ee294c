"""A sink that keeps every promise, over a store in memory, and the kit's look at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from temporal_batching import (
    Batch,
    Outcome,
    OutcomeKind,
    Record,
    RejectCode,
    Sink,
    WriteRequest,
)
from temporal_batching.contract import ReturnedRow
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.sinks.ledger import digest
from temporal_batching.testing import SinkPromise, check_sink


@dataclass
class Store:
    """What a database would hold, and whether it is away."""

    rows: list[tuple[int, str]] = field(default_factory=list)
    known: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)
    returned: dict[str, list[ReturnedRow | None]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
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

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        await self.trip()
        return [self.fence_one(batch, request, batch.fence_as) for request in batch]

    async def trip(self) -> None:
        await asyncio.sleep(0)
        if self.store.away:
            raise SinkUnavailable("the store is away", in_doubt=False)

    def one(self, batch: Batch, request: WriteRequest, waiting: set[str]) -> Outcome:
        answer = self.known(batch, request)
        if answer is not None:
            return answer
        if self.late(request):
            return self.fence_one(batch, request, OutcomeKind.EXPIRED)
        problem = self.problem(request)
        if problem is not None:
            return problem
        if self.retried(request, waiting):
            waiting.add(request.key or request.request_id)
            return Outcome.retry("locked")
        self.remember(batch, request, "written")
        self.apply(request)
        self.keep_returned(request)
        return Outcome.written(self.returned(request))

    def keep_returned(self, request: WriteRequest) -> None:
        if any(record.returning for record in request.records):
            rows: list[ReturnedRow | None] = [{n: r.values.get(n) for n in r.returning} for r in request.records]
            self.store.returned[request.request_id] = rows

    def returned(self, request: WriteRequest) -> list[ReturnedRow | None] | None:
        return self.store.returned.get(request.request_id)

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        return {i: self.store.returned[i] for i in request_ids if i in self.store.returned}

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
        returned = self.returned(request)
        return Outcome.written(returned) if batch_id == batch.id else Outcome.duplicate(returned)

    def mark(self, request: WriteRequest) -> str:
        return digest(request.records)

    def late(self, request: WriteRequest) -> bool:
        return request.expires_at is not None and request.expires_at <= time.time()

    def problem(self, request: WriteRequest) -> Outcome | None:
        there = {number for number, _ in self.store.rows}
        for record in request.records:
            if record.operation != "delete" and not isinstance(record.values.get("text"), str):
                return Outcome.rejected(RejectCode.TYPE, "not a text")
            if record.operation == "update" and record.values["number"] not in there:
                return Outcome.rejected(RejectCode.MISSING_ROW, "no such row")
        return None

    def retried(self, request: WriteRequest, waiting: set[str]) -> bool:
        busy = any(record.values.get("text") == "busy" for record in request.records)
        return busy or bool(request.key and request.key in waiting)

    def remember(self, batch: Batch, request: WriteRequest, status: str) -> None:
        self.store.known[request.request_id] = (batch.id, status, self.mark(request))

    def apply(self, request: WriteRequest) -> None:
        for record in request.records:
            self.apply_one(record)

    def apply_one(self, record: Record) -> None:
        rows, number = self.store.rows, record.values.get("number", -1)
        if record.table == "check_totals":
            name = record.values["text"]
            self.store.totals[name] = self.store.totals.get(name, 0) + number
        elif record.operation == "insert":
            rows.append((number, record.values["text"]))
        else:
            at = next((at for at, row in enumerate(rows) if row[0] == number), None)
            if at is not None:
                rows[at : at + 1] = [(number, record.values["text"])] if record.operation == "update" else []

    def fence_one(self, batch: Batch, request: WriteRequest, fence_as: OutcomeKind) -> Outcome:
        if self.known(batch, request) is None:
            self.remember(batch, request, fence_as)
        return self.known(batch, request) or Outcome.expired()

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        self.store.letters.update({letter.id: letter.request.request_id for letter in letters})
        return True


def bad(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": None})


def update(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number, "text": text}, operation="update")


def delete(number: int, text: str) -> Record:
    return Record("check_sink", {"number": number}, operation="delete")


def add(number: int, text: str) -> Record:
    return Record("check_totals", {"name": text, "total": number})


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
        returning=["number", "text"],
        update=update,
        delete=delete,
        add=lambda number, text: Record("check_totals", {"number": number, "text": text}),
        totals=lambda: [(total, name) for name, total in store.totals.items()],
    )
