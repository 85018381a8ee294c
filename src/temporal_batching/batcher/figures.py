"""The figures of a shard that its buffer knows; its workflow adds those of the run."""

from __future__ import annotations

from temporal_batching.batcher.buffer import Buffer
from temporal_batching.contract import BatcherStart, BatcherStats


def buffer_stats(start: BatcherStart, buffer: Buffer, now: float) -> BatcherStats:
    """What `BatcherStats` has of a buffer."""
    counts = buffer.counts
    return BatcherStats(
        batcher=start.batcher,
        shard=start.shard,
        pending=buffer.pending,
        pending_bytes=buffer.pending_bytes,
        in_flight=buffer.in_flight,
        dedup_ids=buffer.dedup_ids,
        oldest_pending_seconds=round(buffer.oldest_age(now), 3),
        batches=counts.batches,
        batches_by_trigger=dict(counts.batches_by_trigger),
        largest_batch=counts.largest_batch,
        outcomes=dict(counts.outcomes),
        requeued=buffer.requeued,
        waiting_confirmations=buffer.outbox,
        retries=counts.retries,
        unknown=counts.unknown,
        sink_errors=counts.sink_errors,
        flush_failures=counts.flush_failures,
        refused=counts.refused,
        undelivered=buffer.undelivered,
        paused=buffer.paused,
        draining=buffer.draining,
        breaker="open" if buffer.breaker.open else "closed",
        sink_error=buffer.breaker.error,
        policy=buffer.policy.to_wire(),
    )
