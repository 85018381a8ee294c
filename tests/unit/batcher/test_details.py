"""What the Web UI shows of a shard: is it healthy, what does it do, why does it wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.details import SHOWN, shard_details, static_details
from temporal_batching.batcher.figures import buffer_stats
from temporal_batching.contract import BatcherStart, BatcherStats, FlushResult, Requeued
from temporal_batching.policy import BatchPolicy
from tests.support.buffers import NOW, buffer, submission, take

START = BatcherStart("main", 0)
BEGAN = NOW - 3600


def shown(buf: Buffer, now: float = NOW, *, starting: bool = False, cancelled: bool = False, **figures: Any) -> str:
    stats: BatcherStats = replace(buffer_stats(START, buf, now), **figures)
    return shard_details(stats, buf, now=now, run_began=BEGAN, starting=starting, cancelled=cancelled)


def headline(text: str) -> str:
    return text.splitlines()[0]


def fill(buf: Buffer, count: int, *, now: float = NOW) -> Buffer:
    for n in range(count):
        buf.accept(submission(f"r{n}"), now)
    return buf


def test_an_idle_shard_is_healthy_and_idle() -> None:
    assert headline(shown(buffer())) == "**Healthy**. It is idle: no request waits."


def test_a_shard_that_gathers_says_when_its_next_batch_is_due_and_how_long_the_oldest_waits() -> None:
    text = shown(fill(buffer(linger=20), 2))
    assert headline(text) == (
        "**Healthy**. 2 requests wait; the next batch, retry or deadline is due at 1970-01-12 13:47:00 UTC."
    )
    assert "- Oldest request: arrived 1970-01-12 13:46:40 UTC" in text
    assert "- Pending: 2 requests, " in text


def test_a_shard_that_flushes_names_its_batches() -> None:
    buf = fill(buffer(linger=0), 3)
    take(buf, NOW)
    text = shown(buf)
    assert headline(text) == "**Healthy**. It waits for the end of 1 flush; 0 requests wait."
    assert "    - `main-0/1`: 3 requests, by linger, in a flush since 1970-01-12 13:46:40 UTC" in text


def test_an_outage_names_its_beginning_the_sinks_complaint_and_the_next_attempt() -> None:
    buf = fill(buffer(linger=0, retry_initial=10), 1)
    buf.fail(take(buf, NOW).id, NOW, "db.example:5432 refused", in_doubt=False)
    later = buf.wake_at()
    assert later is not None
    buf.fail(take(buf, later).id, later, "db.example:5432 refused", in_doubt=False)
    assert headline(shown(buf, later)) == (
        "**Sink unavailable** since 1970-01-12 13:46:40 UTC: `db.example:5432 refused`. "
        "1 request waits; the next attempt is due at 1970-01-12 13:47:10 UTC."
    )
    assert "`main-0/1`: 1 request, by linger, waits for the sink, attempt 3" in shown(buf, later)


def test_an_outage_that_nothing_waits_for_is_over_when_the_next_request_shows_it() -> None:
    buf = fill(buffer(linger=0), 1)
    buf.fail(take(buf, NOW).id, NOW, "down", in_doubt=False)
    buf.expire(NOW + 1_000)
    assert headline(shown(buf)).endswith("`down`. No request waits; the next one shows whether the sink is back.")


def test_a_request_that_is_retried_alone_says_when() -> None:
    buf = fill(buffer(linger=0, retry_initial=5), 2)
    buf.complete(take(buf, NOW).id, FlushResult({"written": 1}, requeued=[Requeued(1, "locked")]), NOW)
    assert headline(shown(buf)).startswith("**Retrying**: 1 request that the sink could not write. 1 request waits; ")
    assert "    - `main-0/1`: 1 request, by linger, to be retried at 1970-01-12 13:46:45 UTC, attempt 2" in shown(buf)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"paused": True}, "**Paused**: no flush starts until `temporal-batching resume`. 2 requests wait."),
        ({"draining": True}, "**Draining**: it takes no request until `temporal-batching resume`. "),
        ({"idle_cycles": 3}, "**No progress**: 3 runs in a row settled nothing. "),
        ({"pending": 8_500}, "**Buffer 85% full**: callers are about to wait in Temporal. "),
        ({"cancelled": True}, "**Cancelled**: it takes no more requests, writes what it holds, and ends. "),
        ({"starting": True}, "**Starting**: no worker of the batcher has told it its policy yet. "),
    ],
)
def test_what_needs_attention_comes_first(change: dict[str, Any], word: str) -> None:
    assert headline(shown(fill(buffer(), 2), **change)).startswith(word)


def test_several_problems_are_all_named_the_gravest_first() -> None:
    buf = fill(buffer(linger=0), 1)
    buf.fail(take(buf, NOW).id, NOW, "down", in_doubt=False)
    buf.paused = buf.draining = True
    text = shown(buf)
    assert headline(text).startswith("**Sink unavailable**")
    assert text.index("**Sink unavailable**") < text.index("- **Draining**") < text.index("- **Paused**")


def test_batches_by_trigger_outcomes_policy_and_the_last_continue_as_new_are_there() -> None:
    buf = fill(buffer(linger=0), 2)
    buf.complete(take(buf, NOW).id, FlushResult({"written": 2}), NOW)
    text = shown(buf, continue_as_new=4, run_events=120, suggested=True, ledger="ledger-1")
    assert "- Batches settled: 1 (1 by linger); the largest had 2 requests" in text
    assert "- Requests settled: 2 written" in text
    assert "- Last continue-as-new: 1970-01-12 12:46:40 UTC; 4 so far" in text
    assert "120 events" in text
    assert "Temporal suggests to continue as new" in text
    assert "- Ledger: `ledger-1`" in text
    for name in BatchPolicy().to_wire():
        assert name in text
    assert "`linger` 0 s" in text
    assert "- Last continue-as-new: none yet" in shown(buf)


def test_the_sinks_words_are_text_whatever_they_hold() -> None:
    buf = fill(buffer(linger=0), 1)
    words = "a `b` <script>x</script> [l](javascript:x)\n\x1b[31m| c `` d"
    buf.fail(take(buf, NOW).id, NOW, words, in_doubt=False)
    line = headline(shown(buf))
    assert "```a `b` <script>x</script> [l](javascript:x)  [31m| c `` d```" in line


def test_the_details_stay_short_however_much_waits() -> None:
    buf = buffer(linger=0, max_batch_size=1, max_in_flight=16, max_pending=100_000)
    for n in range(16):
        buf.accept(submission(f"r{n}", key=f"k{n}"), NOW)
        take(buf, NOW)
    text = shown(fill(buf, 5_000), sink_error="x" * 500, ledger="l" * 500)
    assert f"    - and {16 - SHOWN} more" in text
    assert len(text) < 4_000


def test_the_static_details_name_the_shard_and_what_not_to_do() -> None:
    text = static_details(BatcherStart("main", 3))
    assert "Shard 3 of the batcher `main`" in text
    assert "Do not cancel" in text
    assert len(text) < 400
