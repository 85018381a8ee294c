"""When the demo lets the writes go: all there, the buffer half full, or held for as long as is safe; never lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import cast

import pytest
from temporalio.client import Client

from temporal_batching import BatcherNotRunning, BatcherStats
from temporal_batching.cli.demo import handover as demo_handover
from temporal_batching.cli.demo.handover import Handover
from temporal_batching.monitoring import NoAnswer
from temporal_batching.settings import load


class Shards:
    """Two shards that answer as the test says, and remember what they were asked to do."""

    def __init__(self) -> None:
        self.pending = (0, 0)
        self.done: list[str] = []
        self.silent = False
        self.deaf = False

    async def read_stats(self, *_: object) -> list[BatcherStats]:
        if self.silent:
            raise NoAnswer("nobody answers")
        return [BatcherStats("main", n, pending=count, outcomes={"written": 1}) for n, count in enumerate(self.pending)]

    async def pause(self) -> None:
        self.done.append("pause")

    async def resume(self) -> None:
        if self.deaf:
            raise BatcherNotRunning("not now")
        self.done.append("resume")

    async def flush(self, *, timeout: timedelta) -> None:
        self.done.append("flush")


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> Shards:
    shards = Shards()
    monkeypatch.setattr(demo_handover, "read_stats", shards.read_stats)
    monkeypatch.setattr(demo_handover, "handle_for", lambda *_: shards)
    return shards


def handover(*, expected: int = 50, hold: bool = True, **settings: object) -> Handover:
    return Handover(cast(Client, None), load(settings), expected=expected, hold=hold)


async def test_held_writes_go_once_all_have_come(shards: Shards) -> None:
    writes = handover()
    await writes.begin()
    for pending in ((0, 0), (24, 23), (24, 24)):
        assert shards.done == ["pause"]
        shards.pending = pending
        await writes.look()
    assert shards.done == ["pause", "resume"]


async def test_a_buffer_half_full_lets_them_go(shards: Shards) -> None:
    writes = handover(expected=5_000, max_pending="1000")
    await writes.begin()
    shards.pending = (499, 499)
    await writes.look()
    assert shards.done == ["pause"]
    shards.pending = (500, 10)
    await writes.look()
    assert shards.done == ["pause", "resume"]


async def test_nothing_is_held_for_longer_than_half_its_confirmation_timeout(shards: Shards) -> None:
    writes = handover(confirmation_timeout="1s")
    await writes.begin()
    async with asyncio.timeout(10):
        while shards.done == ["pause"]:
            await asyncio.sleep(0.05)
            await writes.look()
    assert shards.done == ["pause", "resume"]


async def test_a_batcher_that_does_not_hear_is_asked_again(shards: Shards) -> None:
    writes = handover()
    await writes.begin()
    shards.pending, shards.silent = (24, 24), True
    await writes.look()
    shards.silent, shards.deaf = False, True
    await writes.look()
    assert shards.done == ["pause"]
    shards.deaf = False
    await writes.look()
    assert shards.done == ["pause", "resume"]


async def test_without_a_hold_only_the_rest_is_flushed(shards: Shards) -> None:
    writes = handover(hold=False)
    await writes.begin()
    shards.pending = (24, 23)
    await writes.look()
    assert shards.done == []
    shards.pending = (24, 24)
    await writes.look()
    assert shards.done == ["flush"]
