"""A worker of the current version brings every shard to it, and one of another version leaves them alone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from temporalio.common import WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching import BatchPolicy
from temporal_batching.batcher import rollout
from temporal_batching.batcher.rollout import FIRST_PAUSE, LONGEST_PAUSE, LOOK_INTERVAL, Rollout
from temporal_batching.batcher.versions import Routing, ShardVersion
from tests.support.waiting import assert_eventually

V1, V2 = WorkerDeploymentVersion("batcher", "v1"), WorkerDeploymentVersion("batcher", "v2")
ON_1, ON_2 = ShardVersion(V1, pinned=True), ShardVersion(V2, pinned=True)
BOTH = frozenset({V1, V2})


@dataclass
class Shards:
    """A batcher in memory. A shard that is told goes to the current version, unless something holds it back."""

    now: Routing
    runs: dict[int, ShardVersion | None]
    name: str = "main"
    stubborn: bool = False
    silent: set[int] = field(default_factory=set)
    announced: list[tuple[int, float | None]] = field(default_factory=list)
    told: list[tuple[int, float]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    looks: int = 0
    latest: float = 0.0

    @property
    def shards(self) -> int:
        return len(self.runs)

    async def routing(self) -> Routing:
        if self.failures:
            raise self.failures.pop(0)
        return self.now

    async def last_change(self, deployment_name: str) -> float:
        assert deployment_name == "batcher"
        self.latest = max(self.latest, self.now.changed_at)
        return self.latest

    async def version_of(self, shard: int) -> ShardVersion | None:
        self.looks += 1
        return self.runs[shard]

    async def announce_to(self, shard: int, policy: BatchPolicy, *, routed_at: float | None = None) -> None:
        await self._receive(shard)
        self.announced.append((shard, routed_at))

    async def tell_routing(self, shard: int, routed_at: float) -> None:
        await self._receive(shard)
        self.told.append((shard, routed_at))

    async def _receive(self, shard: int) -> None:
        if shard in self.silent:
            await asyncio.Event().wait()
        found = self.runs[shard]
        if not self.stubborn and not (found is not None and found.override):
            self.runs[shard] = ShardVersion(self.now.current, pinned=self.now.current is not None)


def current(version: WorkerDeploymentVersion | None, changed_at: float = 1.0, polled_by: object = BOTH) -> Routing:
    return Routing(version, changed_at=changed_at, polled_by=polled_by)  # type: ignore[arg-type]


def rolling(shards: Shards, version: WorkerDeploymentVersion = V2, *, starts: bool = True) -> Rollout:
    return Rollout(shards, version, BatchPolicy() if starts else None)


async def until_quiet(worker: Rollout) -> None:
    for _ in range(10):
        if await worker.step() == LOOK_INTERVAL:
            return
    raise AssertionError("it goes on")


async def test_a_worker_of_the_current_version_brings_over_starts_and_tells_every_shard_once() -> None:
    shards = Shards(current(V2, 7.0), {0: ON_1, 1: ON_2, 2: None, 3: ShardVersion()})
    worker = rolling(shards)
    await until_quiet(worker)
    assert set(shards.runs.values()) == {ON_2}
    assert sorted(shards.announced) == [(shard, 7.0) for shard in range(4)]
    looks = shards.looks
    await until_quiet(worker)
    assert len(shards.announced) == 4, "an update is an action"
    assert shards.looks == looks, "the routing alone is looked at from now on"


async def test_a_version_that_becomes_current_again_announces_its_policy_to_shards_that_are_there_already() -> None:
    shards = Shards(current(V2, 1.0), {0: ON_2})
    worker = rolling(shards)
    await until_quiet(worker)
    shards.now = current(V1, 2.0)
    await until_quiet(worker)
    shards.now = current(V2, 3.0)  # before any worker of the other version has looked at it
    await until_quiet(worker)
    assert shards.announced == [(0, 1.0), (0, 3.0)]


async def test_a_worker_of_another_version_announces_no_policy_and_moves_no_shard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards = Shards(current(V1), {0: ON_1, 1: None})
    with caplog.at_level(logging.INFO):
        await until_quiet(rolling(shards))
    assert (shards.announced, shards.told) == ([], [])
    assert "Version batcher.v1 is current: this worker, of version batcher.v2, takes only" in caplog.text


async def test_before_any_version_is_current_a_worker_says_that_it_takes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards = Shards(Routing(polled_by=frozenset({V2})), {0: None})
    worker = rolling(shards)
    for _ in range(3):
        assert await worker.step() == LOOK_INTERVAL
    assert shards.announced == []
    (only,) = caplog.records
    assert only.levelno == logging.WARNING
    command = "temporal worker deployment set-current-version --deployment-name batcher --build-id v2"
    assert f"takes nothing before. To make it current: `{command}`" in only.getMessage()
    shards.now = current(V2)
    await until_quiet(worker)
    assert shards.runs == {0: ON_2}


async def test_there_and_back_and_there_again() -> None:
    shards = Shards(current(V1, 1.0), {0: ON_1})
    one, two = rolling(shards, V1), rolling(shards, V2)
    for version, changed_at in ((V2, 2.0), (V1, 3.0), (V2, 4.0)):
        shards.now = current(version, changed_at)
        for worker in (one, two):
            await until_quiet(worker)
        assert shards.runs[0] == ShardVersion(version, pinned=True)
    assert [changed_at for _, changed_at in shards.announced] == [2.0, 3.0, 4.0]


async def test_a_ramp_moves_a_part_of_the_shards_and_takes_them_back() -> None:
    """The queue's own time goes back then, and what a shard is told must not: it would be late."""
    shards = Shards(Routing(V1, frozenset({V2}), 5.0, BOTH), {0: ON_1, 1: ON_2})
    shards.stubborn = True
    worker = rolling(shards, V1)
    await until_quiet(worker)
    assert shards.announced == [(0, 5.0), (1, 5.0)]
    shards.latest, shards.stubborn, shards.now = 6.0, False, current(V1, 1.0)
    await until_quiet(worker)
    assert shards.announced[2:] == [(0, 6.0), (1, 6.0)]
    assert shards.runs == {0: ON_1, 1: ON_1}


async def test_a_shard_that_stays_is_told_again_with_growing_pauses() -> None:
    shards = Shards(current(V2), {0: ON_1}, stubborn=True)
    worker = rolling(shards)
    pauses = [await worker.step() for _ in range(8)]
    assert pauses[:2] == [FIRST_PAUSE, FIRST_PAUSE * 2]
    assert pauses[-1] == LONGEST_PAUSE
    assert len(shards.announced) == 8


async def test_a_shard_under_an_override_is_left_to_the_operator_until_it_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards = Shards(current(V2, 7.0), {0: ShardVersion(V1, pinned=True, override="pinned"), 1: ON_1})
    worker = rolling(shards)
    for _ in range(4):
        await worker.step()
    assert shards.runs[1] == ON_2
    assert {routed_at for shard, routed_at in shards.announced if shard == 0} == {None}, "it would try in vain"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "--versioning-override-behavior unspecified" in warnings[0]
    shards.runs[0] = ON_1
    await until_quiet(worker)
    assert shards.runs[0] == ON_2


async def test_a_shard_whose_workers_are_gone_is_named_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rollout, "LONGEST_TELLING", timedelta(milliseconds=20))
    shards = Shards(current(V2), {0: ON_1, 1: ON_1}, silent={0})
    worker = rolling(shards)
    for _ in range(3):
        assert await worker.step() < LOOK_INTERVAL
    assert shards.runs[1] == ON_2
    (only,) = caplog.records
    assert "batcher-main-0 is pinned to version batcher.v1, and no worker of it answers" in only.getMessage()


async def test_a_worker_that_starts_no_shards_tells_those_that_run() -> None:
    shards = Shards(current(V2, 7.0), {0: ON_1, 1: None})
    await until_quiet(rolling(shards, starts=False))
    assert (shards.told, shards.announced, shards.runs) == ([(0, 7.0)], [], {0: ON_2, 1: None})


async def test_back_to_workers_without_a_version_which_cannot_see_that_they_are_meant() -> None:
    shards = Shards(current(None, 9.0, {V2}), {0: ON_2})
    worker = rolling(shards)
    await until_quiet(worker)
    assert shards.told == [], "there is nobody to take it"
    shards.now = current(None, 9.0, {V2, None})
    await until_quiet(worker)
    assert (shards.told, shards.announced, shards.runs) == ([(0, 9.0)], [], {0: ShardVersion()})


async def test_no_failure_ends_it_and_one_that_lasts_is_stated_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rollout, "LOOK_INTERVAL", timedelta(milliseconds=1))
    monkeypatch.setattr(rollout, "FIRST_PAUSE", timedelta(milliseconds=1))
    denied = [RPCError("no right to describe it", RPCStatusCode.PERMISSION_DENIED, b"") for _ in range(3)]
    shards = Shards(current(V2), {0: ON_1}, failures=[*denied, RuntimeError("a mistake of an interceptor")])
    task = asyncio.create_task(rolling(shards).run())

    async def there() -> None:
        assert shards.runs[0] == ON_2

    await assert_eventually(there)
    task.cancel()
    await asyncio.wait([task])
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("no right" in text, "a mistake" in text) for text in texts] == [(True, False), (False, True)]
