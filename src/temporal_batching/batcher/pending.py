"""Requests that wait for a batch, and which of them may go into the next one. A part of the `Buffer`, and as pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, ValuesView
from dataclasses import dataclass, field

from temporal_batching.batcher.batches import Batches
from temporal_batching.contract import Trigger
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.submission import Submission


@dataclass(slots=True)
class _Ready:
    """What the next batch may take, counted."""

    as_of: int
    requests: int = 0
    records: int = 0
    size: int = 0
    resubmitted: int = 0
    count: int = 0
    first_arrival: float = math.inf
    deadline: float = math.inf
    blocked: set[str] = field(default_factory=set)
    """Ids of what has to wait."""
    keys: set[str] = field(default_factory=set)
    """Keys of what has to wait: no later request overtakes it."""

    def count_in(self, submission: Submission) -> None:
        self.count += 1
        self.requests += submission.requests
        self.records += submission.records
        self.size += submission.size
        self.resubmitted += submission.resubmitted
        self.first_arrival = min(self.first_arrival, submission.arrived_at)
        if submission.expires_at is not None and not submission.resubmitted:
            self.deadline = min(self.deadline, submission.expires_at)


class Pending:
    """Requests that wait for a batch, in order of arrival.

    A request is *blocked* while an earlier one of its id or of one of its keys is in a batch that is not settled, or is
    blocked itself. It keeps its place; what is not blocked goes before it.

    Attributes:
        requests: How many wait, those of parcels counted.
        records: Their records.
        bytes: Their size as they travel.
    """

    def __init__(self, batches: Batches) -> None:
        self.requests = 0
        self.records = 0
        self.bytes = 0
        self._batches = batches
        self._submissions: dict[str, Submission] = {}
        self._resubmitted = 0
        self._first_arrival = math.inf  # submissions from different gateways come in no order
        self._deadlines: list[tuple[float, str]] = []  # a heap; what has left is skipped when it surfaces
        self._ready: _Ready | None = None

    def __len__(self) -> int:
        return len(self._submissions)

    def __iter__(self) -> Iterator[str]:
        return iter(self._submissions)

    def get(self, request_id: str) -> Submission | None:
        return self._submissions.get(request_id)

    def values(self) -> ValuesView[Submission]:
        return self._submissions.values()

    @property
    def watched_deadlines(self) -> int:
        """Entries of the heap of deadlines."""
        return len(self._deadlines)

    @property
    def first_arrival(self) -> float:
        if self._first_arrival == math.inf and self._submissions:
            self._first_arrival = min(submission.arrived_at for submission in self._submissions.values())
        return self._first_arrival

    def add(self, submission: Submission) -> None:
        self._submissions[submission.id] = submission
        self.requests += submission.requests
        self.records += submission.records
        self.bytes += submission.size
        self._resubmitted += submission.resubmitted
        self._first_arrival = min(self.first_arrival, submission.arrived_at)
        self._watch(submission)
        if self._ready is not None:
            self._judge(self._ready, submission)

    def remove(self, submission: Submission) -> None:
        del self._submissions[submission.id]
        self.requests -= submission.requests
        self.records -= submission.records
        self.bytes -= submission.size
        self._resubmitted -= submission.resubmitted
        if submission.arrived_at <= self._first_arrival:
            self._first_arrival = math.inf  # computed when it is asked for
        self._forget_deadlines()
        self._ready = None

    def change(self, submission: Submission, *, growth: int, resubmitted: bool, expires_at: float | None) -> None:
        """Updates a request that another caller waits for."""
        if resubmitted and not submission.resubmitted:
            # From now on only the sink may say that it expired; its deadline in the heap is skipped.
            submission.resubmitted = True
            self._resubmitted += 1
        if expires_at is not None and submission.expires_at is not None and submission.expires_at < expires_at:
            submission.expires_at = expires_at
            self._watch(submission)
        submission.size += growth
        self.bytes += growth
        self._ready = None

    # Deadlines

    def expired(self, now: float) -> list[Submission]:
        """Takes out what is past its deadline and that only a batch may have written."""
        late: list[Submission] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            expires_at, request_id = heapq.heappop(self._deadlines)
            submission = self._submissions.get(request_id)
            if submission is not None and submission.expires_at == expires_at and not submission.resubmitted:
                self.remove(submission)
                late.append(submission)
        return late

    def late(self, since: float) -> list[Submission]:
        """Takes out what only the sink could decide on and whose deadline had passed by then."""
        late = [
            e
            for e in self._submissions.values()
            if e.resubmitted and e.expires_at is not None and e.expires_at <= since
        ]
        for submission in late:
            self.remove(submission)
        return late

    def next_deadline(self) -> float | None:
        while self._deadlines:
            expires_at, request_id = self._deadlines[0]
            submission = self._submissions.get(request_id)
            if submission is not None and submission.expires_at == expires_at and not submission.resubmitted:
                return expires_at
            heapq.heappop(self._deadlines)
        return None

    def _watch(self, submission: Submission) -> None:
        if submission.expires_at is not None and not submission.resubmitted:
            heapq.heappush(self._deadlines, (submission.expires_at, submission.id))
            self._forget_deadlines()

    def _forget_deadlines(self) -> None:
        if len(self._deadlines) > 2 * len(self._submissions) + 64:
            # Most of the heap has left the buffer: rebuild it, or a shard whose requests never expire keeps them all.
            waiting = [e for e in self._submissions.values() if not e.resubmitted]
            self._deadlines = [(e.expires_at, e.id) for e in waiting if e.expires_at is not None]
            heapq.heapify(self._deadlines)

    # The next batch

    @property
    def any_ready(self) -> bool:
        """Whether there is anything that the next batch may take."""
        return self._count_ready().count > 0

    def due_times(self, policy: BatchPolicy, flush_before: float) -> Iterator[tuple[float, Trigger]]:
        """When what is not blocked becomes a batch, and why; zero for at once.

        Args:
            policy: The limits in force.
            flush_before: What arrived no later than this is due by an explicit flush.
        """
        ready = self._count_ready()
        if not ready.count:
            return
        if ready.requests >= policy.max_batch_size or ready.records >= policy.max_batch_records:
            yield 0.0, Trigger.COUNT
        if ready.size >= policy.max_batch_bytes:
            yield 0.0, Trigger.BYTES
        if ready.resubmitted:  # has waited before, and may be past its deadline
            yield 0.0, Trigger.DEADLINE
        if ready.first_arrival <= flush_before:
            yield 0.0, Trigger.MANUAL
        yield ready.first_arrival + policy.linger.total_seconds(), Trigger.LINGER
        if ready.deadline < math.inf:
            yield ready.deadline - policy.deadline_margin.total_seconds(), Trigger.DEADLINE

    def take(self, policy: BatchPolicy) -> list[Submission]:
        """Takes the oldest that are not blocked and fit one batch, in order.

        The first always goes, or it would wait forever.
        """
        blocked = self._count_ready().blocked
        taken: list[Submission] = []
        requests = records = size = 0
        for submission in self._submissions.values():
            if submission.id in blocked:
                continue
            fits = (
                requests + submission.requests <= policy.max_batch_size
                and records + submission.records <= policy.max_batch_records
                and size + submission.size <= policy.max_batch_bytes
            )
            if taken and not fits:
                break
            taken.append(submission)
            requests += submission.requests
            records += submission.records
            size += submission.size
        for submission in taken:
            self.remove(submission)
        return taken

    def _count_ready(self) -> _Ready:
        if self._ready is None or self._ready.as_of != self._batches.changes:
            self._ready = self._look_for_ready()
        return self._ready

    def _look_for_ready(self) -> _Ready:
        ready = _Ready(self._batches.changes)
        if self._batches.has_keys() or not self._batches.by_id.keys().isdisjoint(self._submissions):
            for submission in self._submissions.values():
                self._judge(ready, submission)
        elif self._submissions:  # nothing is blocked: the sums are known
            ready.count, ready.requests = len(self._submissions), self.requests
            ready.records, ready.size = self.records, self.bytes
            ready.resubmitted, ready.first_arrival = self._resubmitted, self.first_arrival
            deadline = self.next_deadline()
            ready.deadline = math.inf if deadline is None else deadline
        return ready

    def _judge(self, ready: _Ready, submission: Submission) -> None:
        if self._batches.holds(submission) or not ready.keys.isdisjoint(submission.keys):
            ready.blocked.add(submission.id)
            ready.keys.update(submission.keys)
        else:
            ready.count_in(submission)
