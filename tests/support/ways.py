"""A test by every way in: its body runs once for each, at the same time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any

from tests.support.callers import EVERY_WAY_IN, WAYS_IN

Test = Callable[..., Awaitable[None]]


def by_way_in(*ways: str) -> Callable[[Test], Test]:
    """Runs a test's body by several ways in at the same time; most of such a test is waiting.

    The body has the parameter ``way_in``, and a batcher and a sink of its own for each. What one of them raises says by
    which way it came.
    """

    def decorate(test: Test) -> Test:
        parameters = inspect.signature(test).parameters

        @wraps(test)
        async def run(**fixtures: Any) -> None:
            results = await asyncio.gather(
                *(test(way_in=way, **fixtures) for way in ways),
                return_exceptions=True,
            )
            _raise_first(ways, results)

        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter for name, parameter in parameters.items() if name != "way_in"]
        )
        return run

    return decorate


def _raise_first(ways: Sequence[str], results: Sequence[BaseException | None]) -> None:
    failed = [(way, error) for way, error in zip(ways, results, strict=True) if error is not None]
    for way, error in failed:
        error.add_note(f"by way in {way}; failed: {', '.join(name for name, _ in failed)}")
        raise error


by_every_way_in = by_way_in(*WAYS_IN)

by_nexus_too = by_way_in(*EVERY_WAY_IN)
"""What callers receive is the same by Nexus; it costs most, so what does not depend on the way does without it."""
