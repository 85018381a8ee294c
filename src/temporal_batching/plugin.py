"""What turns a Temporal worker into a batcher's worker (`BatcherPlugin`) or a caller's gateway (`GatewayPlugin`)."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.plugin import SimplePlugin
from temporalio.service import RPCError
from temporalio.worker import Worker, WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.batcher.workflow import BatcherWorkflow
from temporal_batching.contract import ACTIVITY_CANCEL, ACTIVITY_POLICY, DEFAULT_BATCHER
from temporal_batching.errors import BatcherNotRunning
from temporal_batching.flush.activity import Flusher
from temporal_batching.flush.delivery import deliver_confirmations
from temporal_batching.gateway.activities import Gateway
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import check_name, check_shards, default_task_queue
from temporal_batching.sinks.base import Sink
from temporal_batching.wire.addressee import check_batcher

logger = logging.getLogger(__name__)

MAX_CONCURRENT_ACTIVITIES = 1_000
"""For a batcher's worker that sets no limit of its own: its activities wait rather than compute, and the gateway can
gather no more requests than it has slots."""

GRACEFUL_SHUTDOWN = timedelta(seconds=30)
"""For a batcher's worker that sets none of its own: a flush in progress may end."""

STICKY_TIMEOUT = timedelta(seconds=3)
"""For a batcher's worker that sets none of its own: how long a shard's next task waits for the worker that has it in
memory, before any other may replay it. With Temporal's 10 s a shard pauses that long when its worker is killed. Not
less than this: a worker that is only slow would be made to replay, and be slower still."""

_SDK_STICKY_TIMEOUT = inspect.signature(Worker).parameters["sticky_queue_schedule_to_start_timeout"].default


class _PassthroughPlugin(SimplePlugin):
    """Lets the library through the workflow sandbox: importing it anew for every run would cost more than the run."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, workflow_runner=_pass_library_through, **options)


class GatewayPlugin(_PassthroughPlugin):
    """Runs the gateway inside a caller's own worker, for writers with ``gateway="local"``.

    Temporal then starts ``batch_write`` eagerly, together with the workflow task that scheduled it: one persistence
    write and one trip through matching less per write.

    Args:
        name: The batcher's name.
        shards: How many shards it has.
        task_queue: The task queue of the batcher's workers.
    """

    def __init__(self, *, name: str = DEFAULT_BATCHER, shards: int = 1, task_queue: str | None = None) -> None:
        super().__init__("temporal_batching.GatewayPlugin")
        self._batcher = check_name(name)
        self._shards = check_shards(shards)
        self._task_queue = task_queue or default_task_queue(name)

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Adds the gateway's activities."""
        config = super().configure_worker(config)
        gateway = Gateway(config["client"], name=self._batcher, shards=self._shards, task_queue=self._task_queue)
        config["activities"] = [*config.get("activities", []), *_gateway_activities(gateway)]
        return config


class BatcherPlugin(_PassthroughPlugin):
    """Makes a worker serve a batcher: its workflow, its gateway, its flushes.

    Example:
        ```python
        from datetime import timedelta

        from temporal_batching import BatcherPlugin, BatchPolicy, SqlSink, run_worker
        from temporalio.client import Client
        from temporalio.worker import Worker

        async def serve() -> None:
            client = await Client.connect("localhost:7233")
            policy = BatchPolicy(linger=timedelta(seconds=1))
            plugin = BatcherPlugin(SqlSink("postgresql://app@localhost/app"), policy=policy)
            await run_worker(Worker(client, task_queue="batcher-queue", plugins=[plugin]))
        ```

    Args:
        sink: Where batches go. Opened before the worker polls, closed after it has stopped.
        policy: The limits; the defaults of `BatchPolicy` if None. A worker that starts announces them to the shards,
            which take them over unless an operator has set others with `BatcherHandle.configure`.
        name: The batcher's name.
        shards: How many shards it has.
        start_shards: Start every shard's workflow with the worker. Otherwise a shard starts with the first write
            that reaches it through a gateway, and signals find it only then.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        policy: BatchPolicy | None = None,
        name: str = DEFAULT_BATCHER,
        shards: int = 1,
        start_shards: bool = True,
    ) -> None:
        super().__init__("temporal_batching.BatcherPlugin", workflows=[BatcherWorkflow])
        if not isinstance(sink, Sink):
            raise TypeError(f"sink is a Sink, not {type(sink).__name__}")
        self._sink = sink
        self._policy = policy or BatchPolicy()
        self._batcher = check_name(name)
        self._shards = check_shards(shards)
        self._start_shards = start_shards

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Adds the workflow and the activities, and limits that suit a batcher where the worker sets none."""
        config = super().configure_worker(config)
        gateway = Gateway(
            config["client"],
            name=self._batcher,
            shards=self._shards,
            task_queue=config["task_queue"],
            policy=self._policy,
        )
        config["activities"] = [
            *config.get("activities", []),
            *_gateway_activities(gateway),
            Flusher(self._sink, batcher=self._batcher, shards=self._shards).flush_batch,
            deliver_confirmations,
            cancel_shard,
            self._batcher_policy,
        ]
        if config.get("tuner") is None and config.get("max_concurrent_activities") is None:
            config["max_concurrent_activities"] = MAX_CONCURRENT_ACTIVITIES
        # A flush handed to the worker that has the shard's task would stay there, attempt after attempt, even if that
        # one serves another batcher, and the one that could take it polls the same queue.
        config["disable_eager_activity_execution"] = True
        config["graceful_shutdown_timeout"] = config.get("graceful_shutdown_timeout") or GRACEFUL_SHUTDOWN
        # The SDK fills its default in, so that is all that says "not set".
        if config.get("sticky_queue_schedule_to_start_timeout") in (None, _SDK_STICKY_TIMEOUT):
            config["sticky_queue_schedule_to_start_timeout"] = STICKY_TIMEOUT
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Opens the sink, starts the shards while the worker runs, and closes the sink after it."""
        _switch_deadlock_detector_off(worker)
        await self._sink.open()
        announcing = asyncio.create_task(self._announce(worker)) if self._start_shards else None
        try:
            await super().run_worker(worker, next)
        finally:
            if announcing is not None:
                announcing.cancel()
                await asyncio.wait([announcing])  # however it ends: the worker has ended, and the sink is to be closed
            await self._sink.close()

    async def _announce(self, worker: Worker) -> None:
        """Starts the shards that do not run, and announces this worker's policy to those that do."""
        handle = BatcherHandle(worker.client, self._batcher, shards=self._shards, task_queue=worker.task_queue)
        pause = 0.5
        while True:
            try:
                await handle.announce(self._policy)
            except (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, BatcherNotRunning) as err:
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # the SDK's update makes this error of a cancellation
                    return
                logger.warning("The shards of %r could not be started yet: %s", self._batcher, err)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(30.0, pause * 2)

    @activity.defn(name=ACTIVITY_POLICY)
    async def _batcher_policy(self, batcher: str) -> dict[str, Any]:
        check_batcher(batcher, self._batcher)
        return self._policy.to_wire()


@activity.defn(name=ACTIVITY_CANCEL)
async def cancel_shard() -> None:
    """Cancels the shard that runs it: a cancellation does not survive continue-as-new."""
    info = activity.info()
    if info.workflow_id is not None:
        await activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id).cancel()


def _gateway_activities(gateway: Gateway) -> list[Callable[..., Any]]:
    return [gateway.batch_write, gateway.batch_write_many, gateway.batch_withdraw]


def _switch_deadlock_detector_off(worker: Worker) -> None:
    """Lets an activation take as long as it takes; Temporal still gives a workflow task up after its 10 seconds.

    The SDK holds an activation of more than 2 seconds for a deadlock. The dispatch of ten thousand signals is none, it
    is slow where CPU is short. And after a deadlock SDK 1.35 evicts the workflow without waiting for its thread: the
    future it waits for was cancelled by its own timeout. Two threads then work on one event loop, tasks get lost,
    eviction never succeeds, and the shard does nothing while the worker lives. Nothing in a batcher can block.
    """
    # The option that switches it off, `debug_mode`, does not do: it also runs every activation on the worker's own
    # event loop, where nothing else, no heartbeat and no flush, goes on meanwhile. Under another name the detector
    # would be on again: test_backlog.py would say so.
    workflows: Any = getattr(worker, "_workflow_worker", None)
    if hasattr(workflows, "_deadlock_timeout_seconds"):
        workflows._deadlock_timeout_seconds = None


def _pass_library_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    if runner is None:
        runner = SandboxedWorkflowRunner()
    if not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    restrictions = runner.restrictions.with_passthrough_modules("temporal_batching")
    return dataclasses.replace(runner, restrictions=restrictions)
