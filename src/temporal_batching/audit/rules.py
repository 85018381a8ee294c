"""The rules of an audit: pure functions from facts to violations.

The audit of a deployment, the simulation and the fault tests use the same rules. Collect the facts after everything has
ended, including abandoned attempts: "not written" is a promise about the future too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from temporal_batching.audit.order import Arrival, find_overtaken, spans_by_key


class CallResult(StrEnum):
    """How a call ended for its caller."""

    WRITTEN = "written"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    EXPIRED = "expired"
    NOT_SUBMITTED = "not submitted"
    NOT_CONFIRMED = "not confirmed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """The caller still waits, or ended without a result: the request may be written or not."""


POSITIVE = frozenset({CallResult.WRITTEN, CallResult.DUPLICATE})
"""Results that promise that the request is written."""
NEGATIVE = frozenset({CallResult.REJECTED, CallResult.EXPIRED, CallResult.NOT_SUBMITTED})
"""Results that promise that the request is not and will not be written."""


class Rule(StrEnum):
    """The promises that an audit checks, each named by its violation."""

    WRITTEN_BUT_MISSING = "written but missing"
    NOT_WRITTEN_BUT_PRESENT = "not written but present"
    NO_RESULT = "no result"
    CONFIRMED_TWICE = "confirmed twice as written"
    OTHER_BATCH = "confirmed with another batch"
    LEDGER_WITHOUT_ROWS = "ledger without rows"
    ROWS_WITHOUT_LEDGER = "rows without ledger"
    OTHER_OUTCOME = "ledger has another outcome"
    UNEXPECTED_LEDGER_ID = "unexpected ledger id"
    UNEXPECTED_ROW = "unexpected row"
    APPLIED_TWICE = "applied twice"
    INCOMPLETE = "incomplete request"
    MIXED_CONTENTS = "two requests under one id"
    OTHER_VALUES = "other values"
    DELETED_BUT_PRESENT = "deleted but present"
    OTHER_SUM = "other sum"
    OTHER_RETURNED = "other returned values"
    OUT_OF_ORDER = "out of order"


@dataclass(frozen=True)
class Call:
    """A write of a caller, and its result.

    Attributes:
        caller: The caller; two calls of one caller under one id may share one result.
        request_id: The idempotency key.
        content: Identifies the records: equal if and only if the records are.
        records: The number of records.
        result: How the call ended; None if it has no result at all, not even a timeout.
    """

    caller: str
    request_id: str
    content: str
    records: int
    result: CallResult | None


@dataclass(frozen=True)
class StoredRecord:
    """A record in the database.

    Attributes:
        request_id: The record's request.
        content: Identifies the records of the request, as in `Call`.
        position: The position of the record in its request.
    """

    request_id: str
    content: str
    position: int


@dataclass(frozen=True)
class Violation:
    """A broken promise.

    Attributes:
        rule: The rule that was violated.
        request_id: The request; empty for a row that belongs to no request.
        detail: What was found. It has ids, tables and columns, never values.
    """

    rule: str
    request_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.request_id}: {self.detail}"


def find_violations(
    calls: Sequence[Call],
    records: Sequence[StoredRecord],
    ledger: Iterable[str],
    arrivals: Sequence[Arrival] = (),
) -> list[Violation]:
    """Finds the broken promises.

    Args:
        calls: All calls.
        records: The records in the database, in the order in which they were applied.
        ledger: The request ids that the ledger has as written.
        arrivals: The arrivals in the order in which they were accepted; empty if no order was promised.

    Returns:
        The violations.
    """
    calls_by_id: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        calls_by_id[call.request_id].append(call)
    records_by_id: dict[str, list[StoredRecord]] = defaultdict(list)
    for record in records:
        records_by_id[record.request_id].append(record)
    return [
        *_compare_ledger_with_rows(set(ledger), records_by_id),
        *_check_complete(calls_by_id, records_by_id),
        *_check_results(calls_by_id, records_by_id),
        *_check_order(records, arrivals),
    ]


def _compare_ledger_with_rows(ledger: set[str], records_by_id: Mapping[str, list[StoredRecord]]) -> Iterator[Violation]:
    for request_id in ledger - set(records_by_id):
        yield Violation(Rule.LEDGER_WITHOUT_ROWS, request_id, "the ledger holds it as written, no row does")
    for request_id in set(records_by_id) - ledger:
        yield Violation(Rule.ROWS_WITHOUT_LEDGER, request_id, "it has rows, the ledger does not know it")


def _check_complete(
    calls_by_id: Mapping[str, list[Call]], records_by_id: Mapping[str, list[StoredRecord]]
) -> Iterator[Violation]:
    for request_id, records in records_by_id.items():
        asked = {call.content: call.records for call in calls_by_id.get(request_id, ())}
        contents = {record.content for record in records}
        if unknown := contents - set(asked):
            yield Violation(Rule.UNEXPECTED_ROW, request_id, f"no call asked for {sorted(unknown)}")
            continue
        if len(contents) > 1:
            yield Violation(Rule.MIXED_CONTENTS, request_id, f"{sorted(contents)} were both applied")
            continue
        expected = set(range(asked[records[0].content]))
        count = Counter(record.position for record in records)
        if repeated := sorted(position for position, times in count.items() if times > 1):
            yield Violation(Rule.APPLIED_TWICE, request_id, f"records {repeated}")
        if set(count) != expected:
            yield Violation(Rule.INCOMPLETE, request_id, f"records {sorted(count)} of {len(expected)}")


def _check_results(
    calls_by_id: Mapping[str, list[Call]], records_by_id: Mapping[str, list[StoredRecord]]
) -> Iterator[Violation]:
    for request_id, calls in calls_by_id.items():
        applied = {record.content for record in records_by_id.get(request_id, ())}
        # A call without a certain result may have written the row.
        in_doubt = {call.content for call in calls if call.result not in NEGATIVE}
        for call in calls:
            if call.result is None:
                yield Violation(Rule.NO_RESULT, request_id, f"{call.caller} still waits")
            elif call.result in POSITIVE and call.content not in applied:
                yield Violation(Rule.WRITTEN_BUT_MISSING, request_id, f"{call.caller} got {call.result}")
            elif call.result in NEGATIVE and call.content in applied - in_doubt:
                yield Violation(Rule.NOT_WRITTEN_BUT_PRESENT, request_id, f"{call.caller} got {call.result}")
        first = {call.caller for call in calls if call.result is CallResult.WRITTEN}
        if len(first) > 1:
            yield Violation(Rule.CONFIRMED_TWICE, request_id, f"{sorted(first)} each got written, not duplicate")


def _check_order(records: Sequence[StoredRecord], arrivals: Sequence[Arrival]) -> Iterator[Violation]:
    """Of two requests with one key in one shard, the one that arrived first is applied first."""
    applied: dict[str, int] = {}
    for position, record in enumerate(records):
        applied.setdefault(record.request_id, position)
    for (shard, key), spans in spans_by_key(arrivals, applied):
        for overtaking, overtaken in find_overtaken(spans):
            detail = f"overtook {overtaken} in shard {shard}, key {key!r}"
            yield Violation(Rule.OUT_OF_ORDER, overtaking, detail)


def check_tombstone(request_id: str, status: str, results: Collection[CallResult]) -> Iterator[Violation]:
    """Checks that the status of a tombstone in the ledger is the outcome that a caller got.

    Args:
        request_id: The request.
        status: The status in the ledger: ``rejected`` or ``expired``.
        results: The results of all calls under this id.
    """
    # The tombstone may be for a caller without an outcome; a caller that got `written` violates other rules.
    if results and {CallResult.REJECTED, CallResult.EXPIRED}.issuperset(results) and status not in results:
        outcomes = ", ".join(sorted(set(results)))
        yield Violation(Rule.OTHER_OUTCOME, request_id, f"the ledger says {status}, its callers got {outcomes}")
