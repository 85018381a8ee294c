"""What is billed, event by event."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import (
    ActivityTaskStartedEventAttributes,
    HistoryEvent,
    MarkerRecordedEventAttributes,
)

from temporal_batching.sizing.actions import BILLED, HistoryCounts


def counted(*events: HistoryEvent) -> dict[str, int]:
    counts = HistoryCounts()
    for event in events:
        counts.add(event)
    assert counts.events.total() == len(events)
    assert counts.bytes == sum(event.ByteSize() for event in events)
    return {kind: count for kind, count in counts.actions.items() if count}


def test_each_event_that_is_billed_is_one_action() -> None:
    for kind, what in BILLED.items():
        assert counted(HistoryEvent(event_id=7, event_type=kind)) == {what: 1}


def test_workflow_tasks_and_results_are_free() -> None:
    others = {EventType.EVENT_TYPE_MARKER_RECORDED, EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED, *BILLED}
    assert counted(*(HistoryEvent(event_type=kind) for kind in EventType.values() if kind not in others)) == {}


def test_the_retries_of_an_activity_are_actions_too() -> None:
    started = ActivityTaskStartedEventAttributes(attempt=3)
    event = HistoryEvent(
        event_type=EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED, activity_task_started_event_attributes=started
    )
    assert counted(event) == {"activities": 2}


def test_the_local_activities_of_one_workflow_task_are_one_action() -> None:
    markers = [
        HistoryEvent(
            event_type=EventType.EVENT_TYPE_MARKER_RECORDED,
            marker_recorded_event_attributes=MarkerRecordedEventAttributes(workflow_task_completed_event_id=task),
        )
        for task in (4, 4, 9)
    ]
    assert counted(*markers) == {"local activities": 2}
