"""What a worker's flushes measure."""

from __future__ import annotations

import dataclasses
from typing import Any

from temporal_batching.contract import FlushInput
from temporal_batching.metrics import catalog
from temporal_batching.metrics.recorder import NOTHING, Recorder

_COUNTERS = {
    "transactions": (catalog.TRANSACTIONS, {}),
    "statements": (catalog.STATEMENTS, {}),
    "rows": (catalog.ROWS, {}),
    "retries": (catalog.SINK_RETRIES, {}),
    "splits": (catalog.SPLITS, {"by": "sink"}),
}
"""Counters of a sink that are published, by their names in `SinkCounters`."""


class FlushMetrics:
    """Publishes what the flushes of one worker did.

    Args:
        recorder: Publishes it.
        counters: The sink's own, if it has any: a dataclass such as `SinkCounters`.
    """

    def __init__(self, recorder: Recorder = NOTHING, counters: Any = None) -> None:
        self._recorder = recorder
        self._counters = counters if dataclasses.is_dataclass(counters) else None
        self._counted: dict[str, int] = {}

    def started(self, shards: int) -> None:
        """Makes the counters appear: one that begins with the first event hides it from `increase`."""
        for shard in map(str, range(shards)):
            for result in ("settled", "failed"):
                self._recorder.add(catalog.FLUSHES, 0, shard=shard, result=result)
            for kept in ("true", "false"):
                self._recorder.add(catalog.DEAD_LETTERS, 0, shard=shard, kept=kept)
        for by in ("flush", "sink"):
            self._recorder.add(catalog.SPLITS, 0, by=by)
        self.count_sink()

    def settled(self, flush: FlushInput, *, requests: int, records: int, splits: int) -> None:
        """A flush settled its batch, or a part of it."""
        shard = str(flush.shard)
        self._result(shard, settled=True)
        self._recorder.record(catalog.WAIT_SECONDS, flush.waited, shard=shard)
        self._recorder.record(catalog.BATCH_REQUESTS, requests, shard=shard)
        self._recorder.record(catalog.BATCH_RECORDS, records, shard=shard)
        self._recorder.add(catalog.SPLITS, splits, by="flush")

    def failed(self, flush: FlushInput) -> None:
        """A flush failed: its batch is to be retried."""
        self._result(str(flush.shard), settled=False)

    def wrote(self, flush: FlushInput, seconds: float) -> None:
        """The sink was asked to write a batch, whatever came of it."""
        self._recorder.record(catalog.WRITE_SECONDS, seconds, shard=str(flush.shard))
        self.count_sink()

    def delivered(self, shard: int, seconds: float) -> None:
        """Confirmations were sent."""
        self._recorder.record(catalog.DELIVERY_SECONDS, seconds, shard=str(shard))

    def dead_letters(self, flush: FlushInput, *, kept: int, lost: int) -> None:
        """Rejected requests without a reply address were kept, or could not be."""
        for word, count in (("true", kept), ("false", lost)):
            self._recorder.add(catalog.DEAD_LETTERS, count, shard=str(flush.shard), kept=word)

    def count_sink(self) -> None:
        """Publishes by how much the sink's own counters have grown."""
        for name, (metric, labels) in _COUNTERS.items():
            total = getattr(self._counters, name, None)
            if isinstance(total, int):
                self._recorder.add(metric, total - self._counted.get(name, 0), **labels)
                self._counted[name] = total

    def _result(self, shard: str, *, settled: bool) -> None:
        self._recorder.add(catalog.FLUSHES, 1, shard=shard, result="settled" if settled else "failed")
