"""What the Web UI shows of a shard: whether it is healthy, what it does, and why it waits. Pure.

Times, not ages: a query sees the shard as it was at its last workflow task. No value of a record is in it: the sink's
complaint is what `BatcherStats` has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.contract import SIGNAL_ADD, SIGNAL_WITHDRAW, BatcherStart, BatcherStats
from temporal_batching.policy import BatchPolicy
from temporal_batching.web_ui import code, moment

SUBMIT_SAYS = "Write requests from a gateway. Internal: callers run the activity batch_write."
CONTROL_SAYS = "What an operator asks: flush, pause, drain, another policy. Use temporal-batching or BatcherHandle."
SIGNALS_SAY = f"{SIGNAL_ADD}: write requests, of {SIGNAL_WITHDRAW}: takes one back. Any other is counted as malformed."
STATS_SAYS = "The figures of this shard: what waits, batches, outcomes, breaker, policy."
BATCH_SAYS = "The content of a batch in flight, for its flush. Internal."
"""Descriptions of the handlers."""

NEXT_BATCH, NEXT_PROBE = "next batch, retry or deadline", "next attempt at the sink"
NEXT_PART = "goes on in another task"
"""Summaries of timers. Each is stored with its timer: short ones."""

IDLE = "It is idle: no request waits."

SHOWN = 8
"""Batches that are listed; of more, their number is given."""

NEARLY_FULL = 0.8
"""The part of a buffer's limits from which on callers are about to wait in Temporal."""


HOW_TO_STOP = (
    "Do not cancel, reset or terminate it: operators use `temporal-batching pause` and `temporal-batching drain`."
)


def static_details(start: BatcherStart) -> str:
    """What a shard's workflow is. Temporal shows it for the first run; it does not pass to those that follow."""
    return (
        f"Shard {start.shard} of the batcher `{start.batcher}`: it gathers write requests, has them committed in "
        f"batches, and continues as new forever. **Current Details** say how it is.\n\n{HOW_TO_STOP}"
    )


def shard_details(
    stats: BatcherStats,
    buffer: Buffer,
    *,
    now: float,
    run_began: float,
    starting: bool = False,
    cancelled: bool = False,
) -> str:
    """A shard's current details, as Markdown.

    Args:
        stats: Its figures.
        buffer: What it holds.
        now: The time of its last workflow task.
        run_began: When this run began.
        starting: It does not know its policy yet.
        cancelled: It was cancelled, and is to end.
    """
    problems = list(_problems(stats, buffer, starting=starting, cancelled=cancelled)) or ["**Healthy**"]
    return "\n".join(
        [
            f"{problems[0]}. {_doing(stats, buffer)}",
            "",
            *(f"- {problem}" for problem in problems[1:]),
            *_holds(stats, buffer, now),
            *_did(stats),
            *_runs(stats, run_began),
            f"- Ledger: {_ledger(stats)}",
            *([f"- Flushes: on the task queue {code(stats.flush_task_queue)}"] if stats.flush_task_queue else ()),
            f"- Policy: {_policy(buffer.policy)}",
            "",
            f"Shard {stats.shard} of the batcher `{stats.batcher}`, as of its last workflow task at {moment(now)}. "
            f"{HOW_TO_STOP}",
        ]
    )


def _problems(stats: BatcherStats, buffer: Buffer, *, starting: bool, cancelled: bool) -> Iterator[str]:
    """What is not as it should be, the gravest first; each without its full stop."""
    breaker = buffer.breaker
    if breaker.open:
        yield f"**Sink unavailable** since {moment(breaker.opened_at)}: {code(breaker.error or 'no reason given')}"
    if starting:
        yield "**Starting**: no worker of the batcher has told it its policy yet"
    if cancelled:
        yield "**Cancelled**: it takes no more requests, writes what it holds, and ends"
    elif stats.draining:
        yield "**Draining**: it takes no request until `temporal-batching resume`"
    if stats.paused:
        yield "**Paused**: no flush starts until `temporal-batching resume`"
    policy = buffer.policy
    used = max(stats.pending / policy.max_pending, stats.pending_bytes / policy.max_pending_bytes)
    if used >= NEARLY_FULL:
        yield f"**Buffer {used:.0%} full**: callers are about to wait in Temporal"
    if stats.idle_cycles:
        yield f"**No progress**: {_many(stats.idle_cycles, 'run')} in a row settled nothing"
    if stats.requeued:
        yield f"**Retrying**: {_many(stats.requeued, 'request')} that the sink could not write"


def _doing(stats: BatcherStats, buffer: Buffer) -> str:
    """What it does now, and what it waits for."""
    wait = f"{_many(stats.pending, 'request')} {'waits' if stats.pending == 1 else 'wait'}"
    if buffer.batches_in_flight:
        return f"It waits for the end of {_many(buffer.batches_in_flight, 'flush', 'flushes')}; {wait}."
    if stats.unread:
        return f"It reads {_many(stats.unread, 'signal')}; {wait}."
    if not stats.pending:
        return "No request waits; the next one shows whether the sink is back." if buffer.breaker.open else IDLE
    at = buffer.wake_at()
    if stats.paused or at is None:
        return f"{wait}."
    what = "the next attempt" if buffer.breaker.open else "the next batch, retry or deadline"
    return f"{wait}; {what} is due at {moment(at)}."


def _holds(stats: BatcherStats, buffer: Buffer, now: float) -> Iterator[str]:
    policy, batches = buffer.policy, buffer.batches
    limits = f"of {policy.max_pending:,} requests and {policy.max_pending_bytes:,} bytes"
    yield f"- Pending: {_many(stats.pending, 'request')}, {stats.pending_bytes:,} bytes ({limits})"
    if stats.dedup_ids:
        yield f"- Oldest request: arrived {moment(now - stats.oldest_pending_seconds)}"
    if batches:
        yield f"- Batches that are not settled: {len(batches):,}"
        for position, batch in enumerate(batches[:SHOWN]):
            yield f"    - {_batch(batch, in_flight=position < buffer.batches_in_flight)}"
        if len(batches) > SHOWN:
            yield f"    - and {len(batches) - SHOWN:,} more"
    if stats.waiting_confirmations or stats.undelivered:
        yield f"- Confirmations: {stats.waiting_confirmations:,} to be sent, {stats.undelivered:,} given up"


def _batch(batch: PendingBatch, *, in_flight: bool) -> str:
    if in_flight:
        state = f"in a flush since {moment(batch.started_at)}"
    else:
        state = f"to be retried at {moment(batch.due_at)}" if batch.own_pace else "waits for the sink"
    attempt = f", attempt {batch.attempt + 1}" if batch.attempt else ""
    return f"{code(batch.id)}: {_many(batch.requests, 'request')}, by {batch.trigger}, {state}{attempt}"


def _did(stats: BatcherStats) -> Iterator[str]:
    triggers = f" ({_counted(stats.batches_by_trigger, 'by ')})" if stats.batches else ""
    largest = f"; the largest had {_many(stats.largest_batch, 'request')}" if stats.batches else ""
    yield f"- Batches settled: {stats.batches:,}{triggers}{largest}"
    yield f"- Requests settled: {_counted(stats.outcomes) or 'none'}"
    troubles = {
        "failed flushes": stats.flush_failures,
        "retries": stats.retries,
        "refused as busy": stats.refused,
        "outcome unknown": stats.unknown,
        "malformed messages": stats.malformed,
        "errors of the sink": stats.sink_errors,
    }
    if told := ", ".join(f"{count:,} {name}" for name, count in troubles.items() if count):
        yield f"- Since its first run: {told}"


def _runs(stats: BatcherStats, run_began: float) -> Iterator[str]:
    cycles = f"{moment(run_began)}; {stats.continue_as_new:,} so far" if stats.continue_as_new else "none yet"
    yield f"- Last continue-as-new: {cycles}"
    messages = f"{_many(stats.run_updates, 'update')}, {_many(stats.run_signals, 'signal')}"
    suggested = "; Temporal suggests to continue as new" if stats.suggested else ""
    yield f"- This run: since {moment(run_began)}, {_many(stats.run_events, 'event')}, {messages}{suggested}"


def _ledger(stats: BatcherStats) -> str:
    if stats.ledger is None:
        return "not written to one yet"
    return code(stats.ledger) or "none, as an operator decided"


def _counted(counts: Mapping[str, int], before: str = "") -> str:
    return ", ".join(f"{count:,} {before}{name}" for name, count in sorted(counts.items()) if count)


def _policy(policy: BatchPolicy) -> str:
    return ", ".join(f"`{name}` {_value(getattr(policy, name))}" for name in policy.to_wire())


def _value(value: int | timedelta) -> str:
    return f"{value.total_seconds():g} s" if isinstance(value, timedelta) else f"{value:,}"


def _many(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
