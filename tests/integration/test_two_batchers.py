"""Two batchers on one server, and even on one queue, never write into each other's databases."""

from __future__ import annotations

import asyncio

from temporalio.client import Client
from temporalio.worker import Worker

from temporal_batching import BatchClient, BatcherHandle, BatcherPlugin, BatchWriter, GatewayPlugin, MemorySink
from tests.support.service import QUICK


def test_the_default_queue_follows_the_name_everywhere() -> None:
    from temporal_batching.routing import default_task_queue

    assert default_task_queue("main") == "batcher-queue"
    assert default_task_queue("orders") == "batcher-queue-orders"
    assert BatchWriter("orders")._task_queue == GatewayPlugin(name="orders")._task_queue == "batcher-queue-orders"
    assert BatchWriter("orders", task_queue="q")._task_queue == "q"


async def test_two_batchers_on_one_queue_write_into_their_own_databases(client: Client) -> None:
    """Whoever misconfigures what: an activity that is meant for the other batcher fails, and comes again."""
    queue, names = "one-queue-for-two", ("two-a", "two-b")
    sinks = {name: MemorySink() for name in names}
    target = client.service_client.config.target_host
    workers = [
        # One process, one connection, one worker for a queue: so each has a connection of its own.
        Worker(
            await Client.connect(target, namespace=client.namespace),
            task_queue=queue,
            plugins=[BatcherPlugin(sinks[name], policy=QUICK, name=name)],
        )
        for name in names
    ]
    try:
        async with workers[0], workers[1]:

            async def write(name: str, n: int) -> str:
                batches = BatchClient(client, name, task_queue=queue)
                return (await batches.write("entries", {"n": n}, request_id=f"{name}-{n}")).outcome

            outcomes = await asyncio.gather(*(write(name, n) for name in names for n in range(8)))
    finally:
        for name in names:
            await BatcherHandle(client, name)._client.get_workflow_handle(f"batcher-{name}-0").terminate()
    assert set(outcomes) <= {"written", "duplicate"}
    for name in names:
        assert set(sinks[name].ledger) == {f"{name}-{n}" for n in range(8)}
