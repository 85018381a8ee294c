"""Reads the histories of the batcher's shards: they have all requests, by every way in, in order of arrival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from temporal_batching.audit.events import activity_end, seconds
from temporal_batching.audit.facts import CallFact, KeyArrival, ShardRun
from temporal_batching.audit.payloads import PayloadReader
from temporal_batching.audit.results import ResultRecorder
from temporal_batching.audit.rules import CallResult
from temporal_batching.audit.store import FactStore
from temporal_batching.contract import ACTIVITY_FLUSH, SIGNAL_ADD, UPDATE_SUBMIT
from temporal_batching.sinks.ledger import request_id_fault


class ShardHistory:
    """Reads one run of a shard.

    Args:
        batcher: The batcher's name.
        shard: The shard's number.
        run_started: When the run began, in seconds since the epoch.
        payloads: Decodes the payloads that it received.
        results: Stores the calls that it names.
        store: Stores the arrivals.
    """

    def __init__(
        self,
        batcher: str,
        shard: int,
        run_started: float,
        *,
        payloads: PayloadReader,
        results: ResultRecorder,
        store: FactStore,
    ) -> None:
        self._batcher = batcher
        self._shard = shard
        self._run_started = run_started
        self._payloads = payloads
        self._results = results
        self._store = store
        self._chain = ""
        self._first = False
        self._overlapping = False
        self._flushes: set[int] = set()

    async def read(self, event: HistoryEvent) -> None:
        """Reads the next event of the history."""
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            started = event.workflow_execution_started_event_attributes
            self._chain = started.first_execution_run_id
            self._first = not started.continued_execution_run_id
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            if event.activity_task_scheduled_event_attributes.activity_type.name == ACTIVITY_FLUSH:
                self._flushes.add(event.event_id)
                self._overlapping = self._overlapping or len(self._flushes) > 1
        elif (ended := activity_end(event)) is not None:
            self._flushes.discard(ended.scheduled_event_id)
        else:
            for wire in await self._received(event):
                if isinstance(wire, Mapping) and "source" in wire:
                    wire = await self._payloads.read_reference(wire)
                    if wire is None:
                        continue
                self._add(wire, event)

    def end(self) -> None:
        """Ends the history, and stores what it shows of the run."""
        self._store.add_shard_run(ShardRun(self._shard, self._chain, first=self._first, overlapping=self._overlapping))

    async def _received(self, event: HistoryEvent) -> Sequence[Any]:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            update = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
            name, wanted, payloads = update.name, UPDATE_SUBMIT, update.args
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            signal = event.workflow_execution_signaled_event_attributes
            name, wanted, payloads = signal.signal_name, SIGNAL_ADD, signal.input
        else:
            return []
        if name != wanted:
            return []
        sent = await self._payloads.decode(payloads)
        return sent if isinstance(sent, list) else [sent]

    def _add(self, wire: Any, event: HistoryEvent) -> None:
        sent = self._payloads.read_wire(wire, seconds(event))
        if sent is None:
            return
        caller = _read_caller(wire.get("reply_to")) or f"{self._batcher}-{self._shard}"
        for request in sent.requests:
            call = CallFact(
                caller, request.request_id, request.digest, CallResult.UNKNOWN, from_shard=True, sent=sent.at
            )
            self._results.add(call, sent.at)
            if request.key and request_id_fault(request.request_id) is None:
                self._store.add_arrival(
                    KeyArrival(
                        self._shard, self._chain, self._run_started, event.event_id, request.key, request.request_id
                    )
                )


def _read_caller(reply_to: Any) -> str:
    reply = reply_to[0] if isinstance(reply_to, list) and reply_to else reply_to
    if not isinstance(reply, Mapping):
        return ""
    if reply.get("workflow_id"):
        return str(reply["workflow_id"])
    return f"activity {reply['activity_id']}" if reply.get("activity_id") else ""
