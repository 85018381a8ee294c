"""No record value is logged above debug: not when its request is refused, nor when its batch cannot be written."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from temporalio.client import Client

from temporal_batching import MemorySink, SqlSink
from temporal_batching.contract import WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.callers import WAYS_IN, FailingCaller, Write
from tests.support.databases import TestDatabase
from tests.support.service import Service, running
from tests.support.waiting import assert_eventually

SECRET = "4711081500"
SCHEMA = """
CREATE TABLE entries (id varchar(40) PRIMARY KEY, owner varchar(30), amount numeric(10, 2) CHECK (amount > 0),
  n integer NOT NULL)
"""
REFUSED: dict[str, dict[str, Any]] = {
    "wrong type": {"id": "1", "n": f"x{SECRET}"},
    "check": {"id": f"2-{SECRET}", "owner": SECRET, "amount": f"-{SECRET[:5]}.{SECRET[:2]}", "n": 1},
    "null": {"id": f"3-{SECRET}", "owner": SECRET},
    "twice": {"id": f"seen-{SECRET}", "n": 1},
    "out of range": {"id": "5", "n": int(SECRET * 3)},
    "unknown column": {"id": "6", "n": 1, f"c{SECRET}"[:9]: SECRET},
    "surrogate": {"id": f"\ud800{SECRET}", "n": 1},
    "U+0000": {"id": f"\x00{SECRET}", "n": "y"},
    "not JSON": {"id": f"8-{SECRET}", "n": float("nan")},
}


def said(caplog: pytest.LogCaptureFixture) -> str:
    """Everything that was logged, as the fullest of formatters would write it."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    extras = [str(record.__dict__) for record in caplog.records if record.levelno > logging.DEBUG]
    return "\n".join([*(formatter.format(r) for r in caplog.records if r.levelno > logging.DEBUG), *extras])


async def test_a_refused_requests_values_are_not_logged(
    client: Client, database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(SCHEMA)
    async with running(client, SqlSink(database.url)) as service:
        first = await service.call("activity", [Write([["entries", {"id": f"seen-{SECRET}", "n": 1}]])])
        assert first[0].outcome == "written"
        caplog.set_level(logging.DEBUG)
        await asyncio.gather(*(_are_refused(service, way_in) for way_in in WAYS_IN))
    assert SECRET not in said(caplog)


async def _are_refused(service: Service, way_in: str) -> None:
    bad = [Write([["entries", values]]) for values in REFUSED.values()]
    good = [Write([["entries", {"id": f"{way_in}-{n}-{SECRET}", "n": n}]]) for n in range(3)]
    results = await service.call(way_in, [*bad, *good])
    assert [one.outcome for one in results] == ["rejected"] * len(bad) + ["written"] * 3, way_in
    failing = await service.run(FailingCaller.run, service.job(way_in, bad[1:2]))
    with pytest.raises(Exception, match="Workflow execution failed"):
        await failing.result()


class _Angry(MemorySink):
    """Breaks with the record in its words, as a sink of a user's may, and then is down with them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = True

    async def write(self, batch: Batch) -> Any:
        words = f"cannot write {_values(batch[0])}"
        if self.down:
            raise ValueError(words) if len(batch) == 1 and batch[0].request_id.startswith("bad") else KeyError(words)
        return await super().write(batch)


def _values(request: WriteRequest) -> object:
    return dict(request.records[0].values)


async def test_a_sink_that_quotes_a_record_when_it_breaks_is_not_quoted_in_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor to the caller, nor in history: what it raises is no verdict. At level debug its text is there."""
    caplog.set_level(logging.DEBUG)
    async with running(client, _Angry()) as service:
        write = Write([["entries", {"id": SECRET}]], request_id="bad")
        (result,) = await service.call("activity", [write], timeout=8.0)
    assert result.error == "WriteExpired"
    assert SECRET not in result.reason
    assert "_Angry.write raised ValueError at" in said(caplog)
    assert SECRET not in said(caplog)


async def test_an_outage_is_logged_without_the_values_that_wait(
    client: Client, database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(SCHEMA)
    sink = SqlSink(database.url, create_ledger=False)
    database.run_ddl(sink.ledger_ddl())
    async with running(client, sink) as service:
        database.execute("ALTER TABLE batching_ledger RENAME TO away")
        caplog.set_level(logging.DEBUG)
        caller = await service.start("activity", [Write([["entries", {"id": SECRET, "owner": SECRET, "n": 1}]])])

        async def down() -> None:
            assert (await service.stats()).sink_error

        await assert_eventually(down)
        database.execute("ALTER TABLE away RENAME TO batching_ledger")
        assert (await caller.result())[0].outcome == "written"
    assert "is requeued" in said(caplog)
    assert SECRET not in said(caplog)
