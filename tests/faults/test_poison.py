"""Many bad requests among good ones: each bad one is rejected with its reason, and costs the good ones nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from temporalio.client import Client

from temporal_batching.audit.rules import CallResult
from tests.faults.scene import NewScene
from tests.support.callers import WAYS_IN
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.faults

Row = list[Any]

BAD: dict[str, Row] = {
    "unknown table": ["nowhere", {"n": 1}],
    "the ledger": ["batching_ledger", {"request_id": "x", "status": "written"}],
    "a table of the system": ["pg_class", {"relname": "x"}],
    "a table's name with SQL": ["picky; DROP TABLE picky", {"n": 1}],
    "unknown column": ["picky", {"n": 1, "m": 1}],
    "a column's name with SQL": ["picky", {'n") VALUES (1); --': 1}],
    "a value is missing": ["picky", {"note": "x"}],
    "null": ["picky", {"n": None}],
    "text for a number": ["picky", {"n": "one"}],
    "a fraction for a whole number": ["picky", {"n": 1.5}],
    "an object for a number": ["picky", {"n": {"a": [1]}}],
    "a number that is too large": ["picky", {"n": 2**70}],
    "check": ["picky", {"n": -1}],
    "unique": ["picky", {"n": 1, "code": "taken"}],
    "a date that does not exist": ["picky", {"n": 1, "day": "2026-02-30"}],
    "too large a request": ["picky", {"n": 1, "note": "x" * 40_000}],
    "no name": ["", {"n": 1}],
    "nested too deeply": ["picky", {"n": 1, "note": "x", "more": [[[[[[[[[[1]]]]]]]]]]}],
}
ONLY_POSTGRESQL: dict[str, Row] = {
    "foreign key": ["picky", {"n": 1, "parent": 7}],
    "out of a small number's range": ["picky", {"n": 1, "small": 40_000}],
    "a character that is none": ["picky", {"n": 1, "note": "a\x00b"}],
    "half a character": ["picky", {"n": 1, "note": "\ud800"}],
    "too long a text": ["picky", {"n": 1, "short": "four"}],
    "a trigger's own words": ["picky", {"n": 13}],
}


@pytest.mark.parametrize("with_retries", [False, True], ids=["at once", "in full batches"])
async def test_each_invalid_request_is_rejected_with_its_reason_and_every_other_one_is_written(
    with_retries: bool, client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database)
    database.execute(
        "CREATE TABLE parents (id integer PRIMARY KEY)"
        ";;CREATE TABLE picky (n integer NOT NULL CHECK (n > 0), code text UNIQUE, note text, day date,"
        " small smallint, short varchar(3), parent integer REFERENCES parents)"
        ";;INSERT INTO picky (n, code) VALUES (1, 'taken')"
    )
    bad = dict(BAD)
    if database.dialect == "postgresql":
        bad |= ONLY_POSTGRESQL
        database.execute(
            "CREATE FUNCTION unlucky() RETURNS trigger AS $$ BEGIN IF NEW.n = 13 THEN RAISE EXCEPTION 'unlucky';"
            " END IF; RETURN NEW; END $$ LANGUAGE plpgsql"
            ";;CREATE TRIGGER unlucky BEFORE INSERT ON picky FOR EACH ROW EXECUTE FUNCTION unlucky()"
        )
    linger = "2s" if with_retries else "0s"
    await scene.start_batcher(linger=linger, max_batch_bytes="32KiB")
    good, poisoned = [], []
    for kind, row in bad.items():
        for way_in in WAYS_IN:
            # The bad record goes with a good one, which must not be there afterwards.
            poisoned.append((kind, scene.ask(way_in, poison=row)))
            good += [scene.ask(way_in), scene.ask(way_in)]
    await scene.until_notified()
    codes = Counter(f"{one.result.code}" for _, one in poisoned if one.result)
    (stats,) = await scene.stats()
    print(f"\n{database.dialect}: {len(good)} good, {len(poisoned)} bad, {stats.batches} batches; {dict(codes)}")
    await scene.audit()
    assert [one.request_id for one in good if one.verdict is not CallResult.WRITTEN] == []
    assert [(kind, one.way_in, one.result) for kind, one in poisoned if one.verdict is not CallResult.REJECTED] == []
    assert [(kind, one.result) for kind, one in poisoned if one.result and not one.result.reason] == []
    assert database.scalar("SELECT count(*) FROM picky") == 1


async def test_one_id_with_different_records_is_written_once(
    client: Client, database: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, database)
    await scene.start_batcher()
    for number in range(20):
        for way_in in WAYS_IN:
            scene.ask(way_in, request_id=f"shared-{number}")
    await scene.until_notified()
    print(f"\n{database.dialect}: {scene.verdicts()}")
    await scene.audit()
    assert scene.verdicts() == {"written": 20, "rejected": 40}
