"""Helpers for Temporal's history events."""

from __future__ import annotations

from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

_ACTIVITY_ENDS = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity_task_completed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: "activity_task_failed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "activity_task_timed_out_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "activity_task_canceled_event_attributes",
}


def activity_end(event: HistoryEvent) -> Any:
    """The attributes of an event that ends an activity; None for any other event."""
    name = _ACTIVITY_ENDS.get(event.event_type)
    return getattr(event, name) if name else None


def seconds(event: HistoryEvent) -> float:
    """The time of the event, in seconds since the epoch."""
    return event.event_time.ToNanoseconds() / 1e9
