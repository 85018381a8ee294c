"""What one shard does in a second under a steady load. Pure; `estimate` adds the shards up.

The formulas, for s submissions a second into one shard (a submission is a request or a parcel), linger L, batches of at
most n submissions, G gateways, and a flush that takes F:

- A gateway gathers for g = min(2 s, L / 10), or until a batch is full; it sends the next update once the last one is
  answered. So an update has 1 + g * s / G submissions, at most 500, at most 450,000 bytes.
- A batch has 1 + s * (L - g + T) submissions: what arrives in its last g is still in a gateway, and it is formed in
  the workflow task, T long, that its timer causes. Under a load that flushes hardly keep up with, it has what arrives
  during a flush and the task after it; only full ones overlap sooner. It has n at most.
- Updates, signals, timers and the ends of flushes each cause a workflow task. Signals that come during a task share
  the next one, and so do the updates of different gateways.
- A run ends with its events, its bytes, its updates or its signals, whichever limit comes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from temporal_batching.batcher.batches import OVERLAP_AFTER
from temporal_batching.batcher.workflow import MAX_SIGNALS_PER_RUN, MAX_UPDATES_PER_RUN, gather_seconds
from temporal_batching.contract import Trigger
from temporal_batching.flush.delivery import CONCURRENT_DELIVERIES
from temporal_batching.gateway.submitter import MAX_SUBMISSION_BYTES, MAX_SUBMISSION_REQUESTS
from temporal_batching.policy import BatchPolicy
from temporal_batching.sizing.costs import (
    CONTENT_COPIES,
    FLUSH,
    PARCEL_BYTES,
    REQUEST_BYTES,
    RUN,
    SIGNAL,
    SIGNALLED_REQUEST_BYTES,
    TASK,
    TIMER,
    UPDATE,
    Cost,
)
from temporal_batching.sizing.load import Fill, Load, Surroundings, fill_of

SUGGESTED_EVENTS = 4_096
"""Events after which Temporal suggests to continue as new (`limit.historyCount.suggestContinueAsNew`)."""

SUGGESTED_BYTES = 4 * 1_048_576
"""Bytes after which it does (`limit.historySize.suggestContinueAsNew`)."""

ROUND_TRIP_TASKS = 2
"""How many workflow tasks an update waits for at most: one that is under way, and its own."""


@dataclass(frozen=True, kw_only=True)
class Operations:
    """What happens in a shard, in a second or in all.

    Attributes:
        tasks: Workflow tasks.
        updates: Updates that were accepted.
        signals: Signals that arrived.
        timers: Timers started.
        flushes: Flushes, one for each attempt at a batch.
        runs: Runs that were started.
        content_bytes: What callers sent, in history.
    """

    tasks: float = 0.0
    updates: float = 0.0
    signals: float = 0.0
    timers: float = 0.0
    flushes: float = 0.0
    runs: float = 0.0
    content_bytes: float = 0.0

    @property
    def events(self) -> float:
        """History events."""
        return sum(count * cost.events for count, cost in self._costs())

    @property
    def bytes(self) -> float:
        """History bytes."""
        return self.content_bytes + sum(count * cost.bytes for count, cost in self._costs())

    @property
    def actions(self) -> float:
        """Billable actions."""
        return sum(count * cost.actions for count, cost in self._costs())

    def _costs(self) -> tuple[tuple[float, Cost], ...]:
        return (
            (self.tasks, TASK),
            (self.updates, UPDATE),
            (self.signals, SIGNAL),
            (self.timers, TIMER),
            (self.flushes, FLUSH),
            (self.runs, RUN),
        )


@dataclass(frozen=True, kw_only=True)
class ShardFlow:
    """What one shard does under a load.

    Attributes:
        requests: Requests a second.
        batch_requests: Requests in a batch.
        trigger: What starts a batch.
        flush_seconds: How long a flush takes, with its confirmations.
        flush_use: The part of the time for which flushes would be under way if each batch were full.
        wait_seconds: How long the oldest request of a batch waits for its confirmation.
        run_seconds: How long a run lasts.
        run_ends_by: Its limit that is reached first: ``events``, ``bytes``, ``updates`` or ``signals``.
        per_second: The operations.
    """

    requests: float
    batch_requests: float
    trigger: Trigger
    flush_seconds: float
    flush_use: float
    wait_seconds: float
    run_seconds: float
    run_ends_by: str
    per_second: Operations = field(default_factory=Operations)


def submission_bytes(load: Load) -> float:
    """Bytes of one submission in one event of a history."""
    if load.via == "write_many":
        return PARCEL_BYTES
    return load.content_bytes + (SIGNALLED_REQUEST_BYTES if load.via == "signal" else REQUEST_BYTES)


def shard_flow(load: Load, policy: BatchPolicy, surroundings: Surroundings, shards: int) -> ShardFlow:
    """What one of so many shards does."""
    fill = fill_of(load, policy)
    submitted = load.rate / shards / fill.requests
    linger, task = policy.linger.total_seconds(), surroundings.task.total_seconds()
    gather = 0.0 if load.via == "signal" else gather_seconds(policy)
    per_batch, flush_bound = _batch_of(submitted, linger - gather + task if linger else 0.0, fill, policy, surroundings)
    flush = _flush_seconds(per_batch, surroundings)
    batches = submitted / per_batch
    update = _update_of(submitted / load.gateways, gather, task, load, fill)
    updates = 0.0 if load.via == "signal" else submitted / update
    signals = submitted if load.via == "signal" else 0.0
    fired = min(batches, 1 / linger) if linger else 0.0
    others = updates * (1 - 1 / load.gateways)
    steady = Operations(
        tasks=signals / (1 + signals * task) + updates / (1 + others * task) + fired + batches,
        updates=updates,
        signals=signals,
        timers=fired,
        flushes=batches,
        content_bytes=CONTENT_COPIES * submitted * submission_bytes(load),
    )
    run_ends_by, run_seconds = _run_of(steady)
    filling = per_batch / submitted
    return ShardFlow(
        requests=load.rate / shards,
        batch_requests=per_batch * fill.requests,
        trigger=_trigger(per_batch, fill, load, policy),
        flush_seconds=flush,
        flush_use=submitted / fill.batch * (_flush_seconds(fill.batch, surroundings) + task) / policy.max_in_flight,
        wait_seconds=(filling if flush_bound else min(linger, filling)) + flush + ROUND_TRIP_TASKS * task,
        run_seconds=run_seconds,
        run_ends_by=run_ends_by,
        per_second=Operations(**{**vars(steady), "runs": 1 / run_seconds}),
    )


def _batch_of(
    submitted: float, window: float, fill: Fill, policy: BatchPolicy, surroundings: Surroundings
) -> tuple[float, bool]:
    """Submissions in a batch, and whether it is flushes that batches wait for."""
    by_linger = 1 + submitted * window
    # A batch that is not full starts when the last one is settled, or has been in flight for a while; a full one may
    # start beside others.
    alone = min(_during_flush(submitted, 1, surroundings), submitted * OVERLAP_AFTER)
    by_flush = max(alone, _during_flush(submitted, policy.max_in_flight, surroundings))
    return min(float(fill.batch), max(by_linger, by_flush)), by_flush > min(by_linger, fill.batch)


def _during_flush(submitted: float, flights: int, surroundings: Surroundings) -> float:
    """What arrives until the task after a flush of as many, if so many overlap: n with n = rate * F(n) / flights."""
    confirming = surroundings.call.total_seconds() / CONCURRENT_DELIVERIES
    fixed = surroundings.database.total_seconds() + surroundings.task.total_seconds()
    spare = flights - submitted * confirming
    return submitted * fixed / spare if spare > 0 else math.inf


def _update_of(submitted: float, gather: float, task: float, load: Load, fill: Fill) -> float:
    """Submissions in an update of a gateway that submits so many a second."""
    weight = PARCEL_BYTES if load.via == "write_many" else fill.size
    most = min(MAX_SUBMISSION_REQUESTS, max(1, MAX_SUBMISSION_BYTES // weight))
    gathered = min(float(fill.batch), 1 + submitted * gather)
    meanwhile = submitted * ROUND_TRIP_TASKS * task
    return min(float(most), max(gathered, meanwhile))


def _flush_seconds(submissions: float, surroundings: Surroundings) -> float:
    return surroundings.database.total_seconds() + submissions * surroundings.call.total_seconds() / (
        CONCURRENT_DELIVERIES
    )


def _run_of(steady: Operations) -> tuple[str, float]:
    """What ends a run, and after how many seconds."""
    ends = {
        "events": (SUGGESTED_EVENTS, steady.events),
        "bytes": (SUGGESTED_BYTES, steady.bytes),
        "updates": (MAX_UPDATES_PER_RUN, steady.updates),
        "signals": (MAX_SIGNALS_PER_RUN, steady.signals),
    }
    seconds = {name: most / rate for name, (most, rate) in ends.items() if rate > 0}
    first = min(seconds, key=seconds.__getitem__)
    return first, seconds[first]


def _trigger(per_batch: float, fill: Fill, load: Load, policy: BatchPolicy) -> Trigger:
    if per_batch < fill.batch:
        return Trigger.LINGER
    full = fill.batch * fill.requests
    by_count = full >= policy.max_batch_size or (full + 1) * load.records > policy.max_batch_records
    return Trigger.COUNT if by_count else Trigger.BYTES
