"""The batcher's state machine: accept, deduplicate, form batches, settle, carry over.

Pure: no Temporal, no clock, no randomness. Time comes in as seconds since the epoch, so every decision can be replayed
and property-tested (``tests/unit/test_buffer.py``). `BatcherWorkflow` owns one `Buffer` and does what it says.

Where a request can be::

    accept -> pending -> in flight -> settled            (the sink answered; the flush confirmed)
                 ^           |
                 |           v
                 |       set back  (the sink was unavailable; same batch, same id, tried again first)
    past its deadline, withdrawn, refused: an answer in the outbox, which is delivered with retries
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from temporal_batching.batcher.outbox import Outbox
from temporal_batching.batcher.withdrawals import Withdrawal, Withdrawals, run_of
from temporal_batching.contract import MAX_REASON, JsonObject, OutcomeKind, RejectCode, Trigger
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.submission import ENVELOPE_BYTES, MAX_REPLIES, WITHDRAWN, Entry, measure, same_content


class Accepted(StrEnum):
    """What the buffer did with a request that it did not refuse."""

    NEW = "new"
    ATTACHED = "attached"
    """Its id is here already, with the same records: the caller waits for the same outcome."""
    ANSWERED = "answered"
    """It was past its deadline, or withdrawn before it came: the answer is in the outbox."""


class BufferFull(Exception):
    """No room, or draining. The update door turns the caller back; the signal door answers `overloaded`."""


@dataclass(slots=True)
class PendingBatch:
    """A batch from the moment it is formed until every request in it is settled."""

    id: str
    number: int
    trigger: Trigger
    entries: list[Entry]
    records: int
    size: int
    in_doubt: bool = False
    """What is in it may have been committed before: nobody is told `expired` before the sink was asked."""
    tried: bool = False
    """It was flushed before, and set back."""

    @property
    def requests(self) -> int:
        return sum(entry.requests for entry in self.entries)


class Buffer:
    """One shard's requests, from acceptance until each is settled."""

    def __init__(self, name: str, policy: BatchPolicy) -> None:
        self.policy = policy
        self.paused = False
        self.draining = False
        self.outcomes: Counter[str] = Counter()
        self.batches_by_trigger: Counter[str] = Counter()
        self.largest_batch = 0
        self.refused = 0
        self.flush_failures = 0
        self.sink_error: str | None = None
        self.unheard: list[str] = []  # answers for nobody, until they are logged
        self._name = name
        self._pending: dict[str, Entry] = {}
        self._pending_requests = 0
        self._pending_records = 0
        self._pending_bytes = 0
        self._pending_again = 0
        self._first_arrival = math.inf  # of what is pending; entries from different gateways come in no order
        self._held_bytes = 0  # of batches in flight and set back
        self._held_entries: dict[str, list[Entry]] = {}  # one id may be set back with one batch, in flight with another
        self._deadlines: list[tuple[float, str]] = []  # a heap; whoever left `_pending` is skipped when it surfaces
        self._in_flight: dict[str, PendingBatch] = {}
        self._set_back: list[PendingBatch] = []
        self._outbox = Outbox()
        self._withdrawals = Withdrawals()
        self._flush_before = 0.0  # what arrived no later than this is due by an explicit flush
        self._batch_number = 0
        self._failures = 0
        self._retry_at = 0.0

    # What comes in

    def accept(self, entry: Entry, now: float) -> Accepted:
        """Takes a request into the buffer.

        Raises:
            InvalidRequest: It never fits a batch, or its id belongs to other records that are still here.
            BufferFull: There is no room now.
        """
        # First whether it is here already: nothing that changed meanwhile, a newer limit or another caller with the
        # same id, may refuse the repetition of what is about to be written.
        if self._is_held_for(entry):
            return Accepted.ATTACHED
        if self._outbox.has_answered(entry):
            return Accepted.ANSWERED
        known = self._pending.get(entry.id)
        if known is not None:
            return self._attach(known, entry, now)
        if not entry.again:  # under an earlier, higher limit it may have been written: the ledger has to say
            self._check_size(entry)
        entry.expires_at = self._deadline(entry, now)
        if self._withdrawals.cover(entry, now):
            # It is not written any more. Whether it was before, by an earlier submission, the ledger has to say.
            entry.withdrawn = entry.again = True
            entry.expires_at = min(entry.expires_at, now)
        if entry.expires_at <= now and not entry.again:
            self._answer(entry, OutcomeKind.EXPIRED)
            return Accepted.ANSWERED
        if self.draining:
            raise BufferFull("the batcher is draining: it takes no more requests")
        if self.pending + entry.requests > self.policy.max_pending:
            raise BufferFull(f"{self.pending:,} requests are waiting, of {self.policy.max_pending:,} allowed")
        if self.pending_bytes + entry.size > self.policy.max_pending_bytes:
            raise BufferFull(f"{self.pending_bytes:,} bytes are waiting, of {self.policy.max_pending_bytes:,} allowed")
        entry.arrived_at = now - entry.waited
        self._add(entry)
        return Accepted.NEW

    def _deadline(self, entry: Entry, now: float) -> float:
        if entry.expires_at is not None:
            return entry.expires_at
        return now + self.policy.confirmation_timeout.total_seconds()

    def _check_size(self, entry: Entry) -> None:
        if entry.records > self.policy.max_batch_size:
            raise InvalidRequest(
                f"the request has {entry.records:,} records: at most {self.policy.max_batch_size:,} fit a batch",
                RejectCode.TOO_LARGE,
            )
        if entry.size > self.policy.max_batch_bytes:
            raise InvalidRequest(
                f"the request has {entry.size:,} bytes: at most {self.policy.max_batch_bytes:,} fit a batch",
                RejectCode.TOO_LARGE,
            )

    def _attach(self, known: Entry, entry: Entry, now: float) -> Accepted:
        if not same_content(known.body, entry.body):
            raise InvalidRequest(f"request id {entry.id!r} is already pending with other records", RejectCode.ID_REUSED)
        new = [reply for reply in entry.replies if reply not in known.replies]
        if len(known.replies) + len(new) > MAX_REPLIES:
            raise BufferFull(f"{len(known.replies)} callers wait for this request id already")
        if new and entry.again and not known.again:
            # From now on only the sink may say that it expired; its deadline in the heap is skipped.
            known.again = True
            self._pending_again += 1
        if new:
            # Nobody is told `expired` before the own deadline: one more attempt of it may be on its way.
            latest = self._deadline(entry, now)
            if known.expires_at is not None and known.expires_at < latest:
                known.expires_at = latest
                self._watch(known)
        known.replies.extend(new)
        growth = sum(max(ENVELOPE_BYTES, measure(reply)) for reply in new)
        known.size += growth
        self._pending_bytes += growth
        return Accepted.ATTACHED

    def _is_held_for(self, entry: Entry) -> bool:
        """Whether a batch already under way will answer this very caller: a retry of its submission.

        Any other caller with an id that is in flight becomes a request of its own; the ledger sorts them out.
        """
        return any(
            all(reply in other.replies for reply in entry.replies) and same_content(other.body, entry.body)
            for other in self._held_entries.get(entry.id, ())
        )

    def refuse(self, entry: Entry, code: RejectCode, reason: str) -> None:
        """Answers a request that was not accepted, for a door that cannot turn its caller back."""
        if code is RejectCode.OVERLOADED:
            self.refused += entry.requests
        self._answer(entry, OutcomeKind.REJECTED, code, reason)

    def withdraw(
        self, request_id: str, workflow_id: str | None = None, run_id: str | None = None, *, now: float
    ) -> bool:
        """Takes a request back. Returns whether it is certain that it will not be written.

        A request in flight, or in a batch that was tried before, stays: its outcome stands. One that has not arrived
        is remembered for a while, and not written when it comes.

        Args:
            request_id: The request's, or the parcel's.
            workflow_id: The caller. Where others wait for the same request, only this caller stops waiting. Without
                it, whoever waits; such a withdrawal is not remembered, for it would meet every later caller.
            run_id: The caller's run; None for any run of it that waits.
            now: Seconds since the epoch.
        """
        entry = self._pending.get(request_id)
        if entry is None:
            if request_id in self._held_entries:
                return False
            if workflow_id is not None:
                self._withdrawals.remember(Withdrawal(request_id, workflow_id, run_id), now)
            return True

        def stays(reply: JsonObject) -> bool:
            another_run = run_id is not None and run_of(reply) not in (run_id, None)
            return reply.get("workflow_id") != workflow_id or another_run

        others = [reply for reply in entry.replies if stays(reply)]
        if workflow_id is not None and others:
            entry.replies[:] = others
            return False
        self._remove(entry)
        self._look_for_first_arrival()
        self._answer(entry, OutcomeKind.REJECTED, RejectCode.WITHDRAWN, WITHDRAWN)
        return True

    # What goes out

    def flush_now(self, now: float) -> None:
        """Makes everything that is pending due, full batch or not."""
        self._flush_before = now

    def expire(self, now: float) -> None:
        """Answers every request whose deadline has passed and that no attempt can have written."""
        due = bool(self._deadlines) and self._deadlines[0][0] <= now
        while self._deadlines and self._deadlines[0][0] <= now:
            expires_at, request_id = heapq.heappop(self._deadlines)
            entry = self._pending.get(request_id)
            if entry is not None and entry.expires_at == expires_at and not entry.again:
                self._remove(entry)
                self._answer(entry, OutcomeKind.EXPIRED)
        if due:
            self._look_for_first_arrival()
        for batch in [b for b in self._set_back if not b.in_doubt]:
            for entry in [e for e in batch.entries if e.expires_at is not None and e.expires_at <= now]:
                self._shrink(batch, entry)
                self._answer(entry, OutcomeKind.EXPIRED)
            if not batch.entries:
                self._set_back.remove(batch)

    def next_batch(self, now: float, *, force: bool = False) -> PendingBatch | None:
        """The batch to flush now, or None. It is in flight until `settle` or `fail`.

        Args:
            now: Seconds since the epoch.
            force: Whatever is pending is due. Still one probe at a time while the sink is unavailable.
        """
        if self.paused or len(self._in_flight) >= self.policy.max_in_flight:
            return None
        if self._failures and (self._in_flight or now < self._retry_at):
            return None
        if self._set_back:
            batch = self._set_back.pop(0)
            batch.tried = True
        else:
            trigger = self._due(now) or (Trigger.MANUAL if force and self._pending else None)
            if trigger is None:
                return None
            batch = self._form(trigger)
        self._in_flight[batch.id] = batch
        return batch

    def _due(self, now: float) -> Trigger | None:
        return next((trigger for at, trigger in self._due_times() if at <= now), None)

    def _due_times(self) -> Iterator[tuple[float, Trigger]]:
        """When the pending entries become a batch, and why; zero for at once."""
        if not self._pending:
            return
        if self._pending_records >= self.policy.max_batch_size:
            yield 0.0, Trigger.COUNT
        if self._pending_bytes >= self.policy.max_batch_bytes:
            yield 0.0, Trigger.BYTES
        if self._pending_again:  # has waited before, and may be past its deadline
            yield 0.0, Trigger.DEADLINE
        if self._first_arrival <= self._flush_before:
            yield 0.0, Trigger.MANUAL
        yield self._first_arrival + self.policy.linger.total_seconds(), Trigger.LINGER
        deadline = self._next_deadline()
        if deadline is not None:
            yield deadline - self.policy.deadline_margin.total_seconds(), Trigger.DEADLINE

    def _form(self, trigger: Trigger) -> PendingBatch:
        """Takes the oldest entries that fit one batch, in order; the first always goes, or it would wait for ever."""
        entries: list[Entry] = []
        records = size = 0
        for entry in self._pending.values():
            fits = (
                records + entry.records <= self.policy.max_batch_size
                and size + entry.size <= self.policy.max_batch_bytes
            )
            if entries and not fits:
                break
            entries.append(entry)
            records += entry.records
            size += entry.size
        for entry in entries:
            self._remove(entry)
        self._look_for_first_arrival()
        self._hold(entries)
        self._batch_number += 1
        batch_id = f"{self._name}/{self._batch_number}"
        in_doubt = any(entry.again for entry in entries)
        return PendingBatch(batch_id, self._batch_number, trigger, entries, records, size, in_doubt)

    def settle(self, batch_id: str, outcomes: Mapping[str, int], undelivered: list[JsonObject]) -> None:
        """The sink has answered for every request of the batch, and its callers were told.

        Args:
            batch_id: As from `next_batch`.
            outcomes: Requests by outcome.
            undelivered: Answers that did not reach their callers yet; they go to the outbox.
        """
        batch = self._in_flight.pop(batch_id)
        for entry in batch.entries:
            self._let_go(entry)
        self._failures = 0
        self.sink_error = None
        self.outcomes.update(outcomes)
        self.batches_by_trigger[batch.trigger] += 1
        self.largest_batch = max(self.largest_batch, batch.records)
        for answer in undelivered:
            self._outbox.add({**answer, "attempts": 1})
        self._outbox.note_told(reply for entry in batch.entries for reply in entry.replies)

    def fail(self, batch_id: str, now: float, error: str, *, in_doubt: bool, patience: float = 1.0) -> None:
        """The sink was unavailable: the batch goes back to the head and the breaker opens, or stays open longer.

        Args:
            batch_id: As from `next_batch`.
            now: Seconds since the epoch.
            error: The sink's complaint.
            in_doubt: The batch may be committed all the same.
            patience: How many times longer than usual the breaker pauses.
        """
        batch = self._in_flight.pop(batch_id)
        batch.in_doubt = batch.in_doubt or in_doubt
        self._set_back.append(batch)
        self._set_back.sort(key=lambda b: b.number)
        initial, most = self.policy.retry_initial.total_seconds(), self.policy.retry_max.total_seconds()
        self._retry_at = now + min(most, initial * 2 ** min(self._failures, 30)) * patience
        self._failures += 1
        self.flush_failures += 1
        self.sink_error = error[:MAX_REASON]  # carried to the next run

    # Answers that no flush delivers

    def next_deliveries(self) -> list[JsonObject]:
        """The answers to deliver now; empty while a delivery is under way. `delivered` ends it."""
        return self._outbox.next_deliveries()

    def delivered(self, failed: list[int]) -> None:
        """Ends the delivery. ``failed`` are positions to try again, up to a limit."""
        self._outbox.delivered(failed)

    def _answer(
        self, entry: Entry, outcome: OutcomeKind, code: RejectCode | None = None, reason: str | None = None
    ) -> None:
        self.outcomes[outcome] += entry.requests
        if entry.replies:
            confirmation = {"request_id": entry.id, "outcome": outcome, "code": code, "reason": reason}
            self._outbox.add({"reply_to": entry.replies, "confirmation": confirmation})
        elif code is not RejectCode.WITHDRAWN:
            self.unheard.append(f"{entry.id!r} ({code or outcome})")

    # What the workflow and the monitor want to know

    def wake_at(self) -> float | None:
        """When something becomes due by time alone; None if nothing will."""
        times = []
        deadline = self._next_deadline()
        if deadline is not None:
            times.append(deadline)
        for batch in self._set_back:
            if not batch.in_doubt:
                times.extend(e.expires_at for e in batch.entries if e.expires_at is not None)
        if not self.paused and len(self._in_flight) < self.policy.max_in_flight:
            due = 0.0 if self._set_back else min((at for at, _ in self._due_times()), default=None)
            probing = self._failures and self._in_flight
            if due is not None and not probing:
                times.append(max(due, self._retry_at) if self._failures else due)
        return min(times, default=None)

    @property
    def pending(self) -> int:
        """Requests that wait: for a batch, or set back with one."""
        return self._pending_requests + sum(batch.requests for batch in self._set_back)

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes + self._held_bytes

    @property
    def in_flight(self) -> int:
        """Requests in a flush right now."""
        return sum(batch.requests for batch in self._in_flight.values())

    def batch_in_flight(self, batch_id: str) -> PendingBatch | None:
        return self._in_flight.get(batch_id)

    @property
    def batches_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def deliveries_in_flight(self) -> int:
        return self._outbox.in_delivery

    @property
    def dedup_ids(self) -> int:
        return len(self._pending) + sum(len(batch.entries) for batch in self._held())

    @property
    def batches(self) -> int:
        return sum(self.batches_by_trigger.values())

    @property
    def settled(self) -> int:
        return sum(self.outcomes.values())

    @property
    def undelivered(self) -> int:
        """Answers given up."""
        return self._outbox.undelivered

    @property
    def outbox(self) -> int:
        """Answers not delivered yet."""
        return len(self._outbox)

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is under way, everybody has been told."""
        return not (self._pending or self._set_back or self._in_flight or self._outbox)

    @property
    def breaker_open(self) -> bool:
        return self._failures > 0

    def oldest_age(self, now: float) -> float:
        """Seconds that the request which waits longest has waited."""
        arrivals = [entry.arrived_at for batch in self._held() for entry in batch.entries]
        if self._pending:
            arrivals.append(self._first_arrival)
        return max(0.0, now - min(arrivals)) if arrivals else 0.0

    @property
    def carry_bytes(self) -> int:
        """About what `carry` will weigh."""
        return self.pending_bytes + self._outbox.bytes + self._withdrawals.bytes

    # Over continue-as-new

    def carry(self) -> JsonObject:
        """Everything the next run needs, as JSON. Nothing may be in flight."""
        if self._in_flight or self._outbox.in_delivery:
            raise RuntimeError("a batch or a delivery is under way: its activity would be lost to the new run")
        return {
            "policy": self.policy.to_wire(),
            "paused": self.paused,
            "draining": self.draining,
            "pending": [entry.carry() for entry in self._pending.values()],
            "set_back": [
                {
                    "id": batch.id,
                    "number": batch.number,
                    "trigger": batch.trigger,
                    "in_doubt": batch.in_doubt,
                    "entries": [entry.carry() for entry in batch.entries],
                }
                for batch in self._set_back
            ],
            "outbox": self._outbox.carry(),
            "withdrawals": self._withdrawals.carry(),
            "flush_before": self._flush_before,
            "batch_number": self._batch_number,
            "failures": self._failures,
            "retry_at": self._retry_at,
            "sink_error": self.sink_error,
            "outcomes": dict(self.outcomes),
            "batches_by_trigger": dict(self.batches_by_trigger),
            "largest_batch": self.largest_batch,
            "refused": self.refused,
            "undelivered": self.undelivered,
            "flush_failures": self.flush_failures,
        }

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any]) -> Buffer:
        """The buffer that `carry` described."""
        buffer = cls(name, BatchPolicy.from_wire(state["policy"]))
        buffer.paused = state["paused"]
        buffer.draining = state["draining"]
        for wire in state["pending"]:
            buffer._add(Entry.restore(wire))
        for wire in state["set_back"]:
            entries = [Entry.restore(one) for one in wire["entries"]]
            records, size = sum(e.records for e in entries), sum(e.size for e in entries)
            batch = PendingBatch(
                wire["id"], wire["number"], Trigger(wire["trigger"]), entries, records, size, wire["in_doubt"]
            )
            buffer._set_back.append(batch)
            buffer._hold(entries)
        for answer in state["outbox"]:
            buffer._outbox.add(answer)
        buffer._withdrawals = Withdrawals.restore(state["withdrawals"])
        buffer._flush_before = state["flush_before"]
        buffer._batch_number = state["batch_number"]
        buffer._failures = state["failures"]
        buffer._retry_at = state["retry_at"]
        buffer.sink_error = state["sink_error"]
        buffer.outcomes = Counter(state["outcomes"])
        buffer.batches_by_trigger = Counter(state["batches_by_trigger"])
        buffer.largest_batch = state["largest_batch"]
        buffer.refused = state["refused"]
        buffer._outbox.undelivered = state["undelivered"]
        buffer.flush_failures = state["flush_failures"]
        return buffer

    # Bookkeeping

    def _add(self, entry: Entry) -> None:
        self._pending[entry.id] = entry
        self._pending_requests += entry.requests
        self._pending_records += entry.records
        self._pending_bytes += entry.size
        self._pending_again += entry.again
        self._first_arrival = min(self._first_arrival, entry.arrived_at)
        self._watch(entry)

    def _watch(self, entry: Entry) -> None:
        if entry.expires_at is not None and not entry.again:
            heapq.heappush(self._deadlines, (entry.expires_at, entry.id))
            self._forget_deadlines()

    def _remove(self, entry: Entry) -> None:
        del self._pending[entry.id]
        self._pending_requests -= entry.requests
        self._pending_records -= entry.records
        self._pending_bytes -= entry.size
        self._pending_again -= entry.again
        self._forget_deadlines()

    def _look_for_first_arrival(self) -> None:
        self._first_arrival = min((entry.arrived_at for entry in self._pending.values()), default=math.inf)

    def _forget_deadlines(self) -> None:
        if len(self._deadlines) > 2 * len(self._pending) + 64:
            # Most of the heap has left the buffer: rebuild it, or a shard whose requests never expire keeps them all.
            waiting = [e for e in self._pending.values() if not e.again]
            self._deadlines = [(e.expires_at, e.id) for e in waiting if e.expires_at is not None]
            heapq.heapify(self._deadlines)

    def _shrink(self, batch: PendingBatch, entry: Entry) -> None:
        batch.entries.remove(entry)
        batch.records -= entry.records
        batch.size -= entry.size
        self._let_go(entry)

    def _hold(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._held_entries.setdefault(entry.id, []).append(entry)
            self._held_bytes += entry.size

    def _let_go(self, entry: Entry) -> None:
        self._held_bytes -= entry.size
        same_id = [other for other in self._held_entries[entry.id] if other is not entry]
        if same_id:
            self._held_entries[entry.id] = same_id
        else:
            del self._held_entries[entry.id]

    def _held(self) -> list[PendingBatch]:
        return [*self._in_flight.values(), *self._set_back]

    def _next_deadline(self) -> float | None:
        while self._deadlines:
            expires_at, request_id = self._deadlines[0]
            entry = self._pending.get(request_id)
            if entry is not None and entry.expires_at == expires_at and not entry.again:
                return expires_at
            heapq.heappop(self._deadlines)
        return None
