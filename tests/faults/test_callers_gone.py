"""Callers that end in every way while their writes wait, and a batcher's worker that is killed meanwhile."""

from __future__ import annotations

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from temporal_batching.audit.rules import CallResult
from tests.faults.auditing import TABLE, Asked
from tests.faults.callers import Leaver
from tests.faults.scene import NewScene
from tests.support.callers import WAYS_IN, Caller, Carry, Continuer
from tests.support.databases import TestDatabase
from tests.support.fault_points import FaultPoint
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults


async def test_callers_that_are_gone_cost_the_others_nothing(
    client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database)
    batcher = await scene.start_batcher()
    await scene.handle.pause()
    stay = scene.ask_each(count=2)
    gone: dict[str, list[Asked]] = {}
    handles = {}
    for kind, run in {
        "terminated": Caller.run,
        "cancelled": Caller.run,
        "left": Leaver.run,
        "continued": Continuer.run,
    }.items():
        for way_in in [*WAYS_IN, *WAYS_IN]:
            asked, write = scene.new_write(way_in)
            job = scene.job(way_in, write)
            handles[asked.request_id] = await scene.start(run, Carry(job) if kind == "continued" else job, asked)
            gone.setdefault(kind, []).append(asked)
    everyone = len(scene.asked)
    await scene.until_pending(everyone)

    for asked in gone["terminated"]:
        await handles[asked.request_id].terminate()
    for asked in gone["cancelled"]:
        await handles[asked.request_id].cancel()
    for asked in gone["left"]:
        await handles[asked.request_id].signal(Leaver.leave)
        await handles[asked.request_id].result()
    for asked in gone["continued"]:
        await handles[asked.request_id].signal(Continuer.go_on)
    # What the cancelled take back is gone before the flush; what the continued ask for again is there already.
    await scene.until_pending(everyone - len(gone["cancelled"]))
    await batcher.kill()
    await scene.start_batcher()
    await scene.handle.resume()

    for asked in [*gone["terminated"], *gone["cancelled"], *gone["left"]]:
        asked.learned_nothing()
    for asked in gone["continued"]:
        asked.was_notified((await handles[asked.request_id].result())[-1])

    async def ended() -> None:
        for asked in gone["cancelled"]:
            description = await client.get_workflow_handle(handles[asked.request_id].id).describe()
            assert description.status == WorkflowExecutionStatus.CANCELED

    await assert_eventually(ended)
    await scene.until_notified()
    # It gives up the deliveries to callers that are gone before it has made these.
    for _ in range(3):
        await scene.until_notified(scene.ask_each())
    await scene.audit()
    (stats,) = await scene.stats()
    print(f"\n{database.dialect}: {stats.outcomes}, {stats.undelivered} undelivered; {scene.verdicts()}")
    written = {row[0] for row in database.rows(f"SELECT DISTINCT request_id FROM {TABLE}")}
    assert written == {asked.request_id for asked in scene.asked} - {asked.request_id for asked in gone["cancelled"]}
    assert {one.verdict for one in stay} == {CallResult.WRITTEN}
    assert {one.verdict for one in gone["continued"]} <= {CallResult.WRITTEN, CallResult.DUPLICATE}
    assert stats.undelivered == 0


@pytest.mark.parametrize("point", [FaultPoint.BEFORE_COMMIT, FaultPoint.AFTER_COMMIT])
async def test_callers_cancelled_while_their_batch_is_in_a_flush_that_dies(
    point: FaultPoint, client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    """The batch may be committed by then: its outcome stands, whatever its callers wanted meanwhile."""
    scene = await new_scene(client, database)
    batcher = await scene.start_batcher(fault=point)
    cancelled = [scene.new_write(way_in) for way_in in WAYS_IN for _ in range(2)]
    handles = [await scene.start(Caller.run, scene.job(asked.way_in, write), asked) for asked, write in cancelled]
    await batcher.dies()
    for handle in handles:
        await handle.cancel()
    stay = scene.ask_each()
    await scene.start_batcher()
    for asked, _ in cancelled:
        asked.learned_nothing()
    await scene.until_notified()
    await scene.audit()
    written = {row[0] for row in database.rows(f"SELECT DISTINCT request_id FROM {TABLE}")}
    stand = written & {asked.request_id for asked, _ in cancelled}
    print(f"\n{point}, {database.dialect}: {len(stand)} of {len(cancelled)} stand")
    assert {one.verdict for one in stay} == {CallResult.WRITTEN}
