"""Requests that overtook others are found in one sweep."""

from __future__ import annotations

from temporal_batching.audit.order import ArrivalSpan, find_overtaken


def overtaking(*spans: tuple[str, int, int, int]) -> list[str]:
    return [request_id for request_id, _ in find_overtaken([ArrivalSpan(*span) for span in spans])]


def test_requests_that_were_applied_too_early_are_named_once() -> None:
    assert overtaking(("a", 1, 1, 1), ("b", 2, 2, 1), ("c", 3, 3, 2)) == []
    assert overtaking(("a", 1, 1, 3), ("b", 2, 2, 1), ("c", 3, 3, 2)) == ["b", "c"]


def test_either_arrival_of_a_request_may_be_the_one_that_was_applied() -> None:
    assert overtaking(("a", 1, 5, 3), ("b", 2, 2, 1)) == []


def test_many_requests_take_no_longer_than_sorting_them() -> None:
    assert overtaking(*((f"r{n}", n, n, n) for n in range(100_000))) == []
