"""Requests that wait for a batch, and which of them may go into the next one. A part of the `Buffer`, and as pure."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from temporal_batching.batcher.batches import Batches
from temporal_batching.batcher.lanes import Lanes, Turn
from temporal_batching.contract import Trigger
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.submission import Submission


@dataclass(slots=True)
class _Ready:
    """What the next batch may take, in order of arrival and counted: everything that is ready, or more than fits.

    Attributes:
        policy: The limits it was counted by.
        as_of: The changes of the lanes until then.
        turns: What is ready. If it is full, the oldest of it, as much as a batch can take.
    """

    policy: BatchPolicy
    as_of: int
    turns: dict[Turn, None] = field(default_factory=dict)
    requests: int = 0
    records: int = 0
    size: int = 0
    resubmitted: bool = False
    first_arrival: float = math.inf
    deadline: float = math.inf

    def count_in(self, turn: Turn) -> None:
        submission = turn.submission
        self.turns[turn] = None
        self.requests += submission.requests
        self.records += submission.records
        self.size += submission.size
        self.first_arrival = min(self.first_arrival, submission.arrived_at)
        if submission.resubmitted:
            self.resubmitted = True
        elif submission.expires_at is not None:
            self.deadline = min(self.deadline, submission.expires_at)

    @property
    def full_by_count(self) -> bool:
        return self.requests >= self.policy.max_batch_size or self.records >= self.policy.max_batch_records

    @property
    def full(self) -> bool:
        return self.full_by_count or self.size >= self.policy.max_batch_bytes


class Pending:
    """Requests that wait for a batch, in order of arrival.

    A request is *blocked* while an earlier one of its id or of one of its keys is in a batch that is not settled, or is
    blocked itself. It keeps its place; what is not blocked goes before it.

    Attributes:
        requests: How many wait, those of parcels counted.
        bytes: Their size as they travel, with the content of parcels by reference.
        weight: What of that the shard keeps.
        records: How many are in them.
    """

    def __init__(self, batches: Batches, lanes: Lanes) -> None:
        self.requests = 0
        self.bytes = 0
        self.weight = 0
        self.records = 0
        self._batches = batches
        self._lanes = lanes
        self._turns: OrderedDict[str, Turn] = OrderedDict()  # a dict would search for its first
        self._deadlines: list[tuple[float, str]] = []  # a heap; what has left is skipped when it surfaces
        self._ready: _Ready | None = None

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[Submission]:
        return (turn.submission for turn in self._turns.values())

    def get(self, request_id: str) -> Submission | None:
        turn = self._turns.get(request_id)
        return turn.submission if turn is not None else None

    @property
    def watched_deadlines(self) -> int:
        """Entries of the heap of deadlines."""
        return len(self._deadlines)

    @property
    def first_arrival(self) -> float | None:
        """Of the one that waits the longest. Submissions from different gateways come in no order."""
        return min((submission.arrived_at for submission in self), default=None)

    def add(self, submission: Submission) -> None:
        turn = self._lanes.add(submission, id_in_batch=submission.id in self._batches.by_id)
        self._turns[submission.id] = turn
        self.requests += submission.requests
        self.bytes += submission.size
        self.weight += submission.weight
        self.records += submission.records
        self._watch(submission)
        ready = self._ready
        if ready is not None and not ready.full and self._lanes.is_ready_after(turn, ready.turns):
            ready.count_in(turn)

    def remove(self, submission: Submission) -> None:
        self._lanes.remove(self._turns.pop(submission.id))
        self.requests -= submission.requests
        self.bytes -= submission.size
        self.weight -= submission.weight
        self.records -= submission.records
        self._forget_deadlines()
        self._ready = None

    def change(self, submission: Submission, *, growth: int, resubmitted: bool, expires_at: float | None) -> None:
        """Updates a request that another caller waits for."""
        if resubmitted:
            # From now on only the sink may say that it expired; its deadline in the heap is skipped.
            submission.resubmitted = True
        if expires_at is not None and submission.expires_at is not None and submission.expires_at < expires_at:
            submission.expires_at = expires_at
            self._watch(submission)
        submission.size += growth
        self.bytes += growth
        self.weight += growth
        self._ready = None

    # Deadlines

    def expired(self, now: float) -> list[Submission]:
        """Takes out what is past its deadline and that only a batch may have written."""
        late: list[Submission] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            expires_at, request_id = heapq.heappop(self._deadlines)
            submission = self.get(request_id)
            if submission is not None and submission.expires_at == expires_at and not submission.resubmitted:
                self.remove(submission)
                late.append(submission)
        return late

    def late(self, since: float) -> list[Submission]:
        """Takes out what only the sink could decide on and whose deadline had passed by then."""
        late = [e for e in self if e.resubmitted and e.expires_at is not None and e.expires_at <= since]
        for submission in late:
            self.remove(submission)
        return late

    def next_deadline(self) -> float | None:
        while self._deadlines:
            expires_at, request_id = self._deadlines[0]
            submission = self.get(request_id)
            if submission is not None and submission.expires_at == expires_at and not submission.resubmitted:
                return expires_at
            heapq.heappop(self._deadlines)
        return None

    def _watch(self, submission: Submission) -> None:
        if submission.expires_at is not None and not submission.resubmitted:
            heapq.heappush(self._deadlines, (submission.expires_at, submission.id))
            self._forget_deadlines()

    def _forget_deadlines(self) -> None:
        if len(self._deadlines) > 2 * len(self._turns) + 64:
            # Most of the heap has left the buffer: rebuild it, or a shard whose requests never expire keeps them all.
            waiting = [e for e in self if not e.resubmitted]
            self._deadlines = [(e.expires_at, e.id) for e in waiting if e.expires_at is not None]
            heapq.heapify(self._deadlines)

    # The next batch

    def due_times(
        self, policy: BatchPolicy, flush_before: float, beside: float, *, force: bool = False
    ) -> Iterator[tuple[float, Trigger]]:
        """When what is not blocked becomes a batch, and why; zero for at once.

        Args:
            policy: The limits in force.
            flush_before: What arrived no later than this is due by an explicit flush.
            beside: From when on a batch that is not full may start beside those in flight.
            force: All of it is due.
        """
        ready = self._look_for_ready(policy)
        if not ready.turns:
            return
        if ready.full:
            yield 0.0, Trigger.COUNT if ready.full_by_count else Trigger.BYTES
            return
        if ready.resubmitted:  # has waited before, and may be past its deadline
            yield beside, Trigger.DEADLINE
        if ready.first_arrival <= flush_before:
            yield 0.0, Trigger.MANUAL
        yield max(beside, ready.first_arrival + policy.linger.total_seconds()), Trigger.LINGER
        if ready.deadline < math.inf:
            yield ready.deadline - policy.deadline_margin.total_seconds(), Trigger.DEADLINE
        if force:
            yield 0.0, Trigger.MANUAL

    def linger_ends(self, policy: BatchPolicy) -> float:
        """When what waits is due by its linger, blocked or not; zero if it needs none: nothing waits, or a full batch.

        That of the request that came first: others from other gateways may have waited a little longer.
        """
        if (
            not self._turns
            or self.requests >= policy.max_batch_size
            or self.records >= policy.max_batch_records
            or self.bytes >= policy.max_batch_bytes
        ):
            return 0.0
        first = next(iter(self._turns.values())).submission
        return first.arrived_at + policy.linger.total_seconds()

    def take(self, policy: BatchPolicy) -> list[Submission]:
        """Takes the oldest that are not blocked and fit one batch, in order.

        The first always goes, or it would wait forever.
        """
        taken: list[Submission] = []
        requests = records = size = 0
        for turn in self._look_for_ready(policy).turns:
            submission = turn.submission
            requests += submission.requests
            records += submission.records
            size += submission.size
            fits = (
                requests <= policy.max_batch_size
                and records <= policy.max_batch_records
                and size <= policy.max_batch_bytes
            )
            if taken and not fits:
                break
            taken.append(submission)
        for submission in taken:
            self.remove(submission)
        return taken

    def _look_for_ready(self, policy: BatchPolicy) -> _Ready:
        ready = self._ready
        if ready is None or ready.as_of != self._lanes.changes or ready.policy is not policy:
            ready = self._ready = _Ready(policy, self._lanes.changes)
            for turn in self._lanes.ready():
                ready.count_in(turn)
                if ready.full:
                    break
        return ready
