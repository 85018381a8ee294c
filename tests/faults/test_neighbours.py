"""One request's trouble in the database, through a whole batcher: others are confirmed in time, it gets its word."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching.audit.rules import CallResult
from tests.faults.scene import NewScene
from tests.support.callers import WAYS_IN
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.faults

IN_TIME = 22.0
"""Seconds: the first batch waits for the lock for 10, a flush lasts 30 at most, and the callers wait for 60."""


async def test_a_locked_row_and_an_invalid_one_delay_no_other_request(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql)
    postgresql.execute(
        "CREATE TABLE parents (id integer PRIMARY KEY);;INSERT INTO parents VALUES (1);;"
        "CREATE TABLE children (n integer, parent integer REFERENCES parents);;"
        "CREATE FUNCTION poison() RETURNS trigger AS $$ BEGIN RAISE 'poison' USING ERRCODE = 'UE001'; END $$"
        " LANGUAGE plpgsql;;"
        "CREATE TRIGGER poison BEFORE INSERT ON children FOR EACH ROW WHEN (new.n = 13) EXECUTE FUNCTION poison()"
    )
    await scene.start_batcher(linger="1s")
    with postgresql.engine.connect() as outsider:
        outsider.execute(sa.text("SELECT * FROM parents WHERE id = 1 FOR UPDATE"))
        # Ids of their own, and so no keys: no request waits for the locked ones because of the order.
        locked = [
            scene.ask(way_in, request_id=f"{scene.name}-locked-{way_in}", poison=["children", {"n": 1, "parent": 1}])
            for way_in in WAYS_IN
        ]
        poisoned = [
            scene.ask(way_in, request_id=f"{scene.name}-poisoned-{way_in}", poison=["children", {"n": 13}])
            for way_in in WAYS_IN
        ]
        neighbours = [
            scene.ask(way_in, request_id=f"{scene.name}-{n}-{way_in}") for n in range(6) for way_in in WAYS_IN
        ]
        await scene.until_notified([*poisoned, *neighbours], within=40)
        (stats,) = await scene.stats()
        assert [one.result for one in locked] == [None] * len(locked)
    await scene.until_notified(locked, within=30)
    waited = max(one.notified_at - one.asked_at for one in [*poisoned, *neighbours])
    print(f"\nneighbours told within {waited:.1f} s; {stats.batches} batches, {stats.retries} retries")
    await scene.audit()
    assert {one.verdict for one in neighbours} == {CallResult.WRITTEN}
    assert {one.verdict for one in poisoned} == {CallResult.REJECTED}
    assert all(one.result and one.result.reason.endswith("poison") for one in poisoned)
    assert {one.verdict for one in locked} == {CallResult.WRITTEN}
    assert stats.retries > 0
    assert waited < IN_TIME
    assert postgresql.scalar("SELECT count(*) FROM children") == len(locked)
