"""Triggers of any kind on some rows of random batches: who is rejected leaves nothing, all others are written once."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from temporal_batching.contract import OutcomeKind, Record, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql import SqlSink

FINE, ABORT, ROLLBACK, FAIL, SLOW = range(5)
REJECTED = (ABORT, ROLLBACK, FAIL)

TABLE = "CREATE TABLE entries (id integer PRIMARY KEY, kind integer)"
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT sum(i) FROM n"


def triggers(when: str) -> list[str]:
    raises = {ABORT: "ABORT", ROLLBACK: "ROLLBACK", FAIL: "FAIL"}
    bodies = {kind: f"SELECT RAISE({word}, '{word}')" for kind, word in raises.items()} | {SLOW: f"SELECT ({ENDLESS})"}
    return [
        f"CREATE TRIGGER poison{kind} {when} INSERT ON entries WHEN new.kind = {kind} BEGIN {body}; END"
        for kind, body in bodies.items()
    ]


def positions_of_slow(count: int) -> st.SearchStrategy[list[int]]:
    """A slow one costs its limit in CPU, in each try: two of them at most, and none in most batches."""
    some = st.lists(st.integers(0, count - 1), max_size=min(2, count - 1), unique=True)
    return st.one_of(st.builds(list[int]), st.builds(list[int]), some)


batches = st.lists(
    st.tuples(st.sampled_from([FINE] * 6 + list(REJECTED)), st.sampled_from(["", "", "a", "b"])),
    min_size=1,
    max_size=24,
).flatmap(lambda kinds: st.tuples(st.just(kinds), positions_of_slow(len(kinds))))


@given(chosen=batches, when=st.sampled_from(["BEFORE", "AFTER"]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_poison_reaches_only_the_requests_that_carry_it(
    chosen: tuple[list[tuple[int, str]], list[int]], when: str
) -> None:
    kinds, slow = chosen
    requests = [
        WriteRequest(f"r{n}", [Record("entries", {"id": n, "kind": SLOW if n in slow else kind})], key=key)
        for n, (kind, key) in enumerate(kinds)
    ]
    held = {r.key for n, r in enumerate(requests) if n in slow} - {""}
    # What has the key of a slow one, and comes after it, waits with it.
    first = {key: min(n for n in slow if requests[n].key == key) for key in held}
    waits = {n for n, r in enumerate(requests) if n in slow or (r.key in first and n > first[r.key])}
    with TemporaryDirectory() as directory:
        file = str(Path(directory) / "test.db")
        connection = sqlite3.connect(file)
        for sql in [TABLE, *triggers(when)]:
            connection.execute(sql)
        outcomes = asyncio.run(_write_until_only(waits, requests, file))
        rows = [row[0] for row in connection.execute("SELECT id FROM entries ORDER BY id")]
        ids = {row[0] for row in connection.execute("SELECT request_id FROM batching_ledger WHERE status = 'written'")}
        connection.close()
    expected = {
        n: OutcomeKind.RETRY if n in waits else OutcomeKind.REJECTED if kind in REJECTED else OutcomeKind.WRITTEN
        for n, (kind, _) in enumerate(kinds)
    }
    assert outcomes == expected
    written = [n for n, kind in expected.items() if kind is OutcomeKind.WRITTEN]
    assert rows == written
    assert ids == {f"r{n}" for n in written}


async def _write_until_only(waits: set[int], requests: list[WriteRequest], file: str) -> dict[int, OutcomeKind]:
    """In a few tries everybody has an outcome but those who wait."""
    sink = SqlSink(f"sqlite:///{file}", statement_timeout=timedelta(milliseconds=600))
    outcomes: dict[int, OutcomeKind] = {}
    left = list(range(len(requests)))
    for attempt in range(4):
        answers = await sink.write(Batch([requests[n] for n in left], id="main-0/1", attempt=attempt))
        outcomes |= {n: answer.kind for n, answer in zip(left, answers, strict=True)}
        left = [n for n in left if outcomes[n] is OutcomeKind.RETRY]
        if set(left) == waits:
            break
    await sink.close()
    return outcomes
