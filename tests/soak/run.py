"""Rounds of random kills for as long as asked, in acts of ten, on PostgreSQL and on SQLite in turn."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import Postgres
from tests.soak.act import RoundReport, act
from tests.soak.plan import plan

ROUNDS_OF_AN_ACT = 10
"""The audit of a round looks at the whole act: longer ones would be audited more than killed."""


@dataclass(frozen=True)
class Extent:
    """How long: until so many rounds are played, or so many seconds are over, whichever is first; None for no bound."""

    rounds: int | None = None
    seconds: float | None = None

    def numbers(self) -> Iterator[int]:
        began = time.monotonic()
        for number in itertools.count(1):
            over = self.seconds is not None and time.monotonic() - began >= self.seconds
            if over or (self.rounds is not None and number > self.rounds):
                return
            yield number


async def soak(
    seed: int, extent: Extent, directory: Path, postgres: Postgres, *, per_act: int = ROUNDS_OF_AN_ACT
) -> AsyncGenerator[RoundReport]:
    """Plays the rounds, and gives a report of each.

    Raises:
        AssertionError: A promise is broken.
    """
    numbers = extent.numbers()
    for scene in itertools.count():
        first = next(numbers, None)
        if first is None:
            return
        server = postgres if scene % 2 == 0 else None
        async with act(directory / f"act-{scene}", server) as playing:
            for number in itertools.chain([first], itertools.islice(numbers, per_act - 1)):
                yield await playing.play(plan(seed, number, server=server is not None))
            await playing.audit_as_operators_do()
