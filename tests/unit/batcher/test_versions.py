"""What Temporal says of versions is read as it means it."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.deployment.v1 import WorkerDeploymentOptions
from temporalio.api.deployment.v1 import WorkerDeploymentVersion as Wire
from temporalio.api.enums.v1 import WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueueVersioningInfo
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionVersioningInfo
from temporalio.api.workflowservice.v1 import DescribeTaskQueueResponse
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig

from temporal_batching.batcher.versions import Routing, ShardVersion, gone_too_early, pinned, version_of_worker

V1, V2 = WorkerDeploymentVersion("batcher", "v1"), WorkerDeploymentVersion("batcher", "v2")
WIRE_1, WIRE_2 = (Wire(deployment_name=v.deployment_name, build_id=v.build_id) for v in (V1, V2))
VERSIONED = PollerInfo(
    deployment_options=WorkerDeploymentOptions(
        deployment_name="batcher",
        build_id="v1",
        worker_versioning_mode=WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED,
    )
)
WITH_A_BUILD_ID_ALONE = PollerInfo(deployment_options=WorkerDeploymentOptions(build_id="a hash of the code"))


def described(pollers: list[PollerInfo] | None = None, **info: object) -> Routing:
    versioning = TaskQueueVersioningInfo(**info)  # type: ignore[arg-type]
    return Routing.of(DescribeTaskQueueResponse(versioning_info=versioning, pollers=pollers or []))


def test_a_queue_without_versions_has_a_routing_that_says_so() -> None:
    never = Timestamp(seconds=-62_135_596_800)  # as the server writes a time that is not set
    routing = described([PollerInfo(), WITH_A_BUILD_ID_ALONE], update_time=never)
    assert (routing.current, routing.changed_at, routing.polled_by) == (None, 0.0, frozenset({None}))
    assert not routing.versioned
    assert not routing.nobody_takes_tasks
    assert routing.takes(None)


def test_before_a_version_is_current_nobody_takes_tasks_unless_a_worker_without_a_version_does() -> None:
    assert described([VERSIONED]).nobody_takes_tasks
    assert described([VERSIONED]).versioned
    assert not described([VERSIONED, PollerInfo()]).nobody_takes_tasks
    assert not described([VERSIONED], current_deployment_version=WIRE_1).nobody_takes_tasks
    assert not described().nobody_takes_tasks, "that nobody polls is another finding"


def test_a_shard_may_stay_with_the_current_version_and_with_the_ramping_one() -> None:
    routing = described(
        current_deployment_version=WIRE_1,
        ramping_deployment_version=WIRE_2,
        ramping_version_percentage=10,
        update_time=Timestamp(seconds=7),
    )
    assert (routing.current, routing.ramping, routing.changed_at) == (V1, frozenset({V2}), 7.0)
    assert [routing.takes(version) for version in (V1, V2, None)] == [True, True, False]
    to_unversioned = described(current_deployment_version=WIRE_1, ramping_version_percentage=10)
    assert [to_unversioned.takes(version) for version in (V1, V2, None)] == [True, False, True]
    no_ramp = described(current_deployment_version=WIRE_1, ramping_deployment_version=WIRE_2)
    assert not no_ramp.takes(V2)


def info(behavior: VersioningBehavior, override: VersioningOverride | None = None) -> WorkflowExecutionVersioningInfo:
    return WorkflowExecutionVersioningInfo(
        behavior=int(behavior),  # type: ignore[arg-type]
        deployment_version=WIRE_1,
        versioning_override=override,
    )


@pytest.mark.parametrize(
    ("behavior", "override", "expected"),
    [
        (VersioningBehavior.PINNED, None, ShardVersion(V1, pinned=True)),
        (VersioningBehavior.AUTO_UPGRADE, None, ShardVersion(V1)),
        (VersioningBehavior.UNSPECIFIED, None, ShardVersion()),
        (
            VersioningBehavior.PINNED,
            VersioningOverride(pinned=VersioningOverride.PinnedOverride(version=WIRE_2)),
            ShardVersion(V2, pinned=True, override="pinned"),
        ),
        (
            VersioningBehavior.PINNED,
            VersioningOverride(one_time=VersioningOverride.OneTimeOverride(target_deployment_version=WIRE_2)),
            ShardVersion(V1, override="one_time"),
        ),
        (VersioningBehavior.PINNED, VersioningOverride(auto_upgrade=True), ShardVersion(V1, override="auto_upgrade")),
    ],
)
def test_an_operators_override_wins_over_what_the_worker_says(
    behavior: VersioningBehavior, override: VersioningOverride | None, expected: ShardVersion
) -> None:
    assert ShardVersion.of(info(behavior, override)) == expected


def test_a_worker_with_a_version_pins_its_runs_unless_it_says_otherwise() -> None:
    config = WorkerDeploymentConfig(V1, use_worker_versioning=True)
    changed = pinned(config)
    assert changed is not None
    assert (changed.default_versioning_behavior, changed.version) == (VersioningBehavior.PINNED, V1)
    follows = WorkerDeploymentConfig(V1, True, VersioningBehavior.AUTO_UPGRADE)
    assert pinned(follows) is follows
    assert version_of_worker(follows) == V1
    for without in (None, WorkerDeploymentConfig(V1, use_worker_versioning=False)):
        assert pinned(without) is without, "Temporal refuses the tasks of such a worker if it says what its runs do"
        assert version_of_worker(without) is None


def test_what_helps_a_shard_whose_workers_are_gone_is_a_command() -> None:
    text = gone_too_early("batcher-main-0", V1, V2)
    assert "pinned to version batcher.v1" in text
    assert (
        "`temporal workflow update-options --workflow-id batcher-main-0 --versioning-override-behavior one_time "
        in text
    )
    assert "--versioning-override-build-id v2`" in text
    assert "update-options" not in gone_too_early("batcher-main-0", V1, None), "there is nowhere to move it"
