"""Workers with versions: nothing is taken before one is current, and then it runs every shard, an idle one too.

What an operator does is done by the commands that the page about upgrades shows.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion

from temporal_batching import BatchPolicy, MemorySink
from temporal_batching.batcher import rollout
from temporal_batching.contract import ACTIVITY_FLUSH
from temporal_batching.health import Level, check, shards
from temporal_batching.testing.servers import find_temporal, free_port
from tests.support.observing import get
from tests.support.service import QUICK, Service, entry, running
from tests.support.versions import Deployment, failed_tasks
from tests.support.waiting import assert_eventually

SET_CURRENT = "temporal worker deployment set-current-version --deployment-name batcher"
OVERRIDE = "temporal workflow update-options --workflow-id batcher-main-0 --versioning-override-behavior"

CURRENT_1, CURRENT_2 = f"{SET_CURRENT} --build-id v1 --yes", f"{SET_CURRENT} --build-id v2 --yes"
SET_RAMPING = "temporal worker deployment set-ramping-version --deployment-name batcher --build-id v2"
RAMP, NO_RAMP = f"{SET_RAMPING} --percentage 100 --yes", f"{SET_RAMPING} --delete --yes"
UNVERSIONED = f"{SET_CURRENT} --unversioned --yes"
DESCRIBE = "temporal worker deployment describe-version --deployment-name batcher --build-id v1"
MOVE = (
    f"{OVERRIDE} one_time --versioning-override-deployment-name batcher --versioning-override-build-id v2"  # in a run
)
END_OVERRIDE = f"{OVERRIDE} unspecified"
COMMANDS = (CURRENT_1, CURRENT_2, RAMP, NO_RAMP, UNVERSIONED, DESCRIBE, MOVE, END_OVERRIDE)
"""As the page shows them: of the deployment ``batcher``, and of the shard ``batcher-main-0``."""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LOOK_INTERVAL", timedelta(milliseconds=200))
    monkeypatch.setattr(shards, "ANSWER_TIMEOUT", timedelta(seconds=2))


class Operator:
    """Runs the page's commands for a deployment and a batcher of a test's own."""

    def __init__(self, service: Service, deployment: Deployment) -> None:
        self._service = service
        self._deployment = deployment

    async def does(self, command: str) -> str:
        """Runs a command, as often as Temporal does not know the version by its pollers yet."""
        names = {"batcher": self._deployment.name, "batcher-main-0": self._service.shard().id}
        _, *words = (names.get(word, word) for word in shlex.split(command))
        address = self._service.client.service_client.config.target_host
        output = ""

        async def succeeds() -> None:
            nonlocal output
            process = await asyncio.create_subprocess_exec(
                find_temporal(),
                *words,
                *("--address", address),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output = (await process.communicate())[0].decode()
            assert process.returncode == 0, output

        await assert_eventually(succeeds, within=60, every=0.2)
        return output


async def until_run_by(service: Service, version: WorkerDeploymentVersion | None) -> None:
    async def there() -> None:
        found = await service.handle.version_of(0)
        assert found is not None
        assert found.version == version, found

    await assert_eventually(there, within=60)


async def findings(service: Service) -> dict[str, tuple[Level, str]]:
    return {finding.subject: (finding.level, finding.text) for finding in await check(service.client, service.handle)}


async def outcome(service: Service, way_in: str, n: int) -> str | None:
    return (await service.call(way_in, [entry(n)]))[0].outcome


@asynccontextmanager
async def beside(one: Service, policy: BatchPolicy = QUICK, **options: object) -> AsyncIterator[Service]:
    """Other workers of the same batcher, that write to the same sink."""
    other = Service(one.client, one.sink, policy, name=one.name, worker_options=options)
    await other.start_batcher()
    try:
        yield other
    finally:
        await other.stop_batcher()


async def test_a_shard_follows_the_current_version_of_its_workers(client: Client) -> None:
    """Callers and their gateway have no version. Before one is current they wait, whichever way they write."""
    deployment, sink = Deployment(client), MemorySink()
    v1, v2 = (deployment.version(build_id) for build_id in ("v1", "v2"))
    health = f"127.0.0.1:{free_port()}"
    options = deployment.options("v1")
    async with running(client, sink, batcher=False, worker_options=options, plugin_options={"health": health}) as one:
        operator = Operator(one, deployment)
        waiting = [asyncio.create_task(one.call(way_in, [entry(n)])) for n, way_in in enumerate(("activity", "local"))]
        starting = asyncio.create_task(one.start_batcher())

        async def named() -> None:
            level, text = (await findings(one)).get("version", (None, ""))
            assert level is Level.FAILED
            assert f"set-current-version --deployment-name {deployment.name} --build-id v1`" in text

        await assert_eventually(named, within=30)

        async def ready() -> None:
            status, body = await get(f"http://{health}/readyz")
            assert status == 200, body

        await assert_eventually(ready, within=30)  # or no rollout would get as far as to make it current
        assert not any(task.done() for task in waiting)
        await operator.does(CURRENT_1)
        await starting
        assert [(await task)[0].outcome for task in waiting] == ["written"] * 2
        await until_run_by(one, v1)
        assert all(level is Level.OK for level, _ in (await findings(one)).values())

        async with beside(one, replace(QUICK, max_batch_size=77), **deployment.options("v2")) as two:
            await operator.does(RAMP)
            await until_run_by(one, v2)  # no request arrives meanwhile
            assert (await one.stats()).policy["max_batch_size"] == QUICK.max_batch_size, "it is not current"
            await operator.does(NO_RAMP)
            await until_run_by(one, v1)
            await operator.does(CURRENT_2)
            await until_run_by(one, v2)
            after = await two.stats()
            assert (after.policy["max_batch_size"], after.continue_as_new) == (77, 3)
            assert await outcome(one, "signal", 2) == "written"

            await operator.does(CURRENT_1)  # back, with its own policy
            await until_run_by(one, v1)
            assert (await one.stats()).policy["max_batch_size"] == QUICK.max_batch_size
            assert "v1" in await operator.does(DESCRIBE)
            assert await failed_tasks(client, one.shard().id) == []


async def test_what_holds_a_shard_back_is_named_with_the_command_that_ends_it(client: Client) -> None:
    """An override, which is inherited; and workers that are gone too early. At the end there are no versions again."""
    deployment, sink = Deployment(client), MemorySink()
    v1, v2 = (deployment.version(build_id) for build_id in ("v1", "v2"))
    async with running(client, sink, batcher=False, worker_options=deployment.options("v1")) as one:
        operator = Operator(one, deployment)
        starting = asyncio.create_task(one.start_batcher())
        await operator.does(CURRENT_1)
        await starting
        await until_run_by(one, v1)
        await deployment.override(one.shard().id, deployment.pinned_to("v1"))
        async with beside(one, **deployment.options("v2")) as two:
            await operator.does(CURRENT_2)

            async def held() -> None:
                level, text = (await findings(two))["shard 0"]
                assert level is Level.WARNING
                assert text.endswith(f"To end it: `{END_OVERRIDE.replace('batcher-main-0', one.shard().id)}`")

            await assert_eventually(held, within=30)
            assert await outcome(one, "activity", 0) == "written"
            assert (await one.stats()).continue_as_new == 0
            await operator.does(END_OVERRIDE)
            await until_run_by(one, v2)

            await operator.does(CURRENT_1)
            await until_run_by(one, v1)
            await one.stop_batcher()
            await operator.does(CURRENT_2)

            async def gone() -> None:
                level, text = (await findings(two))["shard 0"]
                assert level is Level.FAILED
                move = MOVE.replace("batcher-main-0", one.shard().id).replace(
                    "-name batcher", f"-name {deployment.name}"
                )
                assert text.endswith(f"or move it: `{move}`")

            await assert_eventually(gone, within=30)
            await operator.does(MOVE)
            await until_run_by(two, v2)
            assert await outcome(one, "activity", 1) == "written"

            async with beside(one):
                await operator.does(UNVERSIONED)
                await until_run_by(one, None)
                assert await outcome(one, "activity", 2) == "written"
        assert await failed_tasks(client, one.shard().id) == []
    assert sorted(row["n"] for row in sink.rows["entries"]) == [0, 1, 2]


async def flushed_by(service: Service, first: int) -> set[str]:
    """The workers that ran the flushes of four writes, whose rows are numbered from ``first``."""
    for n in range(first, first + 4):
        assert await outcome(service, "activity", n) == "written"
    events = await service.events()
    scheduled = {e.event_id: e.activity_task_scheduled_event_attributes.activity_type.name for e in events}
    flushes = {event_id for event_id, name in scheduled.items() if name == ACTIVITY_FLUSH}
    started = [event.activity_task_started_event_attributes for event in events]
    return {one.identity for one in [one for one in started if one.scheduled_event_id in flushes][-4:]}


@pytest.mark.parametrize("apart", [False, True], ids=["of the same workers", "of workers without a version"])
async def test_a_shard_changes_its_version_while_flushes_have_a_queue(client: Client, apart: bool) -> None:
    """Its flushes are those of the version that runs it where its workers flush, and of any that flush where not."""
    deployment, sink = Deployment(client), MemorySink()
    flushes = {} if apart else {"flush_task_queue": f"{deployment.name}-flushes"}
    v1, v2 = ({"identity": build_id, **deployment.options(build_id)} for build_id in ("v1", "v2"))
    async with running(
        client, sink, batcher=False, worker_options=v1, flush_apart=apart, plugin_options=flushes
    ) as one:
        starting = asyncio.create_task(one.start_batcher())
        await deployment.make_current("v1")
        await starting
        await until_run_by(one, deployment.version("v1"))

        other = await Client.connect(client.service_client.config.target_host)  # a client has one worker for a queue
        two = Service(other, sink, QUICK, name=one.name, worker_options=v2, flush_apart=apart, plugin_options=flushes)
        try:
            await two.start_batcher()
            by = await flushed_by(one, 0)
            assert apart or by == {"v1"}
            await deployment.make_current("v2")
            await until_run_by(one, deployment.version("v2"))
            by = await flushed_by(one, 4)
            assert apart or by == {"v2"}
            # What goes while the first version's workers are away is flushed by those that are there.
            await one.stop_batcher()
            assert await outcome(one, "local", 8) == "written"
            assert (await two.stats()).flush_failures == 0
            found = await findings(two)
            subjects = ("flush queue", "version", "worker", "sink", "shard 0")
            assert {found[subject][0] for subject in subjects} == {Level.OK}
        finally:
            await two.stop_batcher()
        assert await failed_tasks(client, one.shard().id) == []
    assert sorted(row["n"] for row in sink.rows["entries"]) == list(range(9))
