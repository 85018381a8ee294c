"""One request's trouble is its own: what fails on a living connection is isolated, and its neighbours are written."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from temporal_batching.contract import OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql import TableRule
from tests.support.databases import TestDatabase

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, amount integer)"
POISON = 13


def entry(number: int, amount: int = 1, *, key: str = "", table: str = "entries") -> WriteRequest:
    return WriteRequest(f"r{number}", [Record(table, {"id": number, "amount": amount})], key=key)


def poisoned(size: int, *poison: int) -> list[WriteRequest]:
    return [entry(n, POISON if n in poison else 1) for n in range(size)]


def raises(body: str, when: str = "BEFORE INSERT", *, kind: str = "TRIGGER") -> str:
    """A trigger on the poisoned rows of `entries`."""
    return (
        f"CREATE FUNCTION poison() RETURNS trigger AS $$ BEGIN {body} END $$ LANGUAGE plpgsql;;"
        f"CREATE {kind} poison {when} ON entries {'DEFERRABLE INITIALLY DEFERRED' if kind != 'TRIGGER' else ''}"
        f" FOR EACH ROW WHEN (new.amount = {POISON}) EXECUTE FUNCTION poison()"
    )


def raises_code(code: str, **options: Any) -> str:
    return raises(f"RAISE 'poison' USING ERRCODE = '{code}'; RETURN new;", **options)


OF_ITS_OWN = {
    "UE001": raises_code("UE001"),
    "45000": raises_code("45000"),
    "CASE without ELSE": raises("CASE new.amount WHEN 0 THEN RETURN new; END CASE;"),
    "no RETURN": raises("NULL;"),
    "a savepoint that is none": raises_code("3B001"),
}
OF_THE_MOMENT = ["08006", "25006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "58030", "XX000"]


@pytest.mark.parametrize("trigger", OF_ITS_OWN.values(), ids=OF_ITS_OWN.keys())
@pytest.mark.parametrize("at_commit", [False, True], ids=["at once", "at the commit"])
async def test_what_a_trigger_raises_of_its_own_rejects_its_request(
    postgresql: TestDatabase, trigger: str, at_commit: bool
) -> None:
    if at_commit:
        trigger = trigger.replace("CREATE TRIGGER", "CREATE CONSTRAINT TRIGGER").replace("BEFORE", "AFTER")
        trigger = trigger.replace(" FOR EACH ROW", " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW")
    postgresql.execute(f"{ENTRIES};;{trigger}")
    outcomes = await postgresql.sink().write(Batch(poisoned(20, 7), id="main-0/1"))
    assert [o.kind for o in outcomes] == [OutcomeKind.WRITTEN] * 7 + [OutcomeKind.REJECTED] + [OutcomeKind.WRITTEN] * 12
    assert outcomes[7].code is RejectCode.DATABASE
    assert postgresql.scalar("SELECT count(*) FROM entries") == 19


async def test_a_view_that_cannot_be_inserted_into_rejects_its_request(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;CREATE VIEW sums AS SELECT id, sum(amount) AS amount FROM entries GROUP BY id")
    batch = Batch([entry(0), entry(1, table="sums"), entry(2)], id="main-0/1")
    outcomes = await postgresql.sink().write(batch)
    assert [o.kind.value for o in outcomes] == ["written", "rejected", "written"]


@pytest.mark.parametrize("code", OF_THE_MOMENT)
@pytest.mark.parametrize("at_commit", [False, True], ids=["at once", "at the commit"])
async def test_what_judges_the_moment_holds_up_its_request_alone_and_never_rejects_it(
    postgresql: TestDatabase, code: str, at_commit: bool
) -> None:
    when = {"when": "AFTER INSERT", "kind": "CONSTRAINT TRIGGER"} if at_commit else {}
    postgresql.execute(f"{ENTRIES};;{raises_code(code, **when)}")
    sink = postgresql.sink()
    batch = Batch(poisoned(20, 0, 7), id="main-0/1")
    outcomes = await sink.write(batch)
    assert [n for n, o in enumerate(outcomes) if o.kind is not OutcomeKind.WRITTEN] == [0, 7]
    assert {(outcomes[n].kind, outcomes[n].in_doubt) for n in (0, 7)} == {(OutcomeKind.RETRY, False)}
    assert "poison" in str(outcomes[0].reason)
    assert sink.counters.requeued == 2
    again = Batch([batch[0], batch[7]], id="main-0/1", attempt=1)
    assert [o.kind.value for o in await sink.write(again)] == ["retry", "retry"]
    postgresql.execute("DROP TRIGGER poison ON entries")
    assert [o.kind.value for o in await sink.write(again)] == ["written", "written"]
    assert postgresql.scalar("SELECT count(*) FROM entries") == 20


async def test_what_fails_in_the_batch_and_passes_alone_is_written(postgresql: TestDatabase) -> None:
    """The isolated request has a transaction of its own before it has to wait."""
    postgresql.execute(f"{ENTRIES};;CREATE TABLE seen (xact xid8, id integer)")
    postgresql.execute(
        raises(
            "INSERT INTO seen SELECT pg_current_xact_id(), new.id;"
            " IF (SELECT count(*) FROM entries WHERE xmin = pg_current_xact_id()::xid) > 0"
            " THEN RAISE 'not among others' USING ERRCODE = '53200'; END IF; RETURN new;"
        )
    )
    outcomes = await postgresql.sink().write(Batch(poisoned(10, 4), id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written"] * 10


async def test_a_key_waits_for_its_request_and_only_that_key(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;{raises_code('55P03')}")
    requests = [entry(n, key="abc"[n % 3]) for n in range(12)]
    requests[4] = entry(4, POISON, key="b")
    requests.append(entry(12))
    outcomes = await postgresql.sink().write(Batch(requests, id="main-0/1"))
    assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.RETRY] == [4, 7, 10]
    assert {row[0] for row in postgresql.rows("SELECT id FROM entries")} == set(range(13)) - {4, 7, 10}


async def test_if_nothing_gets_through_everything_is_to_be_retried_soon(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;{raises_code('53100')}")
    sink = postgresql.sink()
    outcomes = await sink.write(Batch(poisoned(100, *range(100)), id="main-0/1"))
    assert {o.kind for o in outcomes} == {OutcomeKind.RETRY}
    assert sink.counters.statements < 100
    assert postgresql.scalar("SELECT count(*) FROM batching_ledger WHERE status = 'written'") == 0


async def test_a_row_that_an_outsider_has_locked_holds_up_only_its_requests(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;INSERT INTO entries VALUES (3, 0)")
    rules = {"entries": TableRule(conflict="update", key=["id"])}
    sink = postgresql.sink(tables=rules, lock_timeout=timedelta(seconds=1))
    requests = [entry(n, key="odd" if n % 2 else "even") for n in range(40)]
    with postgresql.engine.connect() as outsider:
        outsider.execute(sa.text("SELECT * FROM entries WHERE id = 3 FOR UPDATE"))
        started = time.monotonic()
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
        assert time.monotonic() - started < 5
        waiting = [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.RETRY]
        assert waiting == list(range(3, 40, 2))
        assert [o.kind.value for n, o in enumerate(outcomes) if n not in waiting] == ["written"] * (40 - len(waiting))
        again = Batch([requests[n] for n in waiting], id="main-0/1", attempt=1)
        started = time.monotonic()
        assert {o.kind for o in await sink.write(again)} == {OutcomeKind.RETRY}
        assert time.monotonic() - started < 1.5
    assert {o.kind for o in await sink.write(again)} == {OutcomeKind.WRITTEN}
    assert postgresql.scalar("SELECT sum(amount) FROM entries") == 40


async def test_a_table_that_an_outsider_has_locked_does_not_hold_up_another(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;{ENTRIES.replace('entries', 'others')}")
    sink = postgresql.sink(lock_timeout=timedelta(milliseconds=500))
    requests = [entry(n, table="entries" if n % 2 else "others") for n in range(100)]
    with postgresql.engine.connect() as outsider:
        outsider.execute(sa.text("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE"))
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "retry"] * 50


async def test_slow_requests_are_isolated_in_a_few_attempts(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;{raises('PERFORM pg_sleep(60); RETURN new;')}")
    timeout = timedelta(seconds=2)
    sink = postgresql.sink(statement_timeout=timeout)
    waiting, slow = poisoned(50, 0, 1, 20), {"r0", "r1", "r20"}
    for attempt in range(5):
        started = time.monotonic()
        outcomes = await sink.write(Batch(waiting, id="main-0/1", attempt=attempt))
        assert time.monotonic() - started < timeout.total_seconds() * 1.5
        assert {o.kind for o in outcomes} <= {OutcomeKind.WRITTEN, OutcomeKind.RETRY}
        waiting = [r for r, o in zip(waiting, outcomes, strict=True) if o.kind is OutcomeKind.RETRY]
        if {r.request_id for r in waiting} == slow:
            break
    assert {r.request_id for r in waiting} == slow
    assert postgresql.scalar("SELECT count(*) FROM entries") == 47


async def test_fence_answers_for_requests_whose_row_in_the_ledger_is_not_locked(postgresql: TestDatabase) -> None:
    postgresql.execute(ENTRIES)
    sink = postgresql.sink(lock_timeout=timedelta(milliseconds=200))
    await sink.open()
    with postgresql.engine.connect() as outsider:
        outsider.execute(
            sa.text("INSERT INTO batching_ledger VALUES ('r3', 'x', 'other-0/1', 'written', now(), NULL)"),
        )
        outcomes = await sink.fence(Batch(poisoned(10), id="main-0/1"))
    assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.RETRY] == [3]
    assert {o.kind for n, o in enumerate(outcomes) if n != 3} == {OutcomeKind.EXPIRED}
    assert [o.kind.value for o in await sink.fence(Batch([entry(3)], id="main-0/1"))] == ["expired"]


async def test_text_that_the_databases_encoding_lacks_rejects_its_request(
    postgresql: TestDatabase, postgresql_server: sa.URL
) -> None:
    postgresql.execute(ENTRIES)
    maintenance = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS latin"))
        connection.execute(
            sa.text("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        )
    try:
        engine = sa.create_engine(postgresql_server.set(database="latin"))
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE notes (note text)"))
        sink = postgresql.sink(url=engine.url.render_as_string(hide_password=False))
        requests = [WriteRequest(i, [Record("notes", {"note": n})]) for i, n in
                    [("a", "b"), ("Ω", "b"), ("c", "Ω"), ("é", "é"), ("Ψ", "Ω"), ("d", "d")]]  # fmt: skip
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
        assert [o.kind.value for o in outcomes] == ["written", "rejected", "rejected", "written", "rejected", "written"]
        assert [outcomes[n].code for n in (1, 2, 4)] == [RejectCode.INVALID, RejectCode.TYPE, RejectCode.INVALID]
        assert [o.kind.value for o in await sink.fence(Batch(requests[1:3], id="m/1"))] == ["rejected", "expired"]
        await sink.close()
        engine.dispose()
    finally:
        with maintenance.connect() as connection:
            connection.execute(sa.text("DROP DATABASE latin WITH (FORCE)"))
        maintenance.dispose()


async def test_what_a_full_disk_has_room_for_is_written(sqlite: TestDatabase) -> None:
    sqlite.execute("CREATE TABLE entries (id integer PRIMARY KEY, amount integer, note text)")
    sink = sqlite.sink()
    await sink.open()
    with sink.connections.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    big = WriteRequest("big", [Record("entries", {"id": 3, "note": "x" * 100_000})])
    outcomes = await sink.write(Batch([entry(1), big, entry(2)], id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "retry", "written"]
    assert "full" in str(outcomes[1].reason)


async def test_a_wait_for_a_lock_ends_at_the_earliest_deadline_of_the_batch(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;INSERT INTO entries VALUES (1, 1)")
    rules = {"entries": TableRule(conflict="update", key=["id"])}
    sink = postgresql.sink(tables=rules, lock_timeout=timedelta(seconds=20))
    await sink.open()
    began = time.time()
    requests = [replace(entry(n), expires_at=began + (2 if n == 2 else 60)) for n in range(4)]
    with postgresql.engine.connect() as outsider:
        outsider.execute(sa.text("SELECT * FROM entries WHERE id = 1 FOR UPDATE"))
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
        waited = time.time() - began
        outsider.rollback()
    # What is past its deadline is fenced; the one in front of the lock is retried, and the others do not wait for it.
    assert [o.kind.value for o in outcomes] == ["written", "retry", "expired", "written"]
    assert waited < 15
    assert [o.kind.value for o in await sink.write(Batch(requests[1:2], id="main-0/1", attempt=1))] == ["written"]


@pytest.mark.parametrize(
    ("left", "within", "then"),
    [
        pytest.param((60, 60, 2, 60), 9, ["written", "written", "expired", "written"], id="the earliest"),
        # Otherwise a flush that starts at the deadline keeps its callers without an outcome.
        pytest.param((-1, -1, 60), 6, ["expired", "expired", "written"], id="one that has passed"),
    ],
)
async def test_a_wait_for_the_writer_of_sqlite_ends_at_a_deadline_of_the_batch(
    left: tuple[float, ...], within: float, then: list[str], sqlite: TestDatabase
) -> None:
    sqlite.execute(ENTRIES)
    sink = sqlite.sink(lock_timeout=timedelta(seconds=12))
    await sink.open()
    requests = [replace(entry(n), expires_at=time.time() + seconds) for n, seconds in enumerate(left)]
    outsider = sa.create_engine(sqlite.url, isolation_level="AUTOCOMMIT")
    with outsider.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(SinkUnavailable, match="locked") as caught:
            await sink.write(Batch(requests, id="main-0/1"))
        assert not caught.value.in_doubt
        assert time.monotonic() - began < within
        connection.exec_driver_sql("ROLLBACK")
    outsider.dispose()
    # The next attempt has the whole limit again.
    outcomes = await sink.write(Batch(requests, id="main-0/1", attempt=1))
    assert [o.kind.value for o in outcomes] == then
