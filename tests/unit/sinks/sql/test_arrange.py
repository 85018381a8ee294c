"""The statements of a batch, and the order of the rows in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from temporal_batching.contract import Operation, Record
from temporal_batching.sinks.sql import TableRule
from temporal_batching.sinks.sql.arrange import arrange
from temporal_batching.sinks.sql.database import DatabaseAdapter, PreparedRequest
from temporal_batching.sinks.sql.schema import BoundColumn, BoundTable


class Adapter:
    null = None

    def __init__(self, *, locks_rows: bool = True, one_update_per_row: bool = False, shows_many: bool = False) -> None:
        self.locks_rows, self.one_update_per_row, self._shows_many = locks_rows, one_update_per_row, shows_many

    def reads_some(self, table: BoundTable, operation: Operation) -> bool:
        return self._shows_many


def rows(
    rule: TableRule,
    ids: list[Any],
    *,
    keys: Sequence[str] = (),
    locks_rows: bool = True,
    one_update_per_row: bool = False,
) -> list[Any]:
    columns = {n: BoundColumn(name=n, bind=lambda value: value, plain=True, generated=False) for n in ("id", "n")}
    table = BoundTable("t", sa.Table("t", sa.MetaData()), columns, rule)
    requests = [
        PreparedRequest(n, f"r{n}", [], key=keys[n] if keys else "", bound=[table.bind(Record("t", {"id": i, "n": n}))])
        for n, i in enumerate(ids)
    ]
    adapter: Any = Adapter(locks_rows=locks_rows, one_update_per_row=one_update_per_row)
    assert isinstance(DatabaseAdapter.locks_rows, bool)
    (stage,) = arrange(requests, adapter)
    return [[tuple(row) for row in insert.rows] for insert in stage]


UPDATE = TableRule(conflict="update", key=["id"])


@pytest.mark.parametrize("rule", [UPDATE, TableRule(conflict="ignore", key=["id"])], ids=["update", "ignore"])
def test_rows_that_may_meet_others_are_locked_in_the_order_of_their_keys(rule: TableRule) -> None:
    assert rows(rule, [3, 1, 2]) == [[(1, 1), (2, 2), (3, 0)]]


def test_rows_with_one_key_stay_in_the_order_of_arrival() -> None:
    assert rows(UPDATE, [2, 1, 2, 1]) == [[(1, 1), (1, 3), (2, 0), (2, 2)]]
    assert rows(UPDATE, [2, 1, 2, 1], one_update_per_row=True) == [[(1, 1), (2, 0)], [(1, 3), (2, 2)]]


@pytest.mark.parametrize("rule", [TableRule(), TableRule(conflict="ignore")], ids=["error", "ignore without key"])
def test_rows_without_a_key_stay_in_the_order_of_arrival(rule: TableRule) -> None:
    assert rows(rule, [3, 1, 2]) == [[(3, 0), (1, 1), (2, 2)]]


def test_where_one_transaction_writes_at_a_time_rows_stay_in_the_order_of_arrival() -> None:
    assert rows(UPDATE, [3, 1, 2], locks_rows=False) == [[(3, 0), (1, 1), (2, 2)]]


def test_requests_of_one_key_stay_in_order_if_they_name_rows_by_keys_that_the_database_may_take_for_equal() -> None:
    assert rows(UPDATE, ["b", "a", "B"], keys=["k", "other", "k"]) == [[("b", 0), ("a", 1), ("B", 2)]]
    assert rows(UPDATE, ["b", "a", "b"], keys=["k", "other", "k"]) == [[("a", 1), ("b", 0), ("b", 2)]]


# Rows that are read back


def alternating(rule: TableRule, *, shows_many: bool, key: str = "") -> list[Any]:
    """The ids in each statement, where every other row asks for columns, each time for others."""
    columns = {n: BoundColumn(name=n, bind=lambda value: value, plain=True) for n in ("id", "n", "note")}
    table = BoundTable("t", sa.Table("t", sa.MetaData()), columns, rule)
    requests = []
    for n in range(6):
        values = {"id": n, "n": n} if n != 4 else {"id": n, "note": "x"}
        row = table.bind(Record("t", values, [["id"], [], ["id", "n"], []][n % 4]))
        requests.append(PreparedRequest(n, f"r{n}", [], key=key, bound=[row], asks=row.ask is not None))
    adapter: Any = Adapter(shows_many=shows_many)
    (stage,) = arrange(requests, adapter)
    assert all(len(group.asking) in (0, len(group.rows)) for group in stage)
    assert all(len(set(map(len, group.rows))) == 1 for group in stage)
    return [[row[0] for row in group.rows] for group in stage]


def test_rows_that_are_read_share_a_statement_with_those_that_are_not_where_one_statement_shows_many() -> None:
    assert alternating(TableRule(), shows_many=True) == [[0, 1, 2, 3, 4, 5]]
    assert alternating(TableRule(), shows_many=True, key="k") == [[0, 1, 2, 3, 4, 5]]


def test_elsewhere_rows_that_are_not_read_share_one() -> None:
    assert alternating(TableRule(), shows_many=False) == [[0, 2], [1, 3, 5], [4]]


@pytest.mark.parametrize("rule", [TableRule(), TableRule(conflict="ignore")], ids=["one key", "any two may conflict"])
def test_elsewhere_rows_stay_in_the_order_of_arrival_where_it_can_be_observed(rule: TableRule) -> None:
    assert alternating(rule, shows_many=False, key="k" if rule.conflict == "error" else "") == [
        [0],
        [1],
        [2],
        [3],
        [4],
        [5],
    ]
