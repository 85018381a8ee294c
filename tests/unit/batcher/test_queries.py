"""What a query brings to a shard before its workflow task waits for it, or the run is evicted."""

from __future__ import annotations

from typing import cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance

from temporal_batching.batcher.queries import DIRECT_QUERY, QueryGuard, Task, _task


def job(kind: str) -> WorkflowActivationJob:
    made = WorkflowActivationJob()
    getattr(made, kind).SetInParent()
    return made


class Run:
    """A run as Core shows it to the workflow: each activation by its events, or with the start of their task."""

    def __init__(self, says: Task = Task.COMPLETED) -> None:
        self.handled: list[list[str | None]] = []
        self.asked: list[int] = []
        self.evicted = 0
        self.events = self.size = self.task = 0
        self._says = says
        self._guard = QueryGuard(cast(WorkflowInstance, self), self._read, self._evict)

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        self.handled.append([one.WhichOneof("variant") for one in act.jobs])
        return WorkflowActivationCompletion()

    def _read(self, event_id: int) -> Task:
        self.asked.append(event_id)
        return self._says

    def _evict(self) -> None:
        self.evicted += 1

    def _activate(self, jobs: list[WorkflowActivationJob], *, replaying: bool) -> None:
        act = WorkflowActivation(
            jobs=jobs,
            history_length=self.events,
            history_size_bytes=self.size,
            timestamp=Timestamp(seconds=self.task),
            is_replaying=replaying,
        )
        self._guard.activate(act)

    def come(self, *jobs: str, replaying: bool = False) -> None:
        """Events without the start of a task."""
        self.events += len(jobs)
        self._activate([job(kind) for kind in jobs], replaying=replaying)

    def task_starts(self, *jobs: str, replaying: bool = False) -> None:
        self.events += 2
        self.task += 1
        self.size = 100 * self.events
        self.come(*jobs, replaying=replaying)

    def query(self, *, brings: int = 0, direct: bool = True) -> None:
        self.events += brings
        asks = WorkflowActivationJob()
        asks.query_workflow.query_id = DIRECT_QUERY if direct else "another"
        self._activate([asks], replaying=True)


def test_events_before_their_task_are_handled_with_it() -> None:
    run = Run()
    run.task_starts("initialize_workflow", "do_update")
    run.come("signal_workflow", "fire_timer")
    run.query()
    run.come("signal_workflow")
    run.task_starts("resolve_activity", "do_update")
    assert run.handled == [
        ["initialize_workflow", "do_update"],
        ["query_workflow"],
        ["signal_workflow", "fire_timer", "signal_workflow", "resolve_activity", "do_update"],
    ]
    assert (run.asked, run.evicted) == ([], 0)


def test_what_a_command_leads_to_within_a_task_is_handled_at_once() -> None:
    run = Run()
    run.task_starts("initialize_workflow", "do_update")
    run.come("signal_workflow")
    run.task_starts("fire_timer")
    run.events -= 1
    run.come("resolve_activity")  # no event came: Core resolves a cancelled activity by itself
    assert run.handled[1:] == [["signal_workflow", "fire_timer"], ["resolve_activity"]]


@pytest.mark.parametrize("says", Task)
def test_a_worker_that_catches_up_reads_whether_the_last_event_starts_a_task(says: Task) -> None:
    run = Run(says)
    run.task_starts("initialize_workflow", replaying=True)
    run.task_starts("fire_timer", "signal_workflow")  # another worker's task, and perhaps what came after it
    assert run.asked == [7]
    assert run.handled[1:] == ([] if says is Task.NONE else [["fire_timer", "signal_workflow"]])
    run.task_starts("do_update")
    handled = [kind for act in run.handled for kind in act]
    assert handled == ["initialize_workflow", "fire_timer", "signal_workflow", "do_update"]


@pytest.mark.parametrize(
    ("says", "evicted"), [(Task.OPEN, 1), (Task.COMPLETED, 0), (Task.NONE, 0)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("brings", [0, 1])
def test_a_run_that_was_shown_the_start_of_a_task_it_was_not_given_is_evicted(
    says: Task, evicted: int, brings: int
) -> None:
    run = Run(says)
    run.task_starts("initialize_workflow", "do_update")
    run.task_starts("signal_workflow")
    run.query(brings=brings)
    assert (run.evicted, run.handled[-1]) == (evicted, ["query_workflow"])
    run.query()
    assert (run.evicted, len(run.asked)) == (2 * evicted, 1 + evicted)


def test_a_query_after_a_task_that_is_known_to_be_the_workers_own_reads_nothing() -> None:
    run = Run(Task.OPEN)
    run.task_starts("initialize_workflow", replaying=True)
    run.query()
    run.task_starts("signal_workflow", "do_update")
    run.query()
    run.task_starts("signal_workflow")
    run.query(direct=False)
    assert (run.asked, run.evicted) == ([], 0)


def test_a_server_that_tells_no_sizes_is_believed() -> None:
    run = Run()
    run.task_starts("initialize_workflow", "do_update")
    for _ in range(2):
        run.size = 0
        run.come("signal_workflow")
    assert len(run.handled) == 3


@given(st.lists(st.tuples(st.sampled_from(["signal_workflow", "fire_timer", "resolve_activity"]), st.booleans())))
def test_no_event_is_lost_or_handled_twice(events: list[tuple[str, bool]]) -> None:
    run = Run()
    run.task_starts("initialize_workflow")
    for kind, task in events:
        run.task_starts(kind) if task else run.come(kind)
    run.task_starts("signal_workflow")
    handled = [kind for act in run.handled for kind in act]
    assert handled == ["initialize_workflow", *(kind for kind, _ in events), "signal_workflow"]
    assert len(run.handled) == 2 + sum(task for _, task in events)


def test_only_a_task_that_this_worker_completed_counts_as_its_own() -> None:
    started = HistoryEvent(event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
    completed = HistoryEvent(event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    completed.workflow_task_completed_event_attributes.identity = "this"
    failed = HistoryEvent(event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
    assert _task(started, completed, "this") is Task.COMPLETED
    assert _task(started, completed, "another") is Task.OPEN
    assert _task(started, failed, "this") is Task.OPEN
    assert _task(started, None, "this") is Task.OPEN
    assert _task(completed, started, "this") is Task.NONE
