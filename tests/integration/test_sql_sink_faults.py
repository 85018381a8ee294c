"""A database that fails: what is said about the attempt is true, and nothing is lost or applied twice."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from temporal_batching.contract import OutcomeKind, Record, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase
from tests.support.statements import BEGIN, COMMIT, Statements, lose_connection, refuse
from tests.support.waiting import assert_eventually

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, amount integer)"


def entry(number: int) -> WriteRequest:
    return WriteRequest(f"r{number}", [Record("entries", {"id": number, "amount": 1})])


BATCH = Batch([entry(1), entry(2)], id="main-0/1")


class Gate:
    """Holds the first of its statements, right before the driver has it."""

    def __init__(self, statement: str) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        self._statement = statement
        self._first = threading.Lock()

    def hold(self, _: Any, statement: str) -> None:
        if statement.startswith(self._statement) and self._first.acquire(blocking=False):
            self.reached.set()
            assert self.released.wait(20)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 10)


@pytest.fixture
def gate(statements: Statements) -> Iterator[Gate]:
    """Holds the first commit of the test."""
    gate = Gate(COMMIT)
    statements.before = gate.hold
    yield gate
    gate.released.set()


async def test_a_fence_waits_for_an_attempt_that_is_about_to_commit(database: TestDatabase, gate: Gate) -> None:
    database.execute(ENTRIES)
    zombie, sink = database.sink(), database.sink()
    await sink.open()
    writing = asyncio.create_task(_write(zombie))
    await gate.wait()
    settling = asyncio.create_task(sink.fence(BATCH))

    async def is_blocked() -> None:
        if database.dialect == "postgresql":
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            assert database.scalar(waits) == 1
        if database.dialect == "mariadb":
            waits = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
            assert database.rows(waits)[0][1] == "1"

    await assert_eventually(is_blocked)
    assert not settling.done()
    gate.released.set()
    assert [o.kind.value for o in await settling] == ["written", "written"]
    assert [o.kind.value for o in await writing] == ["written", "written"]


async def test_after_a_fence_an_attempt_that_comes_late_writes_nothing(
    database: TestDatabase, statements: Statements
) -> None:
    database.execute(ENTRIES)
    zombie, sink = database.sink(), database.sink()
    await zombie.open()
    await sink.open()
    gate = Gate(BEGIN)
    statements.before = gate.hold
    writing = asyncio.create_task(_write(zombie))
    await gate.wait()
    assert [o.kind.value for o in await sink.fence(BATCH)] == ["expired", "expired"]
    gate.released.set()
    assert [o.kind.value for o in await writing] == ["expired", "expired"]
    assert database.scalar("SELECT count(*) FROM entries") == 0


async def test_two_attempts_at_once_write_once(database: TestDatabase, gate: Gate) -> None:
    database.execute(ENTRIES)
    zombie, sink = database.sink(), database.sink()
    await sink.open()
    writing = asyncio.create_task(_write(zombie))
    await gate.wait()
    again = asyncio.create_task(_write(sink))
    gate.released.set()
    for outcomes in await asyncio.gather(writing, again):
        assert [o.kind.value for o in outcomes] == ["written", "written"]
    assert database.scalar("SELECT count(*) FROM entries") == 2


async def _write(sink: Any, batch: Batch = BATCH) -> Any:
    return await sink.write(batch)


async def test_a_cancelled_caller_leaves_an_attempt_that_a_fence_accounts_for(
    database: TestDatabase, gate: Gate
) -> None:
    database.execute(ENTRIES)
    sink, other = database.sink(), database.sink()
    await other.open()
    writing = asyncio.create_task(_write(sink))
    await gate.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    gate.released.set()
    assert [o.kind.value for o in await other.fence(BATCH)] == ["written", "written"]


@contextmanager
def connection_lost_in_a_commit(statements: Statements, *, committed: bool) -> Iterator[None]:
    """The next commit loses its connection: before the database has it, or after it has done it."""
    lost: list[bool] = []

    def lose(connection: Any, statement: str) -> None:
        if statement == COMMIT and not lost:
            lost.append(True)
            lose_connection(connection, "told to fail")

    if committed:
        statements.after = lose
    else:
        statements.before = lose
    yield
    assert lost


@pytest.mark.parametrize("committed", [True, False])
async def test_a_connection_lost_during_the_commit_is_in_doubt_and_heals(
    database: TestDatabase, statements: Statements, committed: bool
) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    with (
        connection_lost_in_a_commit(statements, committed=committed),
        pytest.raises(SinkUnavailable, match="told to fail") as caught,
    ):
        await sink.write(BATCH)
    assert caught.value.in_doubt
    assert database.scalar("SELECT count(*) FROM entries") == (2 if committed else 0)
    assert [o.kind.value for o in await sink.write(BATCH)] == ["written", "written"]
    assert database.scalar("SELECT count(*) FROM entries") == 2


async def test_a_commit_that_the_database_refuses_is_not_in_doubt(
    database: TestDatabase, statements: Statements
) -> None:
    def refuse_commit(connection: Any, statement: str) -> None:
        if statement == COMMIT:
            refuse(connection, "no room")

    database.execute(ENTRIES)
    sink = database.sink()
    statements.before = refuse_commit
    outcomes = await sink.write(BATCH)
    assert {(o.kind.value, o.in_doubt, o.reason) for o in outcomes} == {("retry", False, "no room")}
    statements.before = None
    assert [o.kind.value for o in await sink.write(BATCH)] == ["written", "written"]


KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'temporal-batching'"


async def test_a_killed_connection_commits_nothing_it_does_not_admit(postgresql: TestDatabase, gate: Gate) -> None:
    postgresql.execute(ENTRIES)
    sink = postgresql.sink()
    writing = asyncio.create_task(_write(sink))
    await gate.wait()
    postgresql.execute(KILL)
    gate.released.set()
    with pytest.raises(SinkUnavailable) as caught:
        await writing
    assert caught.value.in_doubt
    assert [o.kind.value for o in await sink.fence(Batch([entry(1)], id="main-0/1"))] == ["expired"]
    assert [o.kind.value for o in await sink.write(BATCH)] == ["expired", "written"]


async def test_connections_that_died_in_the_pool_are_replaced_unnoticed(postgresql: TestDatabase) -> None:
    postgresql.execute(ENTRIES)
    sink = postgresql.sink(max_connections=3)
    batches = [Batch([entry(n)], id=f"main-{n}/1") for n in range(6)]
    await asyncio.gather(*(sink.write(batch) for batch in batches[:3]))
    postgresql.execute(KILL)
    answers = await asyncio.gather(*(sink.write(batch) for batch in batches[3:]))
    assert [o.kind for outcomes in answers for o in outcomes] == [OutcomeKind.WRITTEN] * 3
    postgresql.execute(KILL)
    assert set(await sink.lookup(["r0", "r5"])) == {"r0", "r5"}


FLAKY = """CREATE SEQUENCE tries;;
CREATE FUNCTION flake() RETURNS trigger AS $$ BEGIN
  IF nextval('tries') <= {times} THEN RAISE 'flaky' USING ERRCODE = '{code}'; END IF; RETURN new;
END $$ LANGUAGE plpgsql;;
CREATE TRIGGER flake BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION flake()"""


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_transaction_that_lost_against_another_is_started_over(postgresql: TestDatabase, code: str) -> None:
    postgresql.execute(f"{ENTRIES};;{FLAKY.format(times=2, code=code)}")
    sink = postgresql.sink()
    assert [o.kind.value for o in await sink.write(BATCH)] == ["written", "written"]
    assert sink.counters.retries == 2


@pytest.mark.parametrize("code", ["40001", "53100", "53300", "55P03", "57014", "57P03", "25006", "58030", "XX000"])
async def test_an_error_that_is_not_a_requests_fault_rejects_no_request(postgresql: TestDatabase, code: str) -> None:
    postgresql.execute(f"{ENTRIES};;{FLAKY.format(times=30, code=code)}")
    sink = postgresql.sink()
    outcomes = await sink.write(BATCH)
    assert {(o.kind.value, o.in_doubt) for o in outcomes} == {("retry", False)}
    assert outcomes[0].reason == "flaky"
    postgresql.execute("DROP TRIGGER flake ON entries")
    assert [o.kind.value for o in await sink.write(BATCH)] == ["written", "written"]


async def test_a_statement_ends_after_its_timeout(postgresql: TestDatabase) -> None:
    postgresql.execute(ENTRIES)
    postgresql.execute(
        "CREATE FUNCTION slow() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(20); RETURN new; END' LANGUAGE plpgsql;;"
        "CREATE TRIGGER slow BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    # Long enough for a busy machine between two statements of the opening, which the limit bounds, too.
    sink = postgresql.sink(statement_timeout=timedelta(milliseconds=500))
    outcomes = await sink.write(BATCH)
    assert {(o.kind.value, o.in_doubt) for o in outcomes} == {("retry", False)}


async def test_a_lock_is_waited_for_only_so_long(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink(lock_timeout=timedelta(milliseconds=50))
    await sink.open()
    with database.locked("entries"):
        if database.dialect == "sqlite":  # one writer: it delays every other writer
            with pytest.raises(SinkUnavailable) as caught:
                await sink.write(BATCH)
            assert not caught.value.in_doubt
        else:
            assert {o.kind.value for o in await sink.write(BATCH)} == {"retry"}
    assert [o.kind.value for o in await sink.write(BATCH)] == ["written", "written"]


async def test_a_read_only_database_is_unavailable_not_a_requests_fault(sqlite: TestDatabase) -> None:
    sqlite.execute(ENTRIES)
    sink = sqlite.sink()
    await sink.open()
    path = sqlite.engine.url.database
    read_only = sqlite.sink(url=f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(SinkUnavailable, match="readonly") as caught:
        await read_only.write(BATCH)
    assert not caught.value.in_doubt


async def test_several_workers_share_a_sqlite_file(sqlite: TestDatabase) -> None:
    sqlite.execute(ENTRIES)
    sinks = [sqlite.sink() for _ in range(4)]
    await asyncio.gather(*(sink.open() for sink in sinks))
    assert (await asyncio.to_thread(Path(str(sqlite.engine.url.database)).read_bytes))[18:20] == b"\x02\x02"  # WAL
    batches = [Batch([entry(n * 10 + i) for i in range(10)], id=f"main-{n}/1") for n in range(4)]
    await asyncio.gather(*(sink.write(batch) for sink, batch in zip(sinks, batches, strict=True)))
    assert sqlite.scalar("SELECT count(*) FROM entries") == 40
    # Another program that reads is not in the way.
    with sqlite3.connect(str(sqlite.engine.url.database)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM entries").fetchone() == (40,)
        await sinks[0].write(Batch([entry(99)], id="main-0/2"))
    reader.close()


async def test_a_server_that_is_not_there_is_unavailable_and_the_password_stays_secret(
    postgresql: TestDatabase,
) -> None:
    for url in (
        "postgresql://ann:s3cr3t@127.0.0.1:1/ledger",
        "postgres://ann@127.0.0.1:1/ledger?password=s3cr3t",
        "postgresql+psycopg://ann:s3cr3t@no-such-host.invalid/ledger",
        postgresql.engine.url.set(username="nobody", password="s3cr3t").render_as_string(hide_password=False),
    ):
        sink = postgresql.sink(url=url)
        for call in (sink.open(), sink.write(BATCH), sink.lookup(["r1"]), sink.fence(BATCH)):
            with pytest.raises(SinkUnavailable) as caught:
                await call
            assert "s3cr3t" not in str(caught.value)
            assert caught.value.__cause__ is None
            assert not caught.value.in_doubt
