"""Worker deployment versions: whether tasks reach a worker, and which shards are not run by the current version."""

from __future__ import annotations

from collections.abc import Iterator

from temporalio.common import WorkerDeploymentVersion

from temporal_batching.batcher.versions import (
    Routing,
    ShardVersion,
    gone_too_early,
    held_by_override,
    make_current,
    name_of,
)
from temporal_batching.health.findings import Finding, failed, ok, warning
from temporal_batching.health.temporal import numbers_of

OLDEST_SERVER = (1, 31)
"""From here on the server tells a pinned run that another version has become current."""


def server_findings(version: str) -> Iterator[Finding]:
    """Whether the server, of this version, moves shards from one version of their workers to another."""
    numbers = numbers_of(version)
    if numbers is not None and numbers < OLDEST_SERVER:
        yield warning(
            "version",
            f"a server of version {version} does not tell a shard that another version has become current: it is moved "
            f"where its run ends for another reason, and an idle one is not. {'.'.join(map(str, OLDEST_SERVER))} does",
        )


def routing_findings(task_queue: str, routing: Routing) -> Iterator[Finding]:
    """Whether what is new on a task queue reaches a worker. Nothing, where versions play no part."""
    if not routing.versioned:
        return
    versions = sorted((v for v in routing.polled_by if v is not None), key=WorkerDeploymentVersion.to_canonical_string)
    if routing.nobody_takes_tasks:
        yield failed(
            "version",
            f"no version is current on '{task_queue}', and a worker with a version takes nothing before: "
            f"`{make_current(versions[-1])}`",
        )
        return
    if routing.polled_by and routing.current not in routing.polled_by:
        others = ", ".join(map(name_of, versions)) or name_of(None)
        yield failed(
            "version",
            f"{name_of(routing.current)} {'is' if routing.current else 'are'} current on '{task_queue}', and no worker "
            f"of it polls: start one, or make another one current; there are: {others}",
        )
        return
    ramp = "".join(f", a part goes to {name_of(version)}" for version in routing.ramping)
    yield ok("version", f"{name_of(routing.current)} {'takes' if routing.current else 'take'} what is new{ramp}")


def version_findings(subject: str, workflow_id: str, shard: ShardVersion, routing: Routing) -> Iterator[Finding]:
    """What is to be said of the version of a shard that answers; nothing, if it is run by the current one."""
    if shard.override:
        yield warning(subject, held_by_override(workflow_id, shard))
    elif not routing.takes(shard.version):
        yield warning(
            subject,
            f"it is run by {name_of(shard.version)}, and {name_of(routing.current)} "
            f"{'is' if routing.current else 'are'} current: workers of the current version have it continue as new "
            "there within a minute; their logs say what keeps it",
        )


def silence_finding(subject: str, workflow_id: str, shard: ShardVersion, routing: Routing) -> Finding | None:
    """Why a shard does not answer, if it is bound to a version that is not the current one."""
    if not shard.pinned or shard.version is None or shard.version == routing.current:
        return None
    return failed(subject, gone_too_early(workflow_id, shard.version, routing.current))
