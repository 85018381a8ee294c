"""One timer does for a batch: what arrives during a flush sets the one that fits once the flush has ended."""

from __future__ import annotations

import heapq
import itertools

import pytest

from temporal_batching.batcher.batches import OVERLAP_AFTER, PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.contract import FlushResult
from tests.support.buffers import NOW, buffer, submission, take


def completed(buf: Buffer, batch: PendingBatch, now: float) -> None:
    buf.complete(batch.id, FlushResult({"written": batch.requests}), now)


def flushed_once(buf: Buffer, *, seconds: float) -> float:
    """A buffer that knows how long a flush takes; returns the time."""
    buf.accept(submission("first"), NOW)
    buf.flush_now(NOW)
    completed(buf, take(buf, NOW), NOW + seconds)
    return NOW + seconds


def in_flight(buf: Buffer, now: float) -> PendingBatch:
    buf.accept(submission("flying"), now)
    buf.flush_now(now)
    return take(buf, now)


@pytest.mark.parametrize("flights", [1, 4])
@pytest.mark.parametrize("key", ["", "k"])
def test_what_arrives_during_a_flush_has_a_timer_for_the_end_of_its_linger(flights: int, key: str) -> None:
    buf = buffer(linger=0.3, max_in_flight=flights)
    now = flushed_once(buf, seconds=0.1)
    buf.accept(submission("flying", key=key), now)
    buf.flush_now(now)
    batch = take(buf, now)
    buf.accept(submission("next", key=key), now + 0.05)
    timer = buf.timer_at(now + 0.05)
    assert timer == now + 0.05 + 0.3 < (buf.wake_at() or 0.0)
    completed(buf, batch, now + 0.1)
    assert buf.wake_at() == timer == buf.timer_at(now + 0.1)


def test_a_flush_that_takes_longer_than_expected_has_a_second_timer() -> None:
    buf = buffer(linger=0.3, max_in_flight=4)
    now = flushed_once(buf, seconds=0.1)
    in_flight(buf, now)
    buf.accept(submission("next"), now + 0.05)
    assert buf.timer_at(now + 0.36) == buf.wake_at() == now + OVERLAP_AFTER


def test_where_flushes_take_longer_than_the_linger_their_end_starts_the_next_batch() -> None:
    buf = buffer(linger=0.3, max_in_flight=4)
    now = flushed_once(buf, seconds=0.6)
    in_flight(buf, now)
    buf.accept(submission("next"), now + 0.05)
    assert buf.timer_at(now + 0.05) == buf.wake_at() == now + OVERLAP_AFTER


@pytest.mark.parametrize("full_by", ["max_batch_size", "max_batch_records", "max_batch_bytes"])
def test_a_full_batch_needs_no_timer_for_its_linger(full_by: str) -> None:
    most = {"max_batch_size": 3, "max_batch_records": 6, "max_batch_bytes": 1_024}
    buf = buffer(linger=0.3, **{full_by: most[full_by]})
    now = flushed_once(buf, seconds=0.1)
    in_flight(buf, now)
    for name in ("a" * 200, "b" * 200, "c" * 200):
        buf.accept(submission(name, records=2, expires_at=now + 100), now)
    assert buf.timer_at(now) == buf.wake_at() == now + 100


@pytest.mark.parametrize("why", ["paused", "the sink is down"])
def test_a_flush_whose_end_starts_nothing_brings_no_timer(why: str) -> None:
    buf = buffer(linger=0.3, max_in_flight=1)
    now = flushed_once(buf, seconds=0.1)
    batch = in_flight(buf, now)
    if why == "paused":
        buf.paused = True
    else:
        buf.fail(batch.id, now, "down", in_doubt=False)
        now += 1_000
        assert buf.next_batch(now) is not None
    buf.accept(submission("next", expires_at=now + 2_000), now)
    assert buf.timer_at(now) == buf.wake_at() == now + 2_000


@pytest.mark.parametrize("flights", [1, 4])
@pytest.mark.parametrize(("linger", "flush"), [(0.2, 0.15), (0.5, 0.4), (1.0, 0.1), (5.0, 0.3), (0.1, 0.3), (0, 0.1)])
def test_under_a_steady_load_no_timer_is_cancelled_and_one_does_for_a_batch(
    linger: float, flush: float, flights: int
) -> None:
    """The loop of the workflow, with a request every 30 ms and no more than ten in a batch."""
    buf = buffer(linger=linger, max_in_flight=flights, max_batch_size=1_000)
    steps = itertools.count()
    events: list[tuple[float, int, str, PendingBatch | None]] = [
        (NOW + 0.03 * n, next(steps), "request", None) for n in range(1_000)
    ]
    timer, started, cancelled, batches = 0.0, 0, 0, 0
    while events:
        now, _, what, batch = heapq.heappop(events)
        if what == "timer" and now != timer:
            continue  # it was cancelled
        if what == "timer":
            timer = 0.0
        elif batch is not None:
            completed(buf, batch, now)
        else:
            buf.accept(submission(f"r-{next(steps)}"), now)
        while (started_now := buf.next_batch(now)) is not None:
            batches += 1
            heapq.heappush(events, (now + flush, next(steps), "end", started_now))
        at = buf.timer_at(now)
        if at is None or at <= now or (timer and timer <= at):
            continue
        cancelled += timer > 0
        timer, started = at, started + 1
        heapq.heappush(events, (timer, next(steps), "timer", None))
    assert (buf.pending, buf.in_flight) == (0, 0)
    assert cancelled <= 1, "of the first batch, before it is known how long one takes"
    assert started <= batches + 2
