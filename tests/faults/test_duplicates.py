"""One request asked for again and again, over everything that happens to a batcher: it is written once."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle

from temporal_batching.audit.rules import CallResult
from tests.faults.auditing import verdicts
from tests.faults.scene import NewScene, Scene
from tests.support.callers import WAYS_IN, CallerResult, Resettable
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults


async def test_an_id_is_written_once_however_often_and_wherever_it_is_asked_for(
    continuing_client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(continuing_client, database, callers=False)
    batcher, callers = await scene.start_batcher(), await scene.start_main_worker()

    first = scene.ask_each(count=4)
    beside = [scene.ask(way_in, again=one) for one in first for way_in in WAYS_IN]
    await scene.until_notified()
    assert verdicts([*first, *beside]) == {"written": len(first), "duplicate": len(beside)}

    again = [scene.ask(way_in, again=one) for one in first for way_in in WAYS_IN]
    await scene.until_notified()
    assert verdicts(again) == {"duplicate": len(again)}

    await _continue_as_new(scene)
    later = [scene.ask(way_in, again=one) for one in first for way_in in WAYS_IN]
    await scene.until_notified()
    others = [scene.ask(way_in, request_id=one.request_id) for one in first for way_in in WAYS_IN]
    await scene.until_notified()
    assert verdicts(later) == {"duplicate": len(later)}
    assert verdicts(others) == {"rejected": len(others)}

    # In the buffer of a batcher of one shard, and asked for again where there are three.
    await scene.handle.pause()
    waiting = scene.ask_each(count=4)
    await scene.until_pending(len(waiting))
    await batcher.kill()
    await callers.kill()
    scene.shards = 3
    await scene.start_batcher()
    await scene.start_main_worker()
    resharded = [scene.ask(way_in, again=one) for one in [*first, *waiting] for way_in in WAYS_IN]
    await scene.handle.resume()
    await scene.until_notified()
    print(f"\n{database.dialect}: {len({one.request_id for one in scene.asked})} ids, {scene.verdicts()}")
    assert verdicts([*waiting, *resharded]) == {"written": len(waiting), "duplicate": len(resharded)}
    await scene.audit()


async def _continue_as_new(scene: Scene) -> None:
    before = (await scene.stats())[0].continue_as_new

    async def continued() -> None:
        scene.ask("signal")
        assert (await scene.stats())[0].continue_as_new > before

    await assert_eventually(continued, within=30, every=0.2)


@pytest.mark.parametrize("when", ["pending", "written"])
async def test_a_caller_that_is_reset_does_not_write_twice(
    when: str, client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database)
    batcher = await scene.start_batcher()
    if when == "pending":
        await scene.handle.pause()
    callers = {}
    for way_in in WAYS_IN:
        asked, write = scene.new_write(way_in)
        callers[way_in] = asked, await scene.start(Resettable.run, scene.job(way_in, write), asked)
    if when == "pending":
        await scene.until_pending(len(callers))
        await batcher.kill()
    for way_in, (asked, handle) in callers.items():
        if when == "pending":
            asked.learned_nothing()
        else:
            asked.was_notified((await _told(handle))[0])
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id),
                reason="a test",
                workflow_task_finish_event_id=4,
                request_id=f"{scene.name}-{way_in}",
            )
        )
    if when == "pending":
        await scene.start_batcher()
        await scene.handle.resume()
    for way_in, (asked, handle) in callers.items():
        again, _ = scene.new_write(way_in, again=asked)
        # By signal, the first run's confirmation comes along into the second: one caller, one confirmation.
        again.caller = asked.caller
        again.was_notified((await _told(client.get_workflow_handle(handle.id)))[0])
        await client.get_workflow_handle(handle.id).signal(Resettable.finish)
    print(f"\nreset when {when}, {database.dialect}: {scene.verdicts()}")
    await scene.audit()
    expected = {CallResult.WRITTEN, CallResult.DUPLICATE}
    assert {one.verdict for one in scene.asked} <= expected | (
        {CallResult.NOT_CONFIRMED} if when == "pending" else set()
    )


async def _told(handle: WorkflowHandle[Any, Any]) -> list[CallerResult]:
    found: list[CallerResult] = []

    async def check() -> None:
        found[:] = await handle.query(Resettable.results)
        assert found

    await assert_eventually(check, within=30)
    return found


async def test_a_caller_whose_attempt_is_repeated_while_its_request_waits_is_notified_once(
    client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database)
    await scene.start_batcher(linger="6s")
    scene.ask_each(["activity", "local"], count=8, attempt_timeout=1.0)
    await scene.until_notified()
    attempts = [await scene.attempts(one) for one in scene.asked]
    print(f"\n{database.dialect}: {min(attempts)} to {max(attempts)} attempts each, {scene.verdicts()}")
    assert min(attempts) > 1
    assert scene.verdicts() == {"written": len(scene.asked)}
    await scene.audit()
