"""Worker deployment versions as Temporal knows them: where a task queue's tasks go, and which version runs a shard."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.api.deployment.v1 import WorkerDeploymentVersion as Version
from temporalio.api.enums.v1 import TaskQueueType, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflow.v1 import WorkflowExecutionVersioningInfo
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    DescribeWorkerDeploymentRequest,
)
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import WorkerDeploymentConfig


@dataclass(frozen=True)
class Routing:
    """Where Temporal sends the tasks of a task queue that belong to no version yet.

    Attributes:
        current: The version that takes them; None for workers without a version.
        ramping: The one that takes a part of them, if there is one.
        changed_at: When this was set, in seconds since the epoch; 0 if it never was.
        polled_by: The versions that polled in the last minutes; None stands for workers without a version.
    """

    current: WorkerDeploymentVersion | None = None
    ramping: frozenset[WorkerDeploymentVersion | None] = frozenset()
    changed_at: float = 0.0
    polled_by: frozenset[WorkerDeploymentVersion | None] = field(default_factory=frozenset)

    @property
    def versioned(self) -> bool:
        """Whether versions play a part on this task queue."""
        return self.changed_at > 0 or any(version is not None for version in self.polled_by)

    @property
    def nobody_takes_tasks(self) -> bool:
        """Whether workers poll, and yet new tasks reach none of them."""
        return self.current is None and bool(self.polled_by) and None not in self.polled_by

    def takes(self, version: WorkerDeploymentVersion | None) -> bool:
        """Whether a shard may stay with this version."""
        return version == self.current or version in self.ramping

    @classmethod
    def of(cls, described: DescribeTaskQueueResponse) -> Routing:
        """The routing that is in Temporal's description of a task queue."""
        info = described.versioning_info
        return cls(
            _version(info.current_deployment_version),
            frozenset([_version(info.ramping_deployment_version)] if info.ramping_version_percentage else ()),
            max(0.0, info.update_time.ToNanoseconds() / 1e9),  # a time that is not set lies in the year 1
            frozenset(_version_of_poller(poller) for poller in described.pollers),
        )


@dataclass(frozen=True)
class ShardVersion:
    """Which version runs a shard.

    Attributes:
        version: The version; None for workers without one.
        pinned: Whether its tasks go to no other version while this run lasts.
        override: What an operator has set for this workflow: ``pinned``, ``auto_upgrade``, ``one_time``, or nothing.
    """

    version: WorkerDeploymentVersion | None = None
    pinned: bool = False
    override: str = ""

    @classmethod
    def of(cls, info: WorkflowExecutionVersioningInfo) -> ShardVersion:
        """What Temporal's description of a workflow says."""
        version = None if int(info.behavior) == VersioningBehavior.UNSPECIFIED else _version(info.deployment_version)
        if not info.HasField("versioning_override"):
            return cls(version, int(info.behavior) == VersioningBehavior.PINNED)
        override = info.versioning_override
        if override.HasField("pinned"):
            return cls(_version(override.pinned.version) or version, True, "pinned")
        if override.HasField("one_time"):
            return cls(version, False, "one_time")
        return cls(version, False, "auto_upgrade")


async def routing_of(client: Client, task_queue: str, *, timeout: timedelta | None = None) -> Routing:
    """Where Temporal sends the tasks of a task queue. It costs a request, and no action.

    Raises:
        RPCError: Temporal cannot be reached, or refuses access.
    """
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    return Routing.of(await client.workflow_service.describe_task_queue(request, timeout=timeout))


async def last_change(client: Client, deployment_name: str) -> float:
    """When the routing of a worker deployment changed last, in seconds since the epoch; 0 if there is no such one.

    A task queue's own time does not do for that: where a ramp is taken back, it is the one before the ramp again.

    Raises:
        RPCError: Temporal cannot be reached, or refuses access.
    """
    request = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=deployment_name)
    try:
        described = await client.workflow_service.describe_worker_deployment(request)
    except RPCError as err:
        if err.status is RPCStatusCode.NOT_FOUND:
            return 0.0
        raise
    config = described.worker_deployment_info.routing_config
    changes = (config.current_version_changed_time, config.ramping_version_percentage_changed_time)
    return max(0.0, *(moment.ToNanoseconds() / 1e9 for moment in changes))


def version_of_worker(config: WorkerDeploymentConfig | None) -> WorkerDeploymentVersion | None:
    """The version of a worker with these options; None for one that takes tasks whatever version is current."""
    return config.version if config is not None and config.use_worker_versioning else None


def pinned(config: WorkerDeploymentConfig | None) -> WorkerDeploymentConfig | None:
    """These options with runs that stay with the version that began them, unless they say what runs do.

    A worker without a version must not say so of a run: Temporal refuses its tasks. So it is no part of the workflow.
    """
    if version_of_worker(config) is None or config is None:
        return config
    if config.default_versioning_behavior is not VersioningBehavior.UNSPECIFIED:
        return config
    return dataclasses.replace(config, default_versioning_behavior=VersioningBehavior.PINNED)


def name_of(version: WorkerDeploymentVersion | None) -> str:
    """A version for people."""
    return f"version {version.to_canonical_string()}" if version is not None else "workers without a version"


def make_current(version: WorkerDeploymentVersion) -> str:
    """The command that makes a version current."""
    return f"temporal worker deployment set-current-version {_options(version)}"


def move_to(version: WorkerDeploymentVersion, workflow_id: str) -> str:
    """The command that moves a workflow to a version in the middle of its run."""
    return (
        f"temporal workflow update-options --workflow-id {workflow_id} --versioning-override-behavior one_time "
        f"--versioning-override-deployment-name {version.deployment_name} "
        f"--versioning-override-build-id {version.build_id}"
    )


def remove_override(workflow_id: str) -> str:
    """The command that ends an override."""
    return f"temporal workflow update-options --workflow-id {workflow_id} --versioning-override-behavior unspecified"


def gone_too_early(workflow_id: str, version: WorkerDeploymentVersion, current: WorkerDeploymentVersion | None) -> str:
    """What is wrong with a shard whose version has no workers any more, and what helps."""
    moved = f", or move it: `{move_to(current, workflow_id)}`" if current is not None else ""
    return (
        f"{workflow_id} is pinned to {name_of(version)}, and no worker of it answers: they were stopped too early. "
        f"Start one again, and keep it until the version is drained{moved}"
    )


def held_by_override(workflow_id: str, shard: ShardVersion) -> str:
    """What an operator's override means for a shard, and what ends it."""
    if shard.override == "pinned":
        means = f"keeps it with {name_of(shard.version)}, also when it continues as new"
    else:
        means = "moves it to another version in the middle of a run, whose history that one has to replay"
    return f"an operator's override ({shard.override}) {means}. To end it: `{remove_override(workflow_id)}`"


def _options(version: WorkerDeploymentVersion) -> str:
    return f"--deployment-name {version.deployment_name} --build-id {version.build_id}"


def _version(wire: Version) -> WorkerDeploymentVersion | None:
    return WorkerDeploymentVersion(wire.deployment_name, wire.build_id) if wire.build_id else None


def _version_of_poller(poller: PollerInfo) -> WorkerDeploymentVersion | None:
    options = poller.deployment_options
    if options.worker_versioning_mode != WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED:
        return None
    return WorkerDeploymentVersion(options.deployment_name, options.build_id)
