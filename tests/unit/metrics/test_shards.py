"""What a shard says becomes metrics; one that says nothing shows as that."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching import BatcherStats
from temporal_batching.errors import BatcherNotRunning
from temporal_batching.metrics import METRICS, Kind, catalog
from temporal_batching.metrics.shards import ShardMetrics, publish_stats
from temporal_batching.policy import BatchPolicy
from tests.support.meters import Kept
from tests.support.waiting import assert_eventually

POLICY = BatchPolicy().to_wire()
STATS = BatcherStats(
    "main",
    2,
    run_id="run-1",
    pending=2_500,
    pending_bytes=1_000,
    in_flight=100,
    oldest_pending_seconds=21.5,
    batches_by_trigger={"count": 3, "linger": 4},
    outcomes={"written": 700, "duplicate": 5, "rejected": 2, "expired": 1},
    requeued=3,
    waiting_confirmations=6,
    retries=4,
    unknown=1,
    sink_errors=2,
    flush_failures=7,
    refused=8,
    malformed=9,
    undelivered=10,
    unread=11,
    run_events=120,
    continue_as_new=12,
    idle_cycles=13,
    paused=True,
    breaker="open",
    policy=POLICY,
)
SHARD = [metric for metric in METRICS if metric.name.startswith("batching_shard_")]


def test_every_metric_of_a_shard_is_there_from_its_first_answer_on() -> None:
    kept = Kept()
    ShardMetrics(kept).answered(STATS)
    assert {name for name, _ in [*kept.gauges, *kept.counters]} >= {metric.name for metric in SHARD}


def test_gauges_are_what_the_shard_says_now() -> None:
    kept = Kept()
    ShardMetrics(kept).answered(STATS)
    values = {metric: kept.value(metric, shard="2") for metric in SHARD if metric.kind is Kind.GAUGE}
    assert values == {
        catalog.UP: 1,
        catalog.PENDING_REQUESTS: 2_500,
        catalog.PENDING_BYTES: 1_000,
        catalog.BUFFER_USED: 0.25,
        catalog.OLDEST_SECONDS: 21.5,
        catalog.IN_FLIGHT: 100,
        catalog.REQUEUED: 3,
        catalog.WAITING_CONFIRMATIONS: 6,
        catalog.UNREAD_SIGNALS: 11,
        catalog.BREAKER_OPEN: 1,
        catalog.PAUSED: 1,
        catalog.DRAINING: 0,
        catalog.IDLE_CYCLES: 13,
        catalog.RUN_EVENTS: 120,
    }


def test_the_buffer_is_as_full_as_the_limit_that_is_nearer() -> None:
    kept = Kept()
    half = int(POLICY["max_pending_bytes"] // 2)
    ShardMetrics(kept).answered(dataclasses.replace(STATS, pending_bytes=half))
    assert kept.value(catalog.BUFFER_USED, shard="2") == 0.5


def test_counters_start_at_nothing_and_grow_by_what_was_counted_since() -> None:
    """A worker that starts counts nothing twice that another one has counted before."""
    kept = Kept()
    metrics = ShardMetrics(kept)
    metrics.answered(STATS)
    assert set(kept.counters.values()) == {0, 1}  # 1: the question itself
    later = dataclasses.replace(
        STATS,
        outcomes={**STATS.outcomes, "written": 750, "expired": 4},
        batches_by_trigger={"count": 3, "linger": 5, "retry": 1},
        flush_failures=9,
        refused=18,
        undelivered=11,
        unknown=3,
        continue_as_new=13,
    )
    metrics.answered(later)
    grown = {name: count for (name, labels), count in kept.counters.items() if labels == (("shard", "2"),) and count}
    assert grown == {
        "batching_shard_flush_failures_total": 2,
        "batching_shard_refused_requests_total": 10,
        "batching_shard_undelivered_confirmations_total": 1,
        "batching_shard_unknown_requests_total": 2,
        "batching_shard_continued_as_new_total": 1,
    }
    outcomes = {kind: kept.value(catalog.REQUESTS, shard="2", outcome=kind) for kind in STATS.outcomes}
    triggers = {
        trigger: kept.value(catalog.BATCHES, shard="2", trigger=trigger) for trigger in ("count", "linger", "retry")
    }
    assert triggers == {"count": 0, "linger": 1, "retry": 1}
    assert outcomes == {"written": 50, "duplicate": 0, "rejected": 0, "expired": 3}


@given(st.lists(st.integers(min_value=0, max_value=1_000), min_size=1, max_size=20))
def test_a_shard_that_was_started_anew_makes_no_counter_fall(totals: list[int]) -> None:
    kept = Kept()
    metrics = ShardMetrics(kept)
    for total in totals:
        metrics.answered(dataclasses.replace(STATS, refused=total))  # Kept fails if it is made to fall
    pairs = itertools.pairwise(totals)
    assert kept.value(catalog.REFUSED, shard="2") == sum(b - a if b >= a else b for a, b in pairs)


def test_what_a_shard_counts_before_it_is_first_asked_is_not_missed_if_it_did_not_run_before() -> None:
    kept = Kept()
    metrics = ShardMetrics(kept)
    metrics.absent(2, "batcher-main-2 does not run")
    metrics.answered(STATS)
    assert kept.value(catalog.REFUSED, shard="2") == 8
    metrics.silent(2, "no worker answers")
    metrics.answered(dataclasses.replace(STATS, refused=9))
    assert kept.value(catalog.REFUSED, shard="2") == 9
    # Terminated, started again, and more is counted than before.
    metrics.absent(2, "batcher-main-2 has ended")
    metrics.answered(dataclasses.replace(STATS, refused=12))
    assert kept.value(catalog.REFUSED, shard="2") == 21


def test_a_shard_that_does_not_answer_shows_as_that_and_its_figures_as_unknown() -> None:
    kept = Kept()
    metrics = ShardMetrics(kept)
    metrics.answered(STATS)
    metrics.silent(2, "no worker")
    assert kept.value(catalog.UP, shard="2") == 0
    gauges = [metric for metric in SHARD if metric.kind is Kind.GAUGE and metric is not catalog.UP]
    assert all(kept.is_unknown(metric, shard="2") for metric in gauges)
    assert kept.value(catalog.QUERIES, shard="2", result="failed") == 1
    metrics.answered(STATS)
    assert kept.value(catalog.UP, shard="2") == 1
    assert kept.value(catalog.PENDING_REQUESTS, shard="2") == 2_500
    assert kept.value(catalog.QUERIES, shard="2", result="answered") == 2


class Asked:
    """A handle whose shards answer as a test wants."""

    def __init__(self, answer: Callable[[int], Awaitable[BatcherStats]], shards: int = 1) -> None:
        self.shards = shards
        self.stats_of = answer


@pytest.mark.parametrize(
    "error",
    [
        BatcherNotRunning("batcher-main-0 does not run"),
        RPCError("gone", RPCStatusCode.UNAVAILABLE, b""),
        TimeoutError(),
        RuntimeError("another data converter"),
        AttributeError("a defect of this library"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_one_shard_that_cannot_be_asked_keeps_no_other_from_being_asked(error: Exception) -> None:
    kept = Kept()
    asked = 0

    async def answer(shard: int) -> BatcherStats:
        nonlocal asked
        asked += 1
        if shard == 0:
            raise error
        return dataclasses.replace(STATS, shard=shard)

    handle: Any = Asked(answer, shards=3)
    publishing = asyncio.create_task(publish_stats(handle, kept, interval=timedelta(milliseconds=5)))

    async def repeatedly() -> None:
        assert asked >= 6

    try:
        await assert_eventually(repeatedly)
    finally:
        publishing.cancel()
    assert [kept.value(catalog.UP, shard=str(shard)) for shard in range(3)] == [0, 1, 1]
