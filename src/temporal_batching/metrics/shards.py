"""What shards say of themselves, as metrics: asked at an interval, for a shard may run in any worker."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping
from datetime import timedelta

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.batcher.silence import ANSWER_TIMEOUT, NO_ANSWER, ShardNotThere
from temporal_batching.contract import BatcherStats, OutcomeKind, Trigger
from temporal_batching.metrics import catalog
from temporal_batching.metrics.catalog import Metric
from temporal_batching.metrics.recorder import Recorder

logger = logging.getLogger(__name__)

STATS_INTERVAL = timedelta(seconds=30)
"""How often a worker asks each shard, unless it is told otherwise: 2,880 queries a day, for each worker and shard."""

SHORTEST_INTERVAL = timedelta(seconds=1)

_OUTCOMES = [kind for kind in OutcomeKind if kind is not OutcomeKind.RETRY]


def gauges(stats: BatcherStats) -> dict[Metric, float]:
    """The gauges of a shard that answered."""
    return {
        catalog.PENDING_REQUESTS: stats.pending,
        catalog.PENDING_BYTES: stats.pending_bytes,
        catalog.BUFFER_USED: used(stats),
        catalog.OLDEST_SECONDS: stats.oldest_pending_seconds,
        catalog.IN_FLIGHT: stats.in_flight,
        catalog.REQUEUED: stats.requeued,
        catalog.WAITING_CONFIRMATIONS: stats.waiting_confirmations,
        catalog.UNREAD_SIGNALS: stats.unread,
        catalog.BREAKER_OPEN: stats.breaker != "closed",
        catalog.PAUSED: stats.paused,
        catalog.DRAINING: stats.draining,
        catalog.IDLE_CYCLES: stats.idle_cycles,
        catalog.RUN_EVENTS: stats.run_events,
    }


def used(stats: BatcherStats) -> float:
    """The part of its buffer's limits that a shard uses: of requests or of bytes, whichever is more."""
    parts = (("max_pending", stats.pending), ("max_pending_bytes", stats.pending_bytes))
    return max((used / stats.policy[limit] for limit, used in parts if stats.policy.get(limit)), default=0.0)


def counters(stats: BatcherStats) -> Iterator[tuple[Metric, Mapping[str, str], int]]:
    """The counters of a shard that answered, since its first run."""
    for outcome in _OUTCOMES:
        yield catalog.REQUESTS, {"outcome": outcome.value}, stats.outcomes.get(outcome, 0)
    for trigger in Trigger:
        yield catalog.BATCHES, {"trigger": trigger.value}, stats.batches_by_trigger.get(trigger, 0)
    for metric, count in (
        (catalog.REFUSED, stats.refused),
        (catalog.FLUSH_FAILURES, stats.flush_failures),
        (catalog.RETRIED, stats.retries),
        (catalog.UNKNOWN, stats.unknown),
        (catalog.SINK_ERRORS, stats.sink_errors),
        (catalog.UNDELIVERED, stats.undelivered),
        (catalog.MALFORMED, stats.malformed),
        (catalog.CYCLES, stats.continue_as_new),
    ):
        yield metric, {}, count


class ShardMetrics:
    """Turns the answers of shards into metrics.

    A counter starts at 0 with the first answer, and grows by the difference to the answer before: what was counted
    before this worker ran is not in it. A shard that was seen to be absent counts from 0 when it answers, and so does
    one whose figures are less than before: it was started anew.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._counted: dict[tuple[int, Metric, str], int] = {}
        self._silent: set[int] = set()
        self._absent: set[int] = set()

    def answered(self, stats: BatcherStats) -> None:
        """Publishes what a shard said."""
        shard = str(stats.shard)
        for metric, value in gauges(stats).items():
            self._recorder.set(metric, value, shard=shard)
        for metric, labels, total in counters(stats):
            name = (stats.shard, metric, "".join(labels.values()))
            before = self._counted.get(name, 0 if stats.shard in self._absent else total)
            self._recorder.add(metric, total - before if total >= before else total, shard=shard, **labels)
            self._counted[name] = total
        self._absent.discard(stats.shard)
        self._asked(shard, answered=True)
        if stats.shard in self._silent:
            self._silent.discard(stats.shard)
            logger.info("Shard %s answers again", shard)

    def silent(self, shard: int, problem: str) -> None:
        """Publishes that a shard does not answer: what it would say is not known."""
        for metric in gauges(BatcherStats("", shard)):
            self._recorder.set(metric, math.nan, shard=str(shard))
        self._asked(str(shard), answered=False)
        if shard not in self._silent:  # stated once: it may last for hours
            self._silent.add(shard)
            logger.warning("Shard %d does not answer, so its metrics are not known: %s", shard, problem)

    def absent(self, shard: int, problem: str) -> None:
        """Publishes the same of a shard that does not run."""
        self._counted = {name: total for name, total in self._counted.items() if name[0] != shard}
        self._absent.add(shard)
        self.silent(shard, problem)

    def _asked(self, shard: str, *, answered: bool) -> None:
        self._recorder.set(catalog.UP, answered, shard=shard)
        for result, count in (("answered", answered), ("failed", not answered)):
            self._recorder.add(catalog.QUERIES, int(count), shard=shard, result=result)


async def publish_stats(batcher: BatcherHandle, recorder: Recorder, *, interval: timedelta = STATS_INTERVAL) -> None:
    """Asks every shard at an interval, until it is cancelled. A query adds nothing to a shard's history."""
    metrics = ShardMetrics(recorder)

    async def ask(shard: int) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT.total_seconds()):
                stats = await batcher.stats_of(shard)
        except ShardNotThere as err:
            metrics.absent(shard, str(err))
        except Exception as err:  # of any kind: a worker must not stop asking
            metrics.silent(shard, str(err) or f"no answer within {ANSWER_TIMEOUT.total_seconds():g} s")
            if not isinstance(err, NO_ANSWER):
                logger.exception("Shard %d could not be asked", shard)
        else:
            metrics.answered(stats)

    while True:
        await asyncio.gather(*(ask(shard) for shard in range(batcher.shards)))
        await asyncio.sleep(interval.total_seconds())
