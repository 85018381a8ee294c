"""The batcher's state machine: accept, deduplicate, form batches, complete them, carry over.

Pure: no Temporal, no clock, no randomness. Time comes in as seconds since the epoch, so every decision can be replayed
and property-tested (``tests/unit/test_buffer.py``). `BatcherWorkflow` owns one `Buffer` and does what it says.

Where a request can be::

    accept -> pending -> in flight -> settled    (the sink answered; the flush confirmed)
                          |     ^
                          v     |
                         requeued                (same batch, same id: the sink was unavailable, or could not write
                                                  just this; what shares its key waits in pending)
    past its deadline, withdrawn, refused: a delivery in the outbox, made with retries
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from temporal_batching.batcher.accepted import Accepted
from temporal_batching.batcher.batches import Batches, PendingBatch
from temporal_batching.batcher.breaker import Breaker, pause_after
from temporal_batching.batcher.counts import Counts
from temporal_batching.batcher.footprint import Footprint
from temporal_batching.batcher.lanes import Lanes
from temporal_batching.batcher.limits import BufferFull, check_fits_batch, check_room
from temporal_batching.batcher.outbox import Outbox, QueuedDelivery
from temporal_batching.batcher.pending import Pending
from temporal_batching.batcher.state import BufferState
from temporal_batching.batcher.withdrawals import Withdrawals, leave
from temporal_batching.contract import (
    Confirmation,
    Delivery,
    FlushResult,
    OutcomeKind,
    RejectCode,
    ReplyTo,
    Trigger,
    Withdrawal,
)
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import CARRY_LIMIT_BYTES, MAX_REQUEST_BYTES, BatchPolicy
from temporal_batching.wire.addresses import MAX_REPLIES
from temporal_batching.wire.bodies import same_content
from temporal_batching.wire.requests import RequestBody
from temporal_batching.wire.submission import WITHDRAWN, Submission

PROBES_EACH = 3
"""While the sink is unavailable, one batch is probed this often before a second one is; two, twice as often before a
third. So one request that crashes the database does not keep all others from their outcome;
and in an outage few batches enter history, each once: with n of them, about ``3 * n * n`` probes were made."""


class Buffer:
    """One shard's requests, from acceptance until each is settled."""

    def __init__(self, name: str, policy: BatchPolicy) -> None:
        self.policy = policy
        self.paused = False
        self.draining = False
        self.ending = False  # its shard was cancelled: see `give_up`; the shard carries it over
        self.counts = Counts()
        self.unreported: dict[str, str] = {}  # why ids without a reply address were not written, until it is logged
        self._name = name
        self._lanes = Lanes()
        self._batches = Batches(self._lanes)
        self._pending = Pending(self._batches, self._lanes)
        self._breaker = Breaker()
        self._retries_from = 0.0  # no request is retried before
        self._outbox = Outbox()
        self._withdrawals = Withdrawals()
        self._flush_before = 0.0  # what arrived no later than this is due by an explicit flush
        self._batch_number = 0
        self._down_since_attempt = 0.0  # when the latest attempt began that failed; not carried

    # What comes in

    def accept(self, submission: Submission, now: float) -> Accepted:
        """Takes a request into the buffer.

        Raises:
            InvalidRequest: It never fits a batch, or its id belongs to other records that are still here.
            BufferFull: There is no room now.
        """
        # First whether it is here already: a change meanwhile, such as a newer limit or another caller with the same
        # id, must not refuse the repetition of what is about to be written.
        if self._is_held_for(submission):
            return Accepted.ATTACHED
        if self._outbox.has_answered(submission):
            return Accepted.ANSWERED
        known = self._pending.get(submission.id)
        if known is not None:
            return self._attach(known, submission, now)
        if not submission.resubmitted:  # it may have been written under an earlier, higher limit: the ledger decides
            check_fits_batch(submission, self.policy)
        submission.expires_at = self._deadline(submission, now)
        if self._withdrawals.cover(submission, now):
            # It is not written any more. The ledger knows whether an earlier submission was.
            submission.withdrawn = submission.resubmitted = True
            submission.expires_at = min(submission.expires_at, now)
        if submission.expires_at <= now and not submission.resubmitted:
            self._answer(submission, OutcomeKind.EXPIRED, accepted=False)
            return Accepted.ANSWERED
        if self.draining:
            raise BufferFull("the batcher is draining: it takes no more requests")
        self._check_room(submission.requests, submission.untraced_size)
        submission.arrived_at = now - submission.waited
        self._pending.add(submission)
        return Accepted.NEW

    def _deadline(self, submission: Submission, now: float) -> float:
        if submission.expires_at is not None:
            return submission.expires_at
        return now + self.policy.confirmation_timeout.total_seconds()

    def _check_room(self, requests: int, size: int) -> None:
        check_room(self.policy, pending=(self.pending, self.pending_bytes), more=(requests, size))

    def _attach(self, known: Submission, submission: Submission, now: float) -> Accepted:
        if not same_content(known.body, submission.body):
            raise InvalidRequest(
                f"request id {submission.id!r} is already pending with other records", RejectCode.ID_REUSED
            )
        new = [reply for reply in submission.replies if reply not in known.replies]
        growth = known.growth_by(submission, new)
        if len(known.replies) + len(new) > MAX_REPLIES or known.size + growth > MAX_REQUEST_BYTES:
            raise BufferFull(f"{len(known.replies)} callers wait for this request id already")
        self._check_room(0, growth)
        known.join(submission, new)
        if known.withdrawn and not self._withdrawals.cover(submission, now):
            known.withdrawn = False  # the new caller has not taken it back
        if new:
            # No caller receives `expired` before its own deadline: one more attempt of it may be on its way.
            self._pending.change(
                known, growth=growth, resubmitted=submission.resubmitted, expires_at=self._deadline(submission, now)
            )
        return Accepted.ATTACHED

    def _is_held_for(self, submission: Submission) -> bool:
        """Whether a batch already under way will answer this very caller: this is a retry of its submission.

        Any other caller with an id that is in flight becomes a request of its own; the ledger tells them apart.
        """
        other = self._batches.by_id.get(submission.id)
        return (
            other is not None
            and all(reply in other.replies for reply in submission.replies)
            and same_content(other.body, submission.body)
        )

    def refuse(self, submission: Submission, code: RejectCode, reason: str) -> None:
        """Answers a request that was not accepted, where its sender waits for no reply to its submission."""
        if code is RejectCode.OVERLOADED:
            self.counts.refused += submission.requests
        self._answer(submission, OutcomeKind.REJECTED, code, reason, accepted=False)

    def refuse_unread(self, request_id: str, replies: Sequence[ReplyTo], code: RejectCode, reason: str) -> None:
        """Answers a request of which only its id and its callers could be read."""
        self.refuse(Submission(RequestBody(request_id, "", ()), 0, replies=list(replies)), code, reason)

    def withdraw(self, withdrawal: Withdrawal, now: float) -> bool:
        """Takes a request back. Returns whether it is certain that it will not be written.

        A request in flight stays, and so does its outcome; if it then has to be retried, it is not. One that waits for
        a retry and may be committed is asked about, and not written any more. One that has not arrived is remembered
        for a while, and not written when it comes.

        Args:
            withdrawal: Which request, and whose. Where others wait for the same request, only this caller stops
                waiting. Without a caller, all of them; such a withdrawal is not remembered, for it would meet every
                later caller.
            now: Seconds since the epoch.
        """
        pending, held = self._pending.get(withdrawal.request_id), self._batches.by_id.get(withdrawal.request_id)
        if pending is None and held is None:
            if withdrawal.workflow_id is not None or withdrawal.run_id is not None:
                self._withdrawals.remember(withdrawal, now)
            return True
        certain = True
        if pending is not None:
            certain = leave(pending, withdrawal)
            if certain:
                self._pending.remove(pending)
                self._answer(pending, OutcomeKind.REJECTED, RejectCode.WITHDRAWN, WITHDRAWN)
        if held is not None:
            certain &= self._withdraw_held(held, withdrawal)
        return certain

    def _withdraw_held(self, held: Submission, withdrawal: Withdrawal) -> bool:
        """Takes back what is in a batch, if it waits for a retry; or notes it for when it does."""
        if self._batches.is_in_flight(held):
            # Its callers are those that its flush answers.
            if all(map(withdrawal.covers, held.replies)):
                self._batches.taken_back.add(held.id)
            return False
        return leave(held, withdrawal) and self._take_back(held)

    def _take_back(self, held: Submission) -> bool:
        """Stops a request that waits for a retry from being written. Returns whether that is certain."""
        if held.doubtful:  # its next flush asks the ledger and fences the request
            self._batches.withdraw(held)
            return False
        self._batches.take_out(held)
        self._answer(held, OutcomeKind.REJECTED, RejectCode.WITHDRAWN, WITHDRAWN)
        return True

    def _take_back_withdrawn(self, requeued: Sequence[Submission]) -> None:
        """After a flush: what was withdrawn meanwhile and is not settled is not retried."""
        for submission in requeued:
            if submission.id in self._batches.taken_back:
                self._batches.taken_back.discard(submission.id)
                self._take_back(submission)

    # What goes out

    def flush_now(self, now: float) -> None:
        """Makes everything that is pending due, full batch or not."""
        self._flush_before = now

    def expire(self, now: float) -> None:
        """Answers every request whose deadline has passed and that no attempt can have written."""
        for submission in [*self._pending.expired(now), *self._batches.expired(now)]:
            self._answer(submission, OutcomeKind.EXPIRED)

    def give_up(self, now: float) -> list[str]:
        """Drops what is past its deadline, may be committed, and met a sink that was down since then.

        For a shard that is to end: otherwise it would wait for its sink forever. Their callers receive nothing, for the
        outcome is not known; callers by activity have run into their own timeouts.

        Returns:
            The ids that were dropped.
        """
        since = now if self.paused else self._down_since_attempt
        gone = [*self._pending.late(since), *self._batches.late(since)]
        self.counts.unknown += sum(submission.requests for submission in gone)
        return [submission.id for submission in gone]

    def next_batch(self, now: float, *, force: bool = False) -> PendingBatch | None:
        """The batch to flush now, or None. It is in flight until `complete` or `fail`.

        Args:
            now: Seconds since the epoch.
            force: Everything pending is due. Still one probe at a time while the sink is unavailable.
        """
        batch = next((take() for at, take in self._choices(force=force) if at <= now), None)
        return self._batches.start(batch, now, probe=self._breaker.open) if batch is not None else None

    def _choices(self, *, force: bool = False) -> Iterator[tuple[float, Callable[[], PendingBatch]]]:
        """Which batches may start, and from when on; the first whose time has come is started."""
        if self.paused or len(self._batches.in_flight) >= self.policy.max_in_flight:
            return
        opens_at = 0.0
        if self._breaker.open:
            if any(batch.probe for batch in self._batches.in_flight.values()):
                return
            opens_at = self._breaker.retry_at
        waiting = self._batches.startable()
        failed = [batch for batch in waiting if not batch.own_pace]
        fresh = [(at, lambda trigger=trigger: self._form(trigger)) for at, trigger in self._due_times(force=force)]
        if not self._breaker.open:
            choices = [*((0.0, lambda b=batch: b) for batch in failed), *self._retries(waiting), *fresh]
        elif failed:
            batch = min(failed, key=lambda b: b.failures)
            choices = [(0.0, lambda: batch)]
            if batch.failures >= PROBES_EACH * len(failed):
                choices = [*fresh, *self._retries(waiting), *choices]
        else:  # opened by a batch of which nothing got through: another one says more about the sink
            choices = [*fresh, *self._retries(waiting)]
        for at, take in choices:
            yield max(at, opens_at), take

    def _retries(self, waiting: Sequence[PendingBatch]) -> Iterator[tuple[float, Callable[[], PendingBatch]]]:
        """What the sink requeued: the longest due, one at a time."""
        own = [batch for batch in waiting if batch.own_pace]
        if own and not any(batch.own_pace for batch in self._batches.in_flight.values()):
            batch = min(own, key=lambda b: b.due_at)
            yield max(batch.due_at, self._retries_from), lambda: batch

    def _due_times(self, *, force: bool = False) -> Iterator[tuple[float, Trigger]]:
        yield from self._pending.due_times(self.policy, self._flush_before, self._batches.overlap_from, force=force)

    def _form(self, trigger: Trigger) -> PendingBatch:
        submissions = self._pending.take(self.policy)
        self._batches.hold(submissions)
        self._batch_number += 1
        return PendingBatch(f"{self._name}/{self._batch_number}", self._batch_number, trigger, submissions)

    def complete(self, batch_id: str, result: FlushResult, now: float, *, backoff_factor: float = 1.0) -> None:
        """The sink has answered for the batch, and its callers were notified; what is to be retried stays.

        Args:
            batch_id: As from `next_batch`.
            result: What the flush reports.
            now: Seconds since the epoch.
            backoff_factor: How many times longer than usual retries pause.
        """
        batch = self._batches.end(batch_id, now)
        fresh, together = not batch.tried, len(batch.submissions) > 1
        self._end_retry(batch, now, backoff_factor)
        self.counts.flushed(batch, result)
        if not result.stalled:
            self._breaker.close()
            self._batches.got_through()
        elif fresh and together and result.requeued:
            # None of several got through: the cause is more likely in the sink than in the requests. A single request,
            # or what was retried before, proves nothing.
            self._open_breaker(batch, result.requeued[0].reason, now, backoff_factor)
        for delivery in result.undelivered:
            self._outbox.add(delivery, attempts=1)
        self._requeue(batch, result, now, backoff_factor)

    def _requeue(self, batch: PendingBatch, result: FlushResult, now: float, backoff_factor: float) -> None:
        """Keeps of the batch what is to be retried, with its own pauses and under its id."""
        kept = {one.position: one for one in result.requeued}
        unknown = set(result.unknown)
        settled = [submission for position, submission in enumerate(batch.submissions) if position not in kept]
        for submission in settled:
            self._batches.let_go(submission)
        notified = [
            submission for position, submission in enumerate(batch.submissions) if position not in {*kept, *unknown}
        ]
        self._outbox.note_notified((to for submission in notified for to in submission.replies), but=result.unreached)
        for position, one in kept.items():
            batch.submissions[position].in_doubt |= one.in_doubt
        batch.apart |= bool(settled) and any(one.unread for one in kept.values())
        batch.submissions = [batch.submissions[position] for position in sorted(kept)]
        batch.attempt += 1
        if batch.submissions:
            self.counts.retries += batch.requests
            self._wait(batch, now, backoff_factor)
            self._take_back_withdrawn(list(batch.submissions))

    def _wait(self, batch: PendingBatch, now: float, backoff_factor: float) -> None:
        batch.wait(now, pause_after(batch.retries, self.policy, backoff_factor))
        batch.retries += 1
        batch.overtaken = False
        self._batches.requeue(batch)

    def _end_retry(self, batch: PendingBatch, now: float, backoff_factor: float) -> None:
        """Retries take at most half of a shard's time, and a run's history grows by them no faster than in an outage.

        However many requests are to be retried, the pause between two retries is no shorter than what the first took.
        It is longer in a run whose history is past Temporal's warning because it holds too much to continue as new.
        """
        if batch.own_pace:
            limits = self.policy.retry_initial if backoff_factor <= 1.0 else self.policy.retry_max
            pause = limits.total_seconds() * backoff_factor
            self._retries_from = now + max(pause, now - batch.started_at)

    def fail(self, batch_id: str, now: float, error: str, *, in_doubt: bool, backoff_factor: float = 1.0) -> None:
        """The sink was unavailable: the batch is requeued as it is, and the breaker opens, or stays open longer.

        If another batch got through while it waited for this attempt, the cause is more likely in this batch than in
        the sink: then it is halved, to isolate the cause, waits by itself, and the breaker stays as it is. If one got
        through during this attempt, the cause may be in the batch: it waits by itself, but in one.

        Args:
            batch_id: As from `next_batch`.
            now: Seconds since the epoch.
            error: The sink's complaint.
            in_doubt: The batch may be committed nevertheless.
            backoff_factor: How many times longer than usual the breaker pauses.
        """
        batch = self._batches.end(batch_id, now)
        self._end_retry(batch, now, backoff_factor)
        self.counts.flush_failures += 1
        self._down_since_attempt = max(self._down_since_attempt, batch.started_at)
        batch.attempt += 1
        batch.failures += 1
        if in_doubt:
            batch.doubt()
        submissions = list(batch.submissions)
        if batch.overtaken:
            for half in batch.halves():
                self._wait(half, now, backoff_factor)
        elif batch.overlapped:
            self._wait(batch, now, backoff_factor)
        else:
            batch.own_pace = False
            self._batches.requeue(batch)
            self._open_breaker(batch, error, now, backoff_factor)
        self._take_back_withdrawn(submissions)

    def _open_breaker(self, batch: PendingBatch, error: str, now: float, backoff_factor: float) -> None:
        """Opens the breaker, or has it wait longer; not for what was under way when it opened: that is one outage."""
        if batch.probe or not self._breaker.open:
            self._breaker.fail(now, error, pause_after(self._breaker.failures, self.policy, backoff_factor))

    # Deliveries that no flush makes

    def next_deliveries(self) -> list[Delivery]:
        """What to deliver now; empty while deliveries are under way. `delivered` ends them."""
        return self._outbox.next_deliveries()

    def delivered(self, failed: Sequence[int], unreached: Sequence[ReplyTo] = ()) -> None:
        """Ends the deliveries. ``failed`` are positions to retry, up to a limit; the unreached may ask again."""
        self._outbox.delivered(failed, unreached)

    def _answer(
        self,
        submission: Submission,
        outcome: OutcomeKind,
        code: RejectCode | None = None,
        reason: str | None = None,
        *,
        accepted: bool = True,
    ) -> None:
        self.counts.outcomes[outcome] += submission.requests
        confirmation = Confirmation(submission.id, outcome, code=code, reason=reason)
        deliveries = [Delivery(reply_to, confirmation) for reply_to in submission.replies]
        if not deliveries:
            if code is not RejectCode.WITHDRAWN:
                self.unreported[submission.id] = code or outcome
        elif accepted:
            for delivery in deliveries:
                self._outbox.add(delivery)
        elif not self._outbox.add_refusal(deliveries):
            self.unreported[submission.id] = f"{code or outcome}; too many deliveries wait"

    # What the workflow and the monitor want to know

    def wake_at(self) -> float | None:
        """When something becomes due by time alone; None if nothing will."""
        deadlines = (self._pending.next_deadline(), self._batches.next_deadline())
        times = [deadline for deadline in deadlines if deadline is not None]
        times.extend(at for at, _ in self._choices())
        if self.ending and self.paused:
            times.extend(self._doubtful_deadlines())
        return min(times, default=None)

    def timer_at(self, now: float) -> float | None:
        """When to look again: at `wake_at`, or before, so that the timer fits when the batches in flight are settled.

        What waits is due at the end of its linger then, and later while they are not: a timer for the latter would be
        cancelled for the former. If they are expected to take longer than the linger, their end comes first.
        """
        at, batches = self.wake_at(), self._batches
        if at is None or not batches.in_flight or self.paused or self._breaker.open:
            return at
        alone = self._pending.linger_ends(self.policy)
        return alone if max(now, batches.expected_end) < alone < at else at

    def _doubtful_deadlines(self) -> Iterator[float]:
        requeued = (submission for batch in self._batches.requeued for submission in batch.submissions)
        waiting = [*self._pending, *requeued]
        return (
            submission.expires_at for submission in waiting if submission.doubtful and submission.expires_at is not None
        )

    @property
    def pending(self) -> int:
        """Requests that wait: for a batch, or for a retry."""
        return self._pending.requests + self._batches.requeued_requests

    @property
    def pending_bytes(self) -> int:
        return self._pending.bytes + self._batches.bytes

    @property
    def pending_weight(self) -> int:
        """Of their bytes what the shard keeps."""
        return self._pending.weight + self._batches.weight

    @property
    def requeued(self) -> int:
        """Requests that wait for a retry of their own."""
        return sum(batch.requests for batch in self._batches.requeued if batch.own_pace)

    @property
    def in_flight(self) -> int:
        """Requests in a flush right now."""
        return sum(batch.requests for batch in self._batches.in_flight.values())

    @property
    def waiting(self) -> list[Submission]:
        """What waits for a batch, in order of arrival."""
        return list(self._pending)

    @property
    def batches(self) -> list[PendingBatch]:
        """Batches that are not settled: those in flight, then what waits for a retry."""
        return list(self._batches)

    @property
    def queued_deliveries(self) -> list[QueuedDelivery]:
        """What the outbox holds, in its order; the first `deliveries_in_flight` of them are under way."""
        return self._outbox.queued

    @property
    def breaker(self) -> Breaker:
        return self._breaker

    @property
    def footprint(self) -> Footprint:
        """What it keeps in memory beside the submissions themselves."""
        return Footprint(
            ids=frozenset(self._batches.by_id),
            keys=self._lanes.closed,
            lanes=self._lanes.footprint,
            deadlines=self._pending.watched_deadlines,
            unanswered=self._outbox.unanswered,
            notified=self._outbox.notified,
        )

    def batch_in_flight(self, batch_id: str) -> PendingBatch | None:
        return self._batches.in_flight.get(batch_id)

    @property
    def batches_in_flight(self) -> int:
        return len(self._batches.in_flight)

    @property
    def deliveries_in_flight(self) -> int:
        return self._outbox.in_delivery

    @property
    def dedup_ids(self) -> int:
        return len(self._pending) + sum(len(batch.submissions) for batch in self._batches)

    @property
    def undelivered(self) -> int:
        """Deliveries given up."""
        return self._outbox.undelivered

    @property
    def outbox(self) -> int:
        """Deliveries not made yet."""
        return len(self._outbox)

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is under way, no delivery is open."""
        return not (self._pending or self._batches.requeued or self._batches.in_flight or self._outbox)

    def oldest_age(self, now: float) -> float:
        """Seconds that the oldest waiting request has waited."""
        arrivals = [submission.arrived_at for batch in self._batches for submission in batch.submissions]
        if self._pending.first_arrival is not None:
            arrivals.append(self._pending.first_arrival)
        return max(0.0, now - min(arrivals)) if arrivals else 0.0

    @property
    def carry_bytes(self) -> int:
        """About what `carry` will weigh."""
        return self.pending_weight + self._outbox.bytes + self._withdrawals.bytes

    @property
    def has_to_flush_to_end(self) -> bool:
        """Whether the requests that a run holds keep it from ending; deliveries need no flush."""
        return self.carry_bytes > CARRY_LIMIT_BYTES and self.pending_weight >= self._outbox.bytes

    # Over continue-as-new

    def carry(self) -> BufferState:
        """Everything the next run needs. Nothing may be in flight."""
        if self._batches.in_flight or self._outbox.in_delivery:
            raise RuntimeError("a batch or a delivery is under way: its activity would be lost to the new run")
        return BufferState(
            policy=self.policy,
            paused=self.paused,
            draining=self.draining,
            pending=list(self._pending),
            requeued=list(self._batches.requeued),
            outbox=self._outbox.queued,
            withdrawals=self._withdrawals.remembered,
            flush_before=self._flush_before,
            batch_number=self._batch_number,
            breaker=self._breaker,
            retries_from=self._retries_from,
            undelivered=self.undelivered,
            counts=self.counts,
        )

    @classmethod
    def restore(cls, name: str, state: BufferState) -> Buffer:
        """The buffer that `carry` described."""
        buffer = cls(name, state.policy)
        buffer.paused, buffer.draining = state.paused, state.draining
        for batch in state.requeued:  # before what waits for them
            buffer._batches.hold(batch.submissions)
            buffer._batches.requeue(batch)
        for submission in state.pending:
            buffer._pending.add(submission)
        for queued in state.outbox:
            buffer._outbox.restore(queued)
        buffer._withdrawals = Withdrawals(state.withdrawals)
        buffer._flush_before = state.flush_before
        buffer._batch_number = state.batch_number
        buffer._breaker = state.breaker
        buffer._retries_from = state.retries_from
        buffer._outbox.undelivered = state.undelivered
        buffer.counts = state.counts
        return buffer
