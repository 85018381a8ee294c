"""One item that the database refuses costs only itself, and few queries."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from temporal_batching.audit.isolate import Refused, look_up_each


class Database:
    def __init__(self, *refused: int) -> None:
        self.refused = set(refused)
        self.queries = 0

    def query(self, items: Sequence[int]) -> list[int]:
        self.queries += 1
        if self.refused & set(items):
            raise Refused("no such value")
        return [item * 10 for item in items]


def test_without_refusals_one_query_is_enough() -> None:
    database = Database()
    assert [one.found for one in look_up_each(range(500), database.query)] == [n * 10 for n in range(500)]
    assert database.queries == 1
    assert look_up_each([], database.query) == []


@pytest.mark.parametrize("refused", [0, 77, 499])
def test_a_refused_item_is_isolated_in_few_queries(refused: int) -> None:
    database = Database(refused)
    found = look_up_each(range(500), database.query)
    assert [n for n, one in enumerate(found) if one.found is None] == [refused]
    assert found[refused].reason == "no such value"
    assert database.queries <= 19


def test_whatever_else_is_raised_ends_the_look_up() -> None:
    def query(_: Sequence[int]) -> list[int]:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        look_up_each([1, 2], query)
