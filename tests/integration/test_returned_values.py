"""Each caller gets what the database made of its own rows: generated keys, defaults, what triggers set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from temporal_batching.contract import Outcome, OutcomeKind, Record, RejectCode, Returned, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql.sink import TableRule
from tests.support.databases import TestDatabase

ORDERS = {
    "sqlite": (
        "CREATE TABLE orders (id integer PRIMARY KEY, customer text NOT NULL, amount numeric NOT NULL DEFAULT 7,"
        " doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, state text DEFAULT 'new', note text)"
    ),
    "postgresql": (
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1001) PRIMARY KEY,"
        " customer text NOT NULL, amount numeric NOT NULL DEFAULT 7,"
        " doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, state text DEFAULT 'new', note text)"
    ),
}
ORDERS["mariadb"] = (
    "CREATE TABLE orders (id bigint AUTO_INCREMENT PRIMARY KEY, customer varchar(40) NOT NULL,"
    " amount decimal(12,2) NOT NULL DEFAULT 7, doubled decimal(12,2) GENERATED ALWAYS AS (amount * 2) STORED,"
    " state varchar(10) DEFAULT 'new', note text)"
)
ITEMS = (
    "CREATE TABLE items (order_id bigint NOT NULL REFERENCES orders (id), article varchar(40) NOT NULL,"
    " PRIMARY KEY (order_id, article))"
)


def order(
    number: int, *, returning: Sequence[str] = ("id",), request_id: str | None = None, **values: Any
) -> WriteRequest:
    return WriteRequest(request_id or f"r{number}", [Record("orders", {"customer": f"c{number}", **values}, returning)])


def returned(outcomes: Sequence[Outcome]) -> list[Any]:
    return [outcome.returned for outcome in outcomes]


def create(database: TestDatabase, *more: str) -> None:
    for statement in (ORDERS[database.dialect], *more):
        database.execute(statement)


KEYS = {
    "sqlite": "integer PRIMARY KEY",
    "postgresql": "bigserial PRIMARY KEY",
    "mariadb": "bigint AUTO_INCREMENT PRIMARY KEY",
}


async def test_each_request_gets_the_key_of_its_own_row(database: TestDatabase) -> None:
    create(database)
    sink = database.sink()
    outcomes = await sink.write(Batch([order(n) for n in range(50)], id="main-0/1"))
    by_customer = dict(database.rows("SELECT customer, id FROM orders"))
    assert returned(outcomes) == [[{"id": by_customer[f"c{n}"]}] for n in range(50)]
    assert len(set(by_customer.values())) == 50


async def test_defaults_and_generated_columns_come_back_as_values_travel_in(database: TestDatabase) -> None:
    create(database)
    sink = database.sink()
    columns = ["customer", "amount", "doubled", "state", "note"]
    one, other = await sink.write(
        Batch([order(1, returning=columns), order(2, returning=columns, amount="2.50", state=None)], id="main-0/1")
    )
    amounts = (
        {"amount": "7.00", "doubled": "14.00"} if database.dialect == "mariadb" else {"amount": "7", "doubled": "14"}
    )
    assert one.returned == [{"customer": "c1", **amounts, "state": "new", "note": None}]
    assert other.returned is not None
    assert other.returned[0] is not None
    assert [float(other.returned[0][name]) for name in ("amount", "doubled")] == [2.5, 5.0]
    assert all(isinstance(other.returned[0][name], str) for name in ("amount", "doubled"))
    assert other.returned[0]["state"] is None


async def test_what_a_trigger_set_comes_back(database: TestDatabase) -> None:
    create(database)
    if database.dialect == "sqlite":
        database.execute(
            "CREATE TRIGGER stamp AFTER INSERT ON orders BEGIN"
            " UPDATE orders SET note = 'by trigger ' || new.customer WHERE id = new.id; END"
        )
    elif database.dialect == "mariadb":
        database.execute(
            "CREATE TRIGGER stamp BEFORE INSERT ON orders FOR EACH ROW"
            " SET new.note = concat('by trigger ', new.customer)"
        )
    else:
        database.execute(
            "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN new.note := 'by trigger ' || new.customer; RETURN new; END $$;;"
            "CREATE TRIGGER stamp BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION stamp()"
        )
    outcomes = await database.sink().write(Batch([order(n, returning=["note"]) for n in range(3)], id="main-0/1"))
    assert returned(outcomes) == [[{"note": f"by trigger c{n}"}] for n in range(3)]


async def test_children_commit_with_the_key_their_parent_got(database: TestDatabase) -> None:
    create(database, ITEMS)
    requests = [
        WriteRequest(
            f"r{n}",
            [
                Record("orders", {"customer": f"c{n}"}, ["id"]),
                Record("items", {"order_id": Returned(0, "id"), "article": "a"}),
                Record("items", {"order_id": Returned(0, "id"), "article": "b"}, ["order_id", "article"]),
            ],
        )
        for n in range(20)
    ]
    sink = database.sink()
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    for n, outcome in enumerate(outcomes):
        key = database.scalar("SELECT id FROM orders WHERE customer = :c", c=f"c{n}")
        assert outcome.returned == [{"id": key}, {}, {"order_id": key, "article": "b"}]
        assert database.rows("SELECT article FROM items WHERE order_id = :key ORDER BY 1", key=key) == [("a",), ("b",)]
    assert sink.counters.transactions == 1
    if database.dialect == "postgresql":
        assert sink.counters.round_trips == 3, "ids and parents, children, commit"


async def test_a_reference_needs_no_returned_column(database: TestDatabase) -> None:
    create(database, ITEMS)
    records = [
        Record("orders", {"customer": "c"}),
        Record("items", {"order_id": Returned(0, "id"), "article": "a"}),
    ]
    (outcome,) = await database.sink().write(Batch([WriteRequest("r1", records)], id="main-0/1"))
    assert outcome == Outcome.written()
    assert database.rows("SELECT order_id FROM items") == database.rows("SELECT id FROM orders")


async def test_a_tree_in_one_table_commits_whole(database: TestDatabase) -> None:
    key = KEYS[database.dialect]
    database.execute(f"CREATE TABLE nodes (id {key}, parent bigint REFERENCES nodes (id), name text)")
    chain = [Record("nodes", {"name": "0"}, ["id"])]
    chain += [Record("nodes", {"name": str(n), "parent": Returned(n - 1, "id")}, ["id", "parent"]) for n in range(1, 5)]
    (outcome,) = await database.sink().write(Batch([WriteRequest("r1", chain)], id="main-0/1"))
    assert outcome.returned is not None
    rows = [row for row in outcome.returned if row is not None]
    assert [row["parent"] for row in rows[1:]] == [row["id"] for row in rows[:-1]]


async def test_rows_of_one_key_stay_in_order_where_some_wait_for_others(database: TestDatabase) -> None:
    create(database)
    database.execute("CREATE TABLE latest (name varchar(40) PRIMARY KEY, order_id bigint, source text)")
    sink = database.sink(
        tables={"orders": TableRule(), "latest": TableRule(conflict="update", key=["name"])},
    )
    first = WriteRequest(
        "r1",
        [
            Record("orders", {"customer": "c1"}),
            Record("latest", {"name": "x", "order_id": Returned(0, "id"), "source": "first"}),
        ],
        "k",
    )
    second = WriteRequest("r2", [Record("latest", {"name": "x", "order_id": 0, "source": "second"})], "k")
    outcomes = await sink.write(Batch([first, second], id="main-0/1"))
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.WRITTEN] * 2
    assert database.rows("SELECT source FROM latest") == [("second",)]


async def test_a_duplicate_and_a_repeated_attempt_get_the_same_values(database: TestDatabase) -> None:
    create(database)
    sink = database.sink()
    (first,) = await sink.write(Batch([order(1)], id="main-0/1"))
    (repeated,) = await sink.write(Batch([order(1)], id="main-0/1"))
    (duplicate, _) = await sink.write(Batch([order(1), order(2)], id="main-0/2"))
    (asks_for_more,) = await sink.write(Batch([order(1, returning=["id", "state"])], id="main-0/3"))
    (fenced,) = await sink.fence(Batch([order(1)], id="main-0/1"))
    assert first.kind is repeated.kind is fenced.kind is OutcomeKind.WRITTEN
    assert duplicate.kind is asks_for_more.kind is OutcomeKind.DUPLICATE
    assert first.returned == repeated.returned == duplicate.returned == asks_for_more.returned == fenced.returned
    assert await sink.read_returned(["r1", "r2", "r9"]) == {
        "r1": first.returned,
        "r2": [{"id": database.scalar("SELECT id FROM orders WHERE customer = 'c2'")}],
    }


async def test_an_id_twice_in_a_batch_returns_the_same_to_both(database: TestDatabase) -> None:
    create(database)
    one, other = await database.sink().write(Batch([order(1), order(1)], id="main-0/1"))
    assert (one.kind, other.kind) == (OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE)
    assert one.returned == other.returned is not None


async def test_neighbours_of_a_rejected_request_get_their_values(database: TestDatabase) -> None:
    create(database, ITEMS)
    bad = WriteRequest("bad", [Record("items", {"order_id": -1, "article": "a"}, ["order_id"])])
    requests = [*(order(n) for n in range(5)), bad, *(order(n) for n in range(5, 9))]
    outcomes = await database.sink().write(Batch(requests, id="main-0/1"))
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds == [OutcomeKind.WRITTEN] * 5 + [OutcomeKind.REJECTED] + [OutcomeKind.WRITTEN] * 4
    by_customer = dict(database.rows("SELECT customer, id FROM orders"))
    assert [o.returned for o in outcomes if o.returned is not None] == [
        [{"id": by_customer[f"c{n}"]}] for n in range(9)
    ]


async def test_requests_that_ask_and_that_do_not_share_a_batch(database: TestDatabase) -> None:
    create(database)
    requests = [order(n, returning=["id"] if n % 3 else []) for n in range(12)]
    outcomes = await database.sink().write(Batch(requests, id="main-0/1"))
    assert [outcome.returned is not None for outcome in outcomes] == [bool(n % 3) for n in range(12)]
    assert database.scalar("SELECT count(*) FROM orders") == 12
    assert database.scalar("SELECT count(*) FROM batching_ledger WHERE returned IS NOT NULL") == 8


async def test_requests_that_ask_and_that_do_not_alternate_in_few_statements(database: TestDatabase) -> None:
    create(database)
    sink = database.sink()
    await sink.open()
    await sink.write(Batch([order(100)], id="main-0/1"))
    before = sink.counters.statements
    asks: list[list[str]] = [["id"], [], ["customer", "id"], []]
    requests = [order(n, returning=asks[n % 4], **({"note": "x"} if n % 8 == 2 else {})) for n in range(20)]
    outcomes = await sink.write(Batch(requests, id="main-0/2"))
    statements = sink.counters.statements - before
    by_customer = dict(database.rows("SELECT customer, id FROM orders"))
    for n, outcome in enumerate(outcomes):
        everything = {"id": by_customer[f"c{n}"], "customer": f"c{n}"}
        expected = [{name: everything[name] for name in asks[n % 4]}]
        assert outcome.returned == (expected if asks[n % 4] else None)
    # The ledger once; SQLite looks ids up first. PostgreSQL shows which row of a statement returned what. The others
    # insert each row that is read by itself, and what is returned goes into the ledger at once.
    rows = {"postgresql": 1, "sqlite": 2 * 10 + 1, "mariadb": 10 + 1}[database.dialect]
    assert statements == rows + {"postgresql": 1, "sqlite": 3, "mariadb": 2}[database.dialect]


@pytest.mark.parametrize("conflict", ["ignore", "update"])
async def test_a_conflict_returns_the_row_that_is_there(database: TestDatabase, conflict: str) -> None:
    create(database)
    database.execute("CREATE UNIQUE INDEX by_customer ON orders (customer)")
    rule = TableRule(conflict=conflict, key=["customer"])  # type: ignore[arg-type]
    sink = database.sink(tables={"orders": rule})
    (first,) = await sink.write(Batch([order(1, note="old")], id="main-0/1"))
    again = order(1, request_id="other", returning=["id", "note"], note="new")
    (second,) = await sink.write(Batch([again], id="main-0/2"))
    assert first.returned is not None
    assert first.returned[0] is not None
    assert second.returned == [{"id": first.returned[0]["id"], "note": "old" if conflict == "ignore" else "new"}]


async def test_a_row_that_a_rule_without_a_key_kept_away_returns_none(database: TestDatabase) -> None:
    create(database)
    database.execute("CREATE UNIQUE INDEX by_customer ON orders (customer)")
    sink = database.sink(tables={"orders": TableRule(conflict="ignore")})
    outcomes = await sink.write(Batch([order(1), order(1, request_id="other")], id="main-0/1"))
    assert outcomes[0].returned == [{"id": database.scalar("SELECT id FROM orders")}]
    # MariaDB knows no insert that does nothing: it sets a column to its own value, and so has a row to show.
    assert outcomes[1].returned == (outcomes[0].returned if database.dialect == "mariadb" else [None])


async def test_a_row_that_a_trigger_left_out_returns_none(deferring: TestDatabase) -> None:
    """Its neighbours, in the same statement, get their own values. MariaDB has no such triggers."""
    create(deferring)
    if deferring.dialect == "sqlite":
        deferring.execute(
            "CREATE TRIGGER leave_out BEFORE INSERT ON orders WHEN new.customer = 'c2' BEGIN SELECT RAISE(IGNORE); END"
        )
    else:
        deferring.execute(
            "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF new.customer = 'c2' THEN RETURN NULL; END IF; RETURN new; END $$;;"
            "CREATE TRIGGER leave_out BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION leave_out()"
        )
    outcomes = await deferring.sink().write(Batch([order(n, returning=["customer"]) for n in range(4)], id="main-0/1"))
    assert returned(outcomes) == [[{"customer": f"c{n}"}] if n != 2 else [None] for n in range(4)]


async def test_more_than_the_limit_is_rejected_and_leaves_nothing(database: TestDatabase) -> None:
    create(database)
    sink = database.sink(max_returned_bytes=100)
    large = order(1, returning=["note"], note="x" * 200)
    one, other = await sink.write(Batch([large, order(2, returning=["note"], note="y")], id="main-0/1"))
    assert (one.kind, one.code) == (OutcomeKind.REJECTED, RejectCode.TOO_LARGE)
    assert "at most 100" in (one.reason or "")
    assert other.returned == [{"note": "y"}]
    assert database.rows("SELECT customer FROM orders") == [("c2",)]


@pytest.mark.parametrize(
    ("records", "code", "words"),
    [
        ([Record("orders", {"customer": "c"}, ["nope"])], RejectCode.UNKNOWN_COLUMN, 'no column "nope" to return'),
        (
            [Record("orders", {"customer": "c"}), Record("items", {"order_id": Returned(0, "nope"), "article": "a"})],
            RejectCode.UNKNOWN_COLUMN,
            'no column "nope" to return',
        ),
        (
            [Record("orders", {"customer": "c"}), Record("items", {"order_id": Returned(1, "id"), "article": "a"})],
            RejectCode.INVALID,
            "only to an earlier one",
        ),
        (
            [
                Record("orders", {"customer": "c"}),
                Record("items", {"order_id": Returned(0, "customer"), "article": "a"}),
            ],
            RejectCode.TYPE,
            "items.order_id",
        ),
    ],
    ids=["unknown-column", "reference-to-unknown-column", "reference-to-itself", "reference-of-another-type"],
)
async def test_bad_requests_are_rejected_alone(
    database: TestDatabase, records: list[Record], code: RejectCode, words: str
) -> None:
    create(database, ITEMS)
    bad, good = await database.sink().write(Batch([WriteRequest("bad", records), order(2)], id="main-0/1"))
    assert (bad.kind, bad.code) == (OutcomeKind.REJECTED, code)
    assert words in (bad.reason or "")
    assert good.kind is OutcomeKind.WRITTEN
    assert database.rows("SELECT customer FROM orders") == [("c2",)]


async def test_requests_that_ask_for_nothing_cost_what_they_cost(database: TestDatabase) -> None:
    create(database)
    sink = database.sink()
    await sink.open()
    await sink.write(Batch([order(n, returning=[]) for n in range(30)], id="main-0/1"))
    plain = (sink.counters.statements, sink.counters.round_trips)
    if database.dialect == "postgresql":
        assert plain == (2, 2)
        await sink.write(Batch([order(n) for n in range(30, 60)], id="main-0/2"))
        assert sink.counters.round_trips == 4, "rows that are read back need no further round trip"


TYPES = {
    "i": ("integer", -5, -5),
    "n": ("numeric(20,4)", "12345678901234.5678", "12345678901234.5678"),
    "f": ("double precision", 0.1, 0.1),
    "b": ("boolean", True, True),
    "t": ("text", 'quo"te\\ {x}', 'quo"te\\ {x}'),
    "d": ("date", "2026-01-31", "2026-01-31"),
    "u": ("uuid", "0d9d7f7e-7f4c-4c5e-9f57-1d1f6c8f2a11", "0d9d7f7e-7f4c-4c5e-9f57-1d1f6c8f2a11"),
    "j": ("json", {"a": [1, 2.5, None, "x"]}, {"a": [1, 2.5, None, "x"]}),
}
POSTGRESQL_TYPES = {
    "y": ("bytea", "AAECAw==", "AAECAw=="),
    "z": ("timestamptz", "2026-01-31T09:30:00.25+01:00", "2026-01-31T08:30:00.25+00:00"),
    "p": ("timestamp", "2026-01-31T09:30:00", "2026-01-31T09:30:00"),
    "h": ("time", "09:30:00", "09:30:00"),
    "a": ("integer[]", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    "s": ("text[]", ["a", "b,c", None], ["a", "b,c", None]),
    "v": ("interval", "1 day 02:00:00", "1 day 02:00:00"),
    "x": ("double precision", "Infinity", "Infinity"),
    "w": ("timestamptz", None, None),
}


async def test_every_type_comes_back_as_it_travels_in(database: TestDatabase) -> None:
    types = dict(TYPES)
    if database.dialect == "postgresql":
        types |= POSTGRESQL_TYPES
        database.execute(
            "ALTER ROLE CURRENT_USER SET timezone = 'UTC';;ALTER ROLE CURRENT_USER SET datestyle = 'German'"
        )
    elif database.dialect == "mariadb":
        types["u"] = ("uuid", types["u"][1], types["u"][2])
        types["y"] = ("blob", "AAECAw==", "AAECAw==")
        types["p"] = ("datetime(6)", "2026-01-31T09:30:00", "2026-01-31T09:30:00.000000")
        types["h"] = ("time", "09:30:00", "09:30:00")
    else:
        types["n"] = ("numeric", "12345.5", "12345.5")
        types["y"] = ("blob", "AAECAw==", "AAECAw==")
        types["p"] = ("timestamp", "2026-01-31T09:30:00", "2026-01-31T09:30:00.000000")
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in types.items())
    database.execute(f"CREATE TABLE many ({columns})")
    record = Record("many", {name: sent for name, (_, sent, _) in types.items()}, list(types))
    try:
        (outcome,) = await database.sink().write(Batch([WriteRequest("r1", [record])], id="main-0/1"))
    finally:
        if database.dialect == "postgresql":
            database.execute("ALTER ROLE CURRENT_USER RESET ALL")
    assert outcome.reason is None
    assert outcome.returned == [{name: expected for name, (_, _, expected) in types.items()}]
