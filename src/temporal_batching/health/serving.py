"""A worker's answers to probes, from before its sink is opened until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio.worker import Worker

from temporal_batching.health.queues import ACTIVITIES, WORKFLOWS
from temporal_batching.health.readiness import SERVING, STARTING, STOPPING, Readiness
from temporal_batching.health.responder import HealthServer
from temporal_batching.sinks.base import Sink


class WorkerState:
    """What a worker does, for its readiness.

    Args:
        worker: The worker.
        task: What runs it: cancelling it is one way to stop the worker.
    """

    def __init__(self, worker: Worker, task: asyncio.Task[Any] | None) -> None:
        self._worker = worker
        self._task = task
        self._opened = False

    def opened(self) -> None:
        """The sink is open."""
        self._opened = True

    def __call__(self) -> str:
        """The state as a word."""
        if self._is_stopping():
            return STOPPING
        return SERVING if self._opened and self._worker.is_running else STARTING

    def _is_stopping(self) -> bool:
        # The SDK says of a worker that it has ended, not that it is about to.
        requested = getattr(self._worker, "_shutdown_event", None)
        cancelled = self._task is not None and self._task.cancelling() > 0
        return cancelled or self._worker.is_shutdown or (requested is not None and requested.is_set())


@asynccontextmanager
async def serve_health(address: str | None, worker: Worker, sink: Sink | None) -> AsyncIterator[WorkerState]:
    """Answers ``/healthz`` and ``/readyz`` during a block.

    Args:
        address: Where; None answers nowhere.
        worker: Whose health.
        sink: The sink that it writes to; None if it writes nowhere.

    Raises:
        AddressUnusable: Nothing can listen there.
    """
    state = WorkerState(worker, asyncio.current_task())
    if address is None:
        yield state
        return
    kind = WORKFLOWS if worker.config(active_config=True).get("workflows") else ACTIVITIES
    readiness = Readiness(worker.client, task_queue=worker.task_queue, sink=sink, state=state, kind=kind)
    server = HealthServer(address, readiness.conditions)
    await server.start()
    try:
        yield state
    finally:
        await server.stop()
        readiness.stop()
