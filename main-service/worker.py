"""The main service's worker: payment workflows, their activities, and a gateway to the batcher.

`GatewayPlugin` runs the batcher's activity `batch_write` in this process, for `--via activity`: Temporal then starts it
without a trip through the server's queues. By signal the workflows need no plugin, it only lets their sandbox run the
library as it is.
"""

from activities import issue_receipt, prepare_booking
from temporalio.worker import Worker
from workflow import TASK_QUEUE, PaymentWorkflow

from temporal_batching import GatewayPlugin, run_worker
from temporal_batching.service import BatcherSettings, Target, TaskQueue, command, connect_to_batcher


@command()
async def main(settings: BatcherSettings, target: Target, main_task_queue: TaskQueue = TASK_QUEUE) -> None:
    """Run a worker of the main service."""
    worker = Worker(
        await connect_to_batcher(target, settings),
        task_queue=main_task_queue,
        workflows=[PaymentWorkflow],
        activities=[prepare_booking, issue_receipt],
        plugins=[GatewayPlugin(name=settings.name, shards=settings.shards, task_queue=settings.task_queue)],
        # Payments wait for their batch, so many are under way at once: keep them all in memory, and let their writes
        # reach the gateway concurrently, which is what fills an update.
        max_cached_workflows=5_000,
        max_concurrent_activities=1_000,
    )
    print(f"Main worker on task queue '{main_task_queue}', batcher '{settings.name}'. Ctrl-C stops it.", flush=True)
    await run_worker(worker)


if __name__ == "__main__":
    main()
