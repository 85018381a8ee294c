"""What a worker does once for its shards: starts those that do not run, and announces its policy to those that do."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Protocol

from temporalio.service import RPCError

from temporal_batching.errors import BatcherNotRunning
from temporal_batching.policy import BatchPolicy

logger = logging.getLogger(__name__)

SETTLED = timedelta(seconds=5)
"""From an announcement until its shards are looked at: one that takes it in the same task as its cancellation ends all
the same, and has to be started again."""

LONGEST_ATTEMPT = timedelta(minutes=2)
"""An update has no time limit of its own: one that got lost must not keep a worker from starting its shards."""

FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=500), timedelta(seconds=30)
"""Between two attempts; each is twice the one before."""


class Announcer(Protocol):
    """What is needed of `BatcherHandle`."""

    @property
    def name(self) -> str:
        """The batcher's name."""

    async def announce(self, policy: BatchPolicy) -> None:
        """Starts every shard with these limits, or tells them to the ones that run."""

    async def all_running(self) -> bool:
        """Whether every shard runs."""


async def announce_until_running(batcher: Announcer, policy: BatchPolicy) -> None:
    """Announces a policy until every shard has it and runs. No failure ends it: an idle shard would not run."""
    pause = FIRST_PAUSE
    while True:
        try:
            async with asyncio.timeout(LONGEST_ATTEMPT.total_seconds()):
                await batcher.announce(policy)
                await asyncio.sleep(SETTLED.total_seconds())
                if await batcher.all_running():
                    return
        except Exception as err:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the SDK's update makes an error of its own of a cancellation
                return
            expected = isinstance(err, RPCError | BatcherNotRunning)
            logger.warning(
                "The shards of %r could not be started yet: %s",
                batcher.name,
                err if str(err) else type(err).__name__,
                exc_info=None if expected else err,
            )
        await asyncio.sleep(pause.total_seconds())
        pause = min(LONGEST_PAUSE, pause * 2)
