"""MariaDB's own traps: each of them would lose a write, apply one twice, or reject one that only met a bad moment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa

from temporal_batching.contract import OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.errors import SinkConfigurationError, SinkUnavailable
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql import TableRule
from tests.support.databases import TestDatabase
from tests.support.statements import BEGIN, COMMIT, Statements
from tests.support.waiting import assert_eventually

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, amount integer)"
POISON = 13


def entry(number: int, amount: int = 1, *, key: str = "", table: str = "entries") -> WriteRequest:
    return WriteRequest(f"r{number}", [Record(table, {"id": number, "amount": amount})], key=key)


def poisoned(size: int, *poison: int) -> list[WriteRequest]:
    return [entry(n, POISON if n in poison else 1) for n in range(size)]


def raises(signal: str) -> str:
    """A trigger on the poisoned rows of `entries`."""
    return f"CREATE TRIGGER poison BEFORE INSERT ON entries FOR EACH ROW IF new.amount = {POISON} THEN {signal}; END IF"


async def kinds(sink: Any, *requests: WriteRequest, batch: str = "main-0/1") -> list[str]:
    return [o.kind.value for o in await sink.write(Batch(requests, id=batch))]


# The ledger


async def test_ids_that_a_collation_takes_for_one_are_two(mariadb: TestDatabase) -> None:
    mariadb.execute(ENTRIES)
    ids = ["A", "a", "a ", "a\t", "ä", "Ä", "ß", "ss", "\U0001f600", "\U0001f601", "x" * 1024]
    requests = [WriteRequest(i, [Record("entries", {"id": n})]) for n, i in enumerate(ids)]
    sink = mariadb.sink()
    assert await kinds(sink, *requests) == ["written"] * len(ids)
    assert set(await sink.lookup(ids)) == set(ids)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("MODIFY request_id varchar(255) CHARACTER SET utf8mb4", "VARBINARY"),
        ("MODIFY request_id varbinary(100)", "VARBINARY"),
        ("ENGINE = Aria", "InnoDB"),
    ],
)
async def test_a_ledger_that_would_forget_or_confuse_ids_is_refused(
    mariadb: TestDatabase, change: str, complaint: str
) -> None:
    mariadb.run_ddl(mariadb.sink().ledger_ddl())
    await mariadb.sink().open()
    mariadb.execute(f"ALTER TABLE batching_ledger {change}")
    with pytest.raises(SinkConfigurationError, match=complaint):
        await mariadb.sink().open()


async def test_ledger_and_dead_letters_may_be_in_another_database(mariadb: TestDatabase) -> None:
    other = f"other_{mariadb.engine.url.database}"
    mariadb.execute(f"{ENTRIES};;CREATE DATABASE {other};;CREATE TABLE {other}.entries (id integer PRIMARY KEY)")
    try:
        sink = mariadb.sink(ledger_table=f"{other}.ledger", dead_letters=f"{other}.letters")
        there = WriteRequest("there", [Record(f"{other}.entries", {"id": 1})])
        own = WriteRequest("own", [Record(f"{other}.ledger", {"request_id": "x"})])
        assert await kinds(sink, entry(1), there, own) == ["written", "written", "rejected"]
        assert mariadb.scalar(f"SELECT count(*) FROM {other}.ledger WHERE status = 'written'") == 2
        assert await kinds(sink, entry(1), batch="main-0/2") == ["duplicate"]
        await sink.close()
    finally:
        mariadb.execute(f"DROP DATABASE {other}")


# Tables


@pytest.mark.parametrize("engine", ["MyISAM", "Aria", "MEMORY"])
async def test_a_table_without_transactions_takes_no_rows(mariadb: TestDatabase, engine: str) -> None:
    mariadb.execute(f"{ENTRIES};;CREATE TABLE plain (id integer, amount integer) ENGINE = {engine}")
    mariadb.execute("CREATE VIEW seen AS SELECT * FROM plain;;CREATE VIEW seen_too AS SELECT * FROM seen")
    sink = mariadb.sink()
    batch = [entry(1), entry(2, table="plain"), entry(3, table="seen"), entry(4, table="seen_too")]
    outcomes = await sink.write(Batch(batch, id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written"] + ["rejected"] * 3
    assert [o.code for o in outcomes[1:]] == [RejectCode.UNKNOWN_TABLE] * 3
    assert engine in str(outcomes[1].reason)
    assert mariadb.scalar("SELECT count(*) FROM plain") == 0
    with pytest.raises(SinkConfigurationError, match=engine):
        await mariadb.sink(tables=["plain"]).open()


ACCOUNTS = (
    "CREATE TABLE accounts (id integer AUTO_INCREMENT PRIMARY KEY, code varchar(20) NOT NULL UNIQUE,"
    " email varchar(50) UNIQUE, amount integer);;INSERT INTO accounts VALUES (1, 'a', 'a@x', 1), (2, 'b', 'b@x', 2)"
)


def account(number: int, **values: Any) -> WriteRequest:
    return WriteRequest(f"a{number}", [Record("accounts", values)])


KEYS = {
    "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "date": "2026-01-31",
    "datetime(6)": "2026-01-31T09:30:00.5",
    "decimal(30, 10)": "12345678901234567890.0123456789",
    "enum('a', 'b')": "b",
    "bit(9)": "100000001",
    "inet6": "::1",
    "double": 0.1,
    "varbinary(9)": "AAEC",
}


async def test_a_row_is_updated_by_a_key_of_any_type(mariadb: TestDatabase) -> None:
    rules = {}
    for n, declared in enumerate(KEYS):
        mariadb.execute(f"CREATE TABLE t{n} (k {declared} NOT NULL UNIQUE, other integer UNIQUE, v json)")
        rules[f"t{n}"] = TableRule(conflict="update", key=["k"])
    sink = mariadb.sink(tables=rules)
    for turn in range(2):
        for n, (declared, key) in enumerate(KEYS.items()):
            request = WriteRequest(f"{turn}-{n}", [Record(f"t{n}", {"k": key, "other": 1, "v": [turn]})])
            assert await kinds(sink, request, batch=f"main-0/{turn}") == ["written"], declared
            assert mariadb.rows(f"SELECT v FROM t{n}") == [(f"[{turn}]",)], declared


async def test_a_key_may_be_a_generated_column_and_come_first(mariadb: TestDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (k varchar(32) AS (md5(body)) PERSISTENT UNIQUE, body varchar(50), n integer, UNIQUE (n))"
    )
    sink = mariadb.sink(tables={"t": TableRule(conflict="update", key=["k"])})

    def row(number: int, **values: Any) -> WriteRequest:
        return WriteRequest(f"r{number}", [Record("t", values)])

    requests = [row(1, body="x", n=1), row(2, body="x", n=2), row(3, body="y", n=2)]
    assert await kinds(sink, *requests) == ["written", "written", "rejected"]
    assert mariadb.rows("SELECT body, n FROM t") == [("x", 2)]


@pytest.mark.parametrize("conflict", ["update", "ignore"])
async def test_a_conflict_on_another_key_than_the_rules_is_a_constraint(mariadb: TestDatabase, conflict: Any) -> None:
    mariadb.execute(ACCOUNTS)
    sink = mariadb.sink(tables={"accounts": TableRule(conflict=conflict, key=["code"])})
    requests = [
        account(0, code="a", amount=10),
        account(1, code="new", email="b@x", amount=20),
        account(2, id=2, code="c", amount=30),
        account(3, code="A", amount=11),  # of the same collation
        account(4, code="d", email="d@x", amount=40),
    ]
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "rejected", "rejected", "written", "written"]
    assert [outcomes[n].code for n in (1, 2)] == [RejectCode.CONSTRAINT] * 2
    assert "other than (code)" in str(outcomes[1].reason)
    first = 11 if conflict == "update" else 1
    assert mariadb.rows("SELECT email, amount FROM accounts ORDER BY code") == [
        ("a@x", first),
        ("b@x", 2),
        ("d@x", 40),
    ]


async def test_without_a_key_any_conflict_is_ignored_and_nothing_else_is(mariadb: TestDatabase) -> None:
    """As `INSERT IGNORE` would not: it also takes values that do not fit, and rows without a parent."""
    mariadb.execute(f"{ACCOUNTS};;ALTER TABLE accounts ADD CHECK (amount < 100)")
    sink = mariadb.sink(tables={"accounts": TableRule(conflict="ignore")})
    requests = [
        account(0, code="a", amount=10),
        account(1, code="x", email="b@x"),
        account(2, code="y" * 21),
        account(3, code="z", amount=100),
        account(4, code=None),
    ]
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written"] * 2 + ["rejected"] * 3
    assert mariadb.rows("SELECT code, amount FROM accounts ORDER BY id") == [("a", 1), ("b", 2)]


async def test_a_rules_index_that_is_dropped_or_no_longer_unique_is_noticed(mariadb: TestDatabase) -> None:
    """MariaDB would insert second rows, where other databases refuse the statement."""
    mariadb.execute(ACCOUNTS)
    sink = mariadb.sink(tables={"accounts": TableRule(conflict="update", key=["code"])})
    assert await kinds(sink, account(0, code="a", amount=5)) == ["written"]
    mariadb.execute("DROP INDEX code ON accounts")
    outcomes = await sink.write(Batch([account(1, code="a", amount=6)], id="main-0/2"))
    assert [o.kind.value for o in outcomes] == ["retry"]
    assert "no unique index" in str(outcomes[0].reason)
    mariadb.execute("CREATE UNIQUE INDEX by_code ON accounts (code)")
    assert await kinds(sink, account(1, code="a", amount=6), batch="main-0/2") == ["written"]
    assert mariadb.rows("SELECT amount FROM accounts WHERE code = 'a'") == [(6,)]


async def test_a_unique_key_of_first_characters_is_no_key_of_the_column(mariadb: TestDatabase) -> None:
    mariadb.execute("CREATE TABLE notes (id integer PRIMARY KEY, note text, UNIQUE (note(3)))")
    with pytest.raises(SinkConfigurationError, match="no unique index over exactly"):
        await mariadb.sink(tables={"notes": TableRule(conflict="update", key=["note"])}).open()


async def test_what_a_migration_changed_is_bound_anew(mariadb: TestDatabase) -> None:
    mariadb.execute("CREATE TABLE entries (id integer PRIMARY KEY, amount integer, kind enum('a'))")
    sink = mariadb.sink()
    changed = WriteRequest("c", [Record("entries", {"id": 2, "amount": "x", "kind": "b"})])
    assert await kinds(sink, entry(1), changed) == ["written", "rejected"]
    mariadb.execute("ALTER TABLE entries MODIFY amount varchar(9), MODIFY kind enum('a', 'b')")
    assert await kinds(sink, changed) == ["written"]
    mariadb.execute("ALTER TABLE entries DROP COLUMN kind")
    outcomes = await sink.write(Batch([replace(changed, request_id="d")], id="main-0/2"))
    assert outcomes[0].code is RejectCode.UNKNOWN_COLUMN


async def test_a_generated_column_an_invisible_one_and_a_view_are_what_they_are(mariadb: TestDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (id integer PRIMARY KEY, v varchar(9) INVISIBLE, w varchar(20) AS (concat(v, '!')) VIRTUAL)"
        ";;CREATE VIEW narrow AS SELECT id, v FROM t WHERE id < 10 WITH CHECK OPTION"
    )
    rows: list[tuple[str, dict[str, Any]]] = [
        ("t", {"id": 1, "v": "x"}),
        ("t", {"id": 2, "w": "x"}),
        ("narrow", {"id": 3, "v": "y"}),
        ("narrow", {"id": 30}),
    ]
    requests = [WriteRequest(str(n), [Record(table, values)]) for n, (table, values) in enumerate(rows)]
    outcomes = await mariadb.sink().write(Batch(requests, id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "rejected", "written", "rejected"]
    assert outcomes[3].code is RejectCode.CONSTRAINT
    assert mariadb.rows("SELECT id, w FROM t ORDER BY id") == [(1, "x!"), (3, "y!")]


# Errors

OF_ITS_OWN = {
    "45000": "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'poison'",
    "a number of one's own": "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 30001, MESSAGE_TEXT = 'poison'",
    "02000": "SIGNAL SQLSTATE '02TRG' SET MESSAGE_TEXT = 'poison'",
    "no such function": "SET new.amount = nowhere()",
    "CASE without ELSE": "BEGIN CASE new.amount WHEN 0 THEN SET new.amount = 1; END CASE; END",
    "two rows": "SET new.amount = (SELECT 1 UNION ALL SELECT 2)",
}
OF_THE_MOMENT = {
    1021: "HY000",
    1041: "HY000",
    1114: "HY000",
    1205: "HY000",
    1213: "40001",
    1317: "70100",
    1969: "70100",
}


@pytest.mark.parametrize("signal", OF_ITS_OWN.values(), ids=OF_ITS_OWN.keys())
async def test_what_a_trigger_raises_of_its_own_rejects_its_request(mariadb: TestDatabase, signal: str) -> None:
    mariadb.execute(f"{ENTRIES};;{raises(signal)}")
    outcomes = await mariadb.sink().write(Batch(poisoned(20, 7), id="main-0/1"))
    assert [n for n, o in enumerate(outcomes) if o.kind is not OutcomeKind.WRITTEN] == [7]
    assert (outcomes[7].kind, outcomes[7].code) == (OutcomeKind.REJECTED, RejectCode.DATABASE)
    assert mariadb.scalar("SELECT count(*) FROM entries") == 19


@pytest.mark.parametrize(("number", "state"), OF_THE_MOMENT.items())
async def test_what_judges_the_moment_holds_up_its_request_alone_and_never_rejects_it(
    mariadb: TestDatabase, number: int, state: str
) -> None:
    signal = f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'poison'"
    mariadb.execute(f"{ENTRIES};;{raises(signal)}")
    sink = mariadb.sink()
    batch = Batch(poisoned(20, 0, 7), id="main-0/1")
    outcomes = await sink.write(batch)
    assert [n for n, o in enumerate(outcomes) if o.kind is not OutcomeKind.WRITTEN] == [0, 7]
    assert {(outcomes[n].kind, outcomes[n].in_doubt) for n in (0, 7)} == {(OutcomeKind.RETRY, False)}
    assert "poison" in str(outcomes[0].reason)
    again = Batch([batch[0], batch[7]], id="main-0/1", attempt=1)
    assert [o.kind.value for o in await sink.write(again)] == ["retry", "retry"]
    mariadb.execute("DROP TRIGGER poison")
    assert [o.kind.value for o in await sink.write(again)] == ["written", "written"]


async def test_no_reason_carries_a_value_that_was_not_sent(mariadb: TestDatabase) -> None:
    mariadb.execute(
        f"{ENTRIES};;CREATE TABLE log (secret varchar(50) PRIMARY KEY, n integer);;INSERT INTO log VALUES ('secret', 1)"
    )
    for body in ("INSERT INTO log VALUES ('secret', 1)", "INSERT INTO log VALUES ('other', 'a secret')"):
        mariadb.execute(raises(body))
        (outcome,) = await mariadb.sink().write(Batch([entry(1, POISON)], id="main-0/1"))
        assert outcome.kind is OutcomeKind.REJECTED
        assert "secret" not in str(outcome.reason)
        mariadb.execute("DROP TRIGGER poison")


async def test_a_deadlock_that_ended_the_transaction_is_started_over(mariadb: TestDatabase) -> None:
    """Two batches of two sinks take the same rows in opposite orders, again and again."""
    mariadb.execute(f"{ENTRIES};;{ENTRIES.replace('entries', 'others')}")
    mariadb.execute("INSERT INTO entries VALUES (1, 0);;INSERT INTO others VALUES (1, 0)")
    rules = {name: TableRule(conflict="update", key=["id"]) for name in ("entries", "others")}
    sinks = [mariadb.sink(tables=rules) for _ in range(2)]
    orders = (["entries", "others"], ["others", "entries"])

    async def write(turn: int, sink: Any, tables: list[str]) -> list[str]:
        records = [Record(table, {"id": 1, "amount": turn}) for table in tables]
        return await kinds(sink, WriteRequest(f"{tables[0]}{turn}", records), batch=f"main-{tables[0]}/{turn}")

    for turn in range(30):
        both = await asyncio.gather(*(write(turn, *pair) for pair in zip(sinks, orders, strict=True)))
        assert both == [["written"], ["written"]]
    assert mariadb.scalar("SELECT count(*) FROM batching_ledger WHERE status = 'written'") == 60


@pytest.mark.parametrize(("number", "state"), [(1213, "40001"), (1206, "HY000")], ids=["deadlock", "too many locks"])
async def test_what_ends_the_transaction_in_the_midst_of_an_isolation_loses_no_request(
    number: int, state: str, mariadb: TestDatabase, statements: Statements
) -> None:
    """It takes the savepoint with it, and all that was isolated before."""
    mariadb.execute(f"{ENTRIES};;{raises(OF_ITS_OWN['45000'])}")
    sink = mariadb.sink()
    await sink.open()
    ended: list[str] = []

    def end_transaction(connection: Any, statement: str) -> str | None:
        if not ended and "`entries` (" in statement and statements.sent.count("SAVEPOINT attempt") == 2:
            ended.append(statement)
            connection.rollback()
            return f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {number}"
        return None

    statements.before = end_transaction
    outcomes = await sink.write(Batch(poisoned(8, 5), id="main-0/1"))
    assert ended
    assert [n for n, o in enumerate(outcomes) if o.kind is not OutcomeKind.WRITTEN] == [5]
    assert mariadb.scalar("SELECT count(*) FROM entries") == 7
    assert mariadb.scalar("SELECT count(*) FROM batching_ledger WHERE status = 'written'") == 7


# Locks and time


async def test_a_row_that_an_outsider_has_locked_holds_up_only_its_requests(mariadb: TestDatabase) -> None:
    mariadb.execute(f"{ENTRIES};;INSERT INTO entries VALUES (3, 0)")
    rules = {"entries": TableRule(conflict="update", key=["id"])}
    sink = mariadb.sink(tables=rules, lock_timeout=timedelta(seconds=1))
    requests = [entry(n, key="odd" if n % 2 else "even") for n in range(20)]
    with mariadb.engine.connect() as outsider:
        outsider.execute(sa.text("SELECT * FROM entries WHERE id = 3 FOR UPDATE"))
        started = time.monotonic()
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
        assert time.monotonic() - started < 6
        waiting = [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.RETRY]
        assert waiting == list(range(3, 20, 2))
        again = Batch([requests[n] for n in waiting], id="main-0/1", attempt=1)
        started = time.monotonic()
        assert {o.kind for o in await sink.write(again)} == {OutcomeKind.RETRY}
        assert time.monotonic() - started < 1.5
    assert {o.kind for o in await sink.write(again)} == {OutcomeKind.WRITTEN}


async def test_a_brief_wait_is_one(mariadb: TestDatabase) -> None:
    """MariaDB waits for whole seconds, or not at all."""
    mariadb.execute(f"{ENTRIES};;INSERT INTO entries VALUES (1, 0)")
    rules = {"entries": TableRule(conflict="update", key=["id"])}
    sink = mariadb.sink(tables=rules, lock_timeout=timedelta(milliseconds=900))
    await sink.open()
    with mariadb.engine.connect() as outsider:
        outsider.execute(sa.text("SELECT * FROM entries WHERE id = 1 FOR UPDATE"))
        writing = asyncio.create_task(kinds(sink, entry(1, 5)))

        async def waits() -> None:
            assert sink.counters.statements >= 3

        await assert_eventually(waits)
        outsider.rollback()
        assert await writing == ["written"]


async def test_a_wait_for_a_lock_ends_at_the_earliest_deadline_of_the_batch(mariadb: TestDatabase) -> None:
    mariadb.execute(f"{ENTRIES};;INSERT INTO entries VALUES (1, 1)")
    rules = {"entries": TableRule(conflict="update", key=["id"])}
    sink = mariadb.sink(tables=rules, lock_timeout=timedelta(seconds=20))
    await sink.open()
    began = time.time()
    requests = [replace(entry(n), expires_at=began + (2.5 if n == 2 else 60)) for n in range(4)]
    with mariadb.engine.connect() as outsider:
        outsider.execute(sa.text("SELECT * FROM entries WHERE id = 1 FOR UPDATE"))
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
        assert time.time() - began < 12
        outsider.rollback()
    assert outcomes[1].kind is OutcomeKind.RETRY
    assert {outcomes[n].kind for n in (0, 3)} == {OutcomeKind.WRITTEN}
    assert [o.kind.value for o in await sink.write(Batch(requests[1:2], id="main-0/1", attempt=1))] == ["written"]


async def test_a_slow_request_is_isolated_in_the_first_attempt(mariadb: TestDatabase) -> None:
    mariadb.execute(f"{ENTRIES};;{raises('DO SLEEP(60)')}")
    sink = mariadb.sink(statement_timeout=timedelta(seconds=2))
    started = time.monotonic()
    outcomes = await sink.write(Batch(poisoned(10, 5), id="main-0/1"))
    assert time.monotonic() - started < 4
    assert [n for n, o in enumerate(outcomes) if o.kind is not OutcomeKind.WRITTEN] == [5]
    assert outcomes[5].kind is OutcomeKind.RETRY


async def test_fence_answers_for_requests_whose_row_in_the_ledger_is_not_locked(mariadb: TestDatabase) -> None:
    mariadb.execute(ENTRIES)
    sink = mariadb.sink(lock_timeout=timedelta(milliseconds=200))
    await sink.open()
    with mariadb.engine.connect() as outsider:
        outsider.execute(sa.text("INSERT INTO batching_ledger VALUES ('r3', 'x', 'other-0/1', 'written', now(), NULL)"))
        outcomes = await sink.fence(Batch(poisoned(10), id="main-0/1"))
    assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.RETRY] == [3]
    assert {o.kind for n, o in enumerate(outcomes) if n != 3} == {OutcomeKind.EXPIRED}
    assert [o.kind.value for o in await sink.fence(Batch([entry(3)], id="main-0/1"))] == ["expired"]


async def test_many_ids_that_expired_are_taken_over_together(mariadb: TestDatabase) -> None:
    mariadb.execute(ENTRIES)
    sink = mariadb.sink()
    requests = [entry(n) for n in range(1_200)]
    await sink.fence(Batch(requests[:900], id="main-0/1"))
    sink.counters.statements = 0
    assert set(await kinds(sink, *requests, batch="main-0/2")) == {"written"}
    assert sink.counters.statements < 15
    assert mariadb.scalar("SELECT count(*) FROM entries") == 1_200
    assert set(await kinds(sink, *requests, batch="main-0/3")) == {"duplicate"}


# Connections


def kill_connections(database: TestDatabase) -> None:
    own = "AND id <> CONNECTION_ID()"
    for (number,) in database.rows("SELECT id FROM information_schema.PROCESSLIST WHERE db = DATABASE() " + own):
        database.execute(f"KILL CONNECTION {number}")


async def test_a_connection_killed_before_the_commit_is_in_doubt_and_commits_nothing(
    mariadb: TestDatabase, statements: Statements
) -> None:
    mariadb.execute(ENTRIES)
    sink = mariadb.sink()
    await sink.open()

    def kill(connection: Any, statement: str) -> None:
        if statement == COMMIT:
            mariadb.execute(f"KILL CONNECTION {connection.thread_id()}")

    statements.before = kill
    with pytest.raises(SinkUnavailable) as caught:
        await kinds(sink, entry(1), entry(2))
    assert caught.value.in_doubt
    statements.before = None
    assert mariadb.scalar("SELECT count(*) FROM entries") == 0
    assert [o.kind.value for o in await sink.fence(Batch([entry(1)], id="main-0/1"))] == ["expired"]
    assert await kinds(sink, entry(1), entry(2)) == ["expired", "written"]


async def test_a_commit_that_fails_although_it_is_done_is_in_doubt(
    mariadb: TestDatabase, statements: Statements
) -> None:
    """The connection is alive, and has no transaction any more: nothing says whether it was committed."""
    mariadb.execute(ENTRIES)
    sink = mariadb.sink()
    await sink.open()

    def fail(connection: Any, statement: str) -> None:
        if statement == COMMIT:
            raise pymysql.OperationalError(1180, "Got error 28 during COMMIT")

    statements.after = fail
    with pytest.raises(SinkUnavailable, match="during COMMIT") as caught:
        await kinds(sink, entry(1), entry(2))
    assert caught.value.in_doubt
    statements.after = None
    assert await kinds(sink, entry(1), entry(2)) == ["written"] * 2
    assert mariadb.scalar("SELECT count(*) FROM entries") == 2


async def test_connections_that_died_in_the_pool_are_replaced_unnoticed(mariadb: TestDatabase) -> None:
    mariadb.execute(ENTRIES)
    sink = mariadb.sink(max_connections=3)
    await asyncio.gather(*(kinds(sink, entry(n), batch=f"main-{n}/1") for n in range(3)))
    kill_connections(mariadb)
    answers = await asyncio.gather(*(kinds(sink, entry(n), batch=f"main-{n}/2") for n in range(3, 6)))
    assert answers == [["written"]] * 3
    kill_connections(mariadb)
    assert set(await sink.lookup(["r0", "r5"])) == {"r0", "r5"}


async def test_a_query_that_is_killed_has_its_request_retried(mariadb: TestDatabase, statements: Statements) -> None:
    mariadb.execute(ENTRIES)
    sink = mariadb.sink()
    await sink.open()
    killed: list[str] = []

    def kill(connection: Any, statement: str) -> str | None:
        if "`entries` (" in statement:
            killed.append(statement)
            return "SIGNAL SQLSTATE '70100' SET MYSQL_ERRNO = 1317"
        return None

    statements.before = kill
    outcomes = await sink.write(Batch([entry(1), entry(2)], id="main-0/1"))
    assert {(o.kind.value, o.in_doubt) for o in outcomes} == {("retry", False)}
    statements.before = None
    assert await kinds(sink, entry(1), entry(2)) == ["written"] * 2


async def test_a_session_that_has_become_read_only_is_replaced(mariadb: TestDatabase) -> None:
    mariadb.execute(ENTRIES)
    sink = mariadb.sink(max_connections=1)
    await kinds(sink, entry(0))
    with sink.connections.engine.connect() as connection:
        connection.execute(sa.text("SET SESSION TRANSACTION READ ONLY"))
    assert await kinds(sink, entry(1), entry(2), batch="main-0/2") == ["written"] * 2


async def test_an_engine_of_ones_own_gets_its_session_back(mariadb: TestDatabase) -> None:
    mariadb.execute(ENTRIES)
    engine = sa.create_engine(
        mariadb.url, pool_size=1, max_overflow=0,
        connect_args={"init_command": "SET sql_mode = 'ANSI_QUOTES', time_zone = '+02:00', lock_wait_timeout = 7"},
    )  # fmt: skip
    shown = "SELECT @@sql_mode, @@time_zone, @@lock_wait_timeout, @@max_statement_time, @@tx_isolation, @@autocommit"
    with engine.connect() as connection:
        before = connection.exec_driver_sql(shown).one()
    sink = mariadb.sink(url=engine)
    bad = WriteRequest("bad", [Record("entries", {"id": 2, "amount": "x"})])
    assert await kinds(sink, entry(1), entry(1), bad) == ["written", "duplicate", "rejected"]
    with engine.connect() as connection:
        assert connection.exec_driver_sql(shown).one() == before
    engine.dispose()


async def test_an_engine_in_another_encoding_is_refused(mariadb: TestDatabase) -> None:
    engine = sa.create_engine(mariadb.url, connect_args={"charset": "latin1"})
    with pytest.raises(SinkConfigurationError, match="utf8mb4"):
        await mariadb.sink(url=engine).open()
    engine.dispose()


def questions(database: TestDatabase) -> int:
    """How many statements the server has received."""
    return int(database.rows("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])


async def test_a_batch_is_four_round_trips(mariadb: TestDatabase, statements: Statements) -> None:
    mariadb.execute(ENTRIES)
    sink = mariadb.sink()
    await kinds(sink, entry(1), entry(2))
    statements.sent.clear()
    before, asked = sink.counters.round_trips, questions(mariadb)
    await kinds(sink, *(entry(n) for n in range(3, 100)), batch="main-0/2")
    assert questions(mariadb) - asked == 4 + 2  # the last are ours
    assert [sql.split()[0] for sql in statements.sent if "STATUS" not in sql] == [BEGIN, "INSERT", "INSERT", COMMIT]
    assert sink.counters.round_trips - before == 4
