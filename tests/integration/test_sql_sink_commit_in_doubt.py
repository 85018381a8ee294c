"""What is said of a batch follows from what was committed of it, whatever ended the attempt."""

from __future__ import annotations

from typing import Any

import pytest

from temporal_batching.contract import OutcomeKind, Record, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase
from tests.support.statements import BEGIN, COMMIT, Statements, lose_connection

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, amount integer)"


def entry(number: int, amount: int = 1) -> WriteRequest:
    return WriteRequest(f"r{number}", [Record("entries", {"id": number, "amount": amount})])


def raw(database: TestDatabase, sql: str) -> None:
    with database.engine.begin() as connection:
        cursor: Any = connection.connection.cursor()
        cursor.execute(sql)
        cursor.close()


def agrees(database: TestDatabase) -> None:
    """Ledger and rows hold the same requests."""
    rows = {f"r{row[0]}" for row in database.rows("SELECT id FROM entries")}
    written = database.rows("SELECT request_id FROM batching_ledger WHERE status = 'written'")
    assert {row[0] for row in written} == rows


ROLLBACKS = {
    "RAISE(ROLLBACK)": (
        ENTRIES,
        "CREATE TRIGGER poison BEFORE INSERT ON entries WHEN new.amount = 13"
        " BEGIN SELECT RAISE(ROLLBACK, 'poison'); END",
    ),
    "RAISE(ROLLBACK) after the row": (
        ENTRIES,
        "CREATE TRIGGER poison AFTER INSERT ON entries WHEN new.amount = 13"
        " BEGIN SELECT RAISE(ROLLBACK, 'poison'); END",
    ),
    "RAISE(FAIL)": (
        ENTRIES,
        "CREATE TRIGGER poison AFTER INSERT ON entries WHEN new.amount = 13 BEGIN SELECT RAISE(FAIL, 'poison'); END",
    ),
    "ON CONFLICT ROLLBACK": (
        "CREATE TABLE entries (id integer PRIMARY KEY, amount integer CHECK (amount <> 13), other integer"
        " UNIQUE ON CONFLICT ROLLBACK)",
        "CREATE TRIGGER twice AFTER INSERT ON entries BEGIN UPDATE entries SET other = amount WHERE id = new.id"
        " AND amount > 1; END",
    ),
}


@pytest.mark.parametrize("poison", [[0], [5], [19], [3, 4, 11]])
@pytest.mark.parametrize("kind", ["RAISE(ROLLBACK)", "RAISE(ROLLBACK) after the row"])
async def test_a_request_that_ends_the_transaction_is_rejected_alone(
    sqlite: TestDatabase, kind: str, poison: list[int]
) -> None:
    for sql in ROLLBACKS[kind]:
        raw(sqlite, sql)
    batch = Batch([entry(n, 13 if n in poison else 1) for n in range(20)], id="main-0/1")
    outcomes = await sqlite.sink().write(batch)
    assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.REJECTED] == poison
    assert {o.kind for n, o in enumerate(outcomes) if n not in poison} == {OutcomeKind.WRITTEN}
    assert "poison" in str(outcomes[poison[0]].reason)
    assert sqlite.scalar("SELECT count(*) FROM entries") == 20 - len(poison)
    agrees(sqlite)


async def test_a_constraint_that_rolls_back_rejects_its_request_alone(sqlite: TestDatabase) -> None:
    raw(sqlite, "CREATE TABLE entries (id integer PRIMARY KEY, amount integer UNIQUE ON CONFLICT ROLLBACK)")
    requests = [entry(n, 7 if n in (2, 9) else 100 + n) for n in range(16)]
    outcomes = await sqlite.sink().write(Batch(requests, id="main-0/1"))
    assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.REJECTED] == [9]
    assert sqlite.scalar("SELECT count(*) FROM entries") == 15
    agrees(sqlite)


async def test_a_trigger_that_fails_midway_leaves_nothing_behind(sqlite: TestDatabase) -> None:
    for sql in ROLLBACKS["RAISE(FAIL)"]:
        raw(sqlite, sql)
    outcomes = await sqlite.sink().write(Batch([entry(n, 13 if n == 5 else 1) for n in range(20)], id="main-0/1"))
    assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.REJECTED] == [5]
    agrees(sqlite)


@pytest.mark.parametrize("code", ["UE001", "53100"])
async def test_each_half_of_a_refused_commit_has_its_own_outcomes(postgresql: TestDatabase, code: str) -> None:
    """A good row, one that violates a deferred foreign key, one that meets a deferred trigger of its own code."""
    postgresql.execute(
        "CREATE TABLE parents (id integer PRIMARY KEY);;"
        "CREATE TABLE entries (id integer PRIMARY KEY, amount integer,"
        " parent integer REFERENCES parents DEFERRABLE INITIALLY DEFERRED);;"
        f"CREATE FUNCTION poison() RETURNS trigger AS $$ BEGIN RAISE 'poison' USING ERRCODE = '{code}'; END $$"
        " LANGUAGE plpgsql;;"
        "CREATE CONSTRAINT TRIGGER poison AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (new.amount = 13) EXECUTE FUNCTION poison()"
    )
    orphan = WriteRequest("r1", [Record("entries", {"id": 1, "parent": 9})])
    requests = [entry(0), orphan, entry(2, 13), entry(3)]
    outcomes = await postgresql.sink().write(Batch(requests, id="main-0/1"))
    third = "rejected" if code == "UE001" else "retry"
    assert [o.kind.value for o in outcomes] == ["written", "rejected", third, "written"]
    assert {o.in_doubt for o in outcomes} == {False}
    agrees(postgresql)


DEFERRED = (
    "CREATE TABLE entries (id integer PRIMARY KEY, amount integer,"
    " parent integer REFERENCES entries (id) DEFERRABLE INITIALLY DEFERRED)"
)


def lose_connections(statements: Statements, *, after: int, committed: bool | None) -> None:
    """After so many commits that succeeded, the database is gone: before a statement (None), or in a commit."""
    commits: list[bool] = []

    def is_over(statement: str) -> bool:
        return len(commits) >= after and statement.startswith(BEGIN if committed is None else COMMIT)

    def before(connection: Any, statement: str) -> None:
        if not committed and is_over(statement):
            lose_connection(connection, "it is gone")

    def done(connection: Any, statement: str) -> None:
        if committed and is_over(statement):
            lose_connection(connection, "it is gone")
        if statement == COMMIT:
            commits.append(True)

    statements.before, statements.after = before, done


@pytest.mark.parametrize("committed", [True, False, None], ids=["in a commit, done", "in a commit", "between commits"])
async def test_a_database_that_goes_away_between_two_halves_leaves_no_written_request_unanswered(
    deferring: TestDatabase, statements: Statements, committed: bool | None
) -> None:
    database = deferring
    database.execute(DEFERRED)
    sink = database.sink()
    await sink.open()
    orphan = WriteRequest("r7", [Record("entries", {"id": 7, "parent": 999})])
    batch = Batch([*(entry(n) for n in range(7)), orphan], id="main-0/1")
    lose_connections(statements, after=1, committed=committed)
    outcomes = await sink.write(batch)
    statements.before = statements.after = None
    assert [o.kind.value for o in outcomes[:4]] == ["written"] * 4
    assert {o.kind for o in outcomes[4:]} == {OutcomeKind.RETRY}
    # Done, the second half is refused for its orphan first, and halved again.
    doubtful = {True: 2, False: 4, None: 0}[committed]
    assert [o.in_doubt for o in outcomes[4:]] == [True] * doubtful + [False] * (4 - doubtful)
    assert "it is gone" in str(outcomes[4].reason)
    again = Batch(batch[4:], id="main-0/1", attempt=1)
    assert [o.kind.value for o in await sink.write(again)] == ["written"] * 3 + ["rejected"]
    agrees(database)


@pytest.mark.parametrize("committed", [True, False, None], ids=["in a commit, done", "in a commit", "before it"])
async def test_a_database_that_goes_away_at_once_is_unavailable(
    database: TestDatabase, statements: Statements, committed: bool | None
) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    lose_connections(statements, after=0, committed=committed)
    with pytest.raises(SinkUnavailable, match="it is gone") as caught:
        await sink.write(Batch([entry(1), entry(2)], id="main-0/1"))
    assert caught.value.in_doubt is (committed is not None)
