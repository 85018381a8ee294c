"""`SqlSink.check` says whether the database takes writes now, and changes nothing."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from temporal_batching import SinkConfigurationError, SinkUnavailable
from temporal_batching.contract import Record, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase
from tests.support.observing import unreachable

BATCH = Batch([WriteRequest("r-1", [Record("entries", {"n": 1})])], id="main-0.0/1")


async def test_a_database_that_answers_says_its_time(database: TestDatabase) -> None:
    sink = database.sink()
    await sink.open()
    clock = await sink.check()
    if database.dialect == "sqlite":
        assert clock is None
    else:
        assert clock is not None
        assert abs(clock.timestamp() - time.time()) < 2


async def test_a_ledger_that_was_lost_is_named_and_not_created_again(database: TestDatabase) -> None:
    sink = database.sink()
    await sink.open()
    database.execute("DROP TABLE batching_ledger")
    for _ in range(2):
        with pytest.raises(SinkConfigurationError, match="was dropped"):
            await sink.check()


async def test_a_database_that_another_session_has_locked_is_unavailable_soon(database: TestDatabase) -> None:
    sink = database.sink(lock_timeout=timedelta(seconds=30))
    await sink.open()
    if database.dialect == "sqlite":  # readers do not wait there: it is reached
        with database.locked("batching_ledger"):
            assert await sink.check() is None
        return
    began = time.monotonic()
    with database.locked("batching_ledger"), pytest.raises(SinkUnavailable):
        await sink.check()
    assert time.monotonic() - began < 8
    assert await sink.check() is not None


async def test_a_database_out_of_reach_is_unavailable_until_it_is_back(postgresql: TestDatabase) -> None:
    postgresql.execute("CREATE TABLE entries (n int)")
    sink = postgresql.sink()
    await sink.open()
    with unreachable(postgresql), pytest.raises(SinkUnavailable, match=r"^postgresql: "):
        await sink.check()
    assert await sink.check() is not None
    assert [outcome.kind for outcome in await sink.write(BATCH)] == ["written"]
