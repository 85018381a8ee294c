"""What a starter says about workflows that fail, or that no worker takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from rich.markup import escape
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError, FailureError
from temporalio.service import RPCError

from temporal_batching.cli.console import err
from temporal_batching.health.queues import pollers

ADVICE_AFTER_SECONDS = 5.0
"""A worker that starts with the caller polls by then."""


@contextlib.asynccontextmanager
async def advice_on_missing_workers(client: Client, needed: Mapping[str, str]) -> AsyncIterator[None]:
    """Names the task queues that no worker polls, on standard error, if the block still waits after some seconds.

    Args:
        client: Of their namespace.
        needed: Task queues without whose workers the block does not end, by the script that runs such a worker.
    """

    async def look() -> None:
        await asyncio.sleep(ADVICE_AFTER_SECONDS)
        for script, queue in needed.items():
            if not await has_workers(client, queue):
                err.print(
                    f"[yellow]waiting:[/yellow] no worker polls the task queue '{escape(queue)}'. Is it running? "
                    f"(`python {script}`)"
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
    return bool(await pollers(client, task_queue))


def failure_of(error: WorkflowFailureError | RPCError) -> tuple[str, str]:
    """Type and message of what a workflow failed with. A failed activity's own failure, not what surrounds it."""
    if isinstance(error, RPCError):
        return f"RPC {error.status.name}", error.message
    cause: BaseException = error.cause
    while isinstance(cause, ActivityError) and cause.__cause__ is not None:
        cause = cause.__cause__
    kind = (cause.type if isinstance(cause, ApplicationError) else None) or type(cause).__name__
    return kind, cause.message if isinstance(cause, FailureError) else str(cause)
