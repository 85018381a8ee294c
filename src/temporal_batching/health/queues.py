"""Who polls a task queue, as Temporal has seen it."""

from __future__ import annotations

from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

WORKFLOWS = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITIES = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
NEXUS = TaskQueueType.TASK_QUEUE_TYPE_NEXUS


async def pollers(
    client: Client, task_queue: str, kind: TaskQueueType.ValueType = WORKFLOWS, *, timeout: timedelta | None = None
) -> list[PollerInfo]:
    """The workers that have polled a task queue in the last minutes.

    Raises:
        RPCError: Temporal cannot be reached, or refuses access.
    """
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
        ),
        timeout=timeout,
    )
    return list(answer.pollers)
