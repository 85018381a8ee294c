"""A few rounds of random kills, on each kind of database: `make soak` plays as many as one likes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import reaper
from tests.faults.processes import Postgres, postgres_server
from tests.soak.plan import LATEST_KILL, LONGEST_DOWN, Victim, plan
from tests.soak.run import Extent, soak


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of this test's own, since it kills it."""
    with reaper.watch() as watching, postgres_server(watching) as server:
        yield server


@pytest.mark.soak
async def test_rounds_of_random_kills_break_no_promise(tmp_path: Path, postgres: Postgres) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    reports = [report async for report in soak(seed, Extent(rounds=3), tmp_path, postgres, per_act=2)]
    print(*reports, sep="\n")
    assert [report.round.number for report in reports] == [1, 2, 3]
    assert {report.dialect for report in reports} == {"postgresql", "sqlite"}
    assert all(report.verdicts["written"] for report in reports)


def test_a_seed_repeats_its_kills_and_another_seed_gives_others() -> None:
    assert plan(7, 3, server=True) == plan(7, 3, server=True)
    assert len({plan(seed, 3, server=True).kills for seed in range(20)}) == 20


def test_over_time_everything_dies_alone_and_together() -> None:
    rounds = [plan(7, number, server=True) for number in range(200)]
    victims = [tuple(sorted(kill.victim for kill in each.kills)) for each in rounds]
    assert {v for each in victims for v in each} == set(Victim)
    assert {len(each) for each in victims} == {1, 2, 3}
    assert all(len(set(each)) == len(each) for each in victims)
    kills = [kill for each in rounds for kill in each.kills]
    assert all(0 < kill.at <= LATEST_KILL and 0 <= kill.down <= LONGEST_DOWN for kill in kills)
    assert not any(kill.victim is Victim.DATABASE for n in range(50) for kill in plan(7, n, server=False).kills)


def test_a_soak_ends_after_its_rounds_or_its_time() -> None:
    assert list(Extent(rounds=3).numbers()) == [1, 2, 3]
    assert list(Extent(rounds=3, seconds=0).numbers()) == []
    assert list(Extent(rounds=2, seconds=60).numbers()) == [1, 2]
