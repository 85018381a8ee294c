"""The batcher's worker dies while callers add to one hot row, update and delete: each change is made exactly once."""

from __future__ import annotations

import pytest
from temporalio.client import Client

from temporal_batching.audit import audit
from temporal_batching.settings import load
from tests.faults.changing import HOT, TABLES
from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase
from tests.support.fault_points import FaultPoint
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("point", "database"),
    [
        (FaultPoint.BEFORE_COMMIT, "postgresql"),
        (FaultPoint.AFTER_COMMIT, "postgresql"),
        (FaultPoint.AFTER_COMMIT, "sqlite"),
        (FaultPoint.AFTER_COMMIT, "mariadb"),
    ],
    indirect=["database"],
)
async def test_each_of_many_additions_to_a_hot_row_is_made_once(
    point: FaultPoint, database: TestDatabase, client: Client, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database, changes=True)
    first = await scene.start_batcher(fault=point, after=1, linger="300ms", max_batch_size="20")
    scene.ask_each(count=30)
    await first.dies()
    await scene.start_batcher(linger="300ms", max_batch_size="20", max_in_flight="3")
    scene.ask_each(count=10)
    await scene.until_notified()
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    assert database.scalar(f"SELECT n FROM {HOT}") > 60

    async def as_operators_see_it() -> None:
        report = await audit(
            client, database.url, batcher=scene.name, task_queue=scene.queue, complete=True,
            query=f"TaskQueue = '{scene.callers_queue}'", tables=load({"tables": TABLES}).tables,
        )  # fmt: skip
        assert report.holds, report.violations
        assert report.requests == len(scene.asked)
        assert not {what: count for what, count in report.unchecked.items() if "sums" in what}

    await assert_eventually(as_operators_see_it, within=30)
