"""What turns a Temporal worker into a batcher's worker (`BatcherPlugin`) or a caller's gateway (`GatewayPlugin`)."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.worker import Worker, WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from temporal_batching.batcher.announcement import announce_until_running
from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.batcher.queries import QueryGuardRunner
from temporal_batching.batcher.rollout import Rollout
from temporal_batching.batcher.versions import pinned, version_of_worker
from temporal_batching.batcher.workflow import BatcherWorkflow
from temporal_batching.contents import ContentStore
from temporal_batching.contract import ACTIVITY_CANCEL, ACTIVITY_POLICY, DEFAULT_BATCHER
from temporal_batching.errors import InvalidPolicy
from temporal_batching.flush.activity import Deliverer, Flusher
from temporal_batching.flush_plugin import (
    GRACEFUL_SHUTDOWN,
    check_flush_task_queue,
    flush_metrics,
    open_sink,
    running_beside,
    second_worker,
    sink_activities,
)
from temporal_batching.gateway.activities import Gateway
from temporal_batching.gateway.nexus import NexusService
from temporal_batching.health.report import Reporter
from temporal_batching.health.responder import check_address
from temporal_batching.health.serving import serve_health
from temporal_batching.metrics.recorder import Recorder
from temporal_batching.metrics.shards import SHORTEST_INTERVAL, STATS_INTERVAL, publish_stats
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import check_name, check_shards, default_task_queue
from temporal_batching.sinks.base import Sink
from temporal_batching.tracing import tracing
from temporal_batching.wire.addressee import check_batcher

logger = logging.getLogger(__name__)

MAX_CONCURRENT_ACTIVITIES = 1_000
"""For a batcher's worker that sets no limit of its own: its activities wait rather than compute, and the gateway can
gather no more requests than it has slots."""

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
        tracing()  # found here: the sandbox of a workflow could not
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
        sink: Where batches go. Opened before the worker polls, closed after it has stopped. None leaves the flushes to
            workers with `FlushPlugin`, on ``flush_task_queue``.
        policy: The limits; the defaults of `BatchPolicy` if None. A worker that starts announces them to the shards,
            which take them over unless an operator has set others with `BatcherHandle.configure`.
        name: The batcher's name.
        shards: How many shards it has.
        start_shards: Start every shard's workflow with the worker; with a worker of a version (`deployment_config`), as
            soon as that one is current. Otherwise a shard starts with the first write that reaches it through a
            gateway, and signals find it only then.
        health: Where to answer ``/healthz`` (the process lives) and ``/readyz`` (it reaches Temporal and its sink, and
            polls), as ``HOST:PORT``; None answers nowhere.
        metrics_interval: How often the worker asks each shard for the metrics that only a shard knows; it asks nothing
            if the client's runtime publishes no metrics (see `batching_runtime`). Each question is a query: one action,
            and no event in the shard's history. None never asks.
        flush_task_queue: A task queue of their own for the flushes: for a rate limit, or other workers. With a sink
            this worker polls it too. By default flushes are on the worker's own task queue.

    Raises:
        InvalidPolicy: ``flush_task_queue`` is no name, that of the worker's own task queue, or missing without a sink.
        AddressUnusable: ``health`` is no address; or, when the worker runs, nothing can listen there.
    """

    def __init__(
        self,
        sink: Sink | None,
        *,
        policy: BatchPolicy | None = None,
        name: str = DEFAULT_BATCHER,
        shards: int = 1,
        start_shards: bool = True,
        health: str | None = None,
        metrics_interval: timedelta | None = STATS_INTERVAL,
        flush_task_queue: str | None = None,
    ) -> None:
        super().__init__("temporal_batching.BatcherPlugin", workflows=[BatcherWorkflow])
        if not isinstance(sink, Sink | None):
            raise TypeError(f"sink is a Sink or None, not {type(sink).__name__}")
        self._flush_task_queue = check_flush_task_queue(flush_task_queue)
        if sink is None and not self._flush_task_queue:
            raise InvalidPolicy("without a sink, flush_task_queue names the task queue of the workers that flush")
        self._sink = sink
        self._sink_activities: list[Callable[..., Any]] = []
        self._second: Worker | None = None
        self._adds_second = False
        self._policy = policy or BatchPolicy()
        self._batcher = check_name(name)
        self._shards = check_shards(shards)
        self._start_shards = start_shards
        if health is not None:
            check_address(health)
        self._health = health
        if metrics_interval is not None and metrics_interval < SHORTEST_INTERVAL:
            raise InvalidPolicy(f"metrics_interval {metrics_interval}: at least {SHORTEST_INTERVAL}, or None")
        self._metrics_interval = metrics_interval

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Adds the workflow and the activities, and limits that suit a batcher where the worker sets none."""
        tracing()  # found here: the sandbox of a workflow could not
        if self._adds_second:  # a plugin of the client is asked to configure that one too
            return config
        if config["task_queue"] == self._flush_task_queue:
            raise InvalidPolicy(
                f"flush_task_queue {self._flush_task_queue!r} is this worker's own task queue: leave it out, name "
                "another one, or take FlushPlugin for a worker that only flushes"
            )
        config = super().configure_worker(config)
        client = config["client"]
        identity = config.get("identity") or client.identity
        contents = ContentStore() if self._sink is not None else None
        gateway = Gateway(
            client,
            name=self._batcher,
            shards=self._shards,
            task_queue=config["task_queue"],
            policy=self._policy,
            flush_task_queue=self._flush_task_queue,
            contents=contents,
        )
        report = Reporter(self._sink, batcher=self._batcher, identity=identity).batcher_report
        self._sink_activities = [*self._flush_activities(client, contents), report]
        config["activities"] = [
            *config.get("activities", []),
            *_gateway_activities(gateway),
            *self._sink_activities,
            cancel_shard,
            self._batcher_policy,
        ]
        service = NexusService(gateway, read_from="" if self._sink is not None else self._flush_task_queue)
        config["nexus_service_handlers"] = [*(config.get("nexus_service_handlers") or []), service]
        config["unsandboxed_workflow_runner"] = QueryGuardRunner(
            client,
            identity=identity,
            runner=config.get("unsandboxed_workflow_runner"),
        )
        if config.get("tuner") is None and config.get("max_concurrent_activities") is None:
            config["max_concurrent_activities"] = MAX_CONCURRENT_ACTIVITIES
        # A flush handed to the worker that has the shard's task would stay there, attempt after attempt, even if that
        # one serves another batcher, and the one that could take it polls the same queue.
        config["disable_eager_activity_execution"] = True
        config["deployment_config"] = pinned(config.get("deployment_config"))
        config["graceful_shutdown_timeout"] = config.get("graceful_shutdown_timeout") or GRACEFUL_SHUTDOWN
        # The SDK fills its default in, so that is all that says "not set".
        if config.get("sticky_queue_schedule_to_start_timeout") in (None, _SDK_STICKY_TIMEOUT):
            config["sticky_queue_schedule_to_start_timeout"] = STICKY_TIMEOUT
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Opens the sink, starts the shards while the worker runs, and closes the sink after it."""
        if worker is self._second:
            await next(worker)
            return
        _switch_deadlock_detector_off(worker)
        _let_queries_evict(worker)
        async with serve_health(self._health, worker, self._sink) as health, open_sink(self._sink):
            health.opened()
            async with running_beside(worker, self._second_worker(worker)), background(self._beside(worker)):
                await super().run_worker(worker, next)

    def _flush_activities(self, client: Client, contents: ContentStore | None) -> list[Callable[..., Any]]:
        if self._sink is None:
            return [Deliverer(batcher=self._batcher).deliver_confirmations]
        metrics = flush_metrics(client, self._sink, batcher=self._batcher, shards=self._shards)
        flusher = Flusher(self._sink, batcher=self._batcher, shards=self._shards, metrics=metrics, contents=contents)
        return sink_activities(flusher)

    def _second_worker(self, worker: Worker) -> Worker | None:
        if self._sink is None or not self._flush_task_queue:
            return None
        self._adds_second = True
        try:
            self._second = second_worker(worker, self._flush_task_queue, self._sink_activities)
        finally:
            self._adds_second = False
        return self._second

    def _beside(self, worker: Worker) -> list[Coroutine[Any, Any, None]]:
        """What goes on while the worker runs."""
        handle = BatcherHandle(
            worker.client,
            self._batcher,
            shards=self._shards,
            task_queue=worker.task_queue,
            flush_task_queue=self._flush_task_queue,
        )
        version = version_of_worker(worker.config(active_config=True).get("deployment_config"))
        policy = self._policy if self._start_shards else None
        work: list[Coroutine[Any, Any, None]] = []
        if version is not None:
            work.append(Rollout(handle, version, policy).run())
        elif policy is not None:
            work.append(announce_until_running(handle, policy))
        recorder = Recorder.of(worker.client, batcher=self._batcher)
        if self._metrics_interval is not None and recorder.publishes:
            work.append(publish_stats(handle, recorder, interval=self._metrics_interval))
        return work

    @activity.defn(name=ACTIVITY_POLICY)
    async def _batcher_policy(self, batcher: str) -> dict[str, Any]:
        check_batcher(batcher, self._batcher)
        return {"policy": self._policy.to_wire(), "flush_task_queue": self._flush_task_queue}


@activity.defn(name=ACTIVITY_CANCEL)
async def cancel_shard() -> None:
    """Cancels the shard that runs it: a cancellation does not survive continue-as-new."""
    info = activity.info()
    if info.workflow_id is not None:
        await activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id).cancel()


@asynccontextmanager
async def background(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs work during a block, and ends it with the block: however it ends, for the worker has ended."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


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


def _let_queries_evict(worker: Worker) -> None:
    """Gives the guard of queries what it needs of the worker; test_queried_between_tasks.py fails without it."""
    runner = worker.config(active_config=True).get("unsandboxed_workflow_runner")
    bridge: Any = getattr(worker, "_bridge_worker", None)
    if isinstance(runner, QueryGuardRunner) and hasattr(bridge, "request_workflow_eviction"):
        runner.evict = bridge.request_workflow_eviction


def _pass_library_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    if runner is None:
        runner = SandboxedWorkflowRunner()
    if not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    restrictions = runner.restrictions.with_passthrough_modules("temporal_batching")
    return dataclasses.replace(runner, restrictions=restrictions)
