"""What dies when: drawn from a seed, so that a round can be looked at again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

LOAD_SECONDS = 2.0
LATEST_KILL = 3.0
"""Some die when the load is over, and callers wait for what is under way."""
LONGEST_DOWN = 1.0


class Victim(StrEnum):
    BATCHER = "batcher"
    CALLERS = "callers"
    DATABASE = "database"
    TEMPORAL = "temporal"


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: of whom, how long after the round began, and after how long it is started again."""

    victim: Victim
    at: float
    down: float

    def __str__(self) -> str:
        return f"{self.victim} at {self.at:.1f} s"


@dataclass(frozen=True)
class Round:
    """A round's number, its kills, and the seed of its load."""

    number: int
    seed: str
    kills: tuple[Kill, ...]


def plan(seed: int, number: int, *, server: bool) -> Round:
    """The round of this number; ``server`` says whether the database is a server, which can be killed."""
    name = f"{seed}:{number}"
    dice = random.Random(name)
    candidates = [victim for victim in Victim if server or victim is not Victim.DATABASE]
    count = dice.choices((1, 2, 3), weights=(5, 3, 1))[0]
    kills = [
        Kill(victim, dice.uniform(0.1, LATEST_KILL), dice.uniform(0, LONGEST_DOWN))
        for victim in dice.sample(candidates, count)
    ]
    return Round(number, name, tuple(sorted(kills, key=lambda kill: kill.at)))
