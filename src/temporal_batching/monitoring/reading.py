"""Asks a batcher's shards, and says in one line why one does not answer."""

from __future__ import annotations

import asyncio

from temporalio.service import RPCError

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.batcher.silence import ANSWER_TIMEOUT, UNREADABLE
from temporal_batching.contract import BatcherStats
from temporal_batching.errors import BatcherNotRunning, BatchingError


class NoAnswer(BatchingError):
    """The batcher does not answer: there is no worker, or no such workflow."""


class BatcherUnreadable(BatchingError):
    """The client's data converter is another one than the batcher's."""


async def read_stats(batcher: BatcherHandle) -> list[BatcherStats]:
    """Asks every shard.

    Raises:
        NoAnswer: It says what is missing.
        BatcherUnreadable: The answer cannot be decoded.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT.total_seconds()):
            return await batcher.stats()
    except BatcherNotRunning as err:
        raise NoAnswer(f"{err}. Is the batcher's worker running?") from None
    except TimeoutError:
        raise NoAnswer(
            f"no worker answers for batcher '{batcher.name}' on task queue '{batcher.task_queue}'. Is it running?"
        ) from None
    except UNREADABLE as err:
        raise BatcherUnreadable(f"what batcher '{batcher.name}' sends cannot be read: {err}") from None
    except RPCError as err:
        raise NoAnswer(f"batcher '{batcher.name}' cannot be asked: {err.message}") from None
