"""A worker goes on announcing until its shards run, whatever an attempt ends with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching import BatchPolicy
from temporal_batching.batcher import announcement
from temporal_batching.batcher.announcement import announce_until_running
from temporal_batching.errors import BatcherNotRunning

Attempt = Callable[[], Awaitable[None]]


def fails(err: Exception) -> Attempt:
    async def attempt() -> None:
        raise err

    return attempt


async def hangs() -> None:
    await asyncio.Event().wait()


async def succeeds() -> None:
    return


class Shards:
    """A batcher with scripted announcements; its shards run after some of those that succeed."""

    name = "main"

    def __init__(self, attempts: Sequence[Attempt], *, started_by: int = 1) -> None:
        self.attempts, self.started_by, self.announced = list(attempts), started_by, 0

    async def announce(self, policy: BatchPolicy) -> None:
        await self.attempts.pop(0)()
        self.announced += 1

    async def all_running(self) -> bool:
        return self.announced >= self.started_by


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLED", "FIRST_PAUSE"):
        monkeypatch.setattr(announcement, name, timedelta(milliseconds=1))
    monkeypatch.setattr(announcement, "LONGEST_ATTEMPT", timedelta(milliseconds=100))


@pytest.mark.parametrize(
    "ends",
    [
        fails(RPCError("unreachable", RPCStatusCode.UNAVAILABLE, b"")),
        fails(BatcherNotRunning("cancelled")),
        fails(WorkflowUpdateFailedError(ApplicationError("completed", type="AcceptedUpdateCompletedWorkflow"))),
        fails(RuntimeError("a mistake of an interceptor")),
        hangs,
    ],
    ids=["rpc", "cancelled", "update-lost", "unexpected", "hangs"],
)
async def test_an_attempt_that_ends_badly_is_followed_by_another(ends: Attempt) -> None:
    shards = Shards([ends, succeeds])
    await asyncio.wait_for(announce_until_running(shards, BatchPolicy()), 10)
    assert (shards.attempts, shards.announced) == ([], 1)


async def test_a_shard_that_ends_after_its_announcement_is_started_again() -> None:
    shards = Shards([succeeds, succeeds], started_by=2)
    await asyncio.wait_for(announce_until_running(shards, BatchPolicy()), 10)
    assert shards.announced == 2


async def test_a_worker_that_stops_ends_the_announcements_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def turns_a_cancellation_into_an_error() -> None:
        try:
            await hangs()
        except asyncio.CancelledError:
            raise RPCError("cancelled", RPCStatusCode.CANCELLED, b"") from None

    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(announce_until_running(Shards([turns_a_cancellation_into_an_error]), BatchPolicy()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=10)
    assert task.done()
    assert not caplog.records
