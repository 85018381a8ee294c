"""What is left in Temporal's histories: events, bytes, and the actions a managed service would bill.

What is billed is counted as `temporal-batching savings` counts it (`temporal_batching.sizing.actions`). Some actions
leave no event: a standalone activity has no history, and is counted from the server's metric.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from temporalio.client import Client, WorkflowHandle

from temporal_batching.sizing.actions import HistoryCounts


@dataclass
class Histories:
    """Sums over runs of workflows."""

    runs: int = 0
    events: int = 0
    size: int = 0
    actions: Counter[str] = field(default_factory=Counter)

    async def add(self, handle: WorkflowHandle[object, object]) -> None:
        description = await handle.describe()
        counts = HistoryCounts()
        async for event in handle.fetch_history_events():
            counts.add(event)
        self.runs += 1
        self.size += description.raw_description.workflow_execution_info.history_size_bytes
        self.events += counts.events.total()
        self.actions += counts.actions

    def minus(self, other: Histories) -> Histories:
        return Histories(
            self.runs - other.runs, self.events - other.events, self.size - other.size, self.actions - other.actions
        )


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
