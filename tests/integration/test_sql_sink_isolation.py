"""A bad request never fails its neighbours: it is found at a bounded cost, and rejected with the reason."""

from __future__ import annotations

import math
from typing import Any

import pytest

from temporal_batching.contract import OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, amount integer CHECK (amount > 0))"


def entry(number: int, amount: Any = 1) -> WriteRequest:
    return WriteRequest(f"r{number}", [Record("entries", {"id": number, "amount": amount})])


@pytest.mark.parametrize(
    ("size", "poison"),
    [(1, [0]), (2, [1]), (100, [0]), (100, [99]), (100, [37]), (256, [3, 200]), (64, [1, 20, 40, 63]), (16, range(16))],
)
async def test_the_cost_of_finding_culprits_is_logarithmic(
    database: TestDatabase, size: int, poison: list[int]
) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    batch = Batch([entry(n, amount=-1 if n in poison else 1) for n in range(size)], id="main-0/1")
    outcomes = await sink.write(batch)
    assert [n for n, outcome in enumerate(outcomes) if outcome.kind is OutcomeKind.REJECTED] == list(poison)
    assert {outcomes[n].code for n in poison} == {RejectCode.CONSTRAINT}
    assert database.scalar("SELECT count(*) FROM entries") == size - len(poison)
    assert database.scalar("SELECT count(*) FROM batching_ledger WHERE status = 'written'") == size - len(poison)
    assert sink.counters.transactions == 1
    # Each halving tries both halves: the ledger and the rows, and unless in PostgreSQL a look at the ledger before.
    per_attempt = 2 if database.dialect == "postgresql" else 3
    attempts = 2 + 2 * len(poison) * (math.ceil(math.log2(size)) if size > 1 else 1)
    assert sink.counters.statements <= per_attempt * attempts + 1
    assert sink.counters.splits <= max(1, len(poison) * math.ceil(math.log2(size)))


async def test_what_does_not_fit_the_schema_costs_no_statement(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    requests = [entry(n) for n in range(50)]
    requests[10] = WriteRequest("table", [Record("nowhere", {"id": 1})])
    requests[20] = WriteRequest("column", [Record("entries", {"id": 20, "nope": 1})])
    requests[30] = entry(30, amount="many")
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert [o.code for o in outcomes if o.kind is not OutcomeKind.WRITTEN] == [
        RejectCode.UNKNOWN_TABLE,
        RejectCode.UNKNOWN_COLUMN,
        RejectCode.TYPE,
    ]
    assert "entries" in str(outcomes[10].reason)
    assert "id, amount" in str(outcomes[20].reason)
    assert "entries.amount" in str(outcomes[30].reason)
    assert "whole number" in str(outcomes[30].reason)
    assert sink.counters.splits == 0
    assert sink.counters.statements <= 4


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"id": 1}, RejectCode.CONSTRAINT),
        ({"id": 5, "name": None}, RejectCode.CONSTRAINT),
        ({"id": 5, "name": "x", "parent": 9}, RejectCode.CONSTRAINT),
        ({"id": 5, "name": "taken"}, RejectCode.CONSTRAINT),
        ({"id": 5, "name": "bad"}, RejectCode.CONSTRAINT),
        ({"id": [], "name": "x"}, RejectCode.TYPE),
        ({"id": {"a": 1}, "name": "x"}, RejectCode.TYPE),
        ({"id": 5, "name": 5}, RejectCode.TYPE),
        ({"id": 5, "name": "\ud800"}, RejectCode.TYPE),
        ({"id": 2**70, "name": "x"}, RejectCode.TYPE),
        ({"id": True, "name": "x"}, RejectCode.TYPE),
        ({"id": 1.5, "name": "x"}, RejectCode.TYPE),
        ({"id": 5, "name": "x", "": 1}, RejectCode.UNKNOWN_COLUMN),
    ],
)
async def test_the_reason_says_what_was_wrong(database: TestDatabase, values: dict[str, Any], code: RejectCode) -> None:
    database.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, name text NOT NULL UNIQUE CHECK (name <> 'bad'),"
        " parent bigint REFERENCES t (id));;INSERT INTO t VALUES (1, 'taken', NULL)"
    )
    sink = database.sink()
    fine = [WriteRequest(f"fine{n}", [Record("t", {"id": 10 + n, "name": f"n{n}", "parent": 1})]) for n in range(2)]
    batch = Batch([fine[0], WriteRequest("bad", [Record("t", values)]), fine[1]], id="main-0/1")
    outcomes = await sink.write(batch)
    assert [o.kind.value for o in outcomes] == ["written", "rejected", "written"]
    assert outcomes[1].code is code
    assert outcomes[1].reason


async def test_a_long_value_is_not_echoed(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    (outcome,) = await database.sink().write(Batch([entry(1, amount="9" * 10_000)], id="main-0/1"))
    assert outcome.code is RejectCode.TYPE
    assert len(str(outcome.reason)) < 200


async def test_requests_that_no_ledger_can_hold_are_invalid(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    ids = ["", "nul\x00", "half\ud800", "long" * 1000, "\u00e9" * 600]
    requests = [WriteRequest(i, entry(n).records) for n, i in enumerate(ids)]
    requests.append(WriteRequest("no-json", [Record("entries", {"id": object()})]))
    requests.append(WriteRequest("keys", [Record("entries", {1: 1, "id": 2})]))  # type: ignore[dict-item]
    requests += [entry(50), WriteRequest("no-table", [Record("", {})])]
    for answer in (await sink.write(Batch(requests, id="main-0/1")), await sink.fence(Batch(requests, id="main-0/1"))):
        assert [o.code for o in answer[:6]] == [RejectCode.INVALID] * 6
        assert answer[7].kind is OutcomeKind.WRITTEN
    assert database.scalar("SELECT count(*) FROM entries") == 1


async def test_ids_of_any_text_are_kept_apart(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    ids = ["a", "A", "a ", " a", "\u00e9", "e\u0301", "NULL", "null", "{}", '"', "\\", "a,b", "'; --", "%s", "\n", ":x"]
    requests = [WriteRequest(i, entry(n).records) for n, i in enumerate(ids)]
    assert [o.kind.value for o in await sink.write(Batch(requests, id="main-0/1"))] == ["written"] * len(ids)
    assert {row[0] for row in database.rows("SELECT request_id FROM batching_ledger WHERE status = 'written'")} == set(
        ids
    )
    assert set(await sink.lookup(ids)) == set(ids)


HOSTILE = [
    "entries; DROP TABLE entries",
    'entries" (id) VALUES (1); DROP TABLE entries; --',
    "entries'",
    "entries--",
    "%s",
    ":id",
    "\x00",
    "\ud800",
    "pg_catalog.pg_class",
    "pg_class",
    "information_schema.tables",
    "sqlite_master",
    "SQLITE_MASTER",
    "main.entries",
    "batching_ledger",
    "BATCHING_LEDGER",
    "public.batching_ledger",
    '"entries"',
    "Entries ",
]


async def test_a_table_name_reaches_no_statement(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    requests = [WriteRequest(f"h{n}", [Record(name, {"id": 1})]) for n, name in enumerate(HOSTILE)]
    outcomes = await sink.write(Batch([*requests, entry(1)], id="main-0/1"))
    assert {o.code for o in outcomes[:-1]} == {RejectCode.UNKNOWN_TABLE}
    assert outcomes[-1].kind is OutcomeKind.WRITTEN


async def test_a_column_name_reaches_no_statement(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    names = [*HOSTILE, "id) VALUES (1); DROP TABLE entries; --", "rowid", "oid", "ctid", "xmin", "ID", "id "]
    requests = [WriteRequest(f"h{n}", [Record("entries", {"id": n, name: 1})]) for n, name in enumerate(names)]
    outcomes = await sink.write(Batch([*requests, entry(1)], id="main-0/1"))
    assert {o.code for o in outcomes[:-1]} == {RejectCode.UNKNOWN_COLUMN}
    assert outcomes[-1].kind is OutcomeKind.WRITTEN


async def test_values_keys_and_batch_ids_are_only_values(database: TestDatabase) -> None:
    database.execute("CREATE TABLE notes (note text)")
    sink = database.sink()
    hostile = [h for h in HOSTILE if h not in ("\x00", "\ud800")] + ["{1,2}", '{"', "NULL", "\\N", "$1", "\\x41"]
    requests = [WriteRequest(h, [Record("notes", {"note": h})], key=h) for h in hostile]
    outcomes = await sink.write(Batch(requests, id="'; DROP TABLE notes; --"))
    assert {o.kind for o in outcomes} == {OutcomeKind.WRITTEN}
    assert sorted(row[0] for row in database.rows("SELECT note FROM notes")) == sorted(hostile)


async def test_names_that_need_quoting_are_quoted(database: TestDatabase) -> None:
    table, column = 'od"d na%me :x', 'co"l %s :y'
    quoted, quoted_column = table.replace('"', '""'), column.replace('"', '""')
    with database.engine.begin() as connection:
        driver: Any = connection.connection.cursor()
        driver.execute(f'CREATE TABLE "{quoted}" ("{quoted_column}" integer UNIQUE, "select" text)')
        driver.close()
    sink = database.sink(ledger_table='led"ger %s')
    request = WriteRequest("1", [Record(table, {column: 7, "select": "x"})])
    assert [o.kind.value for o in await sink.write(Batch([request], id="main-0/1"))] == ["written"]
    assert [o.kind.value for o in await sink.write(Batch([request], id="main-0/2"))] == ["duplicate"]


async def test_columns_that_the_database_generates_are_left_to_it(database: TestDatabase) -> None:
    database.execute(
        "CREATE TABLE t (id integer PRIMARY KEY, price integer,"
        ' "double" integer GENERATED ALWAYS AS (price * 2) STORED)'
    )
    sink = database.sink()
    good = WriteRequest("good", [Record("t", {"id": 1, "price": 4})])
    bad = WriteRequest("bad", [Record("t", {"id": 2, "price": 4, "double": 8})])
    outcomes = await sink.write(Batch([good, bad], id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "rejected"]
    assert "generated" in str(outcomes[1].reason)
    assert database.rows("SELECT * FROM t") == [(1, 4, 8)]


async def test_a_constraint_checked_at_the_commit_rejects_only_its_request(deferring: TestDatabase) -> None:
    database = deferring
    database.execute(
        "CREATE TABLE t (id integer PRIMARY KEY, other integer REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    sink = database.sink()
    requests = [WriteRequest(f"r{n}", [Record("t", {"id": n, "other": 999 if n == 5 else n})]) for n in range(16)]
    # Two rows that need each other are one request.
    requests.append(WriteRequest("pair", [Record("t", {"id": 20, "other": 21}), Record("t", {"id": 21, "other": 20})]))
    outcomes = await sink.write(Batch([*requests, requests[0]], id="main-0/1"))
    assert [n for n, o in enumerate(outcomes) if o.kind is OutcomeKind.REJECTED] == [5]
    assert outcomes[5].code is RejectCode.CONSTRAINT
    assert outcomes[-1].kind is OutcomeKind.DUPLICATE
    assert database.scalar("SELECT count(*) FROM t") == 17


async def test_a_trigger_that_refuses_rejects_its_request(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    with database.engine.begin() as connection:
        cursor: Any = connection.connection.cursor()
        if database.dialect == "sqlite":
            cursor.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON entries WHEN new.amount = 13"
                " BEGIN SELECT RAISE(ABORT, 'unlucky'); END"
            )
        elif database.dialect == "mariadb":
            cursor.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON entries FOR EACH ROW IF new.amount = 13"
                " THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'unlucky'; END IF"
            )
        else:
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''unlucky''; END' LANGUAGE plpgsql;"
                "CREATE TRIGGER refuse BEFORE INSERT ON entries FOR EACH ROW WHEN (new.amount = 13)"
                " EXECUTE FUNCTION refuse()"
            )
        cursor.close()
    outcomes = await database.sink().write(Batch([entry(1), entry(2, amount=13), entry(3)], id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "rejected", "written"]
    assert outcomes[1].reason == "unlucky"
