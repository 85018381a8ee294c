"""What is meant to exhaust costs its sender a refusal, and everybody else a moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from temporal_batching.contract import JsonObject, Record, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.submission import read_submission
from tests.support.databases import TestDatabase

MILLION = 1_000_000
MOMENT = 5.0
"""Seconds that no request may take: far more than any needs, far less than what grows with its square."""


def nested(levels: int, inside: Any = 0) -> Any:
    for _ in range(levels):
        inside = [inside]
    return inside


def wire(**changes: Any) -> JsonObject:
    return {"request_id": "r", "records": [{"table": "t", "values": {"v": 1}}], **changes}


def record(values: Any, table: str = "t") -> JsonObject:
    return {"table": table, "values": values}


REQUESTS = {
    "id": wire(request_id="r" * MILLION),
    "key": wire(key="k" * MILLION),
    "table": wire(records=[record({"v": 1}, "t" * MILLION)]),
    "column": wire(records=[record({"c" * MILLION: 1})]),
    "value": wire(records=[record({"v": "x" * 2 * MILLION})]),
    "depth": wire(records=[record({"v": nested(100_000)})]),
    "columns": wire(records=[record({f"c{n}": n for n in range(200_000)})]),
    "records": wire(records=[record({"v": 1})] * 100_000),
    "digits": wire(records=[record({"v": 10**5_000})]),
    "replies": wire(reply_to=[{"workflow_id": f"w{n}"} for n in range(5_000)]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_too_large_in_any_way_is_refused_before_it_is_accepted(name: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidRequest) as refused:
        read_submission(REQUESTS[name])
    assert time.monotonic() - began < MOMENT
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("value", [nested(100_000), 10**5_000, "x" * 2 * MILLION], ids=["depth", "digits", "length"])
def test_a_write_too_large_is_refused_before_it_leaves_its_sender(value: Any) -> None:
    request = WriteRequest("r", [Record("t", {"v": value})])
    with pytest.raises(InvalidRequest):
        read_submission(encode_request(request))


LONG: dict[str, Any] = {
    "i": "9" * MILLION,
    "n": "9" * MILLION,
    "f": "1" * MILLION + "e9",
    "at": "2026-01-31T12:00:00." + "0" * MILLION,
    "u": "a" * MILLION,
    "b": "=" * MILLION,
    "d": "1" * MILLION,
    "v": "x" * MILLION,
}
DEEP: dict[str, Any] = {
    "n": "1e999999",
    "j": nested(900, "x"),
    "a": nested(900, 1),
    "i": {"a": nested(900)},
}
COLUMNS = {
    "i": "integer",
    "n": "numeric(20, 2)",
    "f": "double precision",
    "at": "timestamp",
    "b": "bytea",
    "d": "date",
    "u": "uuid",
    "v": "varchar(20)",
    "j": "json",
}


async def test_values_made_to_be_slow_are_answered_soon_and_their_neighbours_written(database: TestDatabase) -> None:
    columns = {**COLUMNS, "a": "integer[]"} if database.dialect == "postgresql" else COLUMNS
    database.execute(f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
    requests = [
        WriteRequest(f"{shape}-{column}", [Record("t", {column: value})])
        for shape, values in (("long", LONG), ("deep", DEEP))
        for column, value in values.items()
    ]
    good = [WriteRequest(f"good-{n}", [Record("t", {"i": n})]) for n in range(3)]
    sink = database.sink()
    await sink.open()
    async with asyncio.timeout(len(requests) * MOMENT):
        outcomes = await sink.write(Batch([*requests, *good], id="main-0/1"))
    results = {request.request_id: outcome for request, outcome in zip([*requests, *good], outcomes, strict=True)}
    assert [results[request.request_id].kind.value for request in good] == ["written"] * 3
    assert all(len(outcome.reason or "") <= 500 for outcome in outcomes)
    stored = {name for name, outcome in results.items() if outcome.kind.value == "written"}
    # Digits past microseconds are cut off, SQLite enforces no lengths, and a document may be deep.
    assert stored - {request.request_id for request in good} <= {"long-at", "long-v", "deep-j"}


async def test_names_that_no_table_has_do_not_pile_up(sqlite: TestDatabase) -> None:
    sqlite.execute("CREATE TABLE t (v integer)")
    sink = sqlite.sink()
    await sink.open()
    requests = [WriteRequest(f"t{n}", [Record(f"nowhere{n}", {"v": 1})]) for n in range(1_000)]
    requests += [WriteRequest(f"c{n}", [Record("t", {f"c{n}": 1})]) for n in range(1_000)]
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert {outcome.kind.value for outcome in outcomes} == {"rejected"}
    assert len(sink.catalog) <= 1
    assert len(sink.catalog.get("t").plans) <= 1
