"""What `SqlSink` answers: ids, deadlines, order and conflicts, the same on every database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from temporal_batching.contract import Outcome, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.ledger import LedgerStatus, digest
from temporal_batching.sinks.sql import database as database_module
from temporal_batching.sinks.sql.sink import TableRule
from tests.support.databases import TestDatabase
from tests.support.statements import Statements

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, account text NOT NULL, amount integer CHECK (amount > 0))"


def entry(
    number: int, *, request_id: str | None = None, expires_at: float | None = None, **values: Any
) -> WriteRequest:
    record = Record("entries", {"id": number, "account": "a", "amount": 1, **values})
    return WriteRequest(request_id or f"r{number}", [record], expires_at=expires_at)


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.kind.value for outcome in outcomes]


async def test_a_batch_is_written_with_its_ids(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    assert kinds(await sink.write(Batch([entry(n) for n in range(5)], id="main-0/1"))) == ["written"] * 5
    assert database.rows("SELECT id FROM entries ORDER BY id") == [(n,) for n in range(5)]
    known = await sink.lookup(["r0", "r4", "r5"])
    assert set(known) == {"r0", "r4"}
    assert known["r4"].batch_id == "main-0/1"
    assert known["r4"].status is LedgerStatus.WRITTEN
    assert known["r4"].digest == digest(entry(4).records)
    assert abs((datetime.now(UTC) - known["r4"].committed_at).total_seconds()) < 60
    counters = sink.counters
    assert (counters.transactions, counters.rows, counters.splits) == (1, 5, 0)
    if database.dialect == "postgresql":
        # Ledger and rows in one trip (the transaction begins in it), the commit in another; then the look-up.
        assert (counters.statements, counters.round_trips) == (3, 2 + 2)


async def test_rows_are_with_the_server_before_the_digests_are_computed(
    postgresql: TestDatabase, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that both work at the same time, also where rows are larger than what a socket takes at once."""
    postgresql.execute(ENTRIES)
    connections: list[Any] = []
    unsent: set[int] = set()

    def look(records: Sequence[Record]) -> str:
        unsent.add(connections[-1].pgconn.flush())
        return digest(records)

    statements.before = lambda connection, statement: connections.append(connection)
    monkeypatch.setattr(database_module, "digest", look)
    requests = [entry(n, account="x" * 100_000) for n in range(50)]
    assert set(kinds(await postgresql.sink().write(Batch(requests, id="main-0/1")))) == {"written"}
    assert unsent == {0}


async def test_an_empty_batch_is_answered_with_nothing(database: TestDatabase) -> None:
    sink = database.sink()
    assert list(await sink.write(Batch([], id="main-0/1"))) == []
    assert list(await sink.fence(Batch([], id="main-0/1"))) == []
    assert await sink.lookup([]) == {}


async def test_the_same_batch_again_is_written_and_another_one_a_duplicate(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    requests = [entry(1), entry(2)]
    await sink.write(Batch(requests, id="main-0/1"))
    assert kinds(await sink.write(Batch(requests, id="main-0/1"))) == ["written", "written"]
    assert kinds(await sink.write(Batch([*requests, entry(3)], id="main-0/2"))) == ["duplicate", "duplicate", "written"]
    assert database.scalar("SELECT count(*) FROM entries") == 3


async def test_without_a_batch_id_nothing_passes_for_an_earlier_attempt(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.write(Batch([entry(1)]))
    assert kinds(await sink.write(Batch([entry(1)]))) == ["duplicate"]


async def test_an_id_with_other_records_is_rejected(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.write(Batch([entry(1)], id="main-0/1"))
    (outcome,) = await sink.write(Batch([entry(2, request_id="r1")], id="main-0/1"))
    assert outcome.code is RejectCode.ID_REUSED
    assert database.rows("SELECT id FROM entries") == [(1,)]


async def test_of_an_id_twice_in_one_batch_the_first_is_written(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    batch = Batch([entry(1), entry(1), entry(2, request_id="r1"), entry(3)], id="main-0/1")
    for _ in range(2):
        outcomes = await sink.write(batch)
        assert kinds(outcomes) == ["written", "duplicate", "rejected", "written"]
        assert outcomes[2].code is RejectCode.ID_REUSED
    assert database.rows("SELECT id FROM entries ORDER BY id") == [(1,), (3,)]


async def test_a_rejected_request_does_not_spend_its_id(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    batch = Batch([entry(1, amount=-1), entry(2, request_id="r1"), entry(2, request_id="r1")], id="main-0/1")
    assert kinds(await sink.write(batch)) == ["rejected", "written", "duplicate"]
    assert database.rows("SELECT id FROM entries") == [(2,)]


async def test_what_was_written_stays_known_when_its_records_do_not_fit_any_more(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    await database.sink().write(Batch([entry(1)], id="main-0/1"))
    database.execute("ALTER TABLE entries DROP COLUMN account")
    assert kinds(await database.sink().write(Batch([entry(1)], id="main-0/1"))) == ["written"]
    assert kinds(await database.sink().write(Batch([entry(1)], id="main-0/2"))) == ["duplicate"]


async def test_past_its_deadline_a_request_is_not_written(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink(clock=lambda: 1000.0)
    batch = Batch([entry(1, expires_at=999.0), entry(2, expires_at=1001.0), entry(3, expires_at=1000.0)], id="main-0/1")
    assert kinds(await sink.write(batch)) == ["expired", "written", "expired"]
    assert database.rows("SELECT id FROM entries") == [(2,)]


async def test_a_deadline_that_passes_during_the_write_is_kept(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    ticks = iter([10.0, 10.0])
    sink = database.sink(clock=lambda: next(ticks, 20.0))
    batch = Batch([entry(1, expires_at=15.0), entry(2), entry(3, expires_at=99.0)], id="main-0/1")
    await sink.open()
    assert kinds(await sink.write(batch)) == ["expired", "written", "written"]
    assert database.rows("SELECT id FROM entries ORDER BY id") == [(2,), (3,)]


async def test_an_expired_request_that_was_written_is_said_to_be(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    now = [10.0]
    sink = database.sink(clock=lambda: now[0])
    batch = Batch([entry(1, expires_at=15.0)], id="main-0/1")
    await sink.write(batch)
    now[0] = 20.0
    assert kinds(await sink.write(batch)) == ["written"]
    assert kinds(await sink.fence(batch)) == ["written"]


async def test_settle_finds_what_is_there_and_fences_off_the_rest(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.write(Batch([entry(1)], id="main-0/1"))
    await sink.write(Batch([entry(2)], id="main-0/2"))
    batch = Batch([entry(1), entry(2), entry(3), entry(9, request_id="r2")], id="main-0/1")
    outcomes = await sink.fence(batch)
    assert kinds(outcomes) == ["written", "duplicate", "expired", "rejected"]
    assert (await sink.lookup(["r3"]))["r3"].status is LedgerStatus.EXPIRED
    assert kinds(await sink.fence(batch)) == kinds(outcomes)
    # The attempt of that batch which comes too late:
    assert kinds(await sink.write(Batch([entry(3)], id="main-0/1"))) == ["expired"]
    assert database.scalar("SELECT count(*) FROM entries") == 2


async def test_an_id_that_expired_may_be_submitted_anew(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.fence(Batch([entry(1)], id="main-0/1"))
    anew = Batch([entry(2, request_id="r1"), entry(3)], id="main-0/2")
    assert kinds(await sink.write(anew)) == ["written", "written"]
    assert (await sink.lookup(["r1"]))["r1"].batch_id == "main-0/2"
    assert kinds(await sink.write(Batch([entry(1)], id="main-0/1"))) == ["rejected"]
    assert kinds(await sink.fence(Batch([entry(2, request_id="r1")], id="main-0/1"))) == ["duplicate"]


async def test_the_records_of_a_request_are_written_together_or_not_at_all(database: TestDatabase) -> None:
    database.execute(f"{ENTRIES};;CREATE TABLE notes (id integer PRIMARY KEY, note text NOT NULL)")
    sink = database.sink()
    good = WriteRequest("good", [Record("notes", {"id": 1, "note": "x"}), entry(1).records[0]])
    bad = WriteRequest("bad", [Record("notes", {"id": 2, "note": "x"}), entry(1).records[0]])
    assert kinds(await sink.write(Batch([good, bad], id="main-0/1"))) == ["written", "rejected"]
    assert database.rows("SELECT id FROM notes") == [(1,)]
    assert set(await sink.lookup(["good", "bad"])) == {"good"}


async def test_parents_go_before_children_as_they_were_sent(database: TestDatabase) -> None:
    database.execute(
        "CREATE TABLE parents (id integer PRIMARY KEY);;"
        "CREATE TABLE children (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES parents (id));;"
        "INSERT INTO parents VALUES (0)"
    )
    sink = database.sink()

    def child(number: int, parent: int) -> Record:
        return Record("children", {"id": number, "parent": parent})

    requests = [WriteRequest("r0", [child(0, 0)])]
    requests += [WriteRequest(f"r{n}", [Record("parents", {"id": n}), child(n, n)]) for n in range(1, 50)]
    requests.append(WriteRequest("orphan", [child(99, 99)]))
    assert kinds(await sink.write(Batch(requests[:50], id="main-0/1"))) == ["written"] * 50
    # One insert per table, not one per record; and no second try.
    assert sink.counters.splits == 0
    assert sink.counters.statements <= 4
    (outcome,) = await sink.write(Batch(requests[50:], id="main-0/2"))
    assert outcome.code is RejectCode.CONSTRAINT


async def test_requests_that_order_tables_differently_are_applied_as_they_came(database: TestDatabase) -> None:
    database.execute(
        "CREATE TABLE a (id integer PRIMARY KEY, b integer);;"
        "CREATE TABLE b (id integer PRIMARY KEY, a integer REFERENCES a (id))"
    )
    sink = database.sink()
    first = WriteRequest("1", [Record("a", {"id": 1}), Record("b", {"id": 1, "a": 1})])
    second = WriteRequest("2", [Record("b", {"id": 2, "a": 1}), Record("a", {"id": 2})])
    assert kinds(await sink.write(Batch([first, second], id="main-0/1"))) == ["written", "written"]
    assert sink.counters.splits == 0


async def test_generated_numbers_follow_the_order_of_arrival(database: TestDatabase) -> None:
    number = {
        "sqlite": "integer PRIMARY KEY",
        "postgresql": "integer GENERATED ALWAYS AS IDENTITY",
        "mariadb": "integer AUTO_INCREMENT PRIMARY KEY",
    }[database.dialect]
    database.execute(f"CREATE TABLE events (seq {number}, what text, more text)")
    sink = database.sink()
    # Different columns, all of them without a default, still make one statement.
    requests = [
        WriteRequest(str(n), [Record("events", {"what": str(n), **({"more": "x"} if n % 2 else {})})])
        for n in range(20)
    ]
    assert kinds(await sink.write(Batch(requests, id="main-0/1"))) == ["written"] * 20
    assert database.rows("SELECT what FROM events ORDER BY seq") == [(str(n),) for n in range(20)]
    assert sink.counters.statements <= 3


async def test_a_column_left_out_gets_its_default_and_null_only_when_sent(database: TestDatabase) -> None:
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, plain text, d text DEFAULT 'unset', n integer)")
    sink = database.sink()
    values: list[dict[str, Any]] = [
        {"id": 1},
        {"id": 2, "d": None},
        {"id": 3, "d": "sent", "n": 5},
        {"n": 6, "id": 4},
        {"id": 5, "plain": "p", "n": None},
    ]
    requests = [WriteRequest(str(v["id"]), [Record("t", v)]) for v in values]
    assert kinds(await sink.write(Batch(requests, id="main-0/1"))) == ["written"] * 5
    assert database.rows("SELECT id, plain, d, n FROM t ORDER BY id") == [
        (1, None, "unset", None),
        (2, None, None, None),
        (3, None, "sent", 5),
        (4, None, "unset", 6),
        (5, "p", "unset", None),
    ]


async def test_a_record_without_values_is_a_row_of_defaults(database: TestDatabase) -> None:
    number = "integer PRIMARY KEY" if database.dialect == "sqlite" else "serial PRIMARY KEY"
    database.execute(f"CREATE TABLE t (id {number}, d text DEFAULT 'x')")
    sink = database.sink()
    requests = [WriteRequest(str(n), [Record("t", {})]) for n in range(3)]
    assert kinds(await sink.write(Batch(requests, id="main-0/1"))) == ["written"] * 3
    assert database.rows("SELECT id, d FROM t ORDER BY id") == [(1, "x"), (2, "x"), (3, "x")]


BALANCES = "CREATE TABLE balances (account text PRIMARY KEY, amount integer CHECK (amount >= 0), note text DEFAULT '-')"


def balance(number: int, account: str, **values: Any) -> WriteRequest:
    return WriteRequest(f"b{number}", [Record("balances", {"account": account, **values})])


async def test_conflict_error_rejects(database: TestDatabase) -> None:
    database.execute(BALANCES)
    sink = database.sink(tables=["balances"])
    outcomes = await sink.write(Batch([balance(1, "a", amount=1), balance(2, "a", amount=2)], id="main-0/1"))
    assert kinds(outcomes) == ["written", "rejected"]
    assert outcomes[1].code is RejectCode.CONSTRAINT


@pytest.mark.parametrize("key", [(), ("account",)])
async def test_conflict_ignore_keeps_the_row_that_is_there(database: TestDatabase, key: tuple[str, ...]) -> None:
    database.execute(BALANCES)
    sink = database.sink(tables={"balances": TableRule(conflict="ignore", key=key)})
    requests = [balance(1, "a", amount=1), balance(2, "a", amount=2), balance(3, "b", amount=3)]
    assert kinds(await sink.write(Batch(requests, id="main-0/1"))) == ["written"] * 3
    assert database.rows("SELECT account, amount FROM balances ORDER BY account") == [("a", 1), ("b", 3)]


async def test_conflict_update_lets_the_later_record_win(database: TestDatabase) -> None:
    database.execute(BALANCES)
    sink = database.sink(tables={"balances": TableRule(conflict="update", key=["account"])})
    requests = [
        balance(1, "a", amount=1, note="first"),
        balance(2, "b", amount=2, note="b"),
        balance(3, "a", amount=3, note="second"),
        balance(4, "a", amount=4),
        balance(5, "b", note="later"),
    ]
    assert kinds(await sink.write(Batch(requests, id="main-0/1"))) == ["written"] * 5
    assert database.rows("SELECT * FROM balances ORDER BY account") == [("a", 4, "second"), ("b", 2, "later")]
    assert sink.counters.splits == 0


async def test_conflict_update_touches_only_the_named_columns(database: TestDatabase) -> None:
    database.execute(f"{BALANCES};;INSERT INTO balances VALUES ('a', 1, 'kept')")
    sink = database.sink(tables={"balances": TableRule(conflict="update", key=["account"], update=["amount"])})
    batch = Batch([balance(1, "a", amount=5, note="lost"), balance(2, "b", amount=6, note="new")], id="main-0/1")
    await sink.write(batch)
    assert database.rows("SELECT * FROM balances ORDER BY account") == [("a", 5, "kept"), ("b", 6, "new")]
    assert kinds(await sink.write(Batch([balance(3, "a", note="nothing to update")], id="main-0/2"))) == ["written"]


async def test_of_several_updates_of_one_row_the_one_at_fault_is_rejected(database: TestDatabase) -> None:
    database.execute(BALANCES)
    sink = database.sink(tables={"balances": TableRule(conflict="update", key=["account"])})
    requests = [balance(n, "a", amount=-1 if n == 3 else n) for n in range(6)]
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert kinds(outcomes) == ["written"] * 3 + ["rejected"] + ["written"] * 2
    assert database.rows("SELECT account, amount FROM balances") == [("a", 5)]


async def test_many_workers_write_each_id_once(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sinks = [database.sink() for _ in range(3)]
    requests = [entry(n) for n in range(60)]
    batches = [Batch(requests[start : start + 20], id=f"main-{s}/{start}") for s in range(3) for start in (0, 20, 40)]
    answers = await asyncio.gather(*(sinks[i % 3].write(batch) for i, batch in enumerate(batches)))
    said = [kind for outcomes in answers for kind in kinds(outcomes)]
    assert said.count("written") == 60
    assert said.count("duplicate") == 120
    assert database.scalar("SELECT count(*) FROM entries") == 60
