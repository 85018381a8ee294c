"""What a worker's flushes measure: every attempt, and what became of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from temporalio.exceptions import ApplicationError

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.contract import Outcome, RejectCode, Trigger
from temporal_batching.errors import SinkUnavailable
from temporal_batching.metrics import catalog
from temporal_batching.metrics.flushes import FlushMetrics
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.wire.submission import read_submission
from tests.support.buffers import NOW, buffer, caller
from tests.support.flushes import FakeSink, all_written, flush_of, run, wire
from tests.support.meters import Kept

SHARD = {"shard": "3"}


async def test_a_settled_batch_is_measured_once() -> None:
    kept = Kept()
    flush = dataclasses.replace(flush_of(wire("a"), wire("b")), waited=12.5)
    await run(FakeSink(all_written), flush, metrics=FlushMetrics(kept))
    assert kept.value(catalog.WAIT_SECONDS, **SHARD) == [12.5]
    assert kept.value(catalog.BATCH_REQUESTS, **SHARD) == [2]
    assert kept.value(catalog.BATCH_RECORDS, **SHARD) == [2]
    assert len(kept.value(catalog.WRITE_SECONDS, **SHARD)) == len(kept.value(catalog.DELIVERY_SECONDS, **SHARD)) == 1
    assert kept.value(catalog.FLUSHES, result="settled", **SHARD) == 1


async def test_an_attempt_that_failed_counts_and_its_time_in_the_sink_too() -> None:
    def down(batch: Batch) -> Sequence[Outcome]:
        raise SinkUnavailable("down", in_doubt=False)

    kept = Kept()
    metrics = FlushMetrics(kept)
    metrics.started(shards=4)
    for _ in range(2):
        with pytest.raises(ApplicationError):
            await run(FakeSink(down), flush_of(wire("a")), metrics=metrics)
    assert kept.value(catalog.FLUSHES, result="failed", **SHARD) == 2
    assert kept.value(catalog.FLUSHES, result="settled", **SHARD) == 0
    assert len(kept.value(catalog.WRITE_SECONDS, **SHARD)) == 2
    assert not [name for name, _ in kept.histograms if name == catalog.BATCH_REQUESTS.name]


@pytest.mark.parametrize("keeps", [True, False])
async def test_dead_letters_are_counted_by_whether_the_sink_keeps_them(keeps: bool) -> None:
    class Rejecting(FakeSink):
        async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
            return keeps

    sink = Rejecting(lambda batch: [Outcome.rejected(RejectCode.CONSTRAINT, "odd") for _ in batch])
    unheard = {**wire("a"), "reply_to": []}
    kept = Kept()
    await run(sink, flush_of(unheard, wire("b")), metrics=FlushMetrics(kept))
    assert kept.value(catalog.DEAD_LETTERS, kept="true", **SHARD) == keeps
    assert kept.value(catalog.DEAD_LETTERS, kept="false", **SHARD) == (not keeps)


async def test_each_halving_is_counted() -> None:
    def fragile(batch: Batch) -> Sequence[Outcome]:
        if any(request.request_id == "c" for request in batch):
            raise ZeroDivisionError
        return all_written(batch)

    kept = Kept()
    await run(FakeSink(fragile), flush_of(*map(wire, "abcd")), metrics=FlushMetrics(kept))
    assert kept.value(catalog.SPLITS, by="flush") == 2


def test_the_sinks_own_counters_are_published_by_how_much_they_grow() -> None:
    @dataclasses.dataclass
    class Counters:
        transactions: int = 3
        rows: int = 0
        splits: int = 1

    kept, counters = Kept(), Counters()
    metrics = FlushMetrics(kept, counters)
    metrics.count_sink()
    counters.transactions, counters.rows = 5, 40
    metrics.count_sink()
    assert kept.value(catalog.TRANSACTIONS) == 5
    assert kept.value(catalog.ROWS) == 40
    assert kept.value(catalog.SPLITS, by="sink") == 1
    assert (catalog.STATEMENTS.name, ()) not in kept.counters


def test_a_batch_has_waited_since_its_oldest_request_arrived_also_over_a_retry() -> None:
    buf = buffer(max_batch_size=2)
    for name, at in (("a", NOW), ("b", NOW + 3)):
        buf.accept(read_submission(wire(name, caller(name))), at)
    batch = buf.next_batch(NOW + 3)
    assert batch is not None
    assert batch.waited(NOW + 3) == 3
    buf.fail(batch.id, NOW + 4, "down", in_doubt=False)
    again = buf.next_batch(NOW + 60)
    assert again is not None
    assert again.waited(NOW + 60) == 60
    assert PendingBatch("main-0/1", 1, Trigger.COUNT, []).waited(NOW) == 0
