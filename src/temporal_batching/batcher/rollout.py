"""What a worker with a version does for its shards: it waits until it is current, then brings every shard to it.

The worker looks at the routing of its task queue at an interval, so it also learns of a version that becomes current
while it runs, and of one that becomes current again. Only workers of the current version act. So no shard is told to
leave a version that has workers for one that has none, and a policy of a version that is not current reaches no shard.
A look is a request and no action; an update, which starts a shard or tells it, is one.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Protocol

from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import WorkerDeploymentVersion
from temporalio.service import RPCError

from temporal_batching.batcher.versions import (
    Routing,
    ShardVersion,
    gone_too_early,
    held_by_override,
    make_current,
    name_of,
)
from temporal_batching.errors import BatcherNotRunning
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id

logger = logging.getLogger(__name__)

LOOK_INTERVAL = timedelta(seconds=10)
"""Between two looks at the routing: 8,640 requests a day for each worker, and no action. So long a version that has
become current may take until it serves."""

FIRST_PAUSE = timedelta(seconds=1)
"""Until the next look at shards that were told: Temporal begins no more than one run of a workflow in a second. Each
further pause is twice the one before, up to `LONGEST_PAUSE`."""

LONGEST_PAUSE = timedelta(seconds=30)

LONGEST_TELLING = timedelta(seconds=30)
"""An update has no time limit of its own, and a shard whose workers are gone answers none."""


class VersionedShards(Protocol):
    """What is needed of `BatcherHandle`."""

    @property
    def name(self) -> str:
        """The batcher's name."""

    @property
    def shards(self) -> int:
        """How many shards it has."""

    async def routing(self) -> Routing:
        """Where Temporal sends the tasks of the batcher's task queue."""

    async def last_change(self, deployment_name: str) -> float:
        """When the routing of a worker deployment changed last."""

    async def version_of(self, shard: int) -> ShardVersion | None:
        """Which version runs a shard; None if the shard does not run."""

    async def announce_to(self, shard: int, policy: BatchPolicy, *, routed_at: float | None = None) -> None:
        """Starts a shard with these limits, or tells it of them and of the routing."""

    async def tell_routing(self, shard: int, routed_at: float) -> None:
        """Tells a shard that runs of the routing."""


class Rollout:
    """Brings the shards of a batcher to the version of this worker, whenever that one is current.

    Args:
        shards: The batcher.
        version: This worker's.
        policy: What it announces to the shards, which it starts as well; None for a worker that starts none.
    """

    def __init__(self, shards: VersionedShards, version: WorkerDeploymentVersion, policy: BatchPolicy | None) -> None:
        self._shards = shards
        self._version = version
        self._policy = policy
        self._routing: Routing | None = None
        self._told: set[int] = set()
        self._complained: set[int] = set()
        self._done = False
        self._pause = FIRST_PAUSE
        self._problem = ""
        self._routed_at = 0.0

    async def run(self) -> None:
        """Goes on until it is cancelled. No failure ends it."""
        while True:
            pause = LOOK_INTERVAL
            try:
                pause = await self.step()
                self._problem = ""
            except Exception as err:
                if _is_cancelled():  # the SDK's update makes an error of its own of a cancellation
                    return
                if _text(err) != self._problem:  # stated once: a right that is missing stays missing
                    self._problem = _text(err)
                    logger.warning(
                        "Which version serves %r is not known, so its shards are not started: %s",
                        self._shards.name,
                        self._problem,
                        exc_info=None if isinstance(err, RPCError) else err,
                    )
            await asyncio.sleep(pause.total_seconds())

    async def step(self) -> timedelta:
        """Looks once, and tells the shards that have to be told.

        Returns:
            How long to wait until the next look.
        """
        routing = await self._shards.routing()
        if self._routing is None or _what_counts(routing) != _what_counts(self._routing):
            self._routed_at = max(routing.changed_at, await self._shards.last_change(self._version.deployment_name))
            self._told, self._complained, self._done, self._pause = set(), set(), False, FIRST_PAUSE
            self._report(routing)
        self._routing = routing
        if self._done or not self._acts(routing):
            return LOOK_INTERVAL
        there = await asyncio.gather(*(self._bring(shard, routing) for shard in range(self._shards.shards)))
        if all(there):
            self._done = True
            logger.info("Every shard of %r is run by %s", self._shards.name, name_of(routing.current))
            return LOOK_INTERVAL
        pause, self._pause = self._pause, min(LONGEST_PAUSE, self._pause * 2)
        return pause

    def _acts(self, routing: Routing) -> bool:
        if routing.current is None:  # set back to workers without a version, which cannot see that they are meant
            return routing.changed_at > 0 and None in routing.polled_by
        return routing.current == self._version

    async def _bring(self, shard: int, routing: Routing) -> bool:
        """Does what is to be done for one shard, and returns whether there is nothing left to do."""
        found: ShardVersion | None = None
        try:
            async with asyncio.timeout(LONGEST_TELLING.total_seconds()):
                found = await self._shards.version_of(shard)
                if found is not None and routing.takes(found.version) and shard in self._told:
                    return True
                return await self._tell(shard, found, routing)
        except Exception as err:
            if _is_cancelled():
                raise
            if isinstance(err, TimeoutError | WorkflowUpdateRPCTimeoutOrCancelledError):
                self._complain(shard, found, routing)
            else:
                expected = isinstance(err, RPCError | BatcherNotRunning)
                logger.warning(
                    "Shard %d of %r could not be told yet: %s",
                    shard,
                    self._shards.name,
                    _text(err),
                    exc_info=None if expected else err,
                )
            return False

    async def _tell(self, shard: int, found: ShardVersion | None, routing: Routing) -> bool:
        policy = self._policy if routing.current == self._version else None
        if found is None and policy is None:
            return True  # whoever starts it, starts it in the current version
        if found is not None and found.override and shard in self._told:
            self._complain(shard, found, routing)
        # Under an override the shard would try in vain, and would not try again when the override has gone.
        routed_at = None if found is not None and found.override else self._routed_at
        if policy is not None:
            await self._shards.announce_to(shard, policy, routed_at=routed_at)
        elif routed_at is not None:
            await self._shards.tell_routing(shard, routed_at)
        self._told.add(shard)
        return False  # whether it runs, and where, is looked at again

    def _complain(self, shard: int, found: ShardVersion | None, routing: Routing) -> None:
        """Says once what keeps a shard from being brought over: its workers are gone, or an operator's override."""
        if shard in self._complained:
            return
        self._complained.add(shard)
        workflow_id = batcher_workflow_id(self._shards.name, shard)
        if found is not None and found.override:
            logger.warning("%s: %s", workflow_id, held_by_override(workflow_id, found))
        elif found is not None and found.pinned and found.version is not None and found.version != routing.current:
            logger.warning("%s", gone_too_early(workflow_id, found.version, routing.current))
        else:
            logger.warning("%s does not answer within %g s", workflow_id, LONGEST_TELLING.total_seconds())

    def _report(self, routing: Routing) -> None:
        """Says what a change of the routing means to this worker."""
        own = name_of(self._version)
        if routing.current == self._version:
            logger.info("%s is current: this worker brings every shard to it", _begin(own))
        elif routing.current is not None:
            logger.info(
                "%s is current: this worker, of %s, takes only what is pinned to it",
                _begin(name_of(routing.current)),
                own,
            )
        elif routing.changed_at:
            logger.info("Workers without a version take what is new: this one, of %s, what is pinned to it", own)
        else:
            logger.warning(
                "%s is not current, and a worker with a version takes nothing before. To make it current: `%s`",
                _begin(own),
                make_current(self._version),
            )


def _what_counts(routing: Routing) -> object:
    """What of a routing is a change of it: who polls is none."""
    return routing.current, routing.ramping, routing.changed_at


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _begin(text: str) -> str:
    """A text that begins a sentence."""
    return text[:1].upper() + text[1:]


def _text(err: Exception) -> str:
    return str(err) or type(err).__name__
