"""`estimate`: how many shards a load needs, and what follows from it for the database, Temporal and its bill."""

from __future__ import annotations

from dataclasses import dataclass

from temporal_batching.contract import Trigger
from temporal_batching.errors import InvalidLoad
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import MAX_SHARDS, check_shards
from temporal_batching.sizing.costs import DIRECT_ACTIONS, SHARD_CPU, SIGNALLING_CALLER_ACTIONS, WORKER_CPU
from temporal_batching.sizing.flow import ROUND_TRIP_TASKS, ShardFlow, shard_flow
from temporal_batching.sizing.load import Load, Surroundings, fill_of

MAX_UPDATES_IN_FLIGHT = 10
"""Temporal's limit for one run: an update past it is refused, and its gateway submits it again."""

MIN_RUN_SECONDS = 3.0
"""A run that is to end waits for its flush and keeps its gateways waiting meanwhile; and Temporal Cloud allows about
one new run of a workflow id a second. Shorter runs work, and take part of the time for that."""

WRITE_PART = 0.5
"""Of a call to Temporal, the part for which it holds the lock of a workflow: to write it. The rest is on the way."""

FULL = 0.7
"""The part of a limit that a shard is to use: what is left is for bursts, and for what was late."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """How much of one of its limits a shard uses.

    Attributes:
        limit: What the limit is of.
        used: The part of it, 1 for all.
    """

    limit: str
    used: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What follows from a load. Rates are for all shards together.

    Attributes:
        shards: How many there are: as many as were asked for, else as many as are needed.
        shards_needed: The fewest that use no more than 0.7 of each limit.
        decided_by: The limit that decides that number.
        requests_per_batch: How full a batch is.
        trigger: What starts a batch.
        wait_seconds: How long the oldest request of a batch waits for its confirmation.
        transactions: Database transactions a second; without a batcher there are as many as writes.
        updates: Updates a second.
        signals: Signals a second.
        workflow_tasks: Workflow tasks a second.
        history_events: Events a second that the shards' histories grow by.
        history_bytes: The same in bytes.
        run_seconds: How long a shard runs until it continues as new.
        run_ends_by: What ends its run: ``events``, ``bytes``, ``updates`` or ``signals``.
        actions: Billable actions a second, those of the callers for their writes included.
        actions_direct: The same if each write were an activity of its caller.
        outage_seconds: How long an outage of the database the buffers can take before callers have to wait.
        worker_cores: Cores that the batcher's workers use. A worker process is one core.
        uses: What one shard uses of its limits, most first.
    """

    shards: int
    shards_needed: int
    decided_by: str
    requests_per_batch: float
    trigger: Trigger
    wait_seconds: float
    transactions: float
    updates: float
    signals: float
    workflow_tasks: float
    history_events: float
    history_bytes: float
    run_seconds: float
    run_ends_by: str
    actions: float
    actions_direct: float
    outage_seconds: float
    worker_cores: float
    uses: tuple[Use, ...]

    @property
    def bears(self) -> bool:
        """Whether the shards bear the load."""
        return self.shards >= self.shards_needed


def estimate(
    load: Load,
    policy: BatchPolicy | None = None,
    *,
    shards: int | None = None,
    surroundings: Surroundings | None = None,
) -> Estimate:
    """Sizes a batcher for a load.

    Example:
        ```python
        from datetime import timedelta

        from temporal_batching import BatchPolicy
        from temporal_batching.sizing import Load, estimate

        sized = estimate(Load(rate=500, record_bytes=300), BatchPolicy(linger=timedelta(seconds=1)))
        print(f"{sized.shards} shards, {sized.transactions:g} transactions/s")
        ```

    Args:
        load: What is to be written.
        policy: The limits of the batcher.
        shards: Their number; by default as many as the load needs.
        surroundings: How fast the database and Temporal answer.

    Raises:
        InvalidLoad: No batch can hold a request of it, or no number of shards bears it.
    """
    policy, surroundings = policy or BatchPolicy(), surroundings or Surroundings()
    if shards is not None and (
        isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= MAX_SHARDS
    ):
        raise InvalidLoad("shards", f"{shards!r}: a whole number from 1 to {MAX_SHARDS:,}")
    needed, decided_by = _shards_needed(load, policy, surroundings)
    count = needed if shards is None else shards
    flow = shard_flow(load, policy, surroundings, count)
    each = flow.per_second
    return Estimate(
        shards=count,
        shards_needed=needed,
        decided_by=decided_by,
        requests_per_batch=flow.batch_requests,
        trigger=flow.trigger,
        wait_seconds=flow.wait_seconds,
        transactions=count * each.flushes,
        updates=count * each.updates,
        signals=count * each.signals,
        workflow_tasks=count * each.tasks,
        history_events=count * each.events,
        history_bytes=count * each.bytes,
        run_seconds=flow.run_seconds,
        run_ends_by=flow.run_ends_by,
        actions=count * each.actions + _caller_actions(load, policy),
        actions_direct=load.rate * DIRECT_ACTIONS,
        outage_seconds=_outage_seconds(load, policy, count),
        worker_cores=load.rate * WORKER_CPU[load.gateway if load.via == "activity" else load.via],
        uses=_uses(load, policy, flow, surroundings),
    )


def _check_shards(shards: int) -> None:
    try:
        check_shards(shards)
    except ValueError:
        raise InvalidLoad("shards", f"{shards!r}: a whole number from 1 to {MAX_SHARDS:,}") from None


def _shards_needed(load: Load, policy: BatchPolicy, surroundings: Surroundings) -> tuple[int, str]:
    """The fewest shards that bear the load, and the limit that one shard less would pass."""

    def worst(shards: int) -> Use:
        return _uses(load, policy, shard_flow(load, policy, surroundings, shards), surroundings)[0]

    enough = 1
    while worst(enough).used > FULL:
        if enough == MAX_SHARDS:
            limit = worst(enough).limit
            raise InvalidLoad("rate", f"{load.rate:g}: {MAX_SHARDS:,} shards do not bear it, because of the {limit}")
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if worst(middle).used > FULL:
            too_few = middle
        else:
            enough = middle
    return enough, worst(max(1, too_few)).limit


def _uses(load: Load, policy: BatchPolicy, flow: ShardFlow, surroundings: Surroundings) -> tuple[Use, ...]:
    each = flow.per_second
    round_trip = ROUND_TRIP_TASKS * surroundings.task.total_seconds()
    # Of a workflow task and of an activity the start and the end are written; of an update nothing else is. Without a
    # linger, updates and batches wait for each other and are the larger for it: only signals are written as they come.
    writes = each.signals + (each.timers + 2 * (each.tasks + each.flushes) if policy.linger else 0.0)
    uses = (
        Use(limit="updates in flight", used=min(load.gateways, each.updates * round_trip) / MAX_UPDATES_IN_FLIGHT),
        Use(limit="writes to its workflow", used=writes * WRITE_PART * surroundings.call.total_seconds()),
        Use(limit="run length", used=MIN_RUN_SECONDS / flow.run_seconds),
        Use(limit="flush time", used=flow.flush_use),
        Use(limit="worker core", used=flow.requests * SHARD_CPU[load.via]),
    )
    return tuple(sorted(uses, key=lambda use: -use.used))


def _caller_actions(load: Load, policy: BatchPolicy) -> float:
    """Billable actions a second of the callers for their writes."""
    if load.via == "signal":
        return load.rate * SIGNALLING_CALLER_ACTIONS
    return load.rate / fill_of(load, policy).requests


def _outage_seconds(load: Load, policy: BatchPolicy, shards: int) -> float:
    fill = fill_of(load, policy)
    requests = min(policy.max_pending, policy.max_pending_bytes / (fill.size / fill.requests))
    return shards * requests / load.rate
