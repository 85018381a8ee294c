"""Isolates the items of a query that the database rejects, so that the others are looked up nevertheless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

VALUE_ERRORS = (OverflowError, UnicodeError)
"""What a driver raises for a value that it cannot send."""

Item = TypeVar("Item")
Found = TypeVar("Found")


class Refused(Exception):
    """The database rejected a query because of a value in it; the message says why, without values."""


class Isolated(Generic[Found]):
    """The result for one item.

    Attributes:
        found: What was found; None if it could not be looked up.
        reason: Why it could not be looked up.
    """

    __slots__ = ("found", "reason")

    def __init__(self, found: Found | None, reason: str = "") -> None:
        self.found = found
        self.reason = reason


def look_up_each(items: Sequence[Item], query: Callable[[Sequence[Item]], Sequence[Found]]) -> list[Isolated[Found]]:
    """Looks all items up with few queries. An item that the database rejects does not affect the others.

    A query that is rejected is repeated for each half of its items: one rejected item among n costs 2 log2(n) queries.

    Args:
        items: The items to look up.
        query: Looks some items up together, and returns what it found for each. It raises `Refused` if an item is at
            fault; any other exception ends the look-up.

    Returns:
        The result for each item.
    """
    if not items:
        return []
    try:
        return [Isolated(found) for found in query(items)]
    except Refused as refused:
        if len(items) == 1:
            return [Isolated(None, str(refused))]
    half = len(items) // 2
    return [*look_up_each(items[:half], query), *look_up_each(items[half:], query)]
