"""One shard: the real buffer, driven as `BatcherWorkflow` drives it, and its activities, which run the real flush."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from temporalio.exceptions import ApplicationError

from temporal_batching.audit.order import Arrival
from temporal_batching.batcher.accepted import Accepted
from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.limits import BufferFull
from temporal_batching.batcher.state import BatcherState
from temporal_batching.contents import Missing
from temporal_batching.contract import (
    Delivery,
    FlushInput,
    FlushResult,
    JsonObject,
    Refusal,
    RejectCode,
    ReplyTo,
    Withdrawal,
)
from temporal_batching.errors import ErrorType, InvalidRequest, SinkUnavailable
from temporal_batching.flush.contents import fetch_content, join
from temporal_batching.flush.returned import with_returned, without_returned
from temporal_batching.flush.settlement import BatchResult, write_batch
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.addresses import read_replies
from temporal_batching.wire.deliveries import confirmation_to_wire, delivery_to_wire, load_delivery, receipt_to_wire
from temporal_batching.wire.parcels import Parcel, ParcelReference, ParcelSource
from temporal_batching.wire.submission import ENVELOPE_BYTES, Submission, load_submission, read_submission
from tests.simulation.world import Connection, Pause, Task, WithoutFence, World

if TYPE_CHECKING:
    from tests.simulation.callers import Callers

HEARTBEAT_TIMEOUT = 1.0
"""How soon the batcher hears of a worker that crashed."""

DELIVERY_TIMEOUT = 5.0


def over_the_wire(value: Any) -> Any:
    """What arrives on the other side: nothing is shared, tuples are lists, dataclasses objects."""
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def _address(reply_to: ReplyTo, request_id: str) -> tuple[str, ...]:
    return (reply_to.activity_id,) if reply_to.activity_id else (str(reply_to.workflow_id), request_id)


def _body(delivery: Delivery) -> JsonObject:
    """What the caller receives."""
    if delivery.receipt is not None:
        return receipt_to_wire(delivery.receipt)
    assert delivery.confirmation is not None
    return confirmation_to_wire(delivery.confirmation)


class Attempt:
    """An activity under way. Temporal hears of its end once, whatever it goes on to do."""

    def __init__(self, execution: int) -> None:
        self.reported = False
        self.execution = execution
        self.task: Task | None = None


class Shard:
    def __init__(self, world: World, callers: Callers, number: int, policy: dict[str, Any]) -> None:
        self._world = world
        self._callers = callers
        self._number = number
        self._execution = 1  # one more after each end of the shard
        self.buffer = Buffer(self._name, BatchPolicy.from_wire(policy))
        self.arrivals: list[Arrival] = []
        self.unanswered: dict[tuple[str, ...], tuple[str, str]] = {}  # by address: workflow and id that wait here
        self._notified: set[tuple[str, ...]] = set()
        self.owed = 0  # requests that this shard has to settle
        self._should_end = False
        self._timer_at: float | None = None
        self._timer = 0
        self._attempts: list[tuple[Attempt, Any]] = []
        self._activities = 0
        self._process: dict[str, str] = {}  # contents of parcels, by digest, in the process of gateway and flush

    @property
    def _name(self) -> str:
        return f"main-{self._number}.{self._execution:08x}"

    # Ways in, as in the workflow

    def submit(self, wires: list[JsonObject]) -> list[Refusal | None]:
        """The update; None for what is accepted. Raises `BufferFull` as the validator does."""
        buffer = self.buffer
        if buffer.ending or buffer.draining or buffer.pending >= buffer.policy.max_pending:
            raise BufferFull("the validator")
        answers: list[Refusal | None] = []
        for position, wire in enumerate(wires):
            try:
                self._accept(wire)
                answers.append(None)
            except InvalidRequest as err:
                code = RejectCode.OVERLOADED if err.code == RejectCode.ID_REUSED else err.code
                answers.append(Refusal(position, code, str(err)))
            except BufferFull as err:
                answers.append(Refusal(position, RejectCode.OVERLOADED, str(err)))
        self.look()
        return answers

    def signal(self, wire: JsonObject) -> None:
        try:
            if self.buffer.ending:
                raise BufferFull("cancelled")
            self._accept(wire)
        except InvalidRequest as err:
            self._refuse(wire, err.code, str(err))
        except BufferFull as err:
            self._refuse(wire, RejectCode.OVERLOADED, str(err))
        self.look()

    def _refuse(self, wire: JsonObject, code: RejectCode, reason: str) -> None:
        self.buffer.refuse(read_submission(wire), code, reason)
        self.owed += 1

    def _accept(self, wire: JsonObject) -> None:
        wire = over_the_wire(wire)
        settled = self.buffer.counts.settled
        submission = read_submission(over_the_wire(self._as_it_travels(read_submission(wire)).to_wire()))
        accepted = self.buffer.accept(submission, self._world.clock)
        self.owed += self.buffer.counts.settled - settled
        (reply_to,), request_id = read_replies(wire["reply_to"]), wire["request_id"]
        address = _address(reply_to, request_id)
        # What is attached may have had its answer a moment ago, while the shard does not know it yet.
        if accepted is Accepted.NEW or address not in self._notified:
            self.unanswered[address] = (str(reply_to.workflow_id), request_id)
        self._world.note(f"shard {self._number}: {wire['request_id']} from {wire['reply_to']}: {accepted}", accepted)
        if accepted is Accepted.NEW:
            self.owed += len(wire.get("requests", [wire]))
            for one in wire.get("requests", [wire]):
                # What comes to another execution of the shard, or is submitted to it again, is in no order.
                self.arrivals.append(Arrival(self._number + 10 * self._execution, one["request_id"], one["key"]))

    def _as_it_travels(self, submission: Submission) -> Submission:
        """A parcel as a list, packed, or by reference; anything else as it is.

        The input of its activity decides, so it is the same for each attempt.
        """
        if not isinstance(submission.body, Parcel):
            return submission
        (reply,) = submission.replies
        rng = self._world.rng("packed", reply.workflow_id, reply.run_id, reply.activity_id)
        form = rng.random()
        if form < 0.3:
            return submission
        if form < 0.5:
            return submission.packed()
        packed = submission.body.pack(submission.size - ENVELOPE_BYTES)
        if rng.random() < 0.3:  # its keys are many
            packed = replace(packed, announced=replace(packed.announced, keys=None))
        source = ParcelSource(reply.activity_id or "", reply.run_id or "")
        self._world.contents[source] = packed.packed
        if rng.random() < 0.5:  # its gateway is in the process that will flush it, unless that crashes
            self._process[packed.announced.digest] = packed.packed
        return replace(submission, body=packed).by_reference(source)

    def withdraw(self, request_id: str, caller: str, run_id: str | None) -> None:
        certain = self.buffer.withdraw(Withdrawal(request_id, caller, run_id), self._world.clock)
        self.unanswered = {at: who for at, who in self.unanswered.items() if who != (caller, request_id)}
        self._world.note(f"shard {self._number}: {caller} withdraws {request_id}: {certain}", f"withdrawn {certain}")
        self.look()

    def set_policy(self, policy: dict[str, Any]) -> None:
        self.buffer.policy = BatchPolicy.from_wire(policy)
        self.look()

    def flush(self) -> None:
        self.buffer.flush_now(self._world.clock)
        self.look()

    def close(self) -> None:
        self._should_end = True
        self.look()

    # Ends

    def cancel(self) -> None:
        self.buffer.ending = True
        self.flush()

    def terminate(self) -> None:
        """What it holds is gone; what is in a flush goes on."""
        self.unanswered.clear()
        self._start_anew()

    def _start_anew(self) -> None:
        self._execution += 1
        self.buffer = Buffer(self._name, self.buffer.policy)
        self.owed = 0
        self._should_end = False
        self._timer_at = None
        self._timer += 1

    def _give_up(self) -> None:
        gone = set(self.buffer.give_up(self._world.clock))
        if gone:
            self.unanswered = {at: who for at, who in self.unanswered.items() if who[1] not in gone}
            self._world.note(f"shard {self._number} gives up {sorted(gone)}", "given up in doubt")

    # The loop, as in the workflow

    def look(self) -> None:
        now, buffer = self._world.clock, self.buffer
        buffer.expire(now)
        if buffer.ending:
            self._give_up()
            if buffer.idle and not buffer.deliveries_in_flight:
                self._world.note(f"shard {self._number} ends as cancelled", "ended as cancelled")
                assert buffer.counts.settled == self.owed, f"settled {buffer.counts.settled} of {self.owed} requests"
                self._start_anew()
                return
        if self._should_end and not buffer.batches_in_flight and not buffer.deliveries_in_flight:
            self._continue_as_new()
        if not self._should_end:
            while (batch := self.buffer.next_batch(now)) is not None:
                self._start_flush(batch)
        deliveries = self.buffer.next_deliveries()
        if deliveries:
            self._start_delivery(deliveries)
        at = self.buffer.timer_at(now)
        if at is not None and at > now and (self._timer_at is None or at < self._timer_at):
            self._timer += 1
            self._timer_at = at
            self._world.after(at - now + 0.001, self._fire_timer, self._timer)

    def _fire_timer(self, timer: int) -> None:
        if timer == self._timer:
            self._timer_at = None
            self.look()

    def _continue_as_new(self) -> None:
        state, ending = over_the_wire(BatcherState(buffer=self.buffer.carry()).to_wire()), self.buffer.ending
        self.buffer = Buffer.restore(self._name, BatcherState.from_wire(state).buffer)
        self.buffer.ending = ending
        self._should_end = False
        self._timer_at = None
        self._timer += 1
        self._world.note(f"shard {self._number} continues as new with {self.buffer.pending}", "continued as new")

    # The activity flush_batch

    def _start_flush(self, batch: PendingBatch) -> None:
        world, attempt = self._world, Attempt(self._execution)
        self._activities += 1
        rng = world.rng("flush", self._number, self._activities)
        flush = FlushInput(
            "main",
            self._number,
            batch.id,
            batch.trigger,
            None,
            batch.in_doubt,
            batch.attempt,
            halved=bool(batch.part) or batch.apart,
        )
        world.note(
            f"{batch.id}: flush of {[e.id for e in batch.submissions]} by {batch.trigger}"
            + (", in doubt" if batch.in_doubt else ""),
            "flush in doubt" if batch.in_doubt else "flush",
            *(["overlapping"] if self.buffer.batches_in_flight > 1 else []),
            *(["half"] if batch.part else []),
        )
        # Clocks that differ are only safe with a fence: what is late by one may be written by the other.
        skew = rng.choice([0.0, 0.0, -0.3, 0.3]) if world.fenced else 0.0
        connection = Connection(world, rng)
        submissions = [load_submission(over_the_wire(submission.to_wire())) for submission in batch.submissions]
        sink = connection if world.fenced else WithoutFence(connection)

        flush_timeout = self.buffer.policy.flush_timeout
        ends = world.time + flush_timeout.total_seconds()

        async def body() -> BatchResult:
            contents = join(submissions, [await self._bring(one, rng) for one in submissions])
            return await write_batch(
                sink,
                flush,
                contents.submissions,
                missing=contents.missing,
                clock=lambda: world.clock + skew,
                is_over=lambda: world.time >= ends,
            )

        world.after(flush_timeout.total_seconds(), self._fail, attempt, batch.id, "timed out", True)
        self._attempts.append((attempt, lambda: self._fail(attempt, batch.id, "its worker crashed", True)))

        def done(settled: BatchResult | None, error: Exception | None) -> None:
            if settled is not None:
                self._confirm(attempt, batch.id, settled, rng)
            elif isinstance(error, ApplicationError) and error.type == ErrorType.SINK_UNAVAILABLE:
                self._fail(attempt, batch.id, error.message, bool(error.details[0]))
            else:
                raise AssertionError(f"a flush fails with {error!r}") from error

        attempt.task = Task(world, body(), done)

    async def _bring(self, submission: Submission, rng: Random) -> Submission | Missing:
        """The content of a parcel by reference: from this process, or from its activity."""
        if not isinstance(submission.body, ParcelReference):
            return submission
        kept = self._process.get(submission.body.announced.digest)
        if kept is not None:
            return submission.with_content(kept)

        async def fetch(source: ParcelSource) -> str | Missing:
            world = self._world
            await Pause(world.delay(rng))
            if world.contents_unreadable or rng.random() < world.faults["lost"]:
                world.note(f"shard {self._number}: the content of {submission.id} cannot be read", "content unreadable")
                return Missing("it cannot be read")
            found = world.contents.get(source)
            if found is None:
                world.note(f"shard {self._number}: the content of {submission.id} is gone", "content gone")
                return Missing("it is gone", gone=True)
            world.note(f"shard {self._number}: reads the content of {submission.id}", "content read")
            return found

        return await fetch_content(submission, fetch)

    def _confirm(self, attempt: Attempt, batch_id: str, settled: BatchResult, rng: Any) -> None:
        """The flush has its outcomes; its answers and its result go out, each by a way of its own."""
        world = self._world
        if rng.random() < world.faults["broken"] / 2:
            world.note(f"{batch_id}: the worker dies before it tells anybody", "died before answers")
            if not attempt.reported:
                world.after(HEARTBEAT_TIMEOUT, self._fail, attempt, batch_id, "its worker died", True)
            return
        undelivered = [delivery for delivery in settled.deliveries if not self._deliver(delivery, rng)]
        took = world.delay(rng)
        if rng.random() < world.faults["lost"]:
            world.note(f"{batch_id}: its result is lost", "result lost")
            return
        result = FlushResult(
            dict(settled.counts),
            [load_delivery(over_the_wire(delivery_to_wire(without_returned(delivery)))) for delivery in undelivered],
            settled.requeued,
            settled.unknown,
            settled.sink_errors,
            settled.stalled,
        )
        world.after(took, self._settle, attempt, batch_id, result)

    def _deliver(self, delivery: Delivery, rng: Any) -> bool:
        """Makes one delivery. Whether it arrives and whether the sender knows are two things."""
        world = self._world
        failed = world.callers_unreachable or rng.random() < world.faults["lost"]
        arrived = not failed or (not world.callers_unreachable and rng.random() < 0.3)
        if arrived:
            # What is acknowledged has arrived; what is not may be under way for long.
            after = world.delay(rng) if failed else 0.0
            world.after(after, self._callers.receive, delivery.reply_to.to_wire(), over_the_wire(_body(delivery)))
        if not failed:
            address = _address(delivery.reply_to, _body(delivery).get("request_id", ""))
            self.unanswered.pop(address, None)
            self._notified.add(address)
        return not failed

    def _settle(self, attempt: Attempt, batch_id: str, result: FlushResult) -> None:
        if attempt.reported or attempt.execution != self._execution:
            return
        attempt.reported = True
        batch = self.buffer.batch_in_flight(batch_id)
        assert batch is not None
        for submission in (batch.submissions[position] for position in result.unknown):  # nobody is told of these
            for reply in submission.replies:
                self.unanswered.pop(_address(reply, submission.id), None)
        seen = [*result.outcomes, *(["requeued"] if result.requeued else []), *(["unknown"] if result.unknown else [])]
        self._world.note(f"{batch_id}: {result}", *seen, *(["stalled"] if result.stalled else []))
        self.buffer.complete(batch_id, result, self._world.clock)
        self.look()

    def _fail(self, attempt: Attempt, batch_id: str, problem: str, in_doubt: bool) -> None:
        if attempt.reported or attempt.execution != self._execution:
            return
        attempt.reported = True
        self._world.note(f"{batch_id}: fails: {problem}, in doubt: {in_doubt}", "flush failed")
        self.buffer.fail(batch_id, self._world.clock, problem, in_doubt=in_doubt)
        self.look()

    # The activity deliver_confirmations

    def _start_delivery(self, deliveries: list[Delivery]) -> None:
        world, attempt = self._world, Attempt(self._execution)
        self._activities += 1
        rng = world.rng("delivery", self._number, self._activities)
        everything = list(range(len(deliveries)))
        world.after(DELIVERY_TIMEOUT, self._delivered, attempt, everything)
        self._attempts.append((attempt, lambda: self._delivered(attempt, everything)))
        sent = [load_delivery(over_the_wire(delivery_to_wire(delivery))) for delivery in deliveries]

        def done(filled: list[Delivery] | None, error: Exception | None) -> None:
            assert error is None or isinstance(error, SinkUnavailable)
            failed = [
                position
                for position, delivery in enumerate(filled or sent)
                if (filled is None and delivery.unread) or not self._deliver(delivery, rng)
            ]
            if rng.random() >= world.faults["lost"]:
                world.after(world.delay(rng), self._delivered, attempt, failed)

        attempt.task = Task(world, with_returned(Connection(world, rng), sent), done)

    def _delivered(self, attempt: Attempt, failed: list[int]) -> None:
        if attempt.reported or attempt.execution != self._execution:
            return
        attempt.reported = True
        before = self.buffer.undelivered
        self.buffer.delivered(failed)
        given_up = self.buffer.undelivered - before
        if given_up:  # by design, after so many attempts; whom it concerns is not known
            self.unanswered.clear()
        self._world.note(
            f"shard {self._number}: answers delivered but for {failed}", *(["given up"] if given_up else [])
        )
        self.look()

    def crash(self) -> None:
        """The worker is gone: activities stop where they are, and Temporal notices a little later."""
        self._process.clear()
        for attempt, fail in self._attempts:
            if attempt.task is not None:
                attempt.task.kill()
            if not attempt.reported:
                self._world.after(HEARTBEAT_TIMEOUT, fail)
        self._attempts.clear()
