"""The buffer keeps its promises under any order of events: a state machine against a model that is plain to read.

The model holds tickets, one for every submission the buffer took in, and moves them between the same places. What may
happen to a ticket, and what its callers receive, is checked at every step; at the end everything is settled.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from temporal_batching.batcher.accepted import Accepted
from temporal_batching.batcher.batches import OVERLAP_AFTER, PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.limits import BufferFull
from temporal_batching.batcher.outbox import MAX_DELIVERIES
from temporal_batching.batcher.withdrawals import MAX_AGE
from temporal_batching.contract import (
    Confirmation,
    Delivery,
    FlushResult,
    OutcomeKind,
    RejectCode,
    Requeued,
    Trigger,
    Withdrawal,
)
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.addresses import MAX_REPLIES
from temporal_batching.wire.submission import Submission, reply_bytes
from tests.support.buffers import NOW, carried, restored
from tests.unit.batcher.model import (
    CALLERS,
    FATES,
    LIMITS,
    NAMES,
    PARCEL_KEYS,
    Flight,
    Ticket,
    acts,
    address,
    addressee,
    make_entry,
    make_parcel,
)


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.policy = BatchPolicy()
        self.buffer = Buffer("main-0", self.policy)
        self.tickets: list[Ticket] = []
        self.pending: dict[str, Ticket] = {}
        self.flights: dict[str, Flight] = {}
        self.back: list[Flight] = []
        self.withdrawn: dict[tuple[str, str], float] = {}  # when
        self.outbox: list[tuple[str, str]] = []  # request and caller, for every answer that waits
        self.answered: set[tuple[str, str]] = set()  # request and caller: an activity that asks no more
        self.in_delivery = False
        self.outcomes: Counter[str] = Counter()
        self.retries = 0
        self.unknown = 0
        self.flushed_at = 0.0
        self.numbers = 0
        self.batches = 0
        self.given_up = 0
        self.applied: dict[str, list[int]] = {}

    @initialize(**LIMITS)
    def start(self, **limits: Any) -> None:
        self.set_policy(**limits, max_batch_bytes=4096)

    # Arrivals

    @rule(
        name=st.sampled_from(NAMES),
        caller=st.sampled_from(CALLERS),
        n=st.integers(1, 2),
        records=st.sampled_from([1, 1, 1, 2, 4]),
        size=st.sampled_from([1, 1, 500, 2_000, 5_000]),
        lifetime=st.sampled_from([None, None, 0.0, 1.0, 10.0, 300.0]),
        known=st.booleans(),
        resubmitted=st.sampled_from([False, False, False, True]),
    )
    def arrives(
        self,
        name: str,
        caller: str,
        n: int,
        records: int,
        size: int,
        lifetime: float | None,
        known: bool,
        resubmitted: bool,
    ) -> None:
        held = [t for f in self.held() for t in f.tickets if t.name == name] + (
            [self.pending[name]] if name in self.pending else []
        )
        if known and held and isinstance(held[0].content, tuple):
            n, records, size = held[0].content
        key = name if name < "d" else "shared" if name < "f" else ""
        expires_at = None if lifetime is None else self.now + lifetime
        submission = make_entry(
            name, caller, n=n, records=records, size=size, key=key, expires_at=expires_at, resubmitted=resubmitted
        )
        self.accepts(submission, caller, (key,) if key else (), (n, records, size))

    @rule(name=st.sampled_from(["p", "q"]), caller=st.sampled_from(CALLERS[:6]), requests=st.integers(1, 4))
    def parcel_arrives(self, name: str, caller: str, requests: int) -> None:
        submission = make_parcel(name, caller, requests=requests, n=1, expires_at=self.now + 30)
        self.accepts(submission, caller, tuple(k for k in PARCEL_KEYS[:requests] if k), requests)

    def accepts(self, submission: Submission, caller: str, keys: tuple[str, ...], content: Any) -> None:
        name, now, policy, expires_at = submission.id, self.now, self.policy, submission.expires_at
        waiting = self.pending.get(name)
        mine = [
            t for f in self.held() for t in f.tickets if t.name == name and t.content == content and caller in t.callers
        ]
        answered_already = not caller.startswith("s") and (name, caller) in {*self.outbox, *self.answered}
        growth = sum(map(reply_bytes, submission.replies))
        too_large = not submission.resubmitted and (
            submission.requests > policy.max_batch_size
            or submission.records > policy.max_batch_records
            or submission.size > policy.max_batch_bytes
        )
        gone = now - self.withdrawn.get((name, caller), -math.inf) < MAX_AGE
        late = expires_at is not None and expires_at <= now and not (submission.resubmitted or gone)
        full = (
            self.buffer.draining
            or self.buffer.pending + submission.requests > policy.max_pending
            or self.buffer.pending_bytes + submission.size > policy.max_pending_bytes
        )
        if mine:
            assert self.buffer.accept(submission, now) is Accepted.ATTACHED
        elif answered_already:
            assert self.buffer.accept(submission, now) is Accepted.ANSWERED
        elif waiting and waiting.content != content:
            with pytest.raises(InvalidRequest, match="already pending") as refusal:
                self.buffer.accept(submission, now)
            assert refusal.value.code is RejectCode.ID_REUSED
        elif (
            waiting and caller not in waiting.callers and self.buffer.pending_bytes + growth > policy.max_pending_bytes
        ):
            with pytest.raises(BufferFull):
                self.buffer.accept(submission, now)
        elif waiting:
            assert len(waiting.callers) < MAX_REPLIES
            assert self.buffer.accept(submission, now) is Accepted.ATTACHED
            if caller not in waiting.callers:
                waiting.callers.append(caller)
                waiting.resubmitted |= submission.resubmitted
                timeout = policy.confirmation_timeout.total_seconds()
                waiting.deadline = max(waiting.deadline, now + timeout if expires_at is None else expires_at)
        elif too_large:
            with pytest.raises(InvalidRequest, match="fit a batch") as refusal:
                self.buffer.accept(submission, now)
            assert refusal.value.code is RejectCode.TOO_LARGE
        elif late:
            assert self.buffer.accept(submission, now) is Accepted.ANSWERED
            self.outcomes["expired"] += submission.requests
            self.expect_answers([(name, [caller], "expired", None)])
        elif full:
            with pytest.raises(BufferFull):
                self.buffer.accept(submission, now)
        else:
            assert self.buffer.accept(submission, now) is Accepted.NEW
            self.numbers += 1
            deadline = submission.expires_at
            assert deadline is not None
            assert submission.withdrawn is gone
            assert deadline <= now if gone else expires_at is None or deadline == expires_at
            assert submission.resubmitted or not gone
            ticket = Ticket(
                self.numbers,
                name,
                keys,
                content,
                submission.requests,
                submission.records,
                now,
                deadline,
                [caller],
                submission.resubmitted,
            )
            self.pending[name] = ticket
            self.tickets.append(ticket)

    @rule(name=st.sampled_from([*NAMES, "p"]), caller=st.sampled_from([None, *CALLERS]))
    def withdraws(self, name: str, caller: str | None) -> None:
        run_id = None if caller is None else address(caller, name).run_id
        certain = self.buffer.withdraw(Withdrawal(name, caller, run_id), self.now)
        ticket = self.pending.get(name)
        flying = next((t for f in self.flights.values() for t in f.tickets if t.name == name), None)
        waiting = next((t for f in self.back for t in f.tickets if t.name == name), None)
        expected = True
        gone: list[Ticket] = []
        if ticket is None and flying is None and waiting is None and caller is not None:
            self.withdrawn[name, caller] = self.now
        if ticket is not None:
            expected = ticket.loses(caller)
            if expected:
                gone.append(ticket)
                del self.pending[name]
        if flying is not None:
            expected = False
            flying.taken_back |= caller is None or flying.callers == [caller]
        elif waiting is not None:
            expected &= waiting.loses(caller) and not (waiting.resubmitted or waiting.in_doubt)
            if caller is None or waiting.callers == [caller]:
                gone += self.taken_back(waiting)
        assert certain is expected
        self.expect_withdrawn(gone)

    def taken_back(self, ticket: Ticket) -> list[Ticket]:
        """Of what waits for a retry: it is gone, or only the sink can say so."""
        if ticket.resubmitted or ticket.in_doubt:
            ticket.deadline = min(ticket.deadline, self.now)
            return []
        for flight in self.back:
            flight.tickets = [t for t in flight.tickets if t is not ticket]
        self.back = [f for f in self.back if f.tickets]
        return [ticket]

    def expect_withdrawn(self, tickets: list[Ticket]) -> None:
        self.outcomes["rejected"] += sum(ticket.requests for ticket in tickets)
        self.expect_answers([(t.name, t.callers, "rejected", "withdrawn") for t in tickets])
        for ticket in tickets:
            ticket.outcomes.append("rejected")

    # Time and orders

    @rule(seconds=st.sampled_from([0.001, 0.5, 2.0, 7.0, 61.0, 500.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def time_passes_until_something_is_due(self) -> None:
        wake = self.buffer.wake_at()
        self.now = max(self.now, wake or 0.0)

    @rule(max_batch_bytes=st.sampled_from([1024, 4096]), **LIMITS)
    def set_policy(self, **limits: Any) -> None:
        linger = timedelta(seconds=limits.pop("linger"))
        self.policy = BatchPolicy(linger=linger, retry_max=timedelta(seconds=6), max_pending_bytes=20_000, **limits)
        self.buffer.policy = self.policy

    @rule()
    def flush_is_asked_for(self) -> None:
        self.buffer.flush_now(self.now)
        self.flushed_at = self.now

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.buffer.paused = paused

    @rule(draining=st.booleans())
    def drain(self, draining: bool) -> None:
        self.buffer.draining = draining

    @rule()
    def deadlines_are_looked_at(self) -> None:
        waiting = [
            *(t for t in self.pending.values() if not t.resubmitted),
            *(t for f in self.back for t in f.tickets if not (t.resubmitted or t.in_doubt)),
        ]
        late = [t for t in waiting if t.deadline <= self.now]
        self.buffer.expire(self.now)
        self.expect_answers([(t.name, t.callers, "expired", None) for t in late])
        for ticket in late:
            ticket.outcomes.append("expired")
            self.outcomes["expired"] += ticket.requests
            if self.pending.get(ticket.name) is ticket:
                del self.pending[ticket.name]
            for flight in self.back:
                if ticket in flight.tickets:
                    flight.tickets.remove(ticket)
        self.back = [f for f in self.back if f.tickets]

    # Flushes

    def ready(self) -> list[Ticket]:
        """What may go into the next batch: nothing earlier of its id or its keys is unsettled."""
        names = {t.name for f in self.held() for t in f.tickets}
        keys = {key for f in self.held() for t in f.tickets for key in t.keys}
        ready = []
        for ticket in self.pending.values():
            if ticket.name in names or not keys.isdisjoint(ticket.keys):
                keys |= set(ticket.keys)
            else:
                ready.append(ticket)
        return ready

    @rule(force=st.sampled_from([False, False, False, True]))
    def flush_starts(self, force: bool) -> None:
        breaker = self.buffer.breaker
        blocked = (
            self.buffer.paused
            or len(self.flights) >= self.policy.max_in_flight
            or (breaker.open and (any(f.batch.probe for f in self.flights.values()) or self.now < breaker.retry_at))
        )
        due, ready = self.due_triggers(), self.ready()
        failed = [f for f in self.back if not f.batch.own_pace]
        batch = self.buffer.next_batch(self.now, force=force)
        if batch is None:
            assert blocked or not (failed or due or (force and ready))
            return
        assert not blocked
        flight = next((f for f in self.back if f.batch is batch), None)
        if flight is not None:
            self.back.remove(flight)
            assert (batch.attempt > 0, batch.in_doubt) == (True, flight.in_doubt)
            assert batch.id not in self.flights
            assert not batch.own_pace or self.now >= batch.due_at
            assert not batch.own_pace or not any(f.batch.own_pace for f in self.flights.values())
        else:
            assert batch.trigger in (due or {Trigger.MANUAL})
            self.batches += 1
            assert batch.id == f"main-0/{self.batches}"
            flight = Flight(batch, ready[: len(batch.submissions)])
            assert (batch.attempt, batch.in_doubt) == (0, flight.in_doubt)
            for ticket in flight.tickets:
                del self.pending[ticket.name]
            if len(batch.submissions) > 1:
                assert batch.requests <= self.policy.max_batch_size
                assert batch.records <= self.policy.max_batch_records
                assert batch.size <= self.policy.max_batch_bytes
        assert [e.id for e in batch.submissions] == [t.name for t in flight.tickets], "not in the order of arrival"
        assert [[r.workflow_id for r in e.replies] for e in batch.submissions] == [t.callers for t in flight.tickets]
        self.flights[batch.id] = flight

    def due_triggers(self) -> set[Trigger]:
        tickets = self.ready()
        if not tickets:
            return set()
        waiting = {submission.id: submission for submission in self.buffer.waiting}
        submissions = [waiting[t.name] for t in tickets]
        due = set()
        if (
            sum(t.requests for t in tickets) >= self.policy.max_batch_size
            or sum(t.records for t in tickets) >= self.policy.max_batch_records
        ):
            due.add(Trigger.COUNT)
        if sum(e.size for e in submissions) >= self.policy.max_batch_bytes:
            due.add(Trigger.BYTES)
        beside = max((f.batch.started_at for f in self.flights.values()), default=-math.inf) + OVERLAP_AFTER
        if tickets[0].arrived <= self.flushed_at:
            due.add(Trigger.MANUAL)
        if max(beside, tickets[0].arrived + self.policy.linger.total_seconds()) <= self.now:
            due.add(Trigger.LINGER)
        deadline = min((t.deadline for t in tickets if not t.resubmitted), default=None)
        if any(t.resubmitted for t in tickets) and beside <= self.now:
            due.add(Trigger.DEADLINE)
        if deadline is not None and deadline - self.policy.deadline_margin.total_seconds() <= self.now:
            due.add(Trigger.DEADLINE)
        return due

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def flush_ends(self, data: st.DataObject) -> None:
        flight = self.flights.pop(data.draw(st.sampled_from(sorted(self.flights))))
        fates = data.draw(st.lists(st.sampled_from(FATES), max_size=4))
        self.complete(flight, fates, data.draw(st.booleans()))

    def complete(self, flight: Flight, fates: list[str], all_delivered: bool = True) -> None:
        outcomes: Counter[str] = Counter()
        undelivered: list[Delivery] = []
        requeued: list[Requeued] = []
        unknown: list[int] = []
        waiting: set[str] = set()  # keys: a sink does not write what comes after something that is to be retried
        settled: list[Ticket] = []
        confirmed: list[Ticket] = []
        for position, ticket in enumerate(flight.tickets):
            fate = fates[position] if position < len(fates) else "written"
            if fate.startswith("retry") or not waiting.isdisjoint(ticket.keys):
                waiting |= set(ticket.keys)
                ticket.in_doubt |= fate == "retry in doubt"
                requeued.append(Requeued(position, "later", fate == "retry in doubt"))
                self.retries += ticket.requests
                continue
            settled.append(ticket)
            ticket.outcomes.append(fate)
            self.check_order(ticket)
            if fate == "unknown":
                unknown.append(position)
                self.unknown += ticket.requests
                continue
            confirmed.append(ticket)
            outcomes[fate] += ticket.requests
            for caller in [] if all_delivered else ticket.callers[position % 2 :]:
                confirmation = Confirmation(ticket.name, OutcomeKind(fate), flight.batch.id)
                undelivered.append(Delivery(address(caller, ticket.name), confirmation))
                self.outbox.append((ticket.name, caller))
        self.answered |= {(t.name, c) for t in confirmed for c in t.callers} - set(self.outbox)
        self.outcomes.update(outcomes)
        fresh, together, open_before = flight.batch.attempt == 0, len(flight.tickets) > 1, self.buffer.breaker.open
        stalled = not settled
        self.buffer.complete(
            flight.batch.id, FlushResult(outcomes, undelivered, requeued, unknown, stalled=stalled), self.now
        )
        assert self.buffer.breaker.open is (stalled and (open_before or (fresh and together)))
        self.look_at_requeued(flight)

    def check_order(self, ticket: Ticket) -> None:
        for key in ticket.keys:
            applied = self.applied.setdefault(key, [0])
            assert ticket.number > applied[-1], f"{key}: {ticket.number} is applied after {applied[-1]}"
            applied.append(ticket.number)

    def look_at_requeued(self, flight: Flight) -> None:
        """What is left of a batch, in one part or in two."""
        back = [t for t in flight.tickets if not t.outcomes]
        gone = [t for t in back if t.taken_back and not (t.resubmitted or t.in_doubt)]
        for ticket in back:
            if ticket.taken_back:
                ticket.deadline = min(ticket.deadline, self.now)
        self.expect_withdrawn(gone)
        tickets = {t.name: t for t in back if t not in gone}
        parts = [b for b in self.requeued() if b.number == flight.batch.number]
        parts = [b for b in parts if all(f.batch is not b for f in self.back)]
        self.back += [Flight(part, [tickets.pop(submission.id) for submission in part.submissions]) for part in parts]
        assert not tickets, "lost on its way back"
        assert all(part.id == flight.batch.id for part in parts)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), in_doubt=st.booleans())
    def flush_fails(self, data: st.DataObject, in_doubt: bool) -> None:
        flight = self.flights.pop(data.draw(st.sampled_from(sorted(self.flights))))
        by_itself, open_before = flight.batch.overtaken or flight.batch.overlapped, self.buffer.breaker.open
        failures, retry_at = self.buffer.breaker.failures, self.buffer.breaker.retry_at
        self.buffer.fail(flight.batch.id, self.now, "down", in_doubt=in_doubt)
        for ticket in flight.tickets:
            ticket.in_doubt |= in_doubt
        self.look_at_requeued(flight)
        assert self.buffer.breaker.open is (open_before or not by_itself)
        if by_itself or (open_before and not flight.batch.probe):
            assert (self.buffer.breaker.failures, self.buffer.breaker.retry_at) == (failures, retry_at)

    # Deliveries

    @rule()
    def delivery_starts(self) -> None:
        answers = self.buffer.next_deliveries()
        if self.in_delivery:
            assert answers == []
        elif self.outbox:
            assert answers
            addressees = [addressee(answer) for answer in answers]
            assert addressees == self.outbox[: len(addressees)]
            self.in_delivery = True

    @precondition(lambda self: self.in_delivery)
    @rule(data=st.data())
    def delivery_ends(self, data: st.DataObject) -> None:
        count = self.buffer.deliveries_in_flight
        self.end_delivery(data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count)))

    def end_delivery(self, failed: list[int]) -> None:
        queued = self.buffer.queued_deliveries[: self.buffer.deliveries_in_flight]
        attempts = [queued[i].attempts + 1 for i in failed]
        part = [addressee(one.delivery) for one in queued]
        self.buffer.delivered(failed)
        self.in_delivery = False
        self.given_up += sum(n >= MAX_DELIVERIES for n in attempts)
        self.outbox = self.outbox_of_buffer()
        self.answered |= {who for i, who in enumerate(part) if i not in failed} - set(self.outbox)

    # Runs

    @precondition(lambda self: not self.flights and not self.in_delivery)
    @rule()
    def continues_as_new(self) -> None:
        state = carried(self.buffer)
        assert len(json.dumps(state)) <= 1.6 * self.buffer.carry_bytes + 2_000
        before = self.buffer
        self.buffer = restored(state)
        for name in ("pending", "pending_bytes", "dedup_ids", "outbox", "idle", "counts"):
            assert getattr(self.buffer, name) == getattr(before, name), name
        assert self.buffer.wake_at() == before.wake_at()
        self.answered.clear()  # for memory, not a promise
        batches = {(b.number, b.part): b for b in self.requeued()}
        for flight in self.back:
            flight.batch = batches[flight.batch.number, flight.batch.part]
        assert carried(self.buffer) == state

    # What always holds

    def held(self) -> list[Flight]:
        return [*self.flights.values(), *self.back]

    def outbox_of_buffer(self) -> list[tuple[str, str]]:
        return [addressee(queued.delivery) for queued in self.buffer.queued_deliveries]

    def requeued(self) -> list[PendingBatch]:
        return [batch for batch in self.buffer.batches if batch.id not in self.flights]

    def expect_answers(self, answers: list[tuple[str, list[str], str, str | None]]) -> None:
        """The outbox has grown by these answers and by nothing else."""
        count = sum(len(callers) for _, callers, _, _ in answers)
        grown = self.outbox_of_buffer()
        new = Counter(grown[len(self.outbox) :])
        assert grown[: len(self.outbox)] == self.outbox
        assert new == Counter((name, caller) for name, callers, _, _ in answers for caller in callers)
        if count:
            last = [queued.delivery.confirmation for queued in self.buffer.queued_deliveries[-count:]]
            assert Counter((c.request_id, str(c.outcome), c.code) for c in last if c is not None) == Counter(
                (name, outcome, code) for name, callers, outcome, code in answers for _ in callers
            )
        self.outbox = grown

    @invariant()
    def everything_is_where_the_model_has_it(self) -> None:
        buf = self.buffer
        assert [submission.id for submission in buf.waiting] == list(self.pending)
        assert buf.pending == sum(
            t.requests for t in [*self.pending.values(), *(t for f in self.back for t in f.tickets)]
        )
        assert buf.in_flight == sum(t.requests for f in self.flights.values() for t in f.tickets)
        assert buf.dedup_ids == len(self.pending) + sum(len(f.tickets) for f in self.held())
        assert self.outbox_of_buffer() == self.outbox
        assert buf.counts.outcomes == self.outcomes
        assert buf.undelivered == self.given_up
        assert (buf.counts.retries, buf.counts.unknown) == (self.retries, self.unknown)
        assert buf.requeued == sum(t.requests for f in self.back if f.batch.own_pace for t in f.tickets)

    @invariant()
    def sizes_add_up(self) -> None:
        buf = self.buffer
        held = [e for f in self.held() for e in f.batch.submissions]
        assert buf.pending_bytes == sum(e.size for e in [*buf.waiting, *held])
        requeued = sum(batch.requests for batch in self.requeued())
        assert buf.pending == sum(e.requests for e in buf.waiting) + requeued

    @invariant()
    def memory_is_bounded(self) -> None:
        buf = self.buffer
        footprint = buf.footprint
        assert footprint.deadlines <= 2 * len(self.pending) + 65
        assert footprint.ids == {t.name for f in self.held() for t in f.tickets}
        assert footprint.keys == {key for f in self.held() for t in f.tickets for key in t.keys}
        assert footprint.unanswered <= len(self.outbox)

    @invariant()
    def it_wakes_when_something_is_due_and_never_for_nothing(self) -> None:
        wake = self.buffer.wake_at()
        assert acts(self.buffer, self.now) is (wake is not None and wake <= self.now)
        if wake is None:
            assert not acts(self.buffer, self.now + 1e6)
        elif wake > self.now:
            assert not acts(self.buffer, (self.now + wake) / 2)
            assert acts(self.buffer, wake)

    @invariant()
    def its_timer_is_no_later_than_what_is_due_and_never_in_the_past(self) -> None:
        wake, timer = self.buffer.wake_at(), self.buffer.timer_at(self.now)
        assert timer == wake or (timer is not None and wake is not None and self.now < timer < wake)

    def teardown(self) -> None:
        """Whatever happened: once the sink and Temporal are there, every caller is answered, and nothing is left."""
        self.buffer.paused = False
        self.flush_is_asked_for()
        for _ in range(1_000):
            if self.buffer.idle:
                break
            for flight in list(self.flights.values()):
                self.complete(self.flights.pop(flight.batch.id), [])
            if self.in_delivery:
                self.end_delivery([])
            self.delivery_starts()
            self.deadlines_are_looked_at()
            self.flush_starts(force=False)
            self.time_passes_until_something_is_due()
        assert self.buffer.idle
        assert (self.pending, self.flights, self.back, self.outbox) == ({}, {}, [], [])
        assert [t for t in self.tickets if len(t.outcomes) != 1] == [], "not settled exactly once"
        assert self.buffer.pending_bytes == 0
        assert self.buffer.wake_at() is None
        self.memory_is_bounded()


BufferMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestBuffer = BufferMachine.TestCase
