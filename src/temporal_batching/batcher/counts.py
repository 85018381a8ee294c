"""What a shard has counted since its first run; `BatcherStats` describes each figure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.contract import FlushResult


@dataclass(slots=True)
class Counts:
    """The counters that one run hands to the next."""

    outcomes: Counter[str] = field(default_factory=Counter)
    batches_by_trigger: Counter[str] = field(default_factory=Counter)
    largest_batch: int = 0
    refused: int = 0
    flush_failures: int = 0
    retries: int = 0
    unknown: int = 0
    sink_errors: int = 0

    @property
    def batches(self) -> int:
        return sum(self.batches_by_trigger.values())

    @property
    def settled(self) -> int:
        """Requests that left the buffer."""
        return sum(self.outcomes.values()) + self.unknown

    @property
    def attempts_that_failed(self) -> int:
        """Flushes that failed, and requests that were requeued."""
        return self.flush_failures + self.retries

    def flushed(self, batch: PendingBatch, result: FlushResult) -> None:
        """Counts what a flush reports; a batch that is retried counts once."""
        self.outcomes.update(result.outcomes)
        self.unknown += sum(batch.submissions[position].requests for position in result.unknown)
        self.sink_errors += result.sink_errors
        self.largest_batch = max(self.largest_batch, batch.requests)
        self.batches_by_trigger[batch.trigger] += not batch.counted
        batch.counted = True
