"""``check`` says whether tasks reach a worker of some version, and which shards are not run by the current one."""

from __future__ import annotations

import pytest
from temporalio.common import WorkerDeploymentVersion

from temporal_batching.batcher.versions import Routing, ShardVersion
from temporal_batching.health.versions import routing_findings, server_findings, silence_finding, version_findings

V1, V2 = WorkerDeploymentVersion("batcher", "v1"), WorkerDeploymentVersion("batcher", "v2")


def routing(
    current: WorkerDeploymentVersion | None,
    *polled_by: WorkerDeploymentVersion | None,
    changed_at: float = 1.0,
    ramping: frozenset[WorkerDeploymentVersion | None] = frozenset(),
) -> Routing:
    return Routing(current, ramping, changed_at, frozenset(polled_by))


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (routing(None, None, changed_at=0), None, ""),
        (routing(None, changed_at=0), None, ""),
        (routing(None, V1, changed_at=0), "failed", "takes nothing before: `temporal worker deployment set-current-"),
        (routing(None, V1, None, changed_at=0), "ok", "workers without a version take what is new"),
        (routing(V1, V1, V2), "ok", "version batcher.v1 takes what is new"),
        (routing(V1, V1, ramping=frozenset({V2})), "ok", "a part goes to version batcher.v2"),
        (routing(V2, V1), "failed", "version batcher.v2 is current on 'q', and no worker of it polls"),
        (routing(V2), "ok", "version batcher.v2 takes"),  # that nobody polls is a finding of the queue
    ],
)
def test_whether_what_is_new_reaches_a_worker(found: Routing, level: str | None, says: str) -> None:
    findings = list(routing_findings("q", found))
    assert [finding.level.value for finding in findings] == ([level] if level else [])
    assert all(says in finding.text for finding in findings)


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        (ShardVersion(V2, pinned=True), None),
        (ShardVersion(V1, pinned=True), "it is run by version batcher.v1, and version batcher.v2 is current"),
        (ShardVersion(), "it is run by workers without a version"),
        (ShardVersion(V1, pinned=True, override="pinned"), "also when it continues as new. To end it: `temporal"),
        (ShardVersion(V1, override="auto_upgrade"), "in the middle of a run"),
    ],
)
def test_a_shard_that_the_current_version_does_not_run_is_named(shard: ShardVersion, says: str | None) -> None:
    findings = list(version_findings("shard 0", "batcher-main-0", shard, routing(V2, V1, V2)))
    assert [finding.level.value for finding in findings] == ([] if says is None else ["warning"])
    assert all(says is not None and says in finding.text for finding in findings)


def test_a_shard_that_does_not_answer_is_named_with_its_version_and_the_remedy() -> None:
    found = silence_finding("shard 0", "batcher-main-0", ShardVersion(V1, pinned=True), routing(V2, V2))
    assert found is not None
    assert found.level == "failed"
    assert "stopped too early" in found.text
    assert "--versioning-override-behavior one_time" in found.text
    for other in (ShardVersion(V2, pinned=True), ShardVersion(V1), ShardVersion()):
        assert silence_finding("shard 0", "batcher-main-0", other, routing(V2, V2)) is None


def test_a_server_that_does_not_tell_shards_of_another_version_is_named() -> None:
    (found,) = server_findings("1.30.4")
    assert (found.level.value, found.text.endswith("1.31 does")) == ("warning", True)
    assert [list(server_findings(version)) for version in ("1.31.0", "1.32.0-162.0", "2.0", "")] == [[]] * 4
