"""Callers: workflows that write through either door, and what each of their calls comes to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

from temporalio.exceptions import ApplicationError, TimeoutError, TimeoutType

from temporal_batching.audit.rules import POSITIVE, Call, CallResult
from temporal_batching.batcher.limits import BufferFull
from temporal_batching.contract import JsonObject, Refusal, RejectCode
from temporal_batching.errors import ErrorType, WriteExpired, WriteNotSubmitted, WriteRejected
from temporal_batching.routing import shard_of
from temporal_batching.wire.deadlines import deadline_after
from temporal_batching.writers.failures import write_error
from temporal_batching.writers.retries import pause_before_retry
from tests.simulation.operations import TOTALS, change_of, wants_values
from tests.simulation.plan import CallPlan, RequestSpec
from tests.simulation.shard import Shard
from tests.simulation.world import World

SUBMISSION_TIMEOUT = 10.0
LATEST_SUBMISSION = 9.9
"""A submission that arrives when its gateway has given it up, and its caller was told something else meanwhile, is
taken for a new request. Nothing prevents that, so it is not played: what the gateway has given up does not arrive."""

ATTEMPT_TIMEOUT = 30.0


def request_wire(request: RequestSpec, key: str) -> JsonObject:
    name, content, records = request
    rows = [{"request": name, "content": content, "position": position} for position in range(records)]
    wires: list[JsonObject] = [{"table": "t", "values": row} for row in rows]
    change = change_of(content, key)
    if wants_values(content):  # the numbers of its rows; and every row has that of the first one
        for wire in wires:
            wire["returning"] = ["number", "position"]
        for wire in wires[1:]:
            wire["references"] = {"first": [0, "number"]}
        if change["table"] == TOTALS:
            change["returning"] = ["amount"]
    wires.append(change)
    return {"request_id": name, "key": key, "records": wires}


class OneCall:
    """One call while it is open, and what it was told."""

    def __init__(self, callers: Callers, plan: CallPlan) -> None:
        self.plan = plan
        self.verdicts: list[CallResult | None] = [None] * len(plan.requests)
        self.returned: list[Any] = []  # of each request, if its confirmation had all of it
        self.open = True
        self.callers = callers
        self.world = callers.world
        self.rng: Random = self.world.rng("call", plan.number)
        requests = [request_wire(request, plan.key_of(n)) for n, request in enumerate(plan.requests)]
        self.wire = requests[0]
        if len(requests) > 1:
            self.wire = {"request_id": f"parcel-{plan.number}", "requests": requests}
        # A call whose attempts went to two shards can be told by one that it expired, though the other wrote it:
        # whoever changes the number of shards drains them first. Other calls with its id may go elsewhere.
        self._shards = self.world.shards
        self.route = plan.key or plan.requests[0][0]
        self.wire["expires_at"] = deadline_after(self.world.clock, timedelta(seconds=plan.timeout))
        self.world.after(plan.timeout, self.time_out)
        if plan.cancelled_after is not None:
            self.world.after(plan.cancelled_after, self.cancel)

    @property
    def shard(self) -> Shard:
        return self.callers.shards[shard_of(self.route, self._shards)]

    def end(self, *verdicts: CallResult) -> None:
        if self.open:
            self.open = False
            self.verdicts = list(verdicts * len(self.verdicts) if len(verdicts) == 1 else verdicts)
            self.world.note(f"call {self.plan.number} ({self.wire['request_id']}): {self.verdicts}", *verdicts)

    def time_out(self) -> None:
        self.end(CallResult.NOT_CONFIRMED)

    def cancel(self) -> None:
        if self.open:
            self.end(CallResult.CANCELLED)
            if self.rng.random() >= self.world.faults["lost"]:
                self.world.after(self.world.delay(self.rng), self._withdraw)

    def _withdraw(self) -> None:
        self.shard.withdraw(self.wire["request_id"], self.plan.caller, self.wire["reply_to"].get("run_id"))


class ActivityCall(OneCall):
    """Through the activity door: Temporal attempts `batch_write` until it is told, or time is up."""

    def __init__(self, callers: Callers, plan: CallPlan) -> None:
        super().__init__(callers, plan)
        self.wire["reply_to"] = {"workflow_id": plan.caller, "run_id": "run", "activity_id": str(plan.number)}
        self._attempt = 0
        self._attempt_open = False
        self._always_refused = True
        self._last_failure: BaseException | None = None
        # A queue that nobody polls for a while.
        self.world.after(self.rng.uniform(1, 30) if self.rng.random() < 0.03 else 0.001, self._start_attempt)

    def _start_attempt(self) -> None:
        if not self.open:
            return
        self._attempt += 1
        attempt, rng, world = self._attempt, self.rng, self.world
        if attempt > 1 and not self._always_refused:
            self.wire = {**self.wire, "resubmitted": True}
        self._attempt_open = True
        world.after(SUBMISSION_TIMEOUT, self._fail_attempt, attempt, _unreachable(), 1.0)
        if rng.random() < world.faults["lost"]:
            world.note(f"call {self.plan.number}: submission {attempt} is lost", "submission lost")
            return
        world.after(min(LATEST_SUBMISSION, world.delay(rng) * rng.choice([1, 1, 3])), self._arrive, attempt, self.wire)

    def _arrive(self, attempt: int, wire: JsonObject) -> None:
        world, rng = self.world, self.rng
        try:
            (refusal,) = self.shard.submit([wire])
        except BufferFull as err:
            refusal = Refusal(0, RejectCode.OVERLOADED, str(err))
        if rng.random() < world.faults["lost"]:
            world.note(f"call {self.plan.number}: the answer to submission {attempt} is lost", "answer lost")
            return
        world.after(world.delay(rng), self._answered, attempt, refusal)

    def _answered(self, attempt: int, refusal: Refusal | None) -> None:
        if not self.open or attempt != self._attempt or not self._attempt_open:
            return
        if refusal is None:
            # Completed elsewhere: the attempt stays open, without anybody in it, until its own timeout.
            self._always_refused = False
            timeout = TimeoutError("attempt", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])
            self._accepted = attempt
            self.world.after(ATTEMPT_TIMEOUT, self._fail_attempt, attempt, timeout, 1.0, True)
            return
        if refusal.code == RejectCode.OVERLOADED:
            self.world.note(f"call {self.plan.number}: rejected as busy: {refusal.reason}", "rejected as busy")
            busy = ApplicationError(refusal.reason, self._always_refused, type=ErrorType.BATCHER_BUSY)
            self._fail_attempt(attempt, busy, 0.5, True)
        else:
            self.end(CallResult.REJECTED)

    _accepted = 0

    def _fail_attempt(self, attempt: int, failure: BaseException, pause: float, accepted: bool = False) -> None:
        if not self.open or attempt != self._attempt or not self._attempt_open:
            return
        if self._accepted == attempt and not accepted:
            return  # the gateway's own timeout, but it had its answer
        if not (isinstance(failure, ApplicationError) and failure.type == ErrorType.BATCHER_BUSY):
            self._always_refused = False
        self._attempt_open = False
        self._last_failure = failure
        self.world.after(pause, self._start_attempt)

    def time_out(self) -> None:
        if not self.open:
            return
        kind = TimeoutType.SCHEDULE_TO_CLOSE if self._attempt else TimeoutType.SCHEDULE_TO_START
        timeout = TimeoutError("time is up", type=kind, last_heartbeat_details=[])
        timeout.__cause__ = self._last_failure
        self._fail(timeout)

    def _fail(self, cause: BaseException) -> None:
        error = write_error(self.wire["request_id"], cause, timedelta(seconds=self.plan.timeout))
        kinds = ((WriteNotSubmitted, CallResult.NOT_SUBMITTED), (WriteRejected, CallResult.REJECTED))
        verdicts = [verdict for kind, verdict in kinds if isinstance(error, kind)]
        self.end(*(verdicts or [CallResult.EXPIRED if isinstance(error, WriteExpired) else CallResult.NOT_CONFIRMED]))

    def receive(self, body: JsonObject) -> None:
        if "others" not in body:
            if body.get("request_id") == self.wire["request_id"]:
                self.returned = [body.get("returned")]
                self.end(CallResult(str(body["outcome"])))
            return
        others = body["others"]
        if not body.get("unread"):
            returned = body.get("returned", {})
            self.returned = [returned.get(str(i)) for i in range(len(self.plan.requests))]
        kinds = [_kind(others.get(str(i), "written")) for i in range(len(self.verdicts))]
        self.end(*(CallResult(kind) for kind in kinds))


def _kind(outcome: Any) -> str:
    if isinstance(outcome, dict):
        outcome = outcome["kind"]
    return str(getattr(outcome, "kind", outcome))


def _unreachable() -> ApplicationError:
    return ApplicationError("no answer", type=ErrorType.BATCHER_UNREACHABLE)


class SignalCall(OneCall):
    """Through the signal door: a signal there, and a signal back."""

    def __init__(self, callers: Callers, plan: CallPlan) -> None:
        super().__init__(callers, plan)
        self.wire["reply_to"] = {"workflow_id": plan.caller}
        self._began = self.world.clock
        self._send(1)

    def _send(self, attempt: int) -> None:
        if not self.open:
            return
        world = self.world
        if self.rng.random() >= world.faults["lost"]:
            world.after(world.delay(self.rng), lambda: self.shard.signal(self.wire))
            return
        waited, left = world.clock - self._began, self.wire["expires_at"] - world.clock
        pause = pause_before_retry(attempt, waited=waited, left=left)
        if pause is None:
            self.end(CallResult.NOT_SUBMITTED)
        else:
            world.after(pause, self._send, attempt + 1)

    def receive(self, body: JsonObject) -> None:
        if body["request_id"] == self.wire["request_id"]:
            self.returned = [body.get("returned")]
            self.end(CallResult(str(body["outcome"])))


class Callers:
    """All calls of a run, and where an answer finds its caller."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.shards: list[Shard] = []
        self._calls: dict[int, ActivityCall | SignalCall] = {}

    def start(self, plan: CallPlan) -> None:
        self.world.note(
            f"call {plan.number}: {plan.caller} by {plan.door}: {[r[1] for r in plan.requests]}, "
            f"keys {[plan.key_of(n) for n in range(len(plan.requests))]}, "
            f"{plan.timeout:g} s"
        )
        call = SignalCall(self, plan) if plan.door == "signal" else ActivityCall(self, plan)
        self._calls[plan.number] = call

    def receive(self, reply_to: JsonObject, body: JsonObject) -> None:
        """An answer arrives: at its activity, or at whatever waits for this id in the workflow that is signalled."""
        activity = reply_to.get("activity_id")
        if activity is not None:
            call = self._calls.get(int(activity))
            if call is not None and call.open:
                call.receive(body)
            return
        for call in self._calls.values():
            if isinstance(call, SignalCall) and call.open and call.plan.caller == reply_to["workflow_id"]:
                call.receive(body)

    def delete_activity(self) -> None:
        """Somebody deletes an activity whose parcel is under way: nobody receives its outcome, nor has its content."""
        for source in list(self.world.contents):
            call = self._calls[int(source.activity_id)]
            if call.open:
                del self.world.contents[source]
                call.end(CallResult.NOT_CONFIRMED)
                return

    def received(self) -> Iterator[tuple[str, Any]]:
        """What each call that was answered well received of its rows, by request id."""
        for call in self._calls.values():
            for request, verdict, returned in zip(call.plan.requests, call.verdicts, call.returned, strict=False):
                if verdict in POSITIVE:
                    yield request[0], returned

    def facts(self) -> list[Call]:
        return [
            Call(
                f"{call.plan.caller}/{call.plan.number if call.plan.door != 'signal' else 'signal'}", *request, verdict
            )
            for call in self._calls.values()
            for request, verdict in zip(call.plan.requests, call.verdicts, strict=True)
        ]
