"""Counts a history: events, bytes, and the actions that Temporal's managed service would bill.

The rules are published (https://docs.temporal.io/cloud/actions). One action each: a workflow started, by a client or
by continuing as new; a timer started; a signal, counted where it arrives; an update that is accepted; an activity,
and each of its retries; all local activities of one workflow task together; a change of a workflow's options or
search attributes; a Nexus operation, and a request to cancel one. Workflow tasks, results and completing an activity
from elsewhere are free. Some actions leave no event, and are not counted: queries, updates that are rejected,
heartbeats that reach the server, activities without a workflow.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

ACTIVITY = "activities"

BILLED = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: "runs started",
    EventType.EVENT_TYPE_TIMER_STARTED: "timers",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: "signals",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: "updates",
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: ACTIVITY,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: "options updated",
    EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: "search attributes updated",
    EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED: "Nexus operations",
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED: "Nexus operations",
}
"""What each event that is billed counts as."""


@dataclass
class HistoryCounts:
    """What was counted so far, over any number of histories.

    Attributes:
        events: Events by type, such as ``TIMER_STARTED``.
        bytes: Their serialized size.
        actions: Billable actions by kind.
    """

    events: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    _markers_of: int = 0

    def add(self, event: HistoryEvent) -> None:
        """Counts an event."""
        kind = event.event_type
        self.events[EventType.Name(kind).removeprefix("EVENT_TYPE_")] += 1
        self.bytes += event.ByteSize()
        if kind in BILLED:
            self.actions[BILLED[kind]] += 1
        elif kind == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            if retries := event.activity_task_started_event_attributes.attempt - 1:
                self.actions[ACTIVITY] += retries
        elif kind == EventType.EVENT_TYPE_MARKER_RECORDED:
            task = event.marker_recorded_event_attributes.workflow_task_completed_event_id
            self.actions["local activities"] += task != self._markers_of
            self._markers_of = task
