"""Workers with versions, and what an operator does with them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.deployment.v1 import WorkerDeploymentVersion as Wire
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    SetWorkerDeploymentCurrentVersionRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import WorkerDeploymentConfig

from tests.support.waiting import assert_eventually

UNHANDLED = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
"""A message arrived while a run was ending: Temporal has it end in the next task. No worker failed."""


class Deployment:
    """A worker deployment of a test's own."""

    def __init__(self, client: Client) -> None:
        self.name = f"d{uuid4().hex[:10]}"
        self._client = client

    def version(self, build_id: str) -> WorkerDeploymentVersion:
        return WorkerDeploymentVersion(self.name, build_id)

    def options(self, build_id: str) -> dict[str, Any]:
        """The options of a worker of this version."""
        return {"deployment_config": WorkerDeploymentConfig(self.version(build_id), use_worker_versioning=True)}

    async def make_current(self, build_id: str) -> None:
        """Makes a version current, as soon as Temporal knows it by its pollers."""

        async def known() -> None:
            try:
                await self._client.workflow_service.set_worker_deployment_current_version(
                    SetWorkerDeploymentCurrentVersionRequest(
                        namespace=self._client.namespace, deployment_name=self.name, build_id=build_id
                    )
                )
            except RPCError as err:
                raise AssertionError(err.message) from err

        await assert_eventually(known, within=30, every=0.2)

    async def override(self, workflow_id: str, override: VersioningOverride | None) -> None:
        """What `temporal workflow update-options` does; None ends an override."""
        await self._client.workflow_service.update_workflow_execution_options(
            UpdateWorkflowExecutionOptionsRequest(
                namespace=self._client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id),
                workflow_execution_options=WorkflowExecutionOptions(versioning_override=override),
                update_mask=FieldMask(paths=["versioning_override"]),
            )
        )

    def pinned_to(self, build_id: str) -> VersioningOverride:
        return VersioningOverride(
            pinned=VersioningOverride.PinnedOverride(
                behavior=VersioningOverride.PINNED_OVERRIDE_BEHAVIOR_PINNED, version=self._wire(build_id)
            )
        )

    def moved_once_to(self, build_id: str) -> VersioningOverride:
        return VersioningOverride(
            one_time=VersioningOverride.OneTimeOverride(target_deployment_version=self._wire(build_id))
        )

    def _wire(self, build_id: str) -> Wire:
        return Wire(deployment_name=self.name, build_id=build_id)


async def failed_tasks(client: Client, workflow_id: str) -> list[str]:
    """Why workflow tasks of any run of a workflow failed, other than that a message arrived at its end."""
    failures: list[str] = []
    run_id: str | None = None
    while run_id != "":
        run_id, previous = "", run_id
        async for event in client.get_workflow_handle(workflow_id, run_id=previous).fetch_history_events():
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                run_id = event.workflow_execution_started_event_attributes.continued_execution_run_id
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
                failed = event.workflow_task_failed_event_attributes
                if failed.cause != UNHANDLED:
                    failures.append(f"{WorkflowTaskFailedCause.Name(failed.cause)}: {failed.failure.message}")
    return failures
