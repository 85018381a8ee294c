"""What single operations cost the Temporal service: persistence requests for each, by operation.

    python -m benchmarks.questions.operations [--number 200]

Answers what the ways in were built on: completing an activity by its id or by its task token, a plain update or one
with start, updates of many requests or of few, a signal.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from temporalio import activity, workflow
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker

from benchmarks.harness.servers import Temporal, fresh_temporal
from benchmarks.rounding import number

QUEUE = "operations"
LASTS = timedelta(minutes=10)


@workflow.defn(sandboxed=False)
class OneActivity:
    """Waits for an activity that is completed from elsewhere."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity("left_open", start_to_close_timeout=LASTS)


@workflow.defn(sandboxed=False)
class Receiver:
    """Takes updates and signals."""

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.update
    def take(self, _: Any) -> float:
        return 0.1

    @workflow.signal
    def receive(self, _: Any) -> None:
        pass


class Operations:
    """The operations, each to be done a number of times."""

    def __init__(self, client: Client, temporal: Temporal, times: int) -> None:
        self._client = client
        self._temporal = temporal
        self._times = times
        self._open: list[activity.Info] = []
        self._all_open = asyncio.Event()
        self._receiver = client.get_workflow_handle("receiver")

    @activity.defn
    async def left_open(self) -> None:
        self._open.append(activity.info())
        if len(self._open) == self._times:
            self._all_open.set()
        activity.raise_complete_async()

    async def set_up(self, kind: str) -> None:
        self._open.clear()
        self._all_open.clear()
        if not kind.startswith("complete"):
            return
        for number_of in range(self._times):
            await self._client.start_workflow(OneActivity.run, id=f"{kind}-{number_of}", task_queue=QUEUE)
        await self._all_open.wait()

    async def complete_by_id(self) -> None:
        for info in self._open:
            assert info.workflow_id is not None
            handle = self._client.get_async_activity_handle(
                workflow_id=info.workflow_id, run_id=info.workflow_run_id, activity_id=info.activity_id
            )
            await handle.complete()

    async def complete_by_id_without_run(self) -> None:
        for info in self._open:
            assert info.workflow_id is not None
            handle = self._client.get_async_activity_handle(
                workflow_id=info.workflow_id, run_id=None, activity_id=info.activity_id
            )
            await handle.complete()

    async def complete_by_token(self) -> None:
        for info in self._open:
            await self._client.get_async_activity_handle(task_token=info.task_token).complete()

    async def plain_update(self) -> None:
        for _ in range(self._times):
            await self._receiver.execute_update("take", 1)

    async def update_with_run_id(self) -> None:
        run_id = (await self._receiver.describe()).run_id
        handle = self._client.get_workflow_handle("receiver", run_id=run_id)
        for _ in range(self._times):
            await handle.execute_update("take", 1)

    async def update_with_start(self) -> None:
        for _ in range(self._times):
            await self._client.execute_update_with_start_workflow(
                "take",
                1,
                start_workflow_operation=WithStartWorkflowOperation(
                    "Receiver",
                    id="receiver",
                    task_queue=QUEUE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                ),
            )

    async def signal(self) -> None:
        for _ in range(self._times):
            await self._receiver.signal("receive", 1)

    async def measure(self, operation: Callable[[], Awaitable[None]]) -> dict[str, float]:
        await self.set_up(operation.__name__)
        await asyncio.sleep(2)
        before = (await self._temporal.counters())["persistence"]
        await operation()
        await asyncio.sleep(2)
        cost = Counter((await self._temporal.counters())["persistence"])
        cost.subtract(before)
        return {name: count / self._times for name, count in cost.items() if count / self._times >= 0.02}


async def profile(times: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        async with AsyncExitStack() as stack:
            temporal = await stack.enter_async_context(fresh_temporal(Path(name)))
            client = await Client.connect(temporal.address)
            operations = Operations(client, temporal, times)
            await stack.enter_async_context(
                Worker(
                    client,
                    task_queue=QUEUE,
                    workflows=[OneActivity, Receiver],
                    activities=[operations.left_open],
                    max_cached_workflows=5_000,
                )
            )
            await client.start_workflow("Receiver", id="receiver", task_queue=QUEUE)
            every = (
                operations.complete_by_token,
                operations.complete_by_id,
                operations.complete_by_id_without_run,
                operations.plain_update,
                operations.update_with_run_id,
                operations.update_with_start,
                operations.signal,
            )
            return {operation.__name__: await operations.measure(operation) for operation in every}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=200, help="how often each operation is done")
    found = asyncio.run(profile(parser.parse_args().number))
    console = Console()
    for operation, cost in found.items():
        table = Table(title=f"{operation.replace('_', ' ')}: {number(sum(cost.values()))} persistence requests")
        table.title_justify = "left"
        table.add_column("operation", min_width=30)
        table.add_column("each", justify="right", min_width=8)
        for name, each in sorted(cost.items(), key=lambda item: -item[1]):
            table.add_row(name, number(each))
        console.print(table)


if __name__ == "__main__":
    main()
