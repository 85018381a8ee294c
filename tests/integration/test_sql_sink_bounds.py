"""However a request fails, and however often: its neighbours have their outcome after a few tries of a few seconds."""

from __future__ import annotations

import sqlite3
import time
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from temporal_batching.contract import Outcome, OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.sinks.sql import TableRule
from tests.support.databases import TestDatabase
from tests.support.statements import COMMIT, Statements

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, amount integer)"
SLOW = 13


def entry(number: int, amount: int = 1, *, key: str = "", request_id: str = "") -> WriteRequest:
    return WriteRequest(request_id or f"r{number}", [Record("entries", {"id": number, "amount": amount})], key=key)


def on_slow_rows(body: str, *, deferred: bool = False) -> str:
    kind, when = ("CONSTRAINT TRIGGER", "AFTER") if deferred else ("TRIGGER", "BEFORE")
    return (
        f"CREATE FUNCTION slow() RETURNS trigger AS $$ BEGIN {body} RETURN new; END $$ LANGUAGE plpgsql;;"
        f"CREATE {kind} slow {when} INSERT ON entries {'DEFERRABLE INITIALLY DEFERRED' if deferred else ''}"
        f" FOR EACH ROW WHEN (new.amount = {SLOW}) EXECUTE FUNCTION slow()"
    )


@pytest.mark.parametrize("deferred", [False, True], ids=["statement", "commit"])
async def test_a_slow_request_is_isolated_in_the_first_attempt(postgresql: TestDatabase, deferred: bool) -> None:
    postgresql.execute(f"{ENTRIES};;{on_slow_rows('PERFORM pg_sleep(60);', deferred=deferred)}")
    sink = postgresql.sink(statement_timeout=timedelta(seconds=3))
    started = time.monotonic()
    outcomes = await sink.write(Batch([entry(n, SLOW if n == 5 else 1) for n in range(30)], id="main-0/1"))
    assert time.monotonic() - started < 5
    assert [n for n, o in enumerate(outcomes) if o.kind is not OutcomeKind.WRITTEN] == [5]
    assert outcomes[5].kind is OutcomeKind.RETRY


async def test_many_slow_requests_at_the_front_do_not_starve_those_behind_them(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;{on_slow_rows('PERFORM pg_sleep(60);')}")
    sink = postgresql.sink(statement_timeout=timedelta(seconds=2))
    waiting = [entry(n, SLOW if n < 30 else 1) for n in range(40)]
    for attempt in range(5):
        outcomes = await sink.write(Batch(waiting, id="main-0/1", attempt=attempt))
        waiting = [r for r, o in zip(waiting, outcomes, strict=True) if o.kind is OutcomeKind.RETRY]
        if len(waiting) == 30:
            break
    assert {r.request_id for r in waiting} == {f"r{n}" for n in range(30)}


async def test_a_request_that_takes_long_by_itself_is_written_in_a_later_attempt(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;{on_slow_rows('PERFORM pg_sleep(0.5);')}")
    sink = postgresql.sink(statement_timeout=timedelta(seconds=2))
    kinds = []
    for attempt in range(1, 5):
        (outcome,) = await sink.write(Batch([entry(1, SLOW)], id="main-0/1", attempt=attempt))
        kinds.append(outcome.kind)
    assert OutcomeKind.WRITTEN in kinds


async def test_a_slow_trigger_of_sqlite_is_isolated(sqlite: TestDatabase) -> None:
    with sqlite3.connect(str(sqlite.engine.url.database)) as connection:
        connection.execute(ENTRIES)
        # Some 20 seconds here. Nothing in this process can end it, so a test that fails takes as long.
        connection.execute(
            "CREATE TRIGGER slow BEFORE INSERT ON entries WHEN new.amount = 13 BEGIN SELECT (WITH RECURSIVE n (i) AS"
            " (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT sum(i) FROM n); END"
        )
    connection.close()
    sink = sqlite.sink(statement_timeout=timedelta(seconds=3))
    started = time.monotonic()
    outcomes = await sink.write(Batch([entry(n, SLOW if n == 5 else 1) for n in range(30)], id="main-0/1"))
    assert time.monotonic() - started < 4.5
    assert [n for n, o in enumerate(outcomes) if o.kind is not OutcomeKind.WRITTEN] == [5]
    assert outcomes[5].kind is OutcomeKind.RETRY
    assert sqlite.scalar("SELECT count(*) FROM entries") == 29


@pytest.mark.parametrize("code", ["28000", "28P01", "3D000"])
async def test_a_trigger_that_raises_what_a_connection_is_refused_with_rejects_its_request(
    postgresql: TestDatabase, code: str
) -> None:
    postgresql.execute(f"{ENTRIES};;{on_slow_rows(f'RAISE USING ERRCODE = {code!r};')}")
    outcomes = await postgresql.sink().write(Batch([entry(0), entry(1, SLOW), entry(2)], id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "rejected", "written"]


@pytest.mark.parametrize("encoding", ["EUC_TW", "LATIN1"], ids=["no codec in Python", "a codec in Python"])
async def test_an_id_with_a_character_that_the_encoding_lacks_is_rejected_alone(
    postgresql: TestDatabase, postgresql_server: sa.URL, encoding: str
) -> None:
    name = f"encoded_{encoding.lower()}"
    maintenance = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(
            sa.text(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        )
    engine = sa.create_engine(postgresql_server.set(database=name), connect_args={"client_encoding": "utf8"})
    try:
        with engine.begin() as connection:
            connection.execute(sa.text(ENTRIES))
        sink = postgresql.sink(url=engine.url.render_as_string(hide_password=False))
        requests = [entry(n, request_id={3: "\u0e51", 6: "\u0e52"}.get(n, "")) for n in range(8)]
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
        assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.REJECTED] == [3, 6]
        assert {outcomes[n].code for n in (3, 6)} == {RejectCode.INVALID}
        assert {o.kind for n, o in enumerate(outcomes) if n not in (3, 6)} == {OutcomeKind.WRITTEN}
        settled = await sink.fence(Batch([*requests, entry(9)], id="main-0/1"))
        assert [o.kind.value for o in settled] == [o.kind.value for o in outcomes] + ["expired"]
        assert set(await sink.lookup([r.request_id for r in requests])) == {
            r.request_id for n, r in enumerate(requests) if n not in (3, 6)
        }
        await sink.close()
    finally:
        engine.dispose()
        with maintenance.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        maintenance.dispose()


async def test_an_error_that_the_ledger_meets_as_well_rejects_no_request(postgresql: TestDatabase) -> None:
    """As before a wraparound of transaction ids: with 54000 the server refuses every write, whatever it writes."""
    postgresql.execute(ENTRIES)
    sink = postgresql.sink()
    await sink.open()
    postgresql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'no more writes' USING ERRCODE = '54000'; END $$"
        " LANGUAGE plpgsql;;"
        "CREATE TRIGGER refuse BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse();;"
        "CREATE TRIGGER refuse BEFORE INSERT ON batching_ledger FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
    )
    batch = Batch([entry(n) for n in range(5)], id="main-0/1")
    with pytest.raises(SinkUnavailable, match="no more writes") as caught:
        await sink.write(batch)
    assert not caught.value.in_doubt


async def test_broken_triggers_do_not_make_the_sink_look_at_the_schema_all_the_time(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    with database.engine.begin() as connection:
        cursor: Any = connection.connection.cursor()
        if database.dialect == "sqlite":
            cursor.execute(
                "CREATE TRIGGER broken BEFORE INSERT ON entries WHEN new.amount = 13"
                " BEGIN SELECT json(new.amount || '{'); END"
            )
        elif database.dialect == "mariadb":
            cursor.execute(
                "CREATE TRIGGER broken BEFORE INSERT ON entries FOR EACH ROW IF new.amount = 13"
                " THEN INSERT INTO gone VALUES (1); END IF"
            )
        else:
            for sql in on_slow_rows("INSERT INTO gone VALUES (1);").split(";;"):
                cursor.execute(sql)
        cursor.close()
    sink = database.sink()
    await sink.open()
    looks: list[Any] = []
    listed = sink.connections.adapter.list_names

    def list_names(connection: Any) -> Any:
        looks.append(connection)
        return listed(connection)

    sink.connections.adapter.list_names = list_names  # type: ignore[method-assign]
    for number in range(10):
        batch = Batch([entry(number), entry(100, SLOW)], id=f"main-0/{number}")
        assert [o.kind.value for o in await sink.write(batch)] == ["written", "rejected"]
    assert len(looks) <= 1


async def test_a_repetition_does_not_overtake_the_key_that_waits(postgresql: TestDatabase) -> None:
    postgresql.execute(
        f"{ENTRIES};;{on_slow_rows('RAISE USING ERRCODE = $c$55P03$c$;')};;INSERT INTO entries VALUES (0, 0)"
    )
    taken = entry(0, key="k", request_id="twice")
    requests = [taken, entry(1, SLOW, key="k"), entry(2, key="k", request_id="twice"), entry(3)]
    outcomes = await postgresql.sink().write(Batch(requests, id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["rejected", "retry", "retry", "written"]


async def test_a_table_of_dead_letters_that_an_outsider_has_locked_is_waited_for_briefly(
    postgresql: TestDatabase,
) -> None:
    postgresql.execute(ENTRIES)
    sink = postgresql.sink(lock_timeout=timedelta(milliseconds=300), statement_timeout=timedelta(seconds=4))
    await sink.open()
    letter = DeadLetter(entry(1), Outcome.rejected(RejectCode.DATABASE, "so"), "main-0/1")
    assert await sink.keep_dead_letters([letter])
    with postgresql.engine.connect() as outsider:
        outsider.execute(sa.text("LOCK TABLE batching_dead_letters IN ACCESS EXCLUSIVE MODE"))
        # Ends the test that fails.
        outsider.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '3s'"))
        started = time.monotonic()
        with pytest.raises(SinkUnavailable):
            await sink.keep_dead_letters([letter])
        assert time.monotonic() - started < 2


async def test_every_request_that_waits_says_what_the_trouble_is(database: TestDatabase) -> None:
    """An operator sees the reason of one of them, whichever comes first."""
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    if database.dialect == "sqlite":
        endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
        sink = database.sink(statement_timeout=timedelta(milliseconds=300))
        with sqlite3.connect(str(database.engine.url.database)) as connection:
            connection.execute(f"CREATE TRIGGER slow BEFORE INSERT ON entries BEGIN SELECT ({endless}); END")
        connection.close()
        trouble = "too long"
    elif database.dialect == "mariadb":
        database.execute(
            "CREATE TRIGGER slow BEFORE INSERT ON entries FOR EACH ROW SIGNAL SQLSTATE '45000'"
            " SET MYSQL_ERRNO = 1021, MESSAGE_TEXT = 'no room'"
        )
        trouble = "no room"
    else:
        database.execute(on_slow_rows("RAISE 'no room' USING ERRCODE = '53100';"))
        trouble = "no room"
    batch = Batch([entry(n, SLOW) for n in range(30)], id="main-0/1")
    for _ in range(2):
        outcomes = await sink.write(batch)
        assert {o.kind for o in outcomes} == {OutcomeKind.RETRY}
        assert all(trouble in str(o.reason) for o in outcomes)


async def test_an_index_that_a_rule_needs_and_that_is_dropped_holds_up_its_table_alone(database: TestDatabase) -> None:
    database.execute(f"{ENTRIES};;CREATE UNIQUE INDEX by_amount ON entries (amount);;CREATE TABLE others (id integer)")
    rules = {"entries": TableRule(conflict="ignore", key=["amount"]), "others": TableRule()}
    sink = database.sink(tables=rules)
    other = WriteRequest("other", [Record("others", {"id": 1})])
    assert [o.kind.value for o in await sink.write(Batch([entry(1)], id="main-0/1"))] == ["written"]
    database.execute("DROP INDEX by_amount" + (" ON entries" if database.dialect == "mariadb" else ""))
    batch = Batch([entry(2, 2), other, entry(3, 3)], id="main-0/2")
    for kind in ("written", "written"):  # its misfit setup stops no later request either
        outcomes = await sink.write(batch)
        assert [o.kind.value for o in outcomes] == ["retry", kind, "retry"]
        assert "no unique index" in str(outcomes[0].reason)
    database.execute("CREATE UNIQUE INDEX by_amount ON entries (amount)")
    assert [o.kind.value for o in await sink.write(batch)] == ["written"] * 3


async def test_an_index_that_is_built_concurrently_and_not_valid_yet_is_waited_for(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{ENTRIES};;CREATE UNIQUE INDEX by_amount ON entries (amount)")
    sink = postgresql.sink(tables={"entries": TableRule(conflict="ignore", key=["amount"])})
    assert [o.kind.value for o in await sink.write(Batch([entry(1)], id="main-0/1"))] == ["written"]
    valid = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = 'by_amount'::regclass"
    postgresql.execute(valid.format("false"))
    batch = Batch([entry(2, 2), entry(3, 3)], id="main-0/2")
    outcomes = await sink.write(batch)
    assert [o.kind.value for o in outcomes] == ["retry", "retry"]
    assert "no unique index" in str(outcomes[0].reason)
    postgresql.execute(valid.format("true"))
    assert [o.kind.value for o in await sink.write(batch)] == ["written"] * 2


async def test_the_limit_of_an_idle_transaction_stays_what_it_is(postgresql: TestDatabase) -> None:
    """Between two statements the worker computes: it must not lose its transaction for being short of CPU."""
    note = "INSERT INTO seen VALUES (current_setting('idle_in_transaction_session_timeout'));"
    postgresql.execute(f"{ENTRIES};;CREATE TABLE seen (setting text);;{on_slow_rows(note)}")
    sink = postgresql.sink(statement_timeout=timedelta(seconds=7))
    for attempt in range(3):
        await sink.write(Batch([entry(attempt, SLOW), entry(attempt, 1)], id="main-0/1", attempt=attempt))
    assert set(postgresql.rows("SELECT setting FROM seen")) == {("7s",)}


async def test_limits_are_sent_once_a_trip(postgresql: TestDatabase, statements: Statements) -> None:
    postgresql.execute(ENTRIES)
    sink = postgresql.sink()
    await sink.open()
    statements.sent.clear()
    await sink.write(Batch([entry(n) for n in range(3)], id="main-0/1", attempt=4))
    assert sum("statement_timeout" in sql for sql in statements.sent) == 1


async def test_a_transaction_that_the_server_rolls_back_at_the_commit_is_halved(
    postgresql: TestDatabase, statements: Statements
) -> None:
    """The server answers ROLLBACK to a COMMIT if the transaction has failed unnoticed, and raises nothing."""
    postgresql.execute(ENTRIES)
    sink = postgresql.sink()
    await sink.open()
    commits: list[str] = []

    def rolled_back(_: Any, statement: str) -> str | None:
        if statement != COMMIT:
            return None
        commits.append(statement)
        return "ROLLBACK" if len(commits) == 1 else None

    statements.before = rolled_back
    outcomes = await sink.write(Batch([entry(n) for n in range(4)], id="main-0/1"))
    assert len(commits) > 1
    assert [o.kind.value for o in outcomes] == ["written"] * 4


async def test_a_session_that_has_become_read_only_is_replaced(postgresql: TestDatabase) -> None:
    """As after a failover: the server that the pool's connections lead to takes no writes any more."""
    postgresql.execute(ENTRIES)
    sink = postgresql.sink(max_connections=1)
    await sink.write(Batch([entry(0)], id="main-0/1"))
    with sink.connections.engine.connect() as connection:
        connection.execute(sa.text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        connection.commit()
    outcomes = await sink.write(Batch([entry(1), entry(2)], id="main-0/2"))
    assert [o.kind.value for o in outcomes] == ["written"] * 2


async def test_those_that_failed_before_have_their_turn_after_the_others(postgresql: TestDatabase) -> None:
    """Whatever they fail of, and without a word of the batcher's on which attempt it is."""
    postgresql.execute(f"{ENTRIES};;{on_slow_rows('RAISE USING ERRCODE = $c$53100$c$;')}")
    sink = postgresql.sink()
    waiting = [entry(n, SLOW if n < 12 else 1, key=f"k{n % 15}") for n in range(30)]
    for _ in range(5):
        outcomes = await sink.write(Batch(waiting, id="main-0/1"))
        waiting = [r for r, o in zip(waiting, outcomes, strict=True) if o.kind is OutcomeKind.RETRY]
    # Behind each of the offending ones there is another one of its key.
    assert [r.request_id for r in waiting] == [f"r{n}" for n in (*range(12), *range(15, 27))]
