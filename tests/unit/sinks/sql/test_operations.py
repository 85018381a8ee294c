"""Updates, deletes and additions in random batches come to what they come to one by one, on SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from temporal_batching.contract import WriteRequest
from temporal_batching.sinks.sql import SqlSink
from temporal_batching.sinks.sql.sqlite_changes import NotExact, add
from tests.support.operations import RULES, TABLES, batches, check_batches


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database without syncing to disk."""
    path = tmp_path_factory.mktemp("operations") / "test.db"
    with sqlite3.connect(path) as connection:
        for statement in TABLES.split(";;"):
            connection.execute(statement)
    yield path
    connection.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(batches())
def test_batches_come_to_what_their_operations_come_to_one_by_one(file: Path, made: list[list[WriteRequest]]) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    for table in ("rows_", "sums"):
        connection.execute(f"DELETE FROM {table}")
    sink = SqlSink(f"sqlite:///{file}", tables=RULES)
    connection.execute("DROP TABLE IF EXISTS batching_ledger")
    try:
        asyncio.run(check_batches(sink, made, lambda sql: connection.execute(sql).fetchall()))
    finally:
        asyncio.run(sink.close())
        connection.close()


@given(st.lists(st.decimals(-10_000, 10_000, places=3), min_size=1, max_size=50))
def test_sqlite_adds_decimals_exactly(terms: list[Decimal]) -> None:
    total: int | float = 0
    for term in terms:
        total = add(total, int(term) if term == term.to_integral_value() else float(term), "exact")
    assert Decimal(repr(total)) == sum(terms)


@pytest.mark.parametrize(
    ("one", "other", "kind", "words"),
    [
        (2**63 - 1, 1, "integer", "the sum is not from"),
        (-(2**63), -1, "exact", "the sum is not from"),
        (1.5, 1, "integer", "no whole number"),
        ("7", 1, "integer", "no number"),
        (1e14, 0.0001, "exact", "more than 15 digits"),
        (1e308, 1e308, "double", "out of the range"),
        (float("inf"), 1, "exact", "no decimal number"),
    ],
)
def test_a_sum_that_sqlite_would_round_is_refused(one: float, other: float, kind: str, words: str) -> None:
    with pytest.raises(NotExact, match=words):
        add(one, other, kind)
