"""The database goes away, cuts connections, blocks, and refuses to write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching.audit.rules import CallResult
from tests.faults.auditing import TABLE, slow_down, verdicts
from tests.faults.processes import Postgres
from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults

DOWN = 30.0
"""Seconds without a database."""

OURS = "application_name = 'temporal-batching' AND datname = current_database()"


async def test_postgresql_is_killed_and_comes_back(
    client: Client, postgresql: TestDatabase, postgres: Postgres, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql)
    await scene.start_batcher()
    async with scene.load(rate=15):
        await scene.until_some_notified(15)
        await postgres.kill()
        down = time.time()
        hasty = scene.ask_each(count=3, timeout=8.0)
        unhurried = scene.ask_each(["activity", "local"], count=3, attempt_timeout=60.0)

        async def is_noticed() -> None:
            (stats,) = await scene.stats()
            assert (stats.breaker, stats.flush_failures > 2) == ("open", True)

        await assert_eventually(is_noticed)
        await asyncio.sleep(DOWN - (time.time() - down))
        tried = (await scene.stats())[0].flush_failures
        waiting = [one for one in scene.asked if one.result is None]
        await postgres.start()
        up = time.time()
    await scene.until_notified()
    print(
        f"\nPostgreSQL away for {up - down:.0f} s: {len(waiting)} waited, the last of them notified "
        f"{max(one.notified_at for one in waiting) - up:.1f} s after it was back; {tried} tries; {scene.verdicts()}"
    )
    await scene.audit()
    (stats,) = await scene.stats()
    assert stats.breaker == "closed"
    # At the pauses of these tests, a second at most, and not for each of those who wait.
    assert tried < 2 * DOWN
    assert [await scene.attempts(one) for one in unhurried] == [1] * len(unhurried)
    assert {one.verdict for one in hasty} <= {CallResult.EXPIRED, CallResult.NOT_CONFIRMED}
    assert max([await scene.waited(one) for one in hasty]) < 15
    assert {one.verdict for one in waiting} <= {CallResult.WRITTEN, CallResult.DUPLICATE}
    assert max(one.notified_at for one in waiting) - up < 20


async def test_postgresql_is_restarted_in_order_under_load(
    client: Client, postgresql: TestDatabase, postgres: Postgres, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql)
    await scene.start_batcher()
    async with scene.load(rate=15):
        for _ in range(3):
            await scene.until_some_notified(15)
            await postgres.stop()
            await postgres.start()
        await scene.until_some_notified(15)
    await scene.until_notified()
    waits = sorted(one.notified_at - one.asked_at for one in scene.asked)
    print(f"\nthree restarts: {waits[len(waits) // 2]:.1f} s (median), {waits[-1]:.1f} s at most; {scene.verdicts()}")
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    assert waits[-1] < 15


async def test_connections_are_cut_in_the_middle_of_transactions(
    client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql)
    # Each transaction takes a while, so that many are cut: one statement each, and a row that is read back from a table
    # with triggers has one of its own.
    scene.returning = False
    slow_down(postgresql, 0.3)
    await scene.start_batcher(linger="200ms")
    cut = 0
    async with scene.load(rate=15):
        await scene.until_some_notified(5)
        while cut < 12:
            cut += postgresql.scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                f" WHERE {OURS} AND state <> 'idle' AND xact_start < now() - interval '100 ms'"
            )
            await asyncio.sleep(0.15)
    calm = time.time()
    await scene.until_notified()
    stats = (await scene.stats())[0]
    print(
        f"\n{cut} connections cut in their transactions, {stats.flush_failures} flushes set back; all notified "
        f"{max(one.notified_at for one in scene.asked) - calm:.1f} s after the last; {scene.verdicts()}"
    )
    await scene.audit()
    assert stats.flush_failures > 0
    assert set(scene.verdicts()) <= {"written", "duplicate"}


@pytest.mark.parametrize("locked", [TABLE, "batching_ledger"])
async def test_a_flush_outlasts_its_timeout_behind_a_lock_and_then_goes_on(
    locked: str, client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    """An attempt whose caller has received `expired` must not write once the lock is released."""
    scene = await new_scene(client, postgresql)
    await scene.start_batcher(flush_timeout="3s")
    first = scene.ask_each(count=2)
    await scene.until_notified(first)
    waiting_for_lock = f"SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND wait_event_type = 'Lock'"
    with postgresql.engine.begin() as connection:
        connection.execute(sa.text(f"LOCK TABLE {locked} IN EXCLUSIVE MODE"))
        began = time.time()
        hasty = scene.ask_each(count=5, timeout=9.0)
        patient = scene.ask_each(count=5)

        async def waits_for_the_lock() -> None:
            assert postgresql.scalar(waiting_for_lock) > 0

        await assert_eventually(waits_for_the_lock)
        # Too late for the batch that is behind the lock. They are in the next one, which goes while that one pauses.
        late = scene.ask_each(count=2, timeout=6.0)
        await scene.until_notified([*hasty, *late], within=20)
        # The attempt of the patient waits, or the next one does: it will have the lock.
        await assert_eventually(waits_for_the_lock)
        held = time.time() - began
    freed = time.time()
    await scene.until_notified()

    async def every_attempt_is_over() -> None:
        busy = postgresql.scalar(f"SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND state <> 'idle'")
        assert busy == 0

    await assert_eventually(every_attempt_is_over, within=40)
    print(
        f"\n{locked} locked for {held:.1f} s: "
        f"hasty {verdicts(hasty)}, late {verdicts(late)}; the patient notified "
        f"{max(one.notified_at for one in patient) - freed:.1f} s after"
    )
    await scene.audit()
    assert max([await scene.waited(one) for one in hasty]) < 12
    # An attempt under way at the deadline, a fifth of a caller's time before its end, may take longer than that fifth.
    assert {one.verdict for one in [*hasty, *late]} <= {CallResult.EXPIRED, CallResult.NOT_CONFIRMED}
    assert {one.verdict for one in patient} <= {CallResult.WRITTEN, CallResult.DUPLICATE}


@pytest.mark.parametrize("scope", ["server", "database"])
async def test_a_database_that_became_read_only_is_waited_for(
    scope: str, client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, postgresql)
    await scene.start_batcher()
    await scene.until_notified(scene.ask_each(count=2))
    async with _read_only(postgresql, scope):
        patient = scene.ask_each(count=5)

        async def is_noticed() -> None:
            assert (await scene.stats())[0].breaker == "open"

        # A connection that is terminated may leave the batch that meets it in doubt: not that of the hasty.
        await assert_eventually(is_noticed)
        hasty = scene.ask_each(count=2, timeout=10.0)
        await scene.until_notified(hasty)
        (stats,) = await scene.stats()
        assert stats.breaker == "open"
        assert "read-only" in str(stats.sink_error)
    writable = time.time()
    await scene.until_notified(within=30)
    print(
        f"\nread-only {scope}: hasty {verdicts(hasty)}; the patient were notified "
        f"{max(one.notified_at for one in patient) - writable:.1f} s after it could be written again"
    )
    await scene.audit()
    # On a busy machine some receive it only after they have given up themselves.
    assert CallResult.EXPIRED in {one.verdict for one in hasty}
    assert {one.verdict for one in hasty} <= {CallResult.EXPIRED, CallResult.NOT_CONFIRMED}
    assert {one.verdict for one in patient} == {CallResult.WRITTEN}


@asynccontextmanager
async def _read_only(database: TestDatabase, scope: str) -> AsyncIterator[None]:
    name = database.engine.url.database
    target = "SYSTEM" if scope == "server" else f"DATABASE {name}"
    engine = sa.create_engine(database.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def execute(*statements: str) -> None:
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    # A setting of the server reaches sessions that are open; one of the database, those that are opened.
    then = (
        "SELECT pg_reload_conf()"
        if scope == "server"
        else f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}"
    )
    execute(f"ALTER {target} SET default_transaction_read_only = on", then)
    try:
        yield
    finally:
        execute("SET default_transaction_read_only = off", f"ALTER {target} RESET default_transaction_read_only")
        execute("SELECT pg_reload_conf()")


async def test_a_sqlite_file_that_another_process_holds_is_waited_for(
    client: Client, sqlite: TestDatabase, new_scene: NewScene
) -> None:
    scene = await new_scene(client, sqlite)
    await scene.start_batcher()
    await scene.until_notified(scene.ask_each(count=2))
    with sqlite.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        patient = scene.ask_each(count=5)
        hasty = scene.ask_each(count=2, timeout=6.0)
        await scene.until_notified(hasty, within=20)
    freed = time.time()
    await scene.until_notified()
    print(f"\nSQLite held: {scene.verdicts()}, all notified {max(p.notified_at for p in patient) - freed:.1f} s after")
    await scene.audit()
    assert {one.verdict for one in hasty} <= {CallResult.EXPIRED, CallResult.NOT_CONFIRMED}
    assert {one.verdict for one in patient} <= {CallResult.WRITTEN, CallResult.DUPLICATE}
