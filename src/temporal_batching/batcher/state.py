"""`BatcherState`: what one run of a shard hands to the next, and its JSON.

The next run may be executed by a worker of another version. So a field that a reader does not know is ignored, and one
that is missing has its default (``tests/unit/batcher/test_state.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.batcher.breaker import Breaker
from temporal_batching.batcher.counts import Counts
from temporal_batching.batcher.outbox import QueuedDelivery
from temporal_batching.contract import JsonObject, Trigger, Withdrawal
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.deliveries import delivery_to_wire, load_delivery
from temporal_batching.wire.submission import Submission, load_submission

_Part = TypeVar("_Part")


@dataclass(slots=True)
class BufferState:
    """What a `Buffer` hands to the next run. Nothing is in flight then.

    Attributes:
        policy: The limits in force.
        paused: No flush starts.
        draining: No request is accepted.
        pending: What waits for a batch, in order of arrival.
        requeued: What is left of batches that wait for a retry.
        outbox: Deliveries that wait, in their order.
        withdrawals: Of requests that have not arrived, oldest first, with the time of each.
        flush_before: What arrived no later than this is due by an explicit flush.
        batch_number: Batches formed so far.
        breaker: Open while the sink is unavailable.
        retries_from: No request is retried before.
        undelivered: Deliveries given up.
        counts: Everything that is counted over all runs.
    """

    policy: BatchPolicy = field(default_factory=BatchPolicy)
    paused: bool = False
    draining: bool = False
    pending: list[Submission] = field(default_factory=list)
    requeued: list[PendingBatch] = field(default_factory=list)
    outbox: list[QueuedDelivery] = field(default_factory=list)
    withdrawals: dict[Withdrawal, float] = field(default_factory=dict)
    flush_before: float = 0.0
    batch_number: int = 0
    breaker: Breaker = field(default_factory=Breaker)
    retries_from: float = 0.0
    undelivered: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass(slots=True)
class BatcherState:
    """What a run of `BatcherWorkflow` hands to the next.

    Attributes:
        buffer: The requests, and what goes with them.
        epoch: What tells this shard's batch ids from those of every other shard of its name.
        cycles: How often the shard continued as new.
        idle_cycles: Consecutive runs that settled nothing though something was pending.
        malformed: Signals, and requests in them, that could not be read.
        operator_policy: The policy was set by an operator: a worker that starts does not change it.
        cancelled: A run was cancelled: the shard takes no more requests, and ends once it holds none.
        ledger: The identity of the ledger that the shard may have been written to.
        ledger_asked: A batch has decided on the ledger, or on none.
        upgrade_tried: When the routing to versions changed for which a run ended last; see `Upgrade`.
        flush_task_queue: Where flushes go; empty for the batcher's own task queue.
    """

    buffer: BufferState = field(default_factory=BufferState)
    epoch: str | None = None
    cycles: int = 0
    idle_cycles: int = 0
    malformed: int = 0
    operator_policy: bool = False
    cancelled: bool = False
    ledger: str | None = None
    ledger_asked: bool = False
    upgrade_tried: float = 0.0
    flush_task_queue: str = ""

    def to_wire(self) -> JsonObject:
        """The state as JSON."""
        return {**_values(self), "buffer": _buffer_to_wire(self.buffer)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> BatcherState:
        """The state that `to_wire` of this or another version described."""
        return _load(cls, {**wire, "buffer": _load_buffer(wire.get("buffer", {}))})


def _buffer_to_wire(state: BufferState) -> JsonObject:
    return {
        **_values(state),
        "policy": state.policy.to_wire(),
        "pending": [_submission_to_wire(submission) for submission in state.pending],
        "requeued": [_batch_to_wire(batch) for batch in state.requeued],
        "outbox": [{**_values(queued), "delivery": delivery_to_wire(queued.delivery)} for queued in state.outbox],
        "withdrawals": [[w.request_id, w.workflow_id, w.run_id, at] for w, at in state.withdrawals.items()],
        "breaker": _values(state.breaker),
        "counts": _values(state.counts),
    }


def _load_buffer(wire: Mapping[str, Any]) -> BufferState:
    return _load(
        BufferState,
        {
            **wire,
            "policy": _load_policy(wire.get("policy", {})),
            "pending": [_load_carried(one) for one in wire.get("pending", ())],
            "requeued": [_load_batch(one) for one in wire.get("requeued", ())],
            "outbox": [
                _load(QueuedDelivery, {**one, "delivery": load_delivery(one["delivery"])})
                for one in wire.get("outbox", ())
            ],
            "withdrawals": {Withdrawal(*who): at for *who, at in wire.get("withdrawals", ())},
            "breaker": _load(Breaker, wire.get("breaker", {})),
            "counts": _load_counts(wire.get("counts", {})),
        },
    )


def _load_policy(wire: Mapping[str, Any]) -> BatchPolicy:
    """Limits of another version that are not known here are ignored: they were checked where they were set."""
    known = {f.name for f in fields(BatchPolicy)}
    return BatchPolicy.from_wire({name: value for name, value in wire.items() if name in known})


def _submission_to_wire(submission: Submission) -> JsonObject:
    return {**submission.to_wire(), "size": submission.size, "arrived_at": submission.arrived_at}


def _load_carried(wire: Mapping[str, Any]) -> Submission:
    return load_submission(wire, size=wire["size"], arrived_at=wire["arrived_at"])


_OF_AN_ATTEMPT = ("overlapped", "probe")
"""Fields of a batch that mean something only while it is in flight. Nothing in flight is carried."""


def _batch_to_wire(batch: PendingBatch) -> JsonObject:
    values = {name: value for name, value in _values(batch).items() if name not in _OF_AN_ATTEMPT}
    return {**values, "submissions": [_submission_to_wire(submission) for submission in batch.submissions]}


def _load_batch(wire: Mapping[str, Any]) -> PendingBatch:
    return _load(
        PendingBatch,
        {
            **wire,
            "trigger": Trigger(wire["trigger"]),
            "submissions": [_load_carried(one) for one in wire["submissions"]],
            "part": tuple(wire.get("part", ())),
        },
    )


def _load_counts(wire: Mapping[str, Any]) -> Counts:
    counts = _load(Counts, wire)
    counts.outcomes, counts.batches_by_trigger = Counter(counts.outcomes), Counter(counts.batches_by_trigger)
    return counts


def _values(part: Any) -> JsonObject:
    return {f.name: getattr(part, f.name) for f in fields(part)}


def _load(kind: type[_Part], values: Mapping[str, Any]) -> _Part:
    """An object of a dataclass from those values that it knows."""
    known = {f.name for f in fields(kind) if f.init}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})
