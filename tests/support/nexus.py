"""Nexus endpoints, and a second namespace, on the servers of the tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.duration_pb2 import Duration
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest, DeleteNexusEndpointRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tests.support.waiting import assert_eventually

CALLERS = "callers"
"""The namespace of callers that write by Nexus from elsewhere."""


@asynccontextmanager
async def nexus_endpoint(
    client: Client, name: str, task_queue: str, *, namespace: str | None = None
) -> AsyncIterator[str]:
    """An endpoint during a block: ``temporal operator nexus endpoint create``.

    Args:
        client: Of any namespace.
        name: Its name.
        task_queue: Its target.
        namespace: Its target's; the client's by default.
    """
    worker = EndpointTarget.Worker(namespace=namespace or client.namespace, task_queue=task_queue)
    created = await client.operator_service.create_nexus_endpoint(
        CreateNexusEndpointRequest(spec=EndpointSpec(name=name, target=EndpointTarget(worker=worker)))
    )
    try:
        yield name
    finally:
        endpoint = created.endpoint
        with contextlib.suppress(RPCError):  # the test has deleted it
            await client.operator_service.delete_nexus_endpoint(
                DeleteNexusEndpointRequest(id=endpoint.id, version=endpoint.version)
            )


async def callers_namespace(client: Client) -> Client:
    """A client of the callers' namespace, created if it is not there: ``temporal operator namespace create``."""
    with contextlib.suppress(RPCError):
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(namespace=CALLERS, workflow_execution_retention_period=Duration(seconds=86_400))
        )
    callers = await Client.connect(client.service_client.config.target_host, namespace=CALLERS)

    async def is_known() -> None:  # the server's parts learn of it one after the other
        try:
            await callers.count_workflows()
        except RPCError as err:
            if err.status is RPCStatusCode.NOT_FOUND:
                raise AssertionError(err.message) from None
            raise

    await assert_eventually(is_known)
    return callers
