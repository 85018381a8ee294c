"""What each request changes besides: it adds to a total, or updates, replaces or deletes the row of its key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any
from zlib import crc32

from temporal_batching import MemorySink, TableRule
from temporal_batching.audit.order import Arrival, spans_by_key
from temporal_batching.audit.row_history import Period, RowWrite, expected_sum, is_sum, judge_row
from temporal_batching.audit.rules import Rule, StoredRecord, Violation
from temporal_batching.contract import JsonObject, Record
from temporal_batching.sinks.ledger import digest

KEYS = ("k1", "k2", "k3", "")
"""The keys of requests. Those without a key are in no order, and share a row as well."""

TOTALS, STATES, MARKS = "totals", "states", "marks"
TABLES = {
    "t": TableRule(),
    TOTALS: TableRule(conflict="add", key=["id"], add=["amount"]),
    STATES: TableRule(key=["id"], operations=["update"]),
    MARKS: TableRule(conflict="update", key=["id"], operations=["insert", "delete"]),
}
"""What is written with a fact. None of it is rejected, so that the outcome of a request is that of its fact."""


def wants_values(content: str) -> bool:
    """Whether the request with this content asks for values."""
    return bool(crc32(content.encode()) % 2)


def change_of(content: str, key: str) -> JsonObject:
    """The record that a request with this content has besides its facts."""
    number = crc32(content.encode()) // 2
    own = {"id": key, "content": content}
    return [
        {"table": TOTALS, "values": {"id": key, "amount": number % 9 + 1}},
        {"table": STATES, "values": own, "operation": "update"},
        {"table": MARKS, "values": own},
        {"table": MARKS, "values": {"id": key}, "operation": "delete"},
    ][number % 4]


def wrong_changes(
    database: MemorySink, rows: Sequence[StoredRecord], arrivals: Sequence[Arrival]
) -> Iterator[Violation]:
    """Judges the rows of each key as an audit does, and the totals that callers received.

    Args:
        database: The database.
        rows: The facts, in the order in which they were applied: it is that of the changes.
        arrivals: The arrivals of requests: they say which order was promised.
    """
    applied = {row.request_id: position for position, row in reversed(list(enumerate(rows)))}
    periods = _periods(arrivals, applied)
    changes: dict[tuple[str, str], list[RowWrite]] = {}
    totals: dict[str, int] = {}
    for request_id, record in sorted(_changes(database).items(), key=lambda one: applied.get(one[0], len(rows))):
        key = record.values["id"]
        found = next((row for row in database.rows.get(record.table, ()) if row["id"] == key), None)
        write = _row_write(request_id, record, periods.get(request_id, Period()), found)
        changes.setdefault((record.table, key), []).append(write)
        if record.table == TOTALS:
            totals[key] = totals.get(key, 0) + record.values["amount"]
            returned = database.ledger[request_id].returned
            if returned is not None and returned[-1] != {"amount": totals[key]}:
                yield Violation("other values", request_id, f"received {returned[-1]}, the total was {totals[key]}")
    for (table, key), writes in changes.items():
        for fault in judge_row(writes, may_be_gone=False, values_known=True):
            yield Violation(fault.rule, fault.request_id, f"{table} {key!r}: {fault.detail}")
        expected = expected_sum(writes, "amount")
        if table == TOTALS and (expected is None or not is_sum(writes[0].found["amount"], expected)):
            yield Violation(Rule.OTHER_SUM, writes[-1].request_id, f"{key!r}: {writes[0].found}, expected {expected}")


def _changes(database: MemorySink) -> dict[str, Record]:
    """The change of each written request."""
    changes: dict[str, Record] = {}
    for batch in database.batches:
        for request in batch:
            entry = database.ledger.get(request.request_id)
            # Another request of the batch may have had the id, and been rejected.
            if entry is not None and entry.status == "written" and entry.digest == digest(request.records):
                changes.setdefault(request.request_id, request.records[-1])
    return changes


def _periods(arrivals: Sequence[Arrival], applied: dict[str, int]) -> dict[str, Period]:
    periods: dict[str, Period] = {}
    for lane, spans in spans_by_key(arrivals, applied):
        for span in spans:
            periods[span.request_id] = Period({lane: span.first}, {lane: span.last})
    return periods


def _row_write(request_id: str, record: Record, period: Period, found: dict[str, Any] | None) -> RowWrite:
    content = record.values.get("content")
    adds = {"amount": Decimal(record.values["amount"])} if record.table == TOTALS else {}
    differs = ["content"] if found is not None and content is not None and found["content"] != content else []
    return RowWrite(
        request_id, 0, period,
        deletes=record.operation == "delete",
        whole=record.operation == "insert",
        sets=["content"] if content is not None else [],
        adds=adds,
        row=record.values["id"] + "." if found is not None else "",
        differs=differs,
        found=found or {"amount": None},
    )  # fmt: skip
