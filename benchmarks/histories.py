"""What is left in Temporal's histories: events, bytes, and the actions a managed service would bill.

The published rules (https://docs.temporal.io/cloud/actions), as they apply here. One action each for: a workflow
started (by a client or by continuing as new), a timer started, a signal (counted once, where it arrives), an update
(whether accepted or rejected), an activity's start and each of its retries, and all local activities of one workflow
task together. Workflow tasks, activity results and completing an activity from elsewhere are free. A standalone
activity counts as one; it has no history and is counted from the server's metric.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle

BILLED = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: "workflow started",
    EventType.EVENT_TYPE_TIMER_STARTED: "timer",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: "signal",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: "update",
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: "activity",
    EventType.EVENT_TYPE_MARKER_RECORDED: "local activity",
}


@dataclass
class Histories:
    """Sums over runs of workflows."""

    runs: int = 0
    events: int = 0
    size: int = 0
    actions: Counter[str] = field(default_factory=Counter)

    async def add(self, handle: WorkflowHandle[object, object]) -> None:
        description = await handle.describe()
        self.runs += 1
        self.size += description.raw_description.workflow_execution_info.history_size_bytes
        async for event in handle.fetch_history_events():
            self.events += 1
            if event.event_type in BILLED:
                self.actions[BILLED[event.event_type]] += 1
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                retries = event.activity_task_started_event_attributes.attempt - 1
                self.actions["activity"] += max(0, retries)

    def minus(self, other: Histories) -> Histories:
        return Histories(self.runs, self.events - other.events, self.size - other.size, self.actions - other.actions)


async def of_callers(client: Client, ids: list[str]) -> Histories:
    total = Histories()
    for workflow_id in ids:
        await total.add(client.get_workflow_handle(workflow_id))
    return total


async def of_batchers(client: Client, workflow_ids: list[str]) -> Histories:
    """All runs of each, those that continued as new included."""
    total = Histories()
    for workflow_id in workflow_ids:
        run_id = (await client.get_workflow_handle(workflow_id).describe()).run_id
        while run_id:
            handle = client.get_workflow_handle(workflow_id, run_id=run_id)
            await total.add(handle)
            async for event in handle.fetch_history_events(page_size=1):
                run_id = event.workflow_execution_started_event_attributes.continued_execution_run_id
                break
    return total
