"""A query that brought events changes nothing: workflow tasks reach a shard whole.

A query that Temporal dispatches directly, to a worker without the run in its cache, brings the history up to that
moment: with events since the last workflow task, or with the start of a task that another poller took. The SDK (1.35)
hands them to the workflow, keeps the commands they lead to for the run's next task, and takes the events for done.
Either those commands then stand before the ones of the task's updates, while a replay orders them otherwise, and no
worker can replay the run any more (``TMPRL1100``); or the task itself is completed without its updates, which Temporal
rejects (``UnprocessedUpdate``).

So events without the start of their task wait for it, and a run that was shown the start of a task that it was not
given is evicted once the query is answered: it starts again from its history.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import timedelta
from enum import Enum

from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner

from temporal_batching.contract import WORKFLOW_BATCHER

logger = logging.getLogger(__name__)

DIRECT_QUERY = "legacy_query"
"""Core's id for a query that is a task of its own; one that came with a workflow task has another."""

HISTORY_TIMEOUT = timedelta(seconds=5)
"""For reading the end of a history: half of what Temporal gives a workflow task."""

HISTORY_PAGE = 20
"""Events. What is looked for was the last one when the activation was made."""


class Task(Enum):
    """What an event says of a workflow task."""

    NONE = "it is not the start of one"
    OPEN = "it starts one that this worker has not completed"
    COMPLETED = "it starts one that this worker has completed"


class QueryGuardRunner(WorkflowRunner):
    """Runs workflows as another runner does, and guards the shards among them against queries that bring events.

    Args:
        client: Reads the end of a shard's history.
        identity: The worker's, as histories have it.
        runner: What runs the workflows; the SDK's runner without a sandbox if None.

    Attributes:
        evict: Makes the worker forget a run. Set once there is a worker.
    """

    def __init__(self, client: Client, *, identity: str, runner: WorkflowRunner | None = None) -> None:
        self.evict: Callable[[str], None] = lambda run_id: None
        self._client = client
        self._identity = identity
        self._runner = runner or UnsandboxedWorkflowRunner()

    def prepare_workflow(self, defn: workflow._Definition) -> None:
        """Prepares a workflow definition."""
        self._runner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Creates the instance of a run."""
        instance = self._runner.create_instance(det)
        if det.info.workflow_type == WORKFLOW_BATCHER:
            run_id = det.info.run_id
            guard = QueryGuard(instance, self._reader(det.info), lambda: self.evict(run_id))
            # Not a class around it: what else the SDK asks of an instance differs between its releases.
            instance.activate = guard.activate  # type: ignore[method-assign]
        return instance

    def _reader(self, info: workflow.Info) -> Callable[[int], Task]:
        """Says of an event of the run what it is. For the threads of the activations."""
        loop, thread = asyncio.get_running_loop(), threading.get_ident()

        def read(event_id: int) -> Task:
            if threading.get_ident() == thread:  # in debug mode: the loop cannot be waited for
                return Task.OPEN
            reading = asyncio.run_coroutine_threadsafe(
                read_task(self._client, info, event_id, identity=self._identity), loop
            )
            try:
                return reading.result(HISTORY_TIMEOUT.total_seconds())
            except (RPCError, TimeoutError, CancelledError) as err:  # cancelled with a worker that stops
                reading.cancel()
                logger.warning("The end of the history of %s cannot be read: %s", info.workflow_id, err)
                return Task.OPEN

        return read


class QueryGuard:
    """Guards one run.

    Args:
        instance: The instance of the run.
        read: Says of the event with an id what it is.
        evict: Makes the worker forget the run, once it has answered.
    """

    def __init__(self, instance: WorkflowInstance, read: Callable[[int], Task], evict: Callable[[], None]) -> None:
        self._activate = instance.activate
        self._read = read
        self._evict = evict
        self._last: WorkflowActivation | None = None  # by events whose task has begun
        self._certain = 0  # the last event up to which no task is open that the run was not given
        self._kept: list[WorkflowActivationJob] = []

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """Handles an activation, or keeps it until its workflow task begins."""
        if any(job.HasField("query_workflow") for job in act.jobs):
            if any(job.query_workflow.query_id == DIRECT_QUERY for job in act.jobs) and self._has_brought_a_task(act):
                self._evict()
            return self._activate(act)
        if any(job.HasField("remove_from_cache") for job in act.jobs):
            return self._activate(act)
        if self._is_early(act):
            self._kept.extend(act.jobs)
            self._certain = act.history_length
            nothing = WorkflowActivationCompletion()
            nothing.successful.SetInParent()
            return nothing
        if self._kept:
            rest = list(act.jobs)
            del act.jobs[:]
            act.jobs.extend([*self._kept, *rest])
            self._kept.clear()
        self._last = act
        if act.is_replaying or _has_updates(act):
            self._certain = act.history_length
        return self._activate(act)

    def _is_early(self, act: WorkflowActivation) -> bool:
        """Whether the activation ends with events of a workflow task that has not begun."""
        last = self._last
        if last is None or act.history_length <= last.history_length:
            return False
        if act.timestamp == last.timestamp and act.history_size_bytes == last.history_size_bytes > 0:
            return True  # the start of a task brings both forward
        # It may contain a task that an earlier worker completed without commands: the SDK joins its events with those
        # that came after it. Only a worker that catches up can meet that.
        catches_up = last.is_replaying and not act.is_replaying
        return catches_up and not _has_updates(act) and self._read(act.history_length) is Task.NONE

    def _has_brought_a_task(self, query: WorkflowActivation) -> bool:
        if query.history_length > self._certain:
            if self._read(query.history_length) is Task.OPEN:
                return True
            self._certain = query.history_length
        return False


def _has_updates(act: WorkflowActivation) -> bool:
    """Updates come with their workflow task, and with nothing else."""
    return any(job.HasField("do_update") for job in act.jobs)


async def read_task(client: Client, info: workflow.Info, event_id: int, *, identity: str) -> Task:
    """What an event near the end of a run's history says of a workflow task of the worker with this identity.

    An event that is not in the history starts a task: the server writes the start of some only with their end.
    """
    request = GetWorkflowExecutionHistoryReverseRequest(
        namespace=info.namespace,
        execution=WorkflowExecution(workflow_id=info.workflow_id, run_id=info.run_id),
        maximum_page_size=HISTORY_PAGE,
    )
    after: HistoryEvent | None = None
    while True:
        page = await client.workflow_service.get_workflow_execution_history_reverse(request, retry=True)
        for event in page.history.events:
            if event.event_id <= event_id:
                return _task(event, after, identity) if event.event_id == event_id else Task.OPEN
            after = event
        if not page.next_page_token:
            return Task.OPEN
        request.next_page_token = page.next_page_token


def _task(event: HistoryEvent, after: HistoryEvent | None, identity: str) -> Task:
    if event.event_type != EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
        return Task.NONE
    if after is None or after.event_type != EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
        return Task.OPEN
    return Task.COMPLETED if after.workflow_task_completed_event_attributes.identity == identity else Task.OPEN
