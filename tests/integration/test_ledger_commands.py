"""`lookup` says what the ledger knows; `prune` forgets what is old, and nothing that may still be submitted."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching import BatcherHandle
from temporal_batching.cli.console import CommandError
from temporal_batching.cli.ledger_box import look_up, prune_old_ids
from temporal_batching.contract import Record, WriteRequest
from temporal_batching.settings import BatcherSettings, SettingsError, load
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.ledger import DEFAULT_LEDGER
from temporal_batching.sinks.sql.ledger import ledger_table
from temporal_batching.sinks.sql.pruning import PAGE, Pruned, prune_ledger
from tests.support.databases import TestDatabase
from tests.support.service import entry, running

DAY = 86_400.0
NOW = datetime.now(UTC).replace(microsecond=0)
IDS = f"SELECT request_id FROM {DEFAULT_LEDGER} WHERE request_id <> '' ORDER BY request_id"
IDENTITY = f"SELECT count(*) FROM {DEFAULT_LEDGER} WHERE request_id = ''"


async def write(database: TestDatabase, *request_ids: str, age: float = 0.0, table: str = "entries") -> None:
    """Writes requests as they were written some time ago."""
    sink = database.sink(clock=lambda: NOW.timestamp() - age)
    await sink.open()
    requests = [WriteRequest(request_id, [Record(table, {"n": 1})]) for request_id in request_ids]
    outcomes = await sink.write(Batch(requests, id="main-0.3f9a2c71/17"))
    assert {str(outcome.kind) for outcome in outcomes} <= {"written", "rejected"}


def settings_for(database: TestDatabase, **others: Any) -> BatcherSettings:
    return load({"sink": database.url, **others})


@pytest.fixture
def entries(database: TestDatabase) -> TestDatabase:
    database.execute("CREATE TABLE entries (n integer)")
    return database


async def test_a_lookup_says_what_the_ledger_knows(entries: TestDatabase, capsys: pytest.CaptureFixture[str]) -> None:
    await write(entries, "a", "b")
    assert await look_up(settings_for(entries), ["b", "a"], as_json=False) == 0
    at = NOW.isoformat(sep=" ", timespec="milliseconds")
    lines = [f"{request_id}  written  batch main-0.3f9a2c71/17  {at}" for request_id in ("b", "a")]
    assert capsys.readouterr().out.splitlines() == lines
    assert await look_up(settings_for(entries), ["a", "c\x00"], as_json=True) == 1
    known, unknown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (known["outcome"], known["batch_id"], known["committed_at"]) == (
        "written",
        "main-0.3f9a2c71/17",
        NOW.isoformat(),
    )
    assert unknown == {"request_id": "c\x00", "known": False}


async def test_the_row_with_the_identity_is_no_request(
    entries: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    await write(entries, "a")
    assert await look_up(settings_for(entries), [""], as_json=False) == 1
    assert "not in the ledger" in capsys.readouterr().out


async def test_a_ledger_that_is_not_there_is_named_and_not_created(database: TestDatabase) -> None:
    with pytest.raises(CommandError, match=f"Cannot use the ledger {DEFAULT_LEDGER} in"):
        await look_up(settings_for(database), ["a"], as_json=False)
    assert not sa.inspect(database.engine).has_table(DEFAULT_LEDGER)
    with pytest.raises(SettingsError, match="only a database has a ledger"):
        await look_up(load({}), ["a"], as_json=False)


async def test_old_ids_are_deleted_and_no_others(
    client: Client, entries: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    await write(entries, "old-1", "old-2", age=31 * DAY)
    await write(entries, "new", age=29 * DAY)
    settings, age = settings_for(entries), timedelta(days=30)
    assert await prune_old_ids(client, settings, age, dry_run=True) == 0
    assert entries.rows(IDS) == [("new",), ("old-1",), ("old-2",)]
    assert await prune_old_ids(client, settings, age) == 0
    assert entries.rows(IDS) == [("new",)]
    assert entries.scalar(IDENTITY) == 1, "the ledger is still the same one"
    dry, done = capsys.readouterr().out.splitlines()
    assert dry.startswith(f"2 ids of 3 would be deleted from {DEFAULT_LEDGER}: entered before ")
    assert done.startswith(f"2 ids of 3 deleted from {DEFAULT_LEDGER}: entered before ")


async def test_an_age_within_which_a_request_may_still_wait_is_refused(client: Client, entries: TestDatabase) -> None:
    """By the settings, and by what the shards that run have been given."""
    await write(entries, "old", age=31 * DAY)
    settings = settings_for(entries, confirmation_timeout="10m", flush_timeout="30s")
    with pytest.raises(SettingsError, match="--older-than 10m: more than 630s"):
        await prune_old_ids(client, settings, timedelta(minutes=10))
    async with running(client, entries.sink()) as service:
        await service.handle.configure(load({"confirmation_timeout": "2h", "flush_timeout": "1m"}).policy())
        settings = settings_for(entries, name=service.name, task_queue=service.queue)
        with pytest.raises(SettingsError, match="--older-than 60m: more than 121m"):
            await prune_old_ids(client, settings, timedelta(hours=1))
        assert entries.rows(IDS) == [("old",)]
        assert await prune_old_ids(client, settings, timedelta(hours=3)) == 0
    assert entries.rows(IDS) == []


async def test_a_shard_that_does_not_run_hides_no_limit_of_the_others(client: Client, entries: TestDatabase) -> None:
    await write(entries, "old", age=31 * DAY)
    async with running(client, entries.sink(), shards=2) as service:
        await service.handle.configure(load({"confirmation_timeout": "2h", "flush_timeout": "1m"}).policy())
        await service.shard(0).terminate()
        settings = settings_for(entries, name=service.name, task_queue=service.queue, shards=3)
        with pytest.raises(SettingsError, match="--older-than 60m: more than 121m"):
            await prune_old_ids(client, settings, timedelta(hours=1))
    assert entries.rows(IDS) == [("old",)]


async def test_shards_beyond_those_of_the_settings_are_asked_too(client: Client, entries: TestDatabase) -> None:
    await write(entries, "old", age=31 * DAY)
    async with running(client, entries.sink(), shards=2) as service:
        await service.handle.configure(load({"confirmation_timeout": "2h", "flush_timeout": "1m"}).policy())
        await BatcherHandle(client, service.name).configure(load({}).policy())
        settings = settings_for(entries, name=service.name, task_queue=service.queue)
        with pytest.raises(SettingsError, match="--older-than 60m: more than 121m"):
            await prune_old_ids(client, settings, timedelta(hours=1))
    assert entries.rows(IDS) == [("old",)]


async def test_the_limits_of_a_terminated_shard_count_while_it_answers(client: Client, entries: TestDatabase) -> None:
    """Its callers may resubmit within them."""
    await write(entries, "old", age=31 * DAY)
    async with running(client, entries.sink()) as service:
        await service.handle.configure(load({"confirmation_timeout": "2h", "flush_timeout": "1m"}).policy())
        await service.shard(0).terminate()
        settings = settings_for(entries, name=service.name, task_queue=service.queue)
        with pytest.raises(SettingsError, match="--older-than 60m: more than 121m"):
            await prune_old_ids(client, settings, timedelta(hours=1))
    assert entries.rows(IDS) == [("old",)]


# It fails before it looks at a database: one kind is enough.
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_nothing_is_deleted_while_a_shard_cannot_be_asked(client: Client, entries: TestDatabase) -> None:
    """It may have requests that wait for its worker since before that age."""
    await write(entries, "old", age=31 * DAY)
    async with running(client, entries.sink(), batcher=False) as service:
        await service.handle.start(load({}).policy())
        settings = settings_for(entries, name=service.name, task_queue=service.queue)
        with pytest.raises(CommandError, match=f"batcher-{service.name}-0 runs, but no worker answers for it"):
            await prune_old_ids(client, settings, timedelta(days=30))
    assert entries.rows(IDS) == [("old",)]


async def test_an_age_that_no_date_has_is_refused(client: Client, entries: TestDatabase) -> None:
    with pytest.raises(SettingsError, match="before the year 1"):
        await prune_old_ids(client, settings_for(entries), timedelta(days=999_999))


async def test_an_interrupted_command_deletes_nothing_after_its_transaction(
    client: Client, entries: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C cancels the command: who has mistyped an age keeps what is not deleted yet."""
    pages = 4
    await write(entries, *(f"old-{n:05}" for n in range(pages * PAGE)), age=31 * DAY)
    loop, reached, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def hold(connection: sa.Connection) -> None:
        if not go_on.is_set():
            loop.call_soon_threadsafe(reached.set)
            assert go_on.wait(30)

    threads = ThreadPoolExecutor()
    loop.set_default_executor(threads)
    sa.event.listen(sa.Engine, "commit", hold)
    try:
        command = asyncio.create_task(prune_old_ids(client, settings_for(entries), timedelta(days=30)))
        await asyncio.wait_for(reached.wait(), 30)
        command.cancel()
        await asyncio.wait([command], timeout=0.2)  # it has taken notice, and may wait for its thread
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await command
    finally:
        go_on.set()
        threads.shutdown()  # whatever a thread still does is done
        sa.event.remove(sa.Engine, "commit", hold)
        loop.set_default_executor(ThreadPoolExecutor())
    assert len(entries.rows(IDS)) == (pages - 1) * PAGE
    assert capsys.readouterr().out.startswith("interrupted: 5,000 ids of 5,000 deleted from")


async def test_a_ledger_is_pruned_in_small_transactions_beside_its_batcher(
    client: Client, entries: TestDatabase
) -> None:
    old = [f"old-{n:04}" for n in range(1_000)]
    await write(entries, *old, age=31 * DAY)
    seen: list[Pruned] = []
    async with running(client, entries.sink()) as service:
        writes = asyncio.create_task(service.call("activity", [entry(n) for n in range(50)]))
        ledger = ledger_table(DEFAULT_LEDGER, schemas=entries.dialect == "postgresql")
        before = NOW - timedelta(days=30)
        done = await asyncio.to_thread(prune_ledger, entries.engine, ledger, before, page=100, progress=seen.append)
        assert [one.outcome for one in await writes] == ["written"] * 50
    assert done.old == 1_000
    assert len(seen) >= 10
    assert max(later.old - earlier.old for earlier, later in pairwise(seen)) <= 100
    assert len(entries.rows(IDS)) == 50


async def test_what_an_interrupted_run_deleted_stays_deleted_and_the_next_one_goes_on(entries: TestDatabase) -> None:
    await write(entries, *(f"old-{n:02}" for n in range(30)), age=31 * DAY)
    ledger = ledger_table(DEFAULT_LEDGER, schemas=entries.dialect == "postgresql")
    before = NOW - timedelta(days=30)

    def interrupt(pruned: Pruned) -> None:
        if pruned.old >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_ledger(entries.engine, ledger, before, page=10, progress=interrupt)
    assert len(entries.rows(IDS)) == 10
    assert prune_ledger(entries.engine, ledger, before, page=10).old == 10
    assert entries.rows(IDS) == []


async def test_an_id_that_was_forgotten_is_written_again(entries: TestDatabase) -> None:
    """The price of pruning, as the documents say."""
    await write(entries, "a", age=31 * DAY)
    ledger = ledger_table(DEFAULT_LEDGER, schemas=entries.dialect == "postgresql")
    prune_ledger(entries.engine, ledger, NOW - timedelta(days=30))
    await write(entries, "a")
    assert entries.scalar("SELECT count(*) FROM entries") == 2
