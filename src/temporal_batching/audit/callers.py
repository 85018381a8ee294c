"""Callers that are workflows: reads the writes of a run from its history, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from re import Pattern

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from temporal_batching.audit.events import activity_end, seconds
from temporal_batching.audit.facts import CallFact, ReadCounts
from temporal_batching.audit.payloads import PayloadReader, SentRequests
from temporal_batching.audit.results import ResultRecorder
from temporal_batching.audit.rules import CallResult
from temporal_batching.contract import (
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    SIGNAL_ADD,
    SIGNAL_CONFIRMATION,
    OutcomeKind,
)
from temporal_batching.sinks.ledger import returned_mark
from temporal_batching.wire.requests import default_request_id

WRITE_ACTIVITIES = (ACTIVITY_WRITE, ACTIVITY_WRITE_MANY)


class CallerRun:
    """Reads one run of a caller. Only its open requests are kept in memory.

    Args:
        workflow_id: The caller's workflow id.
        run_id: The caller's run id.
        running: Whether the run has not ended.
        shard_ids: Matches the workflow ids of the batcher's shards.
        payloads: Decodes the payloads that it sent.
        results: Stores the results of its calls.
        counts: Counts the payloads that cannot be read.
    """

    def __init__(
        self,
        workflow_id: str,
        run_id: str,
        *,
        running: bool,
        shard_ids: Pattern[str],
        payloads: PayloadReader,
        results: ResultRecorder,
        counts: ReadCounts,
    ) -> None:
        self._caller = workflow_id
        self._run_id = run_id
        self._running = running
        self._shard_ids = shard_ids
        self._payloads = payloads
        self._results = results
        self._counts = counts
        self._activities: dict[int, SentRequests] = {}
        self._signals: dict[int, SentRequests] = {}
        self._signalled: dict[str, tuple[str, float]] = {}
        """The digest and the time of sending, by request id."""
        self._failed_signals: set[int] = set()
        self._confirmed: set[str] = set()

    async def read(self, event: HistoryEvent) -> None:
        """Reads the next event of the history."""
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            await self._activity_scheduled(event)
        elif activity_end(event) is not None:
            await self._activity_ended(event)
        elif event.event_type == EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
            await self._signal_sent(event)
        elif event.event_type == EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED:
            failed = event.signal_external_workflow_execution_failed_event_attributes
            self._failed_signals.add(failed.initiated_event_id)
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            await self._signal_received(event)

    def end(self) -> None:
        """Ends the history: requests that are open now have no result."""
        for sent in self._activities.values():
            self._results.add_all(self._caller, sent, CallResult.UNKNOWN)
        delivered = {
            request.request_id
            for event, sent in self._signals.items()
            if event not in self._failed_signals
            for request in sent.requests
        }
        for sent in self._signals.values():
            for request in sent.requests:
                if request.request_id in self._confirmed:
                    continue
                reached = request.request_id in delivered
                ended = CallResult.NOT_CONFIRMED if reached else CallResult.NOT_SUBMITTED
                result = CallResult.UNKNOWN if self._running else ended
                call = CallFact(self._caller, request.request_id, request.digest, result, sent=sent.at)
                self._results.add(call, sent.at)

    async def _activity_scheduled(self, event: HistoryEvent) -> None:
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name not in WRITE_ACTIVITIES:
            return
        sent = await self._payloads.read_sent(
            scheduled.input,
            seconds(event),
            default_id=default_request_id(self._caller, self._run_id, scheduled.activity_id),
            task_queue=scheduled.task_queue.name,
            timeout=scheduled.schedule_to_close_timeout.ToTimedelta(),
        )
        if sent is not None:
            self._activities[event.event_id] = sent

    async def _activity_ended(self, event: HistoryEvent) -> None:
        ended = activity_end(event)
        sent = self._activities.pop(ended.scheduled_event_id, None)
        if sent is None:
            return
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            await self._results.completed(self._caller, sent, ended.result, seconds(event))
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            self._results.add_all(self._caller, sent, CallResult.CANCELLED)
        else:
            await self._results.failed(self._caller, sent, ended.failure)

    async def _signal_sent(self, event: HistoryEvent) -> None:
        signal = event.signal_external_workflow_execution_initiated_event_attributes
        if signal.signal_name != SIGNAL_ADD or not self._shard_ids.fullmatch(signal.workflow_execution.workflow_id):
            return
        sent = await self._payloads.read_sent(signal.input, seconds(event))
        if sent is not None:
            self._signals[event.event_id] = sent
            self._signalled |= {request.request_id: (request.digest, sent.at) for request in sent.requests}

    async def _signal_received(self, event: HistoryEvent) -> None:
        signal = event.workflow_execution_signaled_event_attributes
        if signal.signal_name != SIGNAL_CONFIRMATION:
            return
        decoded = await self._payloads.decode(signal.input)
        for confirmation in decoded if isinstance(decoded, list) else [decoded]:
            if not isinstance(confirmation, Mapping) or confirmation.get("outcome") not in set(OutcomeKind):
                self._counts.unreadable += 1
                continue
            request_id = str(confirmation.get("request_id"))
            self._confirmed.add(request_id)
            # The request may be missing: an earlier run of this workflow sent it, or another workflow.
            digest, sent = self._signalled.get(request_id, ("", 0.0))
            code, batch_id = str(confirmation.get("code") or ""), str(confirmation.get("batch_id") or "")
            result = CallResult(confirmation["outcome"])
            mark = returned_mark(confirmation.get("returned"))
            ended = seconds(event)
            call = CallFact(
                self._caller, request_id, digest, result, code, batch_id, returned=mark, sent=sent, ended=ended
            )
            self._results.add(call, sent or ended)
