"""Starts many workflows at once, waits for them all, and shows how far they are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError, FailureError
from temporalio.service import RPCError

from temporal_batching.cli.console import err, out, plural

START_AT_ONCE = 100
WATCH_AT_ONCE = 200
"""Results awaited at a time: each holds a long poll open, and a namespace allows about a thousand."""
PLAIN_SECONDS = 2.0
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """A workflow to start: its id and its one argument."""

    workflow_id: str
    argument: Any


@dataclass(frozen=True)
class Finished:
    """How a workflow ended: with a result, or with an error and its type."""

    job: Job
    result: Any = None
    error_type: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error_type


@dataclass
class _Run:
    jobs: Sequence[Job]
    task_queues: Sequence[str]
    began: float = field(default_factory=time.monotonic)
    started: int = 0
    finished: list[Finished] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(not one.ok for one in self.finished)


async def run_workflows(
    client: Client, workflow: str, jobs: Iterable[Job], *, task_queue: str, result_type: type, needs: Sequence[str] = ()
) -> list[Finished]:
    """Runs the jobs, all at once, and returns how each ended, in the order of the jobs.

    Args:
        client: The client.
        workflow: The workflow type's name.
        jobs: What to run.
        task_queue: Its task queue.
        result_type: What its result is read as.
        needs: Other task queues without whose workers nothing finishes.
    """
    state = _Run(list(jobs), [task_queue, *needs])
    starting, watching = asyncio.Semaphore(START_AT_ONCE), asyncio.Semaphore(WATCH_AT_ONCE)

    async def one(job: Job) -> Finished:
        try:
            async with starting:
                handle: WorkflowHandle[Any, Any] = await client.start_workflow(
                    workflow, job.argument, id=job.workflow_id, task_queue=task_queue, result_type=result_type
                )
                state.started += 1
            async with watching:
                ended = Finished(job, result=await handle.result())
        except WorkflowFailureError as error:
            ended = Finished(job, error_type=_type(error.cause), error=_message(error.cause))
        except RPCError as error:
            ended = Finished(job, error_type=f"RPC {error.status.name}", error=error.message)
        state.finished.append(ended)
        return ended

    async with _shown(state), _advised(client, state):
        return await asyncio.gather(*map(one, state.jobs))


@contextlib.asynccontextmanager
async def _shown(state: _Run) -> AsyncIterator[None]:
    show = _bars(state) if out.is_terminal else _lines(state)
    task = asyncio.create_task(show)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _bars(state: _Run) -> None:
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    total = len(state.jobs)
    with Progress(*columns, console=out) as progress:
        started = progress.add_task("started", total=total, note="")
        finished = progress.add_task("finished", total=total, note="")

        def draw() -> None:
            progress.update(started, completed=state.started)
            progress.update(finished, completed=len(state.finished), note=_note(state))
            if state.started == total:
                _stop_clock(progress, started)

        try:
            while True:
                draw()
                await asyncio.sleep(0.1)
        finally:
            draw()


def _stop_clock(progress: Progress, task: TaskID) -> None:
    if progress.tasks[task].stop_time is None:
        progress.stop_task(task)


async def _lines(state: _Run) -> None:
    said = ""

    def say() -> str:
        seconds = time.monotonic() - state.began
        counts = f"started {state.started}/{len(state.jobs)}, finished {len(state.finished)}/{len(state.jobs)}"
        line = ", ".join(filter(None, (counts, _note(state))))
        if line != said:
            out.print(f"{seconds:6.1f} s  {line}", markup=False)
        return line

    try:
        while True:
            said = say()
            await asyncio.sleep(PLAIN_SECONDS)
    finally:
        say()


def _note(state: _Run) -> str:
    sizes = batches([one.result for one in state.finished if one.ok])
    words = [f"{plural(len(sizes), 'batch')}, largest {max(sizes.values())}"] if sizes else []
    return ", ".join(words + ([f"{state.failed} failed"] if state.failed else []))


def batches(results: Iterable[Any]) -> dict[str, int]:
    """The batches that results name, and their sizes."""
    return {result.batch_id: result.batch_size for result in results if result.batch_id}


@contextlib.asynccontextmanager
async def _advised(client: Client, state: _Run) -> AsyncIterator[None]:
    async def look() -> None:
        await asyncio.sleep(PATIENCE_SECONDS)
        for queue in state.task_queues:
            if not await has_workers(client, queue):
                err.print(
                    f"[yellow]waiting:[/yellow] no worker polls the task queue '{escape(queue)}'. Is it running? "
                    f"(`python {'main' if queue == state.task_queues[0] else 'batcher'}-service/worker.py`)"
                )

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, RPCError):
            await task


async def has_workers(client: Client, task_queue: str) -> bool:
    """Whether a worker has polled for workflow tasks lately."""
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    return len(answer.pollers) > 0


def _type(cause: BaseException) -> str:
    cause = _unwrapped(cause)
    return (cause.type if isinstance(cause, ApplicationError) else None) or type(cause).__name__


def _message(cause: BaseException) -> str:
    cause = _unwrapped(cause)
    return cause.message if isinstance(cause, FailureError) else str(cause)


def _unwrapped(cause: BaseException) -> BaseException:
    """A failed activity's own failure: what surrounds it only says that an activity failed."""
    while isinstance(cause, ActivityError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause
