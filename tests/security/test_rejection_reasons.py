"""The reason of a rejection is about what the caller sent, never about what else the database holds."""

from __future__ import annotations

from typing import Any

from temporal_batching.contract import OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase

SECRET = "the-secret-of-the-database"

SCHEMA = f"""CREATE TABLE parents (id integer PRIMARY KEY);;
CREATE TABLE orders (id integer PRIMARY KEY, email text UNIQUE, parent integer REFERENCES parents (id),
    amount integer NOT NULL CHECK (amount > 0), secret text DEFAULT '{SECRET}')"""


async def reason_of(database: TestDatabase, table: str, values: dict[str, Any]) -> tuple[RejectCode | None, str]:
    request = WriteRequest(f"{table} {values}"[:80], [Record(table, values)])
    (outcome,) = await database.sink().write(Batch([request], id="main-0/1"))
    assert outcome.kind is OutcomeKind.REJECTED
    return outcome.code, outcome.reason or ""


async def test_a_reason_does_not_carry_the_row(database: TestDatabase) -> None:
    database.execute(SCHEMA)
    code, reason = await reason_of(database, "orders", {"id": 1, "amount": -1})
    assert code is RejectCode.CONSTRAINT
    assert "constraint" in reason.casefold()
    assert SECRET not in reason
    code, reason = await reason_of(database, "orders", {"id": 1, "amount": None})
    assert (code, SECRET in reason, "amount" in reason) == (RejectCode.CONSTRAINT, False, True)


async def test_nor_does_a_view_or_a_partition(postgresql: TestDatabase) -> None:
    postgresql.execute(
        f"{SCHEMA};;CREATE VIEW cheap AS SELECT * FROM orders WHERE amount < 10 WITH CHECK OPTION;;"
        f"CREATE TABLE parts (n integer, secret text DEFAULT '{SECRET}') PARTITION BY LIST (secret)"
    )
    _, view = await reason_of(postgresql, "cheap", {"id": 1, "amount": 11})
    _, partition = await reason_of(postgresql, "parts", {"n": 1})
    assert "violates check option" in view
    assert "no partition of relation" in partition
    assert SECRET not in view + partition


async def test_nor_does_a_conflict_with_a_row_of_somebody_else(postgresql: TestDatabase) -> None:
    postgresql.execute(
        "CREATE TABLE stays (during int4range, EXCLUDE USING gist (during WITH &&));;"
        "INSERT INTO stays VALUES (int4range(7777, 8888))"
    )
    _, reason = await reason_of(postgresql, "stays", {"during": "[1,9000)"})
    assert "violates exclusion constraint" in reason
    assert "7777" not in reason


async def test_nor_does_what_a_trigger_did_elsewhere(postgresql: TestDatabase) -> None:
    postgresql.execute(
        f"{SCHEMA};;CREATE TABLE log (secret text PRIMARY KEY);;INSERT INTO log VALUES ('{SECRET}');;"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO log VALUES (NEW.secret); RETURN NEW; END$$;;"
        "CREATE TRIGGER note BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note()"
    )
    _, reason = await reason_of(postgresql, "orders", {"id": 1, "amount": 1})
    assert "log_pkey" in reason
    assert SECRET not in reason


async def test_a_conflict_is_reported_with_the_senders_own_key(postgresql: TestDatabase) -> None:
    postgresql.execute(f"{SCHEMA};;INSERT INTO orders (id, email, amount) VALUES (1, 'a@b.c', 1)")
    _, unique = await reason_of(postgresql, "orders", {"id": 2, "email": "a@b.c", "amount": 1})
    _, foreign = await reason_of(postgresql, "orders", {"id": 2, "parent": 99, "amount": 1})
    assert unique.endswith("Key (email)=(a@b.c) already exists.")
    assert foreign.endswith('Key (parent)=(99) is not present in table "parents".')


async def test_a_reason_is_short_and_one_line(postgresql: TestDatabase) -> None:
    postgresql.execute("CREATE TABLE t (v interval)")
    _, reason = await reason_of(postgresql, "t", {"v": "soon\n" * 20_000})
    assert "invalid input syntax for type interval" in reason
    assert len(reason) <= 500
    assert "\n" not in reason


async def test_the_inside_of_a_virtual_table_is_not_for_requests(sqlite: TestDatabase) -> None:
    sqlite.execute(
        "CREATE VIRTUAL TABLE notes USING fts5(body);;CREATE VIRTUAL TABLE places USING rtree(id, x0, x1);;"
        "CREATE TABLE notes_mine (id integer);;INSERT INTO notes VALUES ('kept')"
    )
    code, reason = await reason_of(sqlite, "notes_data", {"id": 1, "block": "AAAA"})
    assert code is RejectCode.UNKNOWN_TABLE
    assert reason == 'no table "notes_data" to write to; there is notes, notes_mine, places'
    # A column of this name takes commands: this one empties the index.
    code, reason = await reason_of(sqlite, "notes", {"notes": "delete-all"})
    assert (code, reason) == (RejectCode.UNKNOWN_COLUMN, 'notes has no column "notes"; it has body')
    sink = sqlite.sink()
    fine: list[tuple[str, dict[str, Any]]] = [
        ("notes", {"body": "new"}),
        ("notes_mine", {"id": 1}),
        ("places", {"id": 1, "x0": 1.5, "x1": 2}),
    ]
    requests = [WriteRequest(table, [Record(table, values)]) for table, values in fine]
    assert {o.kind for o in await sink.write(Batch(requests, id="main-0/1"))} == {OutcomeKind.WRITTEN}
    assert sqlite.rows("SELECT body FROM notes ORDER BY 1") == [("kept",), ("new",)]
