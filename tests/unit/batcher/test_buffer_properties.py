"""The buffer keeps its promises under any order of events: a state machine against a model that is plain to read.

The model holds tickets, one for every entry the buffer took in, and moves them between the same places. What may happen
to a ticket, and what its callers are told, is checked at every step; at the end everything is settled and told.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from temporal_batching.batcher.buffer import Accepted, Buffer, BufferFull, PendingBatch
from temporal_batching.batcher.outbox import MAX_DELIVERIES
from temporal_batching.batcher.withdrawals import MAX_AGE
from temporal_batching.contract import JsonObject, OutcomeKind, RejectCode, Trigger
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.submission import MAX_REPLIES, Entry, read_entry

START = 1_000_000.0
NAMES = ["a", "b", "c", "d", "e", "f"]


CALLERS = [*(f"v{n}" for n in range(6)), "s1", "s2"]


def address(caller: str, name: str) -> JsonObject:
    """Callers named `s…` wait for a signal, all others in an activity, one for each request."""
    return {"workflow_id": caller} if caller.startswith("s") else {"workflow_id": caller, "activity_id": name}


def make_entry(
    name: str, caller: str, *, n: int, records: int, size: int, key: str, expires_at: float | None, again: bool
) -> Entry:
    values = {"n": n, "text": "x" * size}
    wire = {"request_id": name, "key": key, "records": [{"table": "t", "values": values}] * records}
    return read_entry({**wire, "expires_at": expires_at, "reply_to": address(caller, name), "again": again})


def make_parcel(name: str, caller: str, *, requests: int, n: int, expires_at: float | None) -> Entry:
    body = [{"request_id": f"{name}/{i}", "records": [{"table": "t", "values": {"n": n}}]} for i in range(requests)]
    return read_entry(
        {"request_id": name, "requests": body, "expires_at": expires_at, "reply_to": address(caller, name)}
    )


@dataclass(eq=False)
class Ticket:
    """An entry that the buffer took in."""

    number: int
    name: str
    key: str
    content: Any
    requests: int
    records: int
    arrived: float
    deadline: float
    callers: list[str]
    again: bool = False
    told: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Flight:
    batch: PendingBatch
    tickets: list[Ticket]
    in_doubt: bool = False


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.policy = BatchPolicy()
        self.buffer = Buffer("main-0", self.policy)
        self.tickets: list[Ticket] = []
        self.pending: dict[str, Ticket] = {}
        self.flights: dict[str, Flight] = {}
        self.back: list[Flight] = []
        self.withdrawn: dict[tuple[str, str], float] = {}  # when
        self.outbox: list[tuple[str, str]] = []  # request and caller, for every answer that waits
        self.told: set[tuple[str, str]] = set()  # request and caller: that activity was told, and asks no more
        self.in_delivery = False
        self.outcomes: Counter[str] = Counter()
        self.failures = 0
        self.retry_at = 0.0
        self.flushed_at = 0.0
        self.numbers = 0
        self.batches = 0
        self.given_up = 0
        self.always_one_flight = True
        self.applied: dict[str, list[int]] = {}

    @initialize(
        linger=st.sampled_from([0.0, 5.0, 60.0]),
        max_batch_size=st.sampled_from([1, 3, 10]),
        max_in_flight=st.sampled_from([1, 1, 2]),
        max_pending=st.sampled_from([3, 20]),
    )
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
        again=st.sampled_from([False, False, False, True]),
    )
    def arrives(
        self, name: str, caller: str, n: int, records: int, size: int, lifetime: float | None, known: bool, again: bool
    ) -> None:
        held = [t for f in self.held() for t in f.tickets if t.name == name] + (
            [self.pending[name]] if name in self.pending else []
        )
        if known and held and isinstance(held[0].content, tuple):
            n, records, size = held[0].content
        key = name if name < "d" else "shared"
        expires_at = None if lifetime is None else self.now + lifetime
        entry = make_entry(name, caller, n=n, records=records, size=size, key=key, expires_at=expires_at, again=again)
        self.accepts(entry, caller, key, (n, records, size))

    @rule(name=st.sampled_from(["p", "q"]), caller=st.sampled_from(CALLERS[:6]), requests=st.integers(1, 4))
    def parcel_arrives(self, name: str, caller: str, requests: int) -> None:
        entry = make_parcel(name, caller, requests=requests, n=1, expires_at=self.now + 30)
        self.accepts(entry, caller, "shared", requests)

    def accepts(self, entry: Entry, caller: str, key: str, content: Any) -> None:
        name, now, policy, expires_at = entry.id, self.now, self.policy, entry.expires_at
        waiting = self.pending.get(name)
        mine = [
            t for f in self.held() for t in f.tickets if t.name == name and t.content == content and caller in t.callers
        ]
        told_already = not caller.startswith("s") and (name, caller) in {*self.outbox, *self.told}
        too_large = not entry.again and (entry.records > policy.max_batch_size or entry.size > policy.max_batch_bytes)
        gone = now - self.withdrawn.get((name, caller), -math.inf) < MAX_AGE
        late = expires_at is not None and expires_at <= now and not (entry.again or gone)
        full = (
            self.buffer.draining
            or self.buffer.pending + entry.requests > policy.max_pending
            or self.buffer.pending_bytes + entry.size > policy.max_pending_bytes
        )
        if mine:
            assert self.buffer.accept(entry, now) is Accepted.ATTACHED
        elif told_already:
            assert self.buffer.accept(entry, now) is Accepted.ANSWERED
        elif waiting and waiting.content != content:
            with pytest.raises(InvalidRequest, match="already pending") as refusal:
                self.buffer.accept(entry, now)
            assert refusal.value.code is RejectCode.ID_REUSED
        elif waiting:
            assert len(waiting.callers) < MAX_REPLIES
            assert self.buffer.accept(entry, now) is Accepted.ATTACHED
            if caller not in waiting.callers:
                waiting.callers.append(caller)
                waiting.again |= entry.again
                timeout = policy.confirmation_timeout.total_seconds()
                waiting.deadline = max(waiting.deadline, now + timeout if expires_at is None else expires_at)
        elif too_large:
            with pytest.raises(InvalidRequest, match="fit a batch") as refusal:
                self.buffer.accept(entry, now)
            assert refusal.value.code is RejectCode.TOO_LARGE
        elif late:
            assert self.buffer.accept(entry, now) is Accepted.ANSWERED
            self.outcomes["expired"] += entry.requests
            self.expect_told([(name, [caller], "expired", None)])
        elif full:
            with pytest.raises(BufferFull):
                self.buffer.accept(entry, now)
        else:
            assert self.buffer.accept(entry, now) is Accepted.NEW
            self.numbers += 1
            deadline = entry.expires_at
            assert deadline is not None
            assert entry.withdrawn is gone
            assert deadline <= now if gone else expires_at is None or deadline == expires_at
            assert entry.again or not gone
            ticket = Ticket(
                self.numbers, name, key, content, entry.requests, entry.records, now, deadline, [caller], entry.again
            )
            self.pending[name] = ticket
            self.tickets.append(ticket)

    @rule(name=st.sampled_from([*NAMES, "p"]), caller=st.sampled_from([None, *CALLERS]))
    def withdraws(self, name: str, caller: str | None) -> None:
        run_id = None if caller is None else address(caller, name).get("run_id")
        certain = self.buffer.withdraw(name, caller, run_id, now=self.now)
        ticket = self.pending.get(name)
        if ticket is None:
            held = any(t.name == name for f in self.held() for t in f.tickets)
            assert certain is not held
            if not held and caller is not None:
                self.withdrawn[name, caller] = self.now
        elif caller is not None and [c for c in ticket.callers if c != caller]:
            assert not certain
            ticket.callers = [c for c in ticket.callers if c != caller]
        else:
            assert certain
            del self.pending[name]
            self.outcomes["rejected"] += ticket.requests
            self.expect_told([(name, ticket.callers, "rejected", "withdrawn")])
            ticket.told.append("rejected")

    # Time and orders

    @rule(seconds=st.sampled_from([0.001, 0.5, 2.0, 7.0, 61.0, 500.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def time_passes_until_something_is_due(self) -> None:
        wake = self.buffer.wake_at()
        self.now = max(self.now, wake or 0.0)

    @rule(
        linger=st.sampled_from([0.0, 5.0, 60.0]),
        max_batch_size=st.sampled_from([1, 3, 10]),
        max_batch_bytes=st.sampled_from([1024, 4096]),
        max_in_flight=st.sampled_from([1, 1, 2]),
        max_pending=st.sampled_from([3, 20]),
    )
    def set_policy(self, **limits: Any) -> None:
        linger = timedelta(seconds=limits.pop("linger"))
        self.policy = BatchPolicy(linger=linger, retry_max=timedelta(seconds=6), max_pending_bytes=20_000, **limits)
        self.buffer.policy = self.policy
        self.always_one_flight &= self.policy.max_in_flight == 1

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
            *(t for t in self.pending.values() if not t.again),
            *(t for f in self.back if not f.in_doubt for t in f.tickets),
        ]
        late = [t for t in waiting if t.deadline <= self.now]
        self.buffer.expire(self.now)
        self.expect_told([(t.name, t.callers, "expired", None) for t in late])
        for ticket in late:
            ticket.told.append("expired")
            self.outcomes["expired"] += ticket.requests
            if self.pending.get(ticket.name) is ticket:
                del self.pending[ticket.name]
            for flight in self.back:
                if ticket in flight.tickets:
                    flight.tickets.remove(ticket)
        self.back = [f for f in self.back if f.tickets]

    # Flushes

    @rule(force=st.sampled_from([False, False, False, True]))
    def flush_starts(self, force: bool) -> None:
        blocked = (
            self.buffer.paused
            or len(self.flights) >= self.policy.max_in_flight
            or (self.failures > 0 and (bool(self.flights) or self.now < self.retry_at))
        )
        due = self.due_triggers()
        batch = self.buffer.next_batch(self.now, force=force)
        if blocked or not (self.back or due or (force and self.pending)):
            assert batch is None
            return
        assert batch is not None
        if self.back:
            flight = self.back.pop(0)
            assert (batch.id, batch.in_doubt) == (flight.batch.id, flight.in_doubt)
        else:
            assert batch.trigger in (due or {Trigger.MANUAL})
            self.batches += 1
            assert batch.id == f"main-0/{self.batches}"
            taken = list(self.pending.values())[: len(batch.entries)]
            flight = Flight(batch, taken, in_doubt=any(t.again for t in taken))
            assert batch.in_doubt is flight.in_doubt
            for ticket in taken:
                del self.pending[ticket.name]
            if len(batch.entries) > 1:
                assert batch.records <= self.policy.max_batch_size
                assert batch.size <= self.policy.max_batch_bytes
        flight.batch = batch
        assert [e.id for e in batch.entries] == [t.name for t in flight.tickets], "not in the order of arrival"
        assert [[r["workflow_id"] for r in e.replies] for e in batch.entries] == [t.callers for t in flight.tickets]
        assert batch.size == sum(e.size for e in batch.entries)
        assert batch.records == sum(t.records for t in flight.tickets)
        self.flights[batch.id] = flight

    def due_triggers(self) -> set[Trigger]:
        if not self.pending:
            return set()
        tickets = list(self.pending.values())
        due = set()
        if sum(t.records for t in tickets) >= self.policy.max_batch_size:
            due.add(Trigger.COUNT)
        if sum(e.size for e in self.buffer._pending.values()) >= self.policy.max_batch_bytes:
            due.add(Trigger.BYTES)
        if tickets[0].arrived <= self.flushed_at:
            due.add(Trigger.MANUAL)
        if tickets[0].arrived + self.policy.linger.total_seconds() <= self.now:
            due.add(Trigger.LINGER)
        deadline = min((t.deadline for t in tickets if not t.again), default=None)
        if any(t.again for t in tickets):
            due.add(Trigger.DEADLINE)
        if deadline is not None and deadline - self.policy.deadline_margin.total_seconds() <= self.now:
            due.add(Trigger.DEADLINE)
        return due

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def flush_ends(self, data: st.DataObject) -> None:
        flight = self.flights.pop(data.draw(st.sampled_from(sorted(self.flights))))
        self.settle(flight, data.draw(st.lists(st.integers(0, 3), max_size=4)), data.draw(st.booleans()))

    def settle(self, flight: Flight, fates: list[int], all_delivered: bool = True) -> None:
        kinds = [OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE, OutcomeKind.REJECTED, OutcomeKind.EXPIRED]
        outcomes: Counter[str] = Counter()
        undelivered = []
        for position, ticket in enumerate(flight.tickets):
            kind = kinds[fates[position] if position < len(fates) else 0]
            outcomes[kind.value] += ticket.requests
            ticket.told.append(kind.value)
            self.check_order(ticket)
            for caller in [] if all_delivered else ticket.callers[position % 2 :]:
                answer = {"request_id": ticket.name, "outcome": kind, "batch_id": flight.batch.id}
                undelivered.append({"reply_to": [address(caller, ticket.name)], "confirmation": answer})
                self.outbox.append((ticket.name, caller))
        self.told |= {(t.name, c) for t in flight.tickets for c in t.callers} - set(self.outbox)
        self.outcomes.update(outcomes)
        self.failures = 0
        self.buffer.settle(flight.batch.id, outcomes, undelivered)

    def check_order(self, ticket: Ticket) -> None:
        if self.always_one_flight:
            applied = self.applied.setdefault(ticket.key, [0])
            assert ticket.number > applied[-1], f"{ticket.key}: {ticket.number} is applied after {applied[-1]}"
            applied.append(ticket.number)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), in_doubt=st.booleans())
    def flush_fails(self, data: st.DataObject, in_doubt: bool) -> None:
        flight = self.flights.pop(data.draw(st.sampled_from(sorted(self.flights))))
        self.buffer.fail(flight.batch.id, self.now, "down", in_doubt=in_doubt)
        flight.in_doubt |= in_doubt
        self.back.append(flight)
        self.back.sort(key=lambda f: f.batch.number)
        self.retry_at = self.now + min(6.0, 2.0**self.failures)
        self.failures += 1

    # Deliveries

    @rule()
    def delivery_starts(self) -> None:
        answers = self.buffer.next_deliveries()
        if self.in_delivery:
            assert answers == []
        elif self.outbox:
            assert answers
            told = [(a["confirmation"]["request_id"], r["workflow_id"]) for a in answers for r in a["reply_to"]]
            assert told == self.outbox[: len(told)]
            self.in_delivery = True

    @precondition(lambda self: self.in_delivery)
    @rule(data=st.data())
    def delivery_ends(self, data: st.DataObject) -> None:
        count = self.buffer.deliveries_in_flight
        self.end_delivery(data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count)))

    def end_delivery(self, failed: list[int]) -> None:
        attempts = [self.buffer._outbox.carry()[i].get("attempts", 0) + 1 for i in failed]
        parts = [self.addressees(answer) for answer in self.buffer._outbox.carry()[: self.buffer.deliveries_in_flight]]
        self.buffer.delivered(failed)
        self.in_delivery = False
        self.given_up += sum(n >= MAX_DELIVERIES for n in attempts)
        self.outbox = self.outbox_of_buffer()
        self.told |= {who for i, part in enumerate(parts) if i not in failed for who in part} - set(self.outbox)

    # Runs

    @precondition(lambda self: not self.flights and not self.in_delivery)
    @rule()
    def continues_as_new(self) -> None:
        state = json.dumps(self.buffer.carry())
        assert len(state) <= 1.6 * self.buffer.carry_bytes + 2_000
        before = self.buffer
        self.buffer = Buffer.restore("main-0", json.loads(state))
        for name in ("pending", "pending_bytes", "dedup_ids", "outbox", "idle", "batches", "outcomes", "largest_batch"):
            assert getattr(self.buffer, name) == getattr(before, name), name
        assert self.buffer.wake_at() == before.wake_at()
        self.told.clear()  # for memory, not a promise
        assert json.dumps(self.buffer.carry()) == state

    # What always holds

    def held(self) -> list[Flight]:
        return [*self.flights.values(), *self.back]

    def outbox_of_buffer(self) -> list[tuple[str, str]]:
        return [who for answer in self.buffer._outbox.carry() for who in self.addressees(answer)]

    def addressees(self, answer: JsonObject) -> list[tuple[str, str]]:
        return [(answer["confirmation"]["request_id"], reply["workflow_id"]) for reply in answer["reply_to"]]

    def expect_told(self, answers: list[tuple[str, list[str], str, str | None]]) -> None:
        """The outbox has grown by these answers and by nothing else."""
        count = sum(len(callers) for _, callers, _, _ in answers)
        grown = self.outbox_of_buffer()
        new = Counter(grown[len(self.outbox) :])
        assert grown[: len(self.outbox)] == self.outbox
        assert new == Counter((name, caller) for name, callers, _, _ in answers for caller in callers)
        if count:
            last = [a["confirmation"] for a in self.buffer._outbox.carry()[-len(answers) :]]
            assert Counter((c["request_id"], str(c["outcome"]), c["code"]) for c in last) == Counter(
                (name, outcome, code) for name, _, outcome, code in answers
            )
        self.outbox = grown

    @invariant()
    def everything_is_where_the_model_has_it(self) -> None:
        buf = self.buffer
        assert list(buf._pending) == list(self.pending)
        assert buf.pending == sum(
            t.requests for t in [*self.pending.values(), *(t for f in self.back for t in f.tickets)]
        )
        assert buf.in_flight == sum(t.requests for f in self.flights.values() for t in f.tickets)
        assert buf.dedup_ids == len(self.pending) + sum(len(f.tickets) for f in self.held())
        assert self.outbox_of_buffer() == self.outbox
        assert buf.outcomes == self.outcomes
        assert (buf.breaker_open, buf.undelivered) == (self.failures > 0, self.given_up)

    @invariant()
    def sizes_add_up(self) -> None:
        buf = self.buffer
        held = [e for f in self.held() for e in f.batch.entries]
        assert buf.pending_bytes == sum(e.size for e in [*buf._pending.values(), *held])
        assert buf._pending_records == sum(e.records for e in buf._pending.values())

    @invariant()
    def memory_is_bounded(self) -> None:
        buf = self.buffer
        assert len(buf._deadlines) <= 2 * len(self.pending) + 65
        assert set(buf._held_entries) == {t.name for f in self.held() for t in f.tickets}
        assert len(buf._outbox._waiting) <= len(self.outbox)

    @invariant()
    def it_wakes_when_something_is_due_and_never_for_nothing(self) -> None:
        wake = self.buffer.wake_at()
        assert self.acts(self.now) is (wake is not None and wake <= self.now)
        if wake is None:
            assert not self.acts(self.now + 1e6)
        elif wake > self.now:
            assert not self.acts((self.now + wake) / 2)
            assert self.acts(wake)

    def acts(self, at: float) -> bool:
        probe = copy.deepcopy(self.buffer)
        before = (probe.outcomes.total(), probe.pending)
        probe.expire(at)
        return (probe.outcomes.total(), probe.pending) != before or probe.next_batch(at) is not None

    def teardown(self) -> None:
        """However it went until now: once the sink and Temporal are there, everybody is told, and nothing is left."""
        self.buffer.paused = False
        self.flush_is_asked_for()
        for _ in range(1_000):
            if self.buffer.idle:
                break
            for flight in list(self.flights.values()):
                self.settle(self.flights.pop(flight.batch.id), [])
            if self.in_delivery:
                self.end_delivery([])
            self.delivery_starts()
            self.deadlines_are_looked_at()
            self.flush_starts(force=False)
            self.time_passes_until_something_is_due()
        assert self.buffer.idle
        assert (self.pending, self.flights, self.back, self.outbox) == ({}, {}, [], [])
        assert [t for t in self.tickets if len(t.told) != 1] == [], "not settled exactly once"
        assert self.buffer.pending_bytes == 0
        assert self.buffer.wake_at() is None
        self.memory_is_bounded()


BufferMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestBuffer = BufferMachine.TestCase
