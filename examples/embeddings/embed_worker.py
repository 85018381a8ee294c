"""The batcher's worker: python examples/embeddings/embed_worker.py http://localhost:8100"""

import asyncio
import sys
from datetime import timedelta

from embed import Embed
from embedding_sink import EmbeddingSink
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_batching import BatcherPlugin, BatchPolicy, run_worker


async def main(url: str) -> None:
    client = await Client.connect("localhost:7233")
    policy = BatchPolicy(max_batch_size=100, linger=timedelta(milliseconds=200))
    batcher = BatcherPlugin(EmbeddingSink(url), policy=policy, name="embeddings")
    queue = "batcher-queue-embeddings"
    await run_worker(Worker(client, task_queue=queue, workflows=[Embed], plugins=[batcher]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
