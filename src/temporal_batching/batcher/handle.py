"""`BatcherHandle`: starts, watches and operates the shards of a batcher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.batcher.current_run import describe_current, stats_of_current
from temporal_batching.batcher.shards import retry_while_not_ready, start_shard, update_with_start
from temporal_batching.batcher.silence import ShardNotThere
from temporal_batching.batcher.versions import Routing, ShardVersion, last_change, routing_of
from temporal_batching.contract import (
    DEFAULT_BATCHER,
    NO_LEDGER,
    UPDATE_CONTROL,
    BatcherStart,
    BatcherStats,
    Control,
)
from temporal_batching.errors import BatcherNotRunning, ErrorType, InvalidPolicy
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import batcher_workflow_id, check_name, check_shards, default_task_queue


class BatcherHandle:
    """Starts, watches and operates the shards of a batcher. Hides its workflows, their ids and their messages.

    Example:
        ```python
        from temporal_batching import BatcherHandle
        from temporalio.client import Client

        async def empty() -> None:
            batcher = BatcherHandle(await Client.connect("localhost:7233"), "main")
            await batcher.drain()
            for shard in await batcher.stats():
                print(shard.pending, shard.outcomes)
            await batcher.resume()
        ```

    Args:
        client: A client of the batcher's namespace.
        name: The batcher's name.
        shards: How many shards it has.
        task_queue: The task queue of its workers, for shards that are to be started.
        flush_task_queue: The task queue of its flushes, as its workers announce it; by default shards that this handle
            starts ask their worker for it.
    """

    def __init__(
        self,
        client: Client,
        name: str = DEFAULT_BATCHER,
        *,
        shards: int = 1,
        task_queue: str | None = None,
        flush_task_queue: str | None = None,
    ) -> None:
        self._client = client
        self._flush_task_queue = flush_task_queue
        self._name = check_name(name)
        self._shards = check_shards(shards)
        self._task_queue = task_queue or default_task_queue(name)

    @property
    def name(self) -> str:
        """The batcher's name."""
        return self._name

    @property
    def task_queue(self) -> str:
        """The task queue of its workers."""
        return self._task_queue

    @property
    def shards(self) -> int:
        """How many shards it has."""
        return self._shards

    async def start(self, policy: BatchPolicy | None = None) -> None:
        """Starts every shard that does not run yet.

        Args:
            policy: The limits for shards that are started; None asks the batcher's worker. A shard that runs
                keeps its own: `configure` changes them.
        """
        async with asyncio.TaskGroup() as group:
            for shard in range(self._shards):
                start = self._starting(shard, policy)
                group.create_task(start_shard(self._client, start, task_queue=self._task_queue))

    async def announce(self, policy: BatchPolicy) -> None:
        """Starts every shard with these limits. Running shards adopt them, unless an operator has set others.

        Raises:
            BatcherNotRunning: A shard was cancelled and has not ended yet; after that it can be started again.
        """
        for shard in range(self._shards):
            await self.announce_to(shard, policy)

    async def announce_to(self, shard: int, policy: BatchPolicy, *, routed_at: float | None = None) -> None:
        """Starts one shard with these limits. If it runs it adopts them, unless an operator has set others.

        Args:
            shard: Which shard.
            policy: The limits.
            routed_at: When the task queue got its current version; see `tell_routing`. None says nothing of it.

        Raises:
            BatcherNotRunning: The shard was cancelled and has not ended yet.
        """
        control = Control(
            policy=policy.to_wire(), announced=True, routed_at=routed_at, flush_task_queue=self._flush_task_queue
        )
        await self._announce_one(self._starting(shard, policy), control)

    async def tell_routing(self, shard: int, routed_at: float) -> None:
        """Tells a shard that its task queue has another current version: it continues as new in it, once for each time.

        Raises:
            BatcherNotRunning: The shard does not run.
        """
        await self._control_one(shard, Control(routed_at=routed_at))

    async def routing(self) -> Routing:
        """Where Temporal sends the tasks of the batcher's task queue. No worker is asked.

        Raises:
            RPCError: Temporal cannot be reached, or refuses access.
        """
        return await routing_of(self._client, self._task_queue)

    async def last_change(self, deployment_name: str) -> float:
        """When the routing of a worker deployment changed last, in seconds since the epoch.

        Raises:
            RPCError: Temporal cannot be reached, or refuses access.
        """
        return await last_change(self._client, deployment_name)

    async def version_of(self, shard: int) -> ShardVersion | None:
        """Which worker deployment version runs a shard; None if it does not run. No worker is asked.

        Raises:
            RPCError: Temporal cannot be reached.
        """
        described = await self._running(shard)
        return None if described is None else ShardVersion.of(described.raw_info.versioning_info)

    async def all_running(self) -> bool:
        """Whether the workflow of every shard runs. No worker is asked.

        Raises:
            RPCError: Temporal cannot be reached.
        """
        for shard in range(self._shards):
            if await self._running(shard) is None:
                return False
        return True

    async def _running(self, shard: int) -> WorkflowExecutionDescription | None:
        """What Temporal says of a shard's workflow; None if it does not run."""
        try:
            described = await describe_current(self._client.get_workflow_handle(batcher_workflow_id(self._name, shard)))
        except RPCError as err:
            if err.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return described if described.status is WorkflowExecutionStatus.RUNNING else None

    async def _announce_one(self, start: BatcherStart, control: Control) -> None:
        def update() -> Awaitable[Any]:
            return update_with_start(self._client, UPDATE_CONTROL, control, start=start, task_queue=self._task_queue)

        try:
            await retry_while_not_ready(update)
        except WorkflowUpdateFailedError as err:
            if isinstance(err.cause, ApplicationError) and err.cause.type == ErrorType.BATCHER_BUSY:
                workflow_id = batcher_workflow_id(start.batcher, start.shard)
                raise BatcherNotRunning(f"{workflow_id}: {err.cause.message}") from None
            raise

    async def stats(self) -> list[BatcherStats]:
        """The figures of every shard, in order.

        Raises:
            BatcherNotRunning: A shard does not run, or no worker answers for it.
        """
        return list(await asyncio.gather(*(self.stats_of(shard) for shard in range(self._shards))))

    async def stats_of(self, shard: int) -> BatcherStats:
        """The figures of one shard.

        Raises:
            BatcherNotRunning: The shard does not run, or no worker answers for it.
        """
        workflow_id = batcher_workflow_id(self._name, shard)
        try:
            return await stats_of_current(self._client.get_workflow_handle(workflow_id))
        except WorkflowQueryRejectedError:
            raise ShardNotThere(f"{workflow_id} has ended: start it, or send it a write") from None
        except RPCError as err:
            raise _not_running(workflow_id, err) from err

    async def flush(self, *, timeout: timedelta = timedelta(minutes=1)) -> None:
        """Flushes what is pending now, and waits until it is settled.

        Raises:
            BatcherNotRunning: A shard does not run.
            TimeoutError: It was not settled in time; the flush goes on.
        """
        await self._until(lambda now: not any(s.unread for s in now), timeout)
        before = await self.stats()
        targets = [sum(s.outcomes.values()) + s.pending + s.in_flight for s in before]
        await self._control(Control(flush=True))
        await self._until(
            lambda now: all(sum(s.outcomes.values()) >= target for s, target in zip(now, targets, strict=True)), timeout
        )

    async def pause(self) -> None:
        """Starts no more flushes. Requests are accepted until the buffer is full, and expire at their deadlines."""
        await self._control(Control(pause=True))

    async def resume(self) -> None:
        """Ends `pause` and `drain`."""
        await self._control(Control(pause=False, drain=False))

    async def drain(self, *, timeout: timedelta = timedelta(minutes=2)) -> None:
        """Stops accepting requests, flushes everything, and waits until every shard is empty.

        Raises:
            BatcherNotRunning: A shard does not run.
            TimeoutError: A shard was not empty in time; the shards go on draining.
        """
        await self._control(Control(drain=True, pause=False))
        await self._until(lambda now: all(s.dedup_ids == 0 and s.unread == 0 for s in now), timeout)

    async def adopt_ledger(self, identity: str | None) -> None:
        """Makes every shard continue in this ledger and in no other: for a database that was replaced on purpose.

        Request ids that only the earlier ledger knows are applied again if they are submitted again; so is a batch that
        is in doubt there. A worker that still has the earlier one writes nothing any more.

        Args:
            identity: The ledger's identity, as `Sink.identity` and the flush's error say; None for a sink without.
        """
        await self._control(Control(adopt_ledger=NO_LEDGER if identity is None else identity))

    async def configure(self, policy: BatchPolicy) -> None:
        """Changes the limits of every shard permanently: a worker that starts does not change them back."""
        await self._control(Control(policy=policy.to_wire()))

    def _starting(self, shard: int, policy: BatchPolicy | None) -> BatcherStart:
        return BatcherStart(self._name, shard, policy.to_wire() if policy else None, self._flush_task_queue)

    async def _control(self, control: Control) -> None:
        await asyncio.gather(*(self._control_one(shard, control) for shard in range(self._shards)))

    async def _control_one(self, shard: int, control: Control) -> None:
        workflow_id = batcher_workflow_id(self._name, shard)
        try:
            handle = self._client.get_workflow_handle(workflow_id)
            await retry_while_not_ready(lambda: handle.execute_update(UPDATE_CONTROL, control))
        except WorkflowUpdateFailedError as err:
            cause = err.cause
            if isinstance(cause, ApplicationError) and cause.type == ErrorType.INVALID_POLICY:
                raise InvalidPolicy(cause.message) from None
            raise
        except RPCError as err:
            raise _not_running(workflow_id, err) from err

    async def _until(self, done: Callable[[list[BatcherStats]], bool], timeout: timedelta) -> None:
        async with asyncio.timeout(timeout.total_seconds()):
            while not done(await self.stats()):  # noqa: ASYNC110  the batcher is another process: it can only be polled
                await asyncio.sleep(0.1)


def _not_running(workflow_id: str, err: RPCError) -> Exception:
    if err.status == RPCStatusCode.NOT_FOUND:
        return ShardNotThere(f"{workflow_id} does not run: start it, or send it a write")
    if err.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.FAILED_PRECONDITION):
        return BatcherNotRunning(f"{workflow_id} runs, but no worker answers for it: {err.message}")
    return err
