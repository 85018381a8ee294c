"""Two versions of a worker under load, whose shards give different commands: no run moves in its middle.

There and back, while the database is down, with the workers of a version gone too early, and under an operator's
override.
"""

from __future__ import annotations

import re

import pytest
from temporalio.client import Client

from temporal_batching.health import Finding, Level, check
from temporal_batching.routing import batcher_workflow_id
from tests.faults.processes import Postgres
from tests.faults.scene import NewScene, Scene
from tests.support.databases import TestDatabase
from tests.support.versions import Deployment, failed_tasks
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults

SHARDS = 2


async def until_run_by(scene: Scene, deployment: Deployment, *build_ids: str) -> None:
    """Waits until the shards are run by these versions, each by its own."""

    async def there() -> None:
        found = [await scene.handle.version_of(shard) for shard in range(SHARDS)]
        versions = [one.version.build_id if one and one.version else None for one in found]
        assert versions == list(build_ids), versions

    await assert_eventually(there, within=120)


async def findings_of_shards(scene: Scene) -> list[Finding]:
    return [one for one in await check(scene.client, scene.handle) if one.subject.startswith("shard")]


async def assert_no_task_failed(scene: Scene) -> None:
    for shard in range(SHARDS):
        assert await failed_tasks(scene.client, batcher_workflow_id(scene.name, shard)) == []
    assert re.findall("(?i)non-?determinis.*", scene.logs()) == []


async def test_there_and_back_under_load_and_while_the_database_is_down(
    continuing_client: Client, postgres: Postgres, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    deployment = Deployment(continuing_client)
    scene = await new_scene(continuing_client, postgresql, shards=SHARDS)
    first = await scene.start_batcher(version=(deployment.name, "v1"), answers=False)
    async with scene.load(rate=5):
        await deployment.make_current("v1")
        await scene.until_some_notified(10)
        second = await scene.start_batcher(version=(deployment.name, "v2"), another=True)
        await scene.until_some_notified(10)
        await deployment.make_current("v2")
        await until_run_by(scene, deployment, "v2", "v2")
        await scene.until_some_notified(10)
        await postgres.stop()

        async def met() -> None:
            failures = [one.flush_failures for one in await scene.stats()]
            assert min(failures) > 0, failures

        await assert_eventually(met, within=90)
        await deployment.make_current("v1")
        await until_run_by(scene, deployment, "v1", "v1")
        await postgres.start()
        await scene.until_some_notified(10)
        await deployment.make_current("v2")
        await until_run_by(scene, deployment, "v2", "v2")
        assert await first.terminate() == 0
        await scene.until_some_notified(10)
    await scene.until_notified()
    stats = await scene.stats()
    print(
        f"\nthere, back and there again: {len(scene.asked)} writes, "
        f"{sum(one.continue_as_new + 1 for one in stats)} runs; {scene.verdicts()}"
    )
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    await assert_no_task_failed(scene)
    assert await second.terminate() == 0


async def test_an_override_and_workers_that_are_gone_too_early(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    deployment = Deployment(client)
    scene = await new_scene(client, postgresql, shards=SHARDS)
    held, free = (batcher_workflow_id(scene.name, shard) for shard in range(SHARDS))
    first = await scene.start_batcher(version=(deployment.name, "v1"), answers=False)
    await deployment.make_current("v1")
    await scene.until_shards_answer()
    await deployment.override(held, deployment.pinned_to("v1"))
    second = await scene.start_batcher(version=(deployment.name, "v2"), another=True)
    await deployment.make_current("v2")
    await until_run_by(scene, deployment, "v1", "v2")
    await scene.until_notified(scene.ask_each(count=5))
    assert [one.continue_as_new for one in await scene.stats()] == [0, 1], "an override is inherited: no shard loops"
    overridden, fine = await findings_of_shards(scene)
    assert (overridden.level, fine.level) == (Level.WARNING, Level.OK)
    assert "an operator's override (pinned) keeps it" in overridden.text

    await first.kill()
    waiting = scene.ask_each(count=5)

    async def named() -> None:
        gone, fine = await findings_of_shards(scene)
        assert (gone.level, fine.level) == (Level.FAILED, Level.OK)
        assert f"{held} is pinned to version {deployment.name}.v1, and no worker of it answers" in gone.text
        assert "--versioning-override-build-id v2`" in gone.text

    await assert_eventually(named, within=60)
    # The one remedy: old workers again. The run goes on where it was; without the override it may then change.
    first = await scene.start_batcher(version=(deployment.name, "v1"))
    await scene.until_notified(waiting)
    await deployment.override(held, None)
    await until_run_by(scene, deployment, "v2", "v2")
    assert await first.terminate() == 0

    # The other: a version that agrees with theirs on the commands takes the runs over in their middle.
    await second.kill()
    third = await scene.start_batcher(version=(deployment.name, "v3"), another=True, answers=False)
    await deployment.make_current("v3")
    waiting = scene.ask_each(count=5)
    for workflow_id in (held, free):
        await deployment.override(workflow_id, deployment.moved_once_to("v3"))
    await until_run_by(scene, deployment, "v3", "v3")
    await scene.until_notified(waiting)
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    await assert_no_task_failed(scene)
    assert await third.terminate() == 0
