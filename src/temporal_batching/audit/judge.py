"""Judges what callers were told against what the database holds. Pure: facts in, violations out.

Used by the command, by the simulation, and by the fault tests: all calls with what became of them, the rows, the
ledger. Take the facts when everything is over, attempts that nobody waits for included: "will not be written" is a
promise too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a call came to, as its caller saw it."""

    WRITTEN = "written"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    EXPIRED = "expired"
    NOT_SUBMITTED = "not submitted"
    NOT_CONFIRMED = "not confirmed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """It still waits, or ended before it was told anything: it may be written or not."""


POSITIVE = {Verdict.WRITTEN, Verdict.DUPLICATE}
NEGATIVE = {Verdict.REJECTED, Verdict.EXPIRED, Verdict.NOT_SUBMITTED}


@dataclass(frozen=True)
class Call:
    """One write by one caller: what it asked for, and what it was told.

    Attributes:
        caller: Names the caller; two calls of one caller under one id may get one answer.
        request_id: The idempotency key.
        content: Stands for the records: equal if and only if they are.
        records: How many.
        verdict: What it was told; None if it was never told anything, not even that it waited long enough.
    """

    caller: str
    request_id: str
    content: str
    records: int
    verdict: Verdict | None


@dataclass(frozen=True)
class Row:
    """One record that the database holds, with what it says of where it came from."""

    request_id: str
    content: str
    position: int
    """Of the record in its request."""


@dataclass(frozen=True)
class Arrival:
    """A request that a shard took in, as a request of its own. The order of arrivals is that of time."""

    shard: int
    request_id: str
    key: str


@dataclass(frozen=True)
class Violation:
    rule: str
    request_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.request_id}: {self.detail}"


def audit(
    calls: Sequence[Call], rows: Sequence[Row], ledger: Iterable[str], arrivals: Sequence[Arrival] = ()
) -> list[Violation]:
    """Every promise that was broken.

    Args:
        calls: All of them.
        rows: In the order they were applied.
        ledger: The request ids that it holds as written.
        arrivals: In the order they were accepted; leave out where order was not promised.
    """
    calls_of: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        calls_of[call.request_id].append(call)
    rows_of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        rows_of[row.request_id].append(row)
    return [
        *_ledger_and_rows_agree(set(ledger), rows_of),
        *_rows_are_whole(calls_of, rows_of),
        *_callers_were_told_the_truth(calls_of, rows_of),
        *_order_is_kept(rows, arrivals),
    ]


def _ledger_and_rows_agree(ledger: set[str], rows_of: dict[str, list[Row]]) -> Iterator[Violation]:
    for request_id in ledger - set(rows_of):
        yield Violation("ledger without rows", request_id, "the ledger holds it as written, no row does")
    for request_id in set(rows_of) - ledger:
        yield Violation("rows without ledger", request_id, "it has rows, the ledger does not know it")


def _rows_are_whole(calls_of: dict[str, list[Call]], rows_of: dict[str, list[Row]]) -> Iterator[Violation]:
    for request_id, rows in rows_of.items():
        asked = {call.content: call.records for call in calls_of[request_id]}
        contents = {row.content for row in rows}
        if unknown := contents - set(asked):
            yield Violation("row out of nowhere", request_id, f"nobody asked for {sorted(unknown)}")
            continue
        if len(contents) > 1:
            yield Violation("two requests under one id", request_id, f"{sorted(contents)} were both applied")
            continue
        expected = set(range(asked[rows[0].content]))
        count = Counter(row.position for row in rows)
        if twice := sorted(position for position, times in count.items() if times > 1):
            yield Violation("applied twice", request_id, f"records {twice}")
        if set(count) != expected:
            yield Violation("half a request", request_id, f"records {sorted(count)} of {len(expected)}")


def _callers_were_told_the_truth(calls_of: dict[str, list[Call]], rows_of: dict[str, list[Row]]) -> Iterator[Violation]:
    for request_id, calls in calls_of.items():
        applied = {row.content for row in rows_of.get(request_id, ())}
        # A call that was told nothing certain may have brought a row that others were told nothing of.
        open_to_doubt = {call.content for call in calls if call.verdict not in NEGATIVE}
        for call in calls:
            if call.verdict is None:
                yield Violation("never told", request_id, f"{call.caller} still waits")
            elif call.verdict in POSITIVE and call.content not in applied:
                yield Violation("told written, is not", request_id, f"{call.caller} was told {call.verdict}")
            elif call.verdict in NEGATIVE and call.content in applied - open_to_doubt:
                yield Violation("told not written, is", request_id, f"{call.caller} was told {call.verdict}")
        first = {call.caller for call in calls if call.verdict is Verdict.WRITTEN}
        if len(first) > 1:
            yield Violation("written for two", request_id, f"{sorted(first)} were each told that theirs was the first")


def _order_is_kept(rows: Sequence[Row], arrivals: Sequence[Arrival]) -> Iterator[Violation]:
    """Of two requests with one key in one shard, the first to arrive is the first to be applied.

    A request that arrived more than once may owe its row to any of its arrivals, so only pairs are judged of which
    one is entirely before the other. Pairs that went through different shards promise nothing.
    """
    applied: dict[str, int] = {}
    for position, row in enumerate(rows):
        applied.setdefault(row.request_id, position)
    spans: dict[tuple[int, str], dict[str, Span]] = defaultdict(dict)
    shards: dict[str, set[int]] = defaultdict(set)
    for time, arrival in enumerate(arrivals):
        shards[arrival.request_id].add(arrival.shard)
        if arrival.key and arrival.request_id in applied:
            of_key = spans[arrival.shard, arrival.key]
            known = of_key.get(arrival.request_id)
            first = time if known is None else known.first
            of_key[arrival.request_id] = Span(arrival.request_id, first, time, applied[arrival.request_id])
    for (shard, key), of_key in spans.items():
        only_here = [span for span in of_key.values() if len(shards[span.request_id]) == 1]
        yield from out_of_order(only_here, f"in shard {shard}, key {key!r}")


@dataclass(frozen=True)
class Span:
    """When a request arrived, for the first and for the last time, and when it was applied, in any two measures."""

    request_id: str
    first: Any
    last: Any
    applied: Any


def out_of_order(spans: Sequence[Span], where: str) -> Iterator[Violation]:
    """Requests with one key that were applied before one that had arrived before them; each is named once."""
    waiting = iter(sorted(spans, key=lambda span: span.last))
    arrived = next(waiting, None)
    latest: Span | None = None
    for span in sorted(spans, key=lambda span: span.first):
        while arrived is not None and arrived.last < span.first:
            if latest is None or latest.applied < arrived.applied:
                latest = arrived
            arrived = next(waiting, None)
        if latest is not None and latest.applied > span.applied:
            yield Violation("out of order", span.request_id, f"overtook {latest.request_id} {where}")
