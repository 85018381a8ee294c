"""Whether callers of other namespaces can write by Nexus: an endpoint leads here, and the server lets it answer."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import ActivityType, Callback
from temporalio.api.operatorservice.v1 import ListNexusEndpointsRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import StartActivityExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.contract import ACTIVITY_WRITE
from temporal_batching.health.findings import Finding, failed, ok, skipped
from temporal_batching.health.queues import NEXUS, pollers
from temporal_batching.health.temporal import RPC_TIMEOUT

SUBJECT = "nexus"
MOST_PAGES = 50
"""Of the server's endpoints, which are those of all its namespaces."""


@dataclass(frozen=True)
class NexusState:
    """What callers by Nexus need.

    Attributes:
        endpoints: Those that lead to the batcher's namespace and task queue.
        calls_back: Whether the server lets a standalone activity call back; None if that cannot be known.
        polled: Whether a worker polls the task queue for Nexus tasks.
    """

    endpoints: list[str]
    calls_back: bool | None
    polled: bool


def nexus_finding(batcher: BatcherHandle, namespace: str, state: NexusState) -> Finding:
    """Judges it. Without an endpoint nothing is wrong: nobody has to write by Nexus."""
    setting = (
        "set `activity.enableCallbacks` to true in the server's dynamic configuration (`temporal server start-dev "
        "--dynamic-config-value activity.enableCallbacks=true`)"
    )
    lacking = state.calls_back is False
    if not state.endpoints:
        create = (
            f"temporal operator nexus endpoint create --name batcher-{batcher.name} --target-namespace {namespace} "
            f"--target-task-queue {batcher.task_queue}"
        )
        more = f", and {setting}" if lacking else ""
        return ok(SUBJECT, f"not used: no endpoint leads here; for callers of other namespaces: `{create}`{more}")
    names = ", ".join(state.endpoints)
    if lacking:
        return failed(SUBJECT, f"{names} leads here, and the server refuses every operation: {setting}")
    if not state.polled:
        return failed(SUBJECT, f"{names} leads here, and no worker polls '{batcher.task_queue}' for Nexus tasks")
    return ok(SUBJECT, f"{names} leads to '{batcher.task_queue}'")


async def look_at_nexus(client: Client, batcher: BatcherHandle) -> Finding:
    """Looks at it.

    Args:
        client: Of the batcher's namespace.
        batcher: The batcher.
    """
    try:
        endpoints = await _endpoints_of(client, batcher.task_queue)
        polled = bool(await pollers(client, batcher.task_queue, NEXUS, timeout=RPC_TIMEOUT))
    except RPCError as err:
        return skipped(SUBJECT, f"the server's endpoints cannot be listed: {err.status.name}, {err.message}")
    state = NexusState(endpoints, await _calls_back(client), polled)
    return nexus_finding(batcher, client.namespace, state)


async def _endpoints_of(client: Client, task_queue: str) -> list[str]:
    found: list[str] = []
    page = ListNexusEndpointsRequest(page_size=100)
    for _ in range(MOST_PAGES):
        answer = await client.operator_service.list_nexus_endpoints(page, timeout=RPC_TIMEOUT)
        for endpoint in answer.endpoints:
            worker = endpoint.spec.target.worker
            if (worker.namespace, worker.task_queue) == (client.namespace, task_queue):
                found.append(endpoint.spec.name)
        if not answer.next_page_token:
            break
        page.next_page_token = answer.next_page_token
    return sorted(found)


async def _calls_back(client: Client) -> bool | None:
    """Whether a standalone activity may have a completion callback; no capability of a namespace says so.

    So one is asked for with a callback of no kind, which every server refuses: where callbacks are not enabled, before
    it looks at their kind, and with another status.
    """
    a_second = Duration(seconds=1)
    request = StartActivityExecutionRequest(
        namespace=client.namespace,
        identity=client.identity,
        request_id=str(uuid4()),
        activity_id=f"check-{uuid4()}",
        activity_type=ActivityType(name=ACTIVITY_WRITE),
        task_queue=TaskQueue(name="temporal-batching-check"),
        schedule_to_close_timeout=a_second,
        start_to_close_timeout=a_second,
        completion_callbacks=[Callback()],
    )
    try:
        await client.workflow_service.start_activity_execution(request, timeout=RPC_TIMEOUT)
    except RPCError as err:
        return {RPCStatusCode.UNIMPLEMENTED: True, RPCStatusCode.INVALID_ARGUMENT: False}.get(err.status)
    return None
