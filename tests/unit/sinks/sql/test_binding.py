"""Plain inserts are bound column by column, to what binding row by row gives; anything else is bound row by row."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import Operation, OutcomeKind, Record, RejectCode, Returned, WriteRequest
from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql import TableRule
from temporal_batching.sinks.sql.arrange import arrange
from temporal_batching.sinks.sql.binding import BoundRequests, bind
from temporal_batching.sinks.sql.database import RowGroup
from temporal_batching.sinks.sql.schema import BoundColumn, BoundTable, SchemaMismatch
from temporal_batching.sinks.sql.values import integer

ALL: set[Operation] = {"insert", "update", "delete"}


def table(name: str, rule: TableRule | None = None) -> BoundTable:
    columns = {n: BoundColumn(name=n, bind=integer(0, 99), plain=True) for n in ("id", "n", "m")}
    return BoundTable(name, sa.Table(name, sa.MetaData()), columns, rule or TableRule())


TABLES = {
    "a": table("a"),
    "b": table("b"),
    "ignore": table("ignore", TableRule(conflict="ignore")),
    "once": table("once", TableRule(conflict="ignore", key=["id"])),
    "upsert": table("upsert", TableRule(conflict="update", key=["id"])),
    "adds": table("adds", TableRule(conflict="add", key=["id"], add=["n"])),
    "changes": table("changes", TableRule(key=["id"], operations=ALL)),
}


def find(name: str) -> BoundTable:
    if name == "unfit":
        raise SinkConfigurationError("it has changed")
    if name not in TABLES:
        raise SchemaMismatch(RejectCode.UNKNOWN_TABLE, f"no table {name}")
    return TABLES[name]


def bound(*requests: list[Record], locks_rows: bool = True) -> BoundRequests:
    batch = Batch([WriteRequest(f"r{n}", records) for n, records in enumerate(requests)])
    return bind(batch, range(len(requests)), find, locks_rows=locks_rows)


def content(groups: list[RowGroup]) -> list[tuple[str, tuple[str, ...], list[list[Any]]]]:
    return [(group.table.name, group.columns, [list(row) for row in group.rows]) for group in groups]


class Adapter:
    null = None
    one_update_per_row = True

    def __init__(self, *, locks_rows: bool = True) -> None:
        self.locks_rows = locks_rows


numbers = st.fixed_dictionaries({"id": st.integers(0, 99), "n": st.integers(0, 99)})
plain = st.sampled_from(["a", "b", "ignore", "changes"]).flatmap(
    lambda name: st.lists(numbers.map(lambda values: Record(name, values)), min_size=1, max_size=3)
)


@given(st.lists(plain, min_size=1, max_size=8))
def test_plain_inserts_become_the_same_statements_by_column_and_by_row(requests: list[list[Record]]) -> None:
    both = bound(*requests)
    assert both.groups is not None
    adapter: Any = Adapter()
    (by_row,) = arrange(both.entries, adapter)
    assert content(both.groups) == content(by_row)
    assert not both.unbindable


upserts = st.sampled_from(["once", "upsert"]).flatmap(lambda name: numbers.map(lambda values: Record(name, values)))


@given(
    st.lists(upserts, min_size=1, max_size=8, unique_by=lambda record: (record.table, record.values["id"])),
    st.booleans(),
)
def test_upserts_of_different_rows_become_the_same_statements_by_column_and_by_row(
    records: list[Record], locks_rows: bool
) -> None:
    both = bound(*([record] for record in records), locks_rows=locks_rows)
    assert both.groups is not None
    adapter: Any = Adapter(locks_rows=locks_rows)
    (by_row,) = arrange(both.entries, adapter)
    assert content(both.groups) == content(by_row)


def test_the_order_of_upserts_is_kept_where_it_can_be_observed() -> None:
    """Of one row, of a request, of the requests of a key."""
    one, same, other = (Record("upsert", {"id": n, "n": 1}) for n in (2, 2, 1))
    assert bound([one], [same]).groups is None
    assert bound([one, other]).groups is None
    assert bound([one], [Record("upsert", {"n": 1})]).groups is None
    keyed = Batch([WriteRequest("r1", [one], "k"), WriteRequest("r2", [other], "k")])
    assert bind(keyed, [0, 1], find, locks_rows=True).groups is None


def test_requests_are_tried_in_their_turn_and_written_in_the_order_of_arrival() -> None:
    batch = Batch([WriteRequest(f"r{n}", [Record("a", {"id": n})]) for n in range(3)])
    both = bind(batch, [2, 0, 1], find, locks_rows=True)
    assert [entry.position for entry in both.entries] == [2, 0, 1]
    assert both.groups is not None
    assert content(both.groups) == [("a", ("id",), [[0], [1], [2]])]
    assert [both.rows_of(position)[0].values for position in range(3)] == [[0], [1], [2]]


@pytest.mark.parametrize(
    "records",
    [
        [Record("a", {"id": 1}, ["id"])],
        [Record("a", {"id": 1}), Record("b", {"id": 1})],
        [Record("a", {"id": 1, "n": 1})],
        [Record("a", {})],
        [Record("upsert", {"n": 1})],
        [Record("adds", {"id": 1, "n": 1})],
        [Record("changes", {"id": 1}, operation="delete")],
    ],
    ids=["returning", "two tables", "other columns", "no columns", "no key", "add", "delete"],
)
def test_what_is_not_plain_is_bound_by_row(records: list[Record]) -> None:
    both = bound([Record("a", {"id": 1})], records)
    assert both.groups is None
    assert not both.unbindable
    assert [len(entry.rows) for entry in both.entries] == [1, len(records)]


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        (Record("a", {"id": -1}), OutcomeKind.REJECTED, "a.id"),
        (Record("a", {"id": Returned(0, "id")}), OutcomeKind.REJECTED, "only to an earlier one"),
        (Record("a", {"nope": 1}), OutcomeKind.REJECTED, "no column"),
        (Record("nope", {"id": 1}), OutcomeKind.REJECTED, "no table"),
        (Record("unfit", {"id": 1}), OutcomeKind.RETRY, "it has changed"),
    ],
)
def test_a_request_that_cannot_be_bound_is_named_and_its_neighbours_are_bound(
    record: Record, kind: OutcomeKind, words: str
) -> None:
    both = bound([Record("a", {"id": 1})], [record], [Record("a", {"id": 2})])
    assert both.groups is None
    assert set(both.unbindable) == {1}
    assert both.unbindable[1].kind is kind
    assert words in (both.unbindable[1].reason or "")
    assert [row.values for entry in both.entries for row in entry.rows] == [[1], [2]]
