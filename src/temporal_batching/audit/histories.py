"""What callers asked for and were told, read from Temporal: workflows' histories, programs' activities, the shards.

Histories are read event by event and nothing of them is kept but a caller's open requests; what they tell goes to
`Facts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import ActivityExecution, ActivityExecutionStatus, Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.audit.facts import UNREADABLE, Facts, Told
from temporal_batching.audit.judge import Verdict
from temporal_batching.contract import (
    ACTIVITY_FLUSH,
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    SIGNAL_ADD,
    SIGNAL_CONFIRMATION,
    UPDATE_SUBMIT,
    WORKFLOW_BATCHER,
    OutcomeKind,
    Record,
)
from temporal_batching.errors import InvalidRequest, WriteError, WriteExpired, WriteNotSubmitted, WriteRejected
from temporal_batching.sinks.ledger import NotJson, digest, request_id_fault
from temporal_batching.wire.parcels import unpack
from temporal_batching.writers.failures import write_error

READ_AT_ONCE = 8
"""Histories that are read side by side."""

_DOORS = (ACTIVITY_WRITE, ACTIVITY_WRITE_MANY)
_OPEN = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity_task_completed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: "activity_task_failed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "activity_task_timed_out_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "activity_task_canceled_event_attributes",
}
_SENT = {
    EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: "external_workflow_execution_signaled_event_attributes",
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: (
        "signal_external_workflow_execution_failed_event_attributes"
    ),
}


class QueryRefused(Exception):
    """Temporal does not take the visibility query."""


@dataclass
class Tally:
    """What was read.

    Attributes:
        workflows: Histories of callers, one for each run.
        activities: Activities that programs started.
        shard_runs: Histories of the batcher's shards.
        unreadable: Payloads that are not what they should be, or that this client cannot decode.
        gone: Histories that were deleted while the audit read.
        no_activities: This server cannot list activities.
    """

    workflows: int = 0
    activities: int = 0
    shard_runs: int = 0
    unreadable: int = 0
    gone: int = 0
    no_activities: bool = False


@dataclass
class _Asked:
    """Requests that went out together."""

    at: float
    requests: list[tuple[str, str, str]]
    """Request id, digest of the records, key."""
    parcel: bool = False
    timeout: timedelta = timedelta(0)


@dataclass
class _Run:
    """One run of a caller, while it is read."""

    caller: str
    open: bool
    activities: dict[int, _Asked] = field(default_factory=dict)
    signals: dict[int, _Asked] = field(default_factory=dict)
    signalled: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By request id: digest, and when."""
    not_sent: set[int] = field(default_factory=set)
    heard: set[str] = field(default_factory=set)


class Reader:
    """Reads what is about one batcher.

    Args:
        client: Its data converter decodes what the histories hold.
        facts: Where they go.
        name: The batcher's name.
        task_queue: Where requests are for it that name no batcher.
        since: Seconds since the epoch: what was asked earlier is not judged.
    """

    def __init__(self, client: Client, facts: Facts, *, name: str, task_queue: str, since: float = 0.0) -> None:
        self._client = client
        self._facts = facts
        self._name = name
        self._task_queue = task_queue
        self._since = since
        self._shard_id = re.compile(rf"batcher-{re.escape(name)}-(\d+)")
        self.tally = Tally()

    async def read(self, query: str | None = None) -> Tally:
        """Reads callers that the query finds, the programs' activities, and the shards.

        Raises:
            QueryRefused: With the server's own words.
        """
        mine = f"WorkflowType != '{WORKFLOW_BATCHER}'"
        if query:
            mine += f" AND ({query})"
        await self._each(self._client.list_workflows(self._recent(mine)), self._read_caller)
        # Their own histories name those who asked by other ways, and tell the order in which requests came.
        await self._each(
            self._client.list_workflows(self._recent(f"WorkflowType = '{WORKFLOW_BATCHER}'")), self._read_shard
        )
        doors = " OR ".join(f"ActivityType = '{door}'" for door in _DOORS)
        queue = self._task_queue.replace("'", "''")
        theirs = self._recent(f"({doors}) AND TaskQueue = '{queue}'")
        try:
            await self._each(self._client.list_activities(theirs), self._read_activity)
        except QueryRefused:
            self.tally.no_activities = True
        return self.tally

    def _recent(self, query: str) -> str:
        if not self._since:
            return query
        moment = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return f"{query} AND (ExecutionStatus = 'Running' OR CloseTime >= '{moment}')"

    async def _each(self, executions: Any, read: Any) -> None:
        slots = asyncio.Semaphore(READ_AT_ONCE)

        async def one(execution: Any) -> None:
            try:
                await read(execution)
            except RPCError as err:
                if err.status != RPCStatusCode.NOT_FOUND:
                    raise
                self.tally.gone += 1
            finally:
                slots.release()

        found = aiter(executions)
        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                try:
                    execution = await anext(found)
                except StopAsyncIteration:
                    return
                except RPCError as err:
                    if err.status in (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNIMPLEMENTED):
                        raise QueryRefused(err.message) from None
                    raise
                group.create_task(one(execution))

    # Callers that are workflows

    async def _read_caller(self, execution: WorkflowExecution) -> None:
        handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
        run = _Run(execution.id, open=execution.close_time is None)
        where = f"{execution.id}/{execution.run_id}"
        async for event in handle.fetch_history_events():
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                await self._scheduled(run, event, where)
            elif event.event_type in _OPEN:
                await self._closed(run, event)
            elif event.event_type == EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                await self._signalled(run, event)
            elif event.event_type in _SENT:
                self._delivered(run, event)
            elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                await self._heard(run, event)
        self._ended(run)
        self.tally.workflows += 1

    async def _scheduled(self, run: _Run, event: HistoryEvent, where: str) -> None:
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name not in _DOORS:
            return
        asked = await self._asked(
            scheduled.input,
            _seconds(event),
            default_id=f"{where}/{scheduled.activity_id}",
            task_queue=scheduled.task_queue.name,
        )
        if asked is not None:
            asked.timeout = scheduled.schedule_to_close_timeout.ToTimedelta()
            run.activities[event.event_id] = asked

    async def _closed(self, run: _Run, event: HistoryEvent) -> None:
        closed = getattr(event, _OPEN[event.event_type])
        asked = run.activities.pop(closed.scheduled_event_id, None)
        if asked is None:
            return
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            await self._confirmed(run.caller, asked, closed.result)
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            self._tell_all(run.caller, asked, Verdict.CANCELLED)
        else:
            await self._failed(run.caller, asked, closed.failure)

    async def _signalled(self, run: _Run, event: HistoryEvent) -> None:
        sent = event.signal_external_workflow_execution_initiated_event_attributes
        if sent.signal_name == SIGNAL_ADD and self._shard_id.fullmatch(sent.workflow_execution.workflow_id):
            asked = await self._asked(sent.input, _seconds(event))
            if asked is not None:
                run.signals[event.event_id] = asked
                run.signalled |= {request_id: (mark, asked.at) for request_id, mark, _ in asked.requests}

    def _delivered(self, run: _Run, event: HistoryEvent) -> None:
        sent = getattr(event, _SENT[event.event_type])
        if event.event_type == EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED:
            run.not_sent.add(sent.initiated_event_id)

    async def _heard(self, run: _Run, event: HistoryEvent) -> None:
        signal = event.workflow_execution_signaled_event_attributes
        if signal.signal_name != SIGNAL_CONFIRMATION:
            return
        told = await self._decoded(signal.input)
        for confirmation in told if isinstance(told, list) else [told]:
            if not isinstance(confirmation, Mapping) or confirmation.get("outcome") not in set(OutcomeKind):
                self.tally.unreadable += 1
                continue
            request_id = str(confirmation.get("request_id"))
            run.heard.add(request_id)
            # Without the request: an earlier run of this workflow sent it, or somebody else.
            mark, at = run.signalled.get(request_id, ("", _seconds(event)))
            code, batch = str(confirmation.get("code") or ""), str(confirmation.get("batch_id") or "")
            self._add(Told(run.caller, request_id, mark, Verdict(confirmation["outcome"]), code, batch), at)

    def _ended(self, run: _Run) -> None:
        """What nobody answered."""
        for asked in run.activities.values():
            self._tell_all(run.caller, asked, Verdict.UNKNOWN)
        sent = {one[0] for event, asked in run.signals.items() if event not in run.not_sent for one in asked.requests}
        for asked in run.signals.values():
            for request_id, mark, _ in asked.requests:
                if request_id in run.heard:
                    continue
                verdict = Verdict.NOT_CONFIRMED if request_id in sent else Verdict.NOT_SUBMITTED
                self._add(Told(run.caller, request_id, mark, Verdict.UNKNOWN if run.open else verdict), asked.at)

    # Callers that are programs

    async def _read_activity(self, execution: ActivityExecution) -> None:
        handle = self._client.get_activity_handle(execution.activity_id, run_id=execution.activity_run_id)
        activity = await handle.describe(include_input=True, include_outcome=True)
        self.tally.activities += 1
        asked = await self._asked(
            activity.raw_input or Payloads(),
            execution.schedule_time.timestamp(),
            default_id="/".join(filter(None, [execution.activity_run_id, execution.activity_id])),
            task_queue=execution.task_queue,
        )
        if asked is None:
            return
        asked.timeout = activity.schedule_to_close_timeout or timedelta(0)
        caller = f"activity {execution.activity_id}"
        outcome = activity.raw_outcome
        if outcome is not None and outcome.HasField("result"):
            await self._confirmed(caller, asked, outcome.result)
        elif activity.status is ActivityExecutionStatus.CANCELED:
            self._tell_all(caller, asked, Verdict.CANCELLED)
        elif outcome is not None and outcome.HasField("failure"):
            await self._failed(caller, asked, outcome.failure)
        else:
            self._tell_all(caller, asked, Verdict.UNKNOWN)

    # The batcher's own shards

    async def _read_shard(self, execution: WorkflowExecution) -> None:
        found = self._shard_id.fullmatch(execution.id)
        if found is None:
            return
        shard, run, chain, whole = int(found[1]), execution.start_time.timestamp(), "", False
        flushes: set[int] = set()
        overlapping = False
        handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                started = event.workflow_execution_started_event_attributes
                chain = started.first_execution_run_id
                whole = not started.continued_execution_run_id
            elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                if event.activity_task_scheduled_event_attributes.activity_type.name == ACTIVITY_FLUSH:
                    flushes.add(event.event_id)
                    overlapping = overlapping or len(flushes) > 1
            elif event.event_type in _OPEN:
                flushes.discard(getattr(event, _OPEN[event.event_type]).scheduled_event_id)
            else:
                for wire in await self._taken_in(event):
                    self._witnessed(wire, shard, chain, run, event)
        self._facts.add_shard_run(shard, chain, whole=whole, overlapping=overlapping)
        self.tally.shard_runs += 1

    async def _taken_in(self, event: HistoryEvent) -> Sequence[Any]:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            update = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
            if update.name != UPDATE_SUBMIT:
                return []
            payloads = update.args
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            signal = event.workflow_execution_signaled_event_attributes
            if signal.signal_name != SIGNAL_ADD:
                return []
            payloads = signal.input
        else:
            return []
        sent = await self._decoded(payloads)
        return sent if isinstance(sent, list) else [sent]

    def _witnessed(self, wire: Any, shard: int, chain: str, run: float, event: HistoryEvent) -> None:
        asked = self._read(wire, _seconds(event))
        if asked is None:
            return
        caller = _who(wire.get("reply_to")) or f"{self._name}-{shard}"
        for request_id, mark, key in asked.requests:
            self._add(Told(caller, request_id, mark, Verdict.UNKNOWN, witness=True), asked.at)
            if key and request_id_fault(request_id) is None:
                self._facts.add_arrival(shard, chain, run, event.event_id, key, request_id)

    # What travels

    async def _asked(
        self, payloads: Payloads, at: float, *, default_id: str = "", task_queue: str = ""
    ) -> _Asked | None:
        """The requests in a payload, if they are for this batcher."""
        wire = await self._decoded(payloads)
        if isinstance(wire, Mapping):
            # A caller in another language may name neither; then the task queue says which batcher it meant.
            ours = wire["batcher"] == self._name if "batcher" in wire else task_queue in ("", self._task_queue)
            if not ours:
                return None
            wire = wire if "request_id" in wire or not default_id else {**wire, "request_id": default_id}
        parts = [self._read(one, at) for one in (wire if isinstance(wire, list) else [wire])]
        known = [part for part in parts if part is not None]
        if not known:
            return None
        return _Asked(at, [one for part in known for one in part.requests], any(part.parcel for part in known))

    def _read(self, wire: Any, at: float) -> _Asked | None:
        if not isinstance(wire, Mapping):
            self.tally.unreadable += 1
            return None
        bodies = wire.get("requests")
        if "packed" in wire:
            with contextlib.suppress(InvalidRequest):
                bodies = unpack(wire)
        parcel = isinstance(bodies, list)
        asked = _Asked(at, [], parcel)
        for body in bodies if isinstance(bodies, list) else [wire]:
            if not isinstance(body, Mapping) or not isinstance(body.get("request_id"), str):
                self.tally.unreadable += 1
                # Its place counts: a parcel's answers go by position.
                asked.requests.append(("", UNREADABLE, ""))
                continue
            request_id, key, records = body["request_id"], body.get("key"), _records(body.get("records"))
            mark = UNREADABLE
            if records is not None and request_id_fault(request_id) is None:
                # A codec of the user's may give what JSON does not know; the batcher has refused it then.
                with contextlib.suppress(NotJson, TypeError, ValueError, RecursionError):
                    mark = digest(records)
                    self._facts.add_content(request_id, mark, records)
            asked.requests.append((request_id, mark, key if isinstance(key, str) else ""))
        return asked

    async def _confirmed(self, caller: str, asked: _Asked, result: Payloads) -> None:
        told = await self._decoded(result)
        if not isinstance(told, Mapping):
            self._tell_all(caller, asked, Verdict.UNKNOWN)
            return
        batch = str(told.get("batch_id") or "")
        others = told.get("others")
        for position, (request_id, mark, _) in enumerate(asked.requests):
            one: Any = told
            if asked.parcel:
                one = others.get(str(position)) if isinstance(others, Mapping) else None
                one = {"outcome": one["kind"], "code": one.get("code")} if one else {"outcome": "written"}
            answered = request_id if asked.parcel else str(told.get("request_id") or request_id)
            if answered != request_id:
                # Copied by a reset: the activity's own identity, where it is the id, was another run's.
                self._facts.copy_content(request_id, mark, answered)
            outcome = one.get("outcome")
            verdict = Verdict(outcome) if outcome in set(OutcomeKind) else Verdict.UNKNOWN
            code = str(one.get("code") or "")
            self._add(Told(caller, answered, mark, verdict, code, batch), asked.at)

    async def _failed(self, caller: str, asked: _Asked, failure: Failure) -> None:
        """A failure means what it means to this library's own callers."""
        try:
            cause = await self._client.data_converter.decode_failure(failure)
        except Exception:  # whatever a codec makes of what is not its own
            self.tally.unreadable += 1
            self._tell_all(caller, asked, Verdict.NOT_CONFIRMED)
            return
        for request_id, mark, _ in asked.requests:
            try:
                error = write_error(request_id, cause, asked.timeout)
            except ValueError:  # a code of a later release
                error = WriteError(str(cause))
            told = error.confirmation
            code = str(told.code or "") if told else ""
            self._add(Told(caller, request_id, mark, _verdict(error), code), asked.at)

    def _tell_all(self, caller: str, asked: _Asked, verdict: Verdict) -> None:
        for request_id, mark, _ in asked.requests:
            self._add(Told(caller, request_id, mark, verdict), asked.at)

    def _add(self, told: Told, at: float) -> None:
        if request_id_fault(told.request_id) is None:  # with another id nothing can be written
            self._facts.add_call(told, judged=at >= self._since)

    async def _decoded(self, payloads: Payloads) -> Any:
        """The one value of a payload; None if this client cannot read it."""
        try:
            values = await self._client.data_converter.decode(payloads.payloads)
        except Exception:  # whatever a codec makes of what is not its own
            return None
        return values[0] if values else None


def _records(wire: Any) -> list[Record] | None:
    if not isinstance(wire, list):
        return None
    records = []
    for one in wire:
        if not isinstance(one, Mapping) or not isinstance(one.get("table"), str):
            return None
        if not isinstance(one.get("values"), Mapping):
            return None
        records.append(Record(one["table"], one["values"]))
    return records


def _who(reply_to: Any) -> str:
    reply = reply_to[0] if isinstance(reply_to, list) and reply_to else reply_to
    if not isinstance(reply, Mapping):
        return ""
    if reply.get("workflow_id"):
        return str(reply["workflow_id"])
    return f"activity {reply['activity_id']}" if reply.get("activity_id") else ""


def _verdict(error: WriteError) -> Verdict:
    if isinstance(error, WriteRejected):
        return Verdict.REJECTED
    if isinstance(error, WriteExpired):
        return Verdict.EXPIRED
    return Verdict.NOT_SUBMITTED if isinstance(error, WriteNotSubmitted) else Verdict.NOT_CONFIRMED


def _seconds(event: HistoryEvent) -> float:
    return event.event_time.ToNanoseconds() / 1e9
