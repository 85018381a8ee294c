"""Batches from the moment they are formed until every request in them is settled: in flight, or waiting for a retry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from temporal_batching.batcher.keys import KeySet
from temporal_batching.batcher.lanes import Lanes
from temporal_batching.contract import Trigger
from temporal_batching.wire.submission import Submission

OVERLAP_AFTER = 1.0
"""Seconds after the start of a batch in flight from which on one that is not full may start beside it. Until then
requests gather, and join the batch that starts when that one is settled: batches that overlap are to be as large as
batches one after the other, which is what a linger of zero is for. A full one starts at once."""


@dataclass(slots=True, eq=False)
class PendingBatch:
    """A batch, or what is left of it.

    Attributes:
        id: The same for every attempt.
        number: Counts the shard's batches.
        trigger: What made it start.
        submissions: What is not settled yet, in order of arrival.
        attempt: Earlier attempts at it.
        failures: Attempts that failed as a whole.
        retries: Attempts in a row after which the sink wanted what is here to be retried.
        due_at: When it may be retried, if its pauses are its own.
        own_pace: Its pauses are its own. Otherwise it waits for the breaker.
        overtaken: Another batch got through while it waited: its next failure is its own, not the sink's.
        overlapped: Another batch got through during its latest attempt.
        probe: Its latest attempt began while the breaker was open.
        apart: Others of it were settled while a parcel was without its content: so an id in that may have been written
            by them, under the same batch id.
        part: Its position in the batch that was formed: a 0 or a 1 is appended each time one is halved.
        counted: It is in the statistics.
        started_at: Of its latest attempt.
    """

    id: str
    number: int
    trigger: Trigger
    submissions: list[Submission]
    attempt: int = 0
    failures: int = 0
    retries: int = 0
    due_at: float = 0.0
    own_pace: bool = False
    overtaken: bool = False
    overlapped: bool = False
    probe: bool = False
    apart: bool = False
    part: tuple[int, ...] = ()
    counted: bool = False
    started_at: float = 0.0

    @property
    def tried(self) -> bool:
        """An earlier attempt was made: the shard's history has its content."""
        return self.attempt > 0

    @property
    def in_doubt(self) -> bool:
        """Something in it may be committed: no caller receives `expired` before the sink was asked."""
        return any(submission.doubtful for submission in self.submissions)

    @property
    def requests(self) -> int:
        return sum(submission.requests for submission in self.submissions)

    @property
    def records(self) -> int:
        return sum(submission.records for submission in self.submissions)

    @property
    def size(self) -> int:
        return sum(submission.size for submission in self.submissions)

    def waited(self, now: float) -> float:
        """Seconds since its oldest request arrived."""
        return round(max(0.0, now - min((one.arrived_at for one in self.submissions), default=now)), 3)

    def doubt(self) -> None:
        for submission in self.submissions:
            submission.in_doubt = True

    def wait(self, now: float, pause: float) -> None:
        """Pauses, but for a deadline at which the sink has to be asked: that is due when it comes."""
        asked = (
            e.expires_at for e in self.submissions if e.doubtful and e.expires_at is not None and e.expires_at > now
        )
        self.due_at = min([now + pause, *asked])
        self.own_pace = True

    def halves(self) -> list[PendingBatch]:
        """The batch in two, under the same id; they are never in flight together."""
        if len(self.submissions) == 1:
            return [self]
        middle = len(self.submissions) // 2
        first, second = self.submissions[:middle], self.submissions[middle:]
        return [
            replace(self, submissions=first, part=(*self.part, 0)),
            replace(self, submissions=second, part=(*self.part, 1), counted=True),
        ]


class Batches:
    """All batches of a shard, and the keys and ids that are in them.

    Attributes:
        in_flight: Under way, by id.
        requeued: Waiting for a retry, in the order of their numbers.
        requeued_requests: The requests in those.
        by_id: What is in them, by request id. Another caller's with the same id waits until this one is settled.
        bytes: Their size as they travel, with the content of parcels by reference.
        weight: What of that the shard keeps.
        changes: Counts whenever something comes or goes.
        lasted: Seconds that the latest attempt took that ended; not carried.
        taken_back: Ids of what is in flight and was withdrawn meanwhile. Not carried: nothing in flight is.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.in_flight: dict[str, PendingBatch] = {}
        self.requeued: list[PendingBatch] = []
        self.requeued_requests = 0
        self.by_id: dict[str, Submission] = {}
        self.bytes = 0
        self.weight = 0
        self.changes = 0
        self.lasted = 0.0
        self.taken_back: set[str] = set()
        self._lanes = lanes
        self._startable: tuple[int, list[PendingBatch]] = (-1, [])  # of which count of changes it is
        self._deadline: tuple[int, float | None] = (-1, None)

    def __iter__(self) -> Iterator[PendingBatch]:
        yield from self.in_flight.values()
        yield from self.requeued

    def hold(self, submissions: Sequence[Submission]) -> None:
        for submission in submissions:
            self.by_id[submission.id] = submission
            self.bytes += submission.size
            self.weight += submission.weight
            self._lanes.close(submission)
        self.changes += 1

    def let_go(self, submission: Submission) -> None:
        self.bytes -= submission.size
        self.weight -= submission.weight
        del self.by_id[submission.id]
        self.taken_back.discard(submission.id)
        self._lanes.open(submission)
        self.changes += 1

    def is_in_flight(self, submission: Submission) -> bool:
        return any(submission is one for batch in self.in_flight.values() for one in batch.submissions)

    def take_out(self, submission: Submission) -> None:
        """Takes out what waits for a retry."""
        self.requeued_requests -= submission.requests
        for batch in self.requeued:
            batch.submissions = [one for one in batch.submissions if one is not submission]
        self.requeued = [batch for batch in self.requeued if batch.submissions]
        self.let_go(submission)

    def withdraw(self, submission: Submission) -> None:
        """Has the next flush of what waits for a retry ask about it and fence it, instead of writing it.

        Its deadline stays: where the sink has no fence, an attempt in flight may commit it until then.
        """
        submission.withdrawn = True
        self.changes += 1

    def start(self, batch: PendingBatch, now: float, *, probe: bool) -> PendingBatch:
        if batch in self.requeued:
            self.requeued.remove(batch)
            self.requeued_requests -= batch.requests
        batch.started_at, batch.overlapped, batch.probe = now, False, probe
        self.in_flight[batch.id] = batch
        self.changes += 1
        return batch

    @property
    def overlap_from(self) -> float:
        """From when on a batch that is not full may start beside those in flight."""
        return self._last_start + OVERLAP_AFTER if self.in_flight else 0.0

    @property
    def expected_end(self) -> float:
        """When those in flight are expected to be settled: if they take as long as the latest did."""
        return self._last_start + self.lasted

    @property
    def _last_start(self) -> float:
        return max((batch.started_at for batch in self.in_flight.values()), default=0.0)

    def got_through(self) -> None:
        """One got an answer: what fails now fails by itself."""
        for batch in self.requeued:
            batch.overtaken = True
        for batch in self.in_flight.values():
            batch.overlapped = True

    def end(self, batch_id: str, now: float) -> PendingBatch:
        """Ends an attempt. What is not settled is requeued then."""
        self.changes += 1
        batch = self.in_flight.pop(batch_id)
        self.lasted = now - batch.started_at
        return batch

    def requeue(self, batch: PendingBatch) -> None:
        self.requeued.append(batch)
        self.requeued_requests += batch.requests
        self.requeued.sort(key=lambda other: (other.number, other.part))
        self.changes += 1

    def startable(self) -> list[PendingBatch]:
        """What may be started: no part of the same batch is in flight, and no earlier part that shares a key waits."""
        if self._startable[0] != self.changes:
            self._startable = (self.changes, self._find_startable())
        return self._startable[1]

    def _find_startable(self) -> list[PendingBatch]:
        free: list[PendingBatch] = []
        for batch in self.requeued:
            if batch.id in self.in_flight:
                continue
            if any(other.id == batch.id and _share_a_key(other, batch) for other in free):
                continue
            free.append(batch)
        return free

    def expired(self, now: float) -> list[Submission]:
        """Takes out what is past its deadline and that no attempt can have written."""
        deadline = self.next_deadline()
        return self._take_out(now, doubtful=False) if deadline is not None and deadline <= now else []

    def late(self, since: float) -> list[Submission]:
        """Takes out what only the sink could decide on and whose deadline had passed by then."""
        return self._take_out(since, doubtful=True)

    def _take_out(self, at: float, *, doubtful: bool) -> list[Submission]:
        late: list[Submission] = []
        for batch in self.requeued:
            # What the sink requeued was attempted by itself: its own last attempt counts.
            by = max(at, batch.started_at) if doubtful else at
            gone = [
                e
                for e in batch.submissions
                if e.doubtful is doubtful and e.expires_at is not None and e.expires_at <= by
            ]
            for submission in gone:
                batch.submissions.remove(submission)
                self.requeued_requests -= submission.requests
                self.let_go(submission)
            late += gone
        if late:
            self.requeued = [batch for batch in self.requeued if batch.submissions]
        return late

    def next_deadline(self) -> float | None:
        """The earliest deadline of what waits and that no attempt can have written."""
        if self._deadline[0] != self.changes:
            waiting = (
                submission for batch in self.requeued for submission in batch.submissions if not submission.doubtful
            )
            deadlines = [submission.expires_at for submission in waiting if submission.expires_at is not None]
            self._deadline = (self.changes, min(deadlines, default=None))
        return self._deadline[1]


def _share_a_key(one: PendingBatch, other: PendingBatch) -> bool:
    keys = KeySet(one.submissions)
    return any(keys.block(submission) for submission in other.submissions)
