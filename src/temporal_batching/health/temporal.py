"""Temporal itself: the server, what it can do, and who polls the batcher's task queue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from temporalio.api.namespace.v1 import NamespaceInfo
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.health.findings import Finding, failed, ok, skipped, warning
from temporal_batching.health.queues import ACTIVITIES, WORKFLOWS, pollers

RPC_TIMEOUT = timedelta(seconds=5)

OLDEST_SERVER = (1, 28)
"""Update-with-start is generally available from here on."""

NEEDED = {"async_update": "updates, by which a gateway submits requests"}
"""Capabilities of a namespace without which a batcher takes no write by activity."""

USEFUL = {
    "standalone_activities": "standalone activities, by which programs write (BatchClient), and workers are asked"
}
"""Capabilities of a namespace without which a part of the library does not work."""


async def look_at_server(client: Client) -> list[Finding]:
    """The server's version, and the features that are needed.

    If the first finding is a failure, Temporal cannot be asked anything else.
    """
    where = f"Temporal at {client.service_client.config.target_host}, namespace '{client.namespace}'"
    try:
        system = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=RPC_TIMEOUT)
        described = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=RPC_TIMEOUT
        )
    except RPCError as err:
        return [failed("temporal", f"{where}: {err.status.name}, {err.message}")]
    return [version_finding(where, system.server_version), *feature_findings(described.namespace_info.capabilities)]


def version_finding(where: str, version: str) -> Finding:
    """Whether the server is new enough."""
    numbers = numbers_of(version)
    if numbers is None:
        return ok("temporal", f"{where}, server version {version or 'not said'}")
    if numbers < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        return failed("temporal", f"{where}, server {version}: update-with-start needs {oldest} or later")
    return ok("temporal", f"{where}, server {version}")


def numbers_of(version: str) -> tuple[int, int] | None:
    """The first two numbers of a server's version; None if it says none."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def feature_findings(capabilities: NamespaceInfo.Capabilities) -> Iterator[Finding]:
    """What the namespace lacks; one finding if it lacks nothing."""
    lacks = False
    for names, finding in ((NEEDED, failed), (USEFUL, warning)):
        for name, what in names.items():
            if not getattr(capabilities, name):
                lacks = True
                yield finding("features", f"the namespace does not have {what}: enable it on the server")
    if not lacks:
        yield ok("features", f"the namespace has {', '.join([*NEEDED, *USEFUL])}")


async def look_at_queue(client: Client, task_queue: str) -> list[Finding]:
    """Whether workers poll the batcher's task queue, for both kinds of tasks.

    Returns:
        One finding; a failure means that nobody can be asked anything.
    """
    try:
        workflows = await pollers(client, task_queue, WORKFLOWS, timeout=RPC_TIMEOUT)
        activities = await pollers(client, task_queue, ACTIVITIES, timeout=RPC_TIMEOUT)
    except RPCError as err:
        if err.status is RPCStatusCode.PERMISSION_DENIED:
            return [skipped("queue", f"this role may not describe the task queue '{task_queue}'")]
        return [failed("queue", f"the task queue '{task_queue}' cannot be described: {err.message}")]
    both = {poller.identity for poller in workflows} & {poller.identity for poller in activities}
    if both:
        count = f"{len(both)} worker{'s' if len(both) > 1 else ''}"
        return [ok("queue", f"{count} polled '{task_queue}' in the last minutes: {', '.join(sorted(both)[:5])}")]
    kinds = [kind for kind, found in (("workflow", workflows), ("activity", activities)) if not found]
    what = " or ".join(kinds) if kinds else "both workflow and activity"
    return [failed("queue", f"no worker polls '{task_queue}' for {what} tasks: start one, `temporal-batching worker`")]


async def look_at_flush_queue(client: Client, task_queue: str) -> list[Finding]:
    """Whether workers poll the task queue that shards send their flushes to.

    Returns:
        One finding; a failure means that nothing is written.
    """
    try:
        found = await pollers(client, task_queue, ACTIVITIES, timeout=RPC_TIMEOUT)
    except RPCError as err:
        if err.status is RPCStatusCode.PERMISSION_DENIED:
            return [skipped("flush queue", f"this role may not describe the task queue '{task_queue}'")]
        return [failed("flush queue", f"the task queue '{task_queue}' cannot be described: {err.message}")]
    if found:
        names = sorted({poller.identity for poller in found})
        count = f"{len(names)} worker{'s' if len(names) > 1 else ''}"
        return [ok("flush queue", f"{count} polled '{task_queue}' in the last minutes: {', '.join(names[:5])}")]
    start = f"start one, `temporal-batching worker --flush-task-queue {task_queue} --serve flushes`"
    return [failed("flush queue", f"no worker polls '{task_queue}', so nothing is written: {start}")]
