"""The main service's worker: payment workflows, their activities, and a gateway to the batcher.

`GatewayPlugin` puts the batcher's door into this process: Temporal then starts the write's activity without a trip
through the server's queues. Without it, `BatchWriter(gateway="batcher")` uses the door in the batcher's own worker.
"""

from __future__ import annotations

from typing import Annotated

import typer
from activities import issue_receipt, prepare_entry
from temporalio.client import Client
from temporalio.worker import Worker
from workflow import TASK_QUEUE, PaymentWorkflow

from temporal_batching import GatewayPlugin
from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import log_to_stderr, out, run
from temporal_batching.cli.options import BATCHER, with_settings
from temporal_batching.cli.worker import serve
from temporal_batching.settings import BatcherSettings

MainQueue = Annotated[
    str, typer.Option("--main-task-queue", envvar="MAIN_TASK_QUEUE", help="The main service's own task queue.")
]


def payment_worker(client: Client, settings: BatcherSettings, task_queue: str) -> Worker:
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[PaymentWorkflow],
        activities=[prepare_entry, issue_receipt],
        plugins=[GatewayPlugin(name=settings.name, shards=settings.shards, task_queue=settings.task_queue)],
        # Payments wait for their batch, so many are under way at once: keep them all in memory, and let their
        # writes reach the gateway side by side, which is what fills an update.
        max_cached_workflows=5_000,
        max_concurrent_activities=1_000,
    )


async def work(settings: BatcherSettings, target: Target, task_queue: str) -> int:
    log_to_stderr()
    client = await target.connect()
    worker = payment_worker(client, settings, task_queue)
    out.print(
        f"Main worker on task queue '{task_queue}', Temporal at {client.service_client.config.target_host}, writing "
        f"through batcher '{settings.name}'. Ctrl-C stops it.",
        markup=False,
    )
    return await serve(worker)


@with_settings(*BATCHER)
def main(settings: BatcherSettings, target: Target, main_task_queue: MainQueue = TASK_QUEUE) -> None:
    """Run a worker of the main service."""
    run(work(settings, target, main_task_queue))


if __name__ == "__main__":
    typer.run(main)
