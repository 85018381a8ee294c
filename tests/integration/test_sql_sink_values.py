"""Values arrive as they were sent, or are rejected: whatever JSON says, in whatever column."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from temporal_batching.contract import Outcome, OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql import SqlSink
from tests.support.databases import TestDatabase

MANY = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUL = "\x00"

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=NUL), max_size=30)
nasty = st.sampled_from(
    ["NULL", "null", "", '"', "\\", "{}", "{a,b}", "\\N", "%s", "'", "\t\n\r", "\U0001f600", "\ufeff"]
)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29))
scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | text
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)
ints = st.integers(-(2**63), 2**63 - 1)
exact = st.decimals(-(10**7), 10**7, places=6, allow_nan=False, allow_infinity=False)
wide = st.decimals(-(10**30), 10**30, places=20, allow_nan=False, allow_infinity=False)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


common: dict[str, st.SearchStrategy[Any]] = {
    "big": optional(ints | ints.map(str)),
    "txt": optional(text | nasty),
    "flag": optional(st.booleans()),
    "dbl": optional(st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["Infinity", "-Infinity"])),
    "day": optional(st.dates().map(date.isoformat)),
    "tim": optional(st.times().map(time.isoformat)),
    "plain": optional(moments.map(datetime.isoformat)),
    "uid": optional(st.uuids().map(str)),
    "raw": optional(st.binary(max_size=20).map(lambda b: base64.b64encode(b).decode())),
    "doc": documents,
}

SQLITE = """CREATE TABLE vals (n integer PRIMARY KEY, big bigint, txt text, flag boolean, dbl double precision,
    day date, tim time, plain timestamp, uid uuid, raw blob, doc json, num numeric(30, 6), zoned timestamptz)"""
MARIADB = """CREATE TABLE vals (n integer PRIMARY KEY, big bigint, txt varchar(60), flag boolean, dbl double,
    day date, tim time(6), plain datetime(6), uid uuid, raw blob, doc json, num decimal(65, 20), zoned TIMESTAMP(6),
    small smallint, tiny tinyint unsigned, mood enum('sad', 'ok, fine'), moods set('a', 'b''c', 'd'), bits bit(5),
    fixed binary(2), single float, net inet6)"""
POSTGRESQL = """CREATE TABLE vals (n integer PRIMARY KEY, big bigint, txt varchar(30), flag boolean,
    dbl double precision, day date, tim time, plain timestamp, uid uuid, raw bytea, doc jsonb, num numeric,
    zoned timestamptz, kept json, small smallint, ints integer[], texts text[], grid integer[], days date[])"""


def read_moment(value: str) -> datetime:
    return datetime.fromisoformat(value)


def check_rows(sink: SqlSink, database: TestDatabase, rows: list[dict[str, Any]], numbers: Any) -> dict[int, Any]:
    for row in rows:
        row["n"] = next(numbers)
    requests = [WriteRequest(str(row["n"]), [Record("vals", row)]) for row in rows]
    outcomes = asyncio.run(write(sink, requests))
    assert [o for o in outcomes if o.kind is not OutcomeKind.WRITTEN] == []
    names = list(rows[0])
    first, last = rows[0]["n"], rows[-1]["n"]
    with database.engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM vals WHERE n BETWEEN {first} AND {last}")
        return {row.n: row for row in found}


async def write(sink: SqlSink, requests: list[WriteRequest]) -> list[Outcome]:
    return list(await sink.write(Batch(requests, id="main-0/1")))


def expect(column: str, sent: Any) -> Any:
    """What PostgreSQL's driver gives back for what was sent."""
    if sent is None:
        return None
    read: dict[str, Any] = {
        "big": int,
        "dbl": float,
        "day": date.fromisoformat,
        "tim": time.fromisoformat,
        "plain": read_moment,
        "zoned": read_moment,
        "uid": UUID,
        "raw": base64.b64decode,
        "num": Decimal,
        "days": lambda days: [None if d is None else date.fromisoformat(d) for d in days],
    }
    return read.get(column, lambda value: value)(sent)


def test_values_round_trip_in_postgresql(postgresql: TestDatabase) -> None:
    postgresql.execute(POSTGRESQL)
    sink, numbers = postgresql.sink(), itertools.count()
    row = st.fixed_dictionaries(
        {
            **common,
            "num": optional(wide.map(str) | ints),
            "zoned": optional(st.tuples(moments, zones).map(lambda pair: pair[0].replace(tzinfo=pair[1]).isoformat())),
            "kept": documents,
            "small": optional(st.integers(-(2**15), 2**15 - 1)),
            "ints": optional(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=3)),
            "texts": optional(st.lists(st.none() | text | nasty, max_size=3)),
            "grid": st.just([[1, 2], [3, None]]) | st.just([]),
            "days": optional(st.lists(st.none() | st.dates().map(date.isoformat), max_size=2)),
        }
    )

    @MANY
    @given(st.lists(row, min_size=1, max_size=5))
    def check(rows: list[dict[str, Any]]) -> None:
        found = check_rows(sink, postgresql, rows, numbers)
        for sent in rows:
            got = found[sent["n"]]
            for column, value in sent.items():
                assert getattr(got, column) == expect(column, value), column

    check()


def test_values_round_trip_in_sqlite(sqlite: TestDatabase) -> None:
    sqlite.execute(SQLITE)
    sink, numbers = sqlite.sink(), itertools.count()
    row = st.fixed_dictionaries(
        {
            **common,
            "doc": documents.filter(lambda value: not isinstance(value, int) or abs(value) < 2**63),
            "num": optional(exact.map(str) | ints),
            "zoned": optional(st.tuples(moments, zones).map(lambda pair: pair[0].replace(tzinfo=pair[1]).isoformat())),
        }
    )

    @MANY
    @given(st.lists(row, min_size=1, max_size=5))
    def check(rows: list[dict[str, Any]]) -> None:
        found = check_rows(sink, sqlite, rows, numbers)
        for sent in rows:
            got = found[sent["n"]]
            for column, value in sent.items():
                there = getattr(got, column)
                if value is None:
                    assert there is None
                elif column == "num":
                    assert Decimal(repr(there)) == Decimal(value)
                elif column == "doc":
                    assert json.loads(there if isinstance(there, str) else repr(there)) == value
                elif column in ("plain", "zoned"):
                    assert datetime.fromisoformat(there) == read_moment(value)
                elif column == "tim":
                    assert time.fromisoformat(there) == time.fromisoformat(value)
                elif column in ("day", "uid"):
                    assert there == value
                else:
                    assert there == expect(column, value)

    check()


anything = st.recursive(
    scalars | st.floats() | st.text(max_size=10) | nasty | st.sampled_from(["NaN", "1e400", "2026-02-30", "24:00"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def test_no_value_crashes_the_sink_or_harms_a_neighbour(database: TestDatabase) -> None:
    database.execute({"sqlite": SQLITE, "postgresql": POSTGRESQL, "mariadb": MARIADB}[database.dialect])
    columns = [name for (name,) in database.rows("SELECT * FROM vals WHERE false")] or _columns(database)
    sink, numbers = database.sink(), itertools.count(0, 2)

    @MANY
    @given(st.sampled_from(columns), anything)
    def check(column: str, value: Any) -> None:
        n = next(numbers)
        fine = WriteRequest(f"fine{n}", [Record("vals", {"n": n})])
        odd = WriteRequest(f"odd{n}", [Record("vals", {"n": n + 1, column: value})])
        outcomes = asyncio.run(write(sink, [odd, fine]))
        assert outcomes[1].kind is OutcomeKind.WRITTEN
        assert outcomes[0].kind is OutcomeKind.WRITTEN or outcomes[0].code is RejectCode.TYPE

    check()


def _columns(database: TestDatabase) -> list[str]:
    with database.engine.connect() as connection:
        names = list(connection.exec_driver_sql("SELECT * FROM vals").keys())
    return [name for name in names if name != "n"]


async def outcome_of(sink: SqlSink, table: str, value: Any, tried: Any) -> Outcome:
    (outcome,) = await write(sink, [WriteRequest(f"v{next(tried)}", [Record(table, {"v": value})])])
    return outcome


BOTH: list[tuple[str, list[Any], list[Any]]] = [
    ("integer", [0, "7", "-7", 5.0], [True, 1.5, "1.0", "", " 1", "x", "\u0661", [1], 2**63, "9" * 30]),
    ("numeric(12, 2)", [1, 1.5, "1.50", "-0", "1e3", "+2"], [True, "NaN", "Infinity", "", "1,5", "0x1", math.nan, []]),
    ("double precision", [1, 1.5, "2", "Infinity"], [True, "", "x", "nan", "1e999", 10**400, math.inf, {}]),
    ("boolean", [True, False], [0, 1, "true", "t", ""]),
    ("text", ["", "x", "\u00e9"], [1, 1.5, True, [], {}, "\ud800"]),
    (
        "timestamp",
        ["2026-01-31T09:30:00", "2026-01-31 09:30", "2026-01-31T09:30:00Z", "2026-01-31T09:30:00.123456789+02:00"],
        ["2026-01-31", "2026-02-30T00:00:00", "now", "infinity", "", 1700000000, "2026-01-31T25:00:00"],
    ),
    (
        "timestamptz",
        ["2026-01-31T09:30:00Z", "2026-01-31t09:30:00z", "2026-01-31 09:30:00+0200"],
        ["2026-01-31T09:30:00", "2026-01-31", "infinity", 1700000000, "2026-13-01T00:00:00Z"],
    ),
    ("date", ["2026-01-31"], ["2026-1-31", "2026-02-30", "today", "2026-01-31T00:00:00", 5]),
    ("time", ["09:30", "09:30:00.5"], ["25:00", "9:30", "09:30:00Z", 5]),
    ("uuid", ["00000000-0000-0000-0000-000000000001"], ["x", 5, ""]),
    ("json", [None, 1, "x", [], {"a": [None]}, True], [math.nan, {"a": math.inf}, ["\ud800"]]),
]


@pytest.mark.parametrize(("declared", "good", "bad"), BOTH, ids=[case[0] for case in BOTH])
async def test_each_type_says_what_it_takes(
    database: TestDatabase, declared: str, good: list[Any], bad: list[Any]
) -> None:
    database.execute(f"CREATE TABLE t (v {declared})")
    sink, tried = database.sink(), itertools.count()
    if database.dialect == "mariadb":  # its doubles are all finite
        good, bad = [v for v in good if v != "Infinity"], [*bad, *(v for v in good if v == "Infinity")]
    for value in good:
        assert (await outcome_of(sink, "t", value, tried)).kind is OutcomeKind.WRITTEN, value
    for value in bad:
        outcome = await outcome_of(sink, "t", value, tried)
        assert outcome.code is RejectCode.TYPE, value
        assert str(outcome.reason).startswith("t.v: expected "), outcome


POSTGRESQL_ONLY: list[tuple[str, list[Any], list[Any]]] = [
    ("smallint", [32767, "-32768"], [32768, "-32769"]),
    ("integer", [2**31 - 1], [2**31]),
    ("numeric(5, 2)", ["999.99", 999, "1.234", "0.001"], [1000, "1000.00", "1e3", "999.999"]),
    ("real", [1.5, "NaN"], ["1e39"]),
    ("varchar(3)", ["abc", "\u00e9\u00e9\u00e9"], ["abcd", NUL]),
    ("char(3)", ["a", "abc"], ["abcd"]),
    ("text", [], [f"a{NUL}b"]),
    ("jsonb", [[], {"a": 1}], [NUL, {"a": [NUL]}]),
    ("mood", ["sad", "ok, fine"], ["glad", "", 1]),
    ("positive", [1, None], ["x", 1.5]),
    ("integer[]", [[], [1, None], [[1, 2], [3, 4]], None], [1, "{1}", ["x"], [1.5], [[1], [1, 2]]]),
    ("text[]", [["a,b", '"', "NULL", None, "\\", "{}"]], [[1], "x", [NUL]]),
    ("mood[]", [["sad", "ok, fine"]], [["glad"]]),
    ("jsonb[]", [[{"a": 1}, "x", None]], []),
    ("timetz", ["09:30:00+01:00", "09:30Z"], ["09:30:00"]),
    ("interval", ["1 day", "PT5M"], ["soon", [], True]),
    ("inet", ["10.0.0.1"], ["10.0.0.256", {}]),
    ("int4range", ["[1,5)"], ["[5,1)"]),
    ("bit(3)", ["101"], ["1011", "2"]),
    ("bytea", ["", "AAECAw=="], ["AAEC*", "A", 5, "\\x00"]),
    ("money", ["12.34"], ["x"]),
]


@pytest.mark.parametrize(("declared", "good", "bad"), POSTGRESQL_ONLY, ids=[case[0] for case in POSTGRESQL_ONLY])
async def test_each_type_of_postgresql_says_what_it_takes(
    postgresql: TestDatabase, declared: str, good: list[Any], bad: list[Any]
) -> None:
    postgresql.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok, fine');;CREATE DOMAIN positive AS integer CHECK (value > 0);;"
        f"CREATE TABLE t (v {declared})"
    )
    sink, tried = postgresql.sink(), itertools.count()
    for value in good:
        outcome = await outcome_of(sink, "t", value, tried)
        assert outcome.kind is OutcomeKind.WRITTEN, (value, outcome)
    for value in bad:
        outcome = await outcome_of(sink, "t", value, tried)
        assert outcome.code is RejectCode.TYPE, (value, outcome)


async def test_what_was_sent_to_other_types_is_what_is_there(postgresql: TestDatabase) -> None:
    postgresql.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok, fine');;"
        "CREATE TABLE t (m mood, ms mood[], js jsonb[], c char(3), tz timetz, z timestamptz, p timestamp, b bytea)"
    )
    values = {
        "m": "ok, fine",
        "ms": ["ok, fine", None],
        "js": [{"a": '"\\'}, None],
        "c": "a",
        "tz": "09:30:00+01:00",
        "z": "2026-01-31T09:30:00.1234567891+01:00",
        "p": "2026-01-31T09:30:00+01:00",
        "b": "AAE=",
    }
    (outcome,) = await write(postgresql.sink(), [WriteRequest("1", [Record("t", values)])])
    assert outcome.kind is OutcomeKind.WRITTEN, outcome
    ((m, ms, js, c, tz, z, p, b),) = postgresql.rows("SELECT m, ms::text[], js::text[], c, tz::text, z, p, b FROM t")
    assert (m, ms, c, tz, b) == ("ok, fine", ["ok, fine", None], "a  ", "09:30:00+01", b"\x00\x01")
    assert [j and json.loads(j) for j in js] == [{"a": '"\\'}, None]
    # Past microseconds digits are cut off; a timestamp without zone keeps UTC's clock.
    assert z == datetime(2026, 1, 31, 8, 30, 0, 123456, UTC)
    assert p == datetime(2026, 1, 31, 8, 30)


async def test_null_is_sqls_null_but_where_only_jsons_can_be_meant(database: TestDatabase) -> None:
    database.execute("CREATE TABLE t (a json, b json NOT NULL)")
    (outcome,) = await write(database.sink(), [WriteRequest("1", [Record("t", {"a": None, "b": None})])])
    assert outcome.kind is OutcomeKind.WRITTEN
    assert database.rows("SELECT a IS NULL, CAST(b AS text) FROM t") == [(True, "null")]


async def test_sqlite_keeps_what_it_can_keep_exactly(sqlite: TestDatabase) -> None:
    sqlite.execute("CREATE TABLE t (v decimal(40, 20));;CREATE TABLE s (v varchar(3));;CREATE TABLE u (v)")
    sink, tried = sqlite.sink(), itertools.count()
    numbers: list[str | int] = ["123456789012.345", "0.000000000000001", 2**63 - 1, "1e20"]
    for value in numbers:
        assert (await outcome_of(sink, "t", value, tried)).kind is OutcomeKind.WRITTEN
        assert Decimal(repr(sqlite.rows("SELECT v FROM t")[-1][0])) == Decimal(value)
    outcome = await outcome_of(sink, "t", "1234567890.1234567", tried)
    assert outcome.code is RejectCode.TYPE
    assert "15 digits" in str(outcome.reason)
    # SQLite does not enforce lengths, and neither does the sink for it.
    assert (await outcome_of(sink, "s", "long enough", tried)).kind is OutcomeKind.WRITTEN
    for scalar in ["x", 1, 1.5, True, None]:
        assert (await outcome_of(sink, "u", scalar, tried)).kind is OutcomeKind.WRITTEN
    assert [row[0] for row in sqlite.rows("SELECT v FROM u")] == ["x", 1, 1.5, 1, None]
    assert (await outcome_of(sink, "u", [1], tried)).code is RejectCode.TYPE


COMPOSITE: list[tuple[str, list[Any], list[Any]]] = [
    ("address", ["(Main St,1)", '("a,b\\"c",)'], ["(a)", "Main St", 1, ["(a,1)"], {}, {"street": "x"}, "(a,x)"]),
    ("address[]", [[], ["(a,1)", None, '("x y",2)'], None], ["(a,1)", [1], ["a"], [["(a,1)"], ["(a,1)", "(b,2)"]]]),
    ("home", ["(a,1)", None], ["(a,)", "x"]),
    ("box", ["(1,1),(0,0)"], [1, "x"]),
    ("box[]", [[], ["(1,1),(0,0)", None, "(2,2),(1,1)"], [["(1,1),(0,0)"], ["(2,2),(1,1)"]]], ["x", ["x"], [1]]),
    ("point[]", [["(1,1)", "(2,2)"]], [["x"]]),
]


@pytest.mark.parametrize(("declared", "good", "bad"), COMPOSITE, ids=[case[0] for case in COMPOSITE])
async def test_types_that_arrays_treat_differently(
    postgresql: TestDatabase, declared: str, good: list[Any], bad: list[Any]
) -> None:
    postgresql.execute(
        "CREATE TYPE address AS (street text, number integer);;"
        "CREATE DOMAIN home AS address CHECK ((value).number IS NOT NULL OR value IS NULL);;"
        f"CREATE TABLE t (n integer, v {declared})"
    )
    sink = postgresql.sink()
    # All in one batch: a delimiter that is not the right one shows only where there is more than one row.
    requests = [WriteRequest(f"g{n}", [Record("t", {"n": n, "v": value})]) for n, value in enumerate(good)]
    outcomes = await write(
        sink, [*requests, *(WriteRequest(f"b{n}", [Record("t", {"v": v})]) for n, v in enumerate(bad))]
    )
    assert [o for o in outcomes[: len(good)] if o.kind is not OutcomeKind.WRITTEN] == []
    for value, outcome in zip(bad, outcomes[len(good) :], strict=True):
        assert outcome.kind is OutcomeKind.REJECTED, value
    for n, value in enumerate(good):
        (there,) = postgresql.rows("SELECT v::text FROM t WHERE n = :n", n=n)
        if isinstance(value, str):
            assert postgresql.scalar(f"SELECT CAST(:value AS {declared})::text", value=value) == there[0]
        elif value is not None:
            assert postgresql.scalar("SELECT coalesce(cardinality(v), 0) FROM t WHERE n = :n", n=n) == sum(
                len(item) if isinstance(item, list) else 1 for item in value
            )


SQLITE_ONLY: list[tuple[str, list[Any], list[Any]]] = [
    ("INTERVAL", ["PT5M", "1 day", "01:30:00", None], [5, "5", "1.5e3", True, ""]),
    ("INTERVAL SECOND", ["1 02:00:00"], ["7"]),
    ("TIME WITH TIME ZONE", ["09:30:00+01:00", "09:30Z"], ["09:30:00", "2026-01-31T09:30:00Z"]),
    ("TIMETZ", ["09:30:00+01:00"], ["09:30:00"]),
    ("TIME WITHOUT TIME ZONE", ["09:30:00"], ["09:30:00+01:00"]),
    ("TIMESTAMP WITHOUT TIME ZONE", ["2026-01-31T09:30:00"], ["09:30:00"]),
    ("DATETIME WITH TIME ZONE", ["2026-01-31T09:30:00Z"], ["2026-01-31T09:30:00"]),
    ("FLOATING POINT", [1.5], ["x"]),
    ("STRING", ["a1", "", "1,5", "0x1F"], ["0012", " 1 ", "1e5", ".5"]),
    ("POINT", ["(1,2)"], ["5"]),
    ("VARCHAR(9)", ["0012", "1e5"], [5]),
    ("", ["0012", 5], [[]]),
]


async def test_sqlite_goes_by_the_whole_name_of_a_type(sqlite: TestDatabase) -> None:
    sqlite.execute(";;".join(f"CREATE TABLE t{n} (v {case[0]})" for n, case in enumerate(SQLITE_ONLY)))
    sink, tried = sqlite.sink(), itertools.count()
    for n, (declared, good, bad) in enumerate(SQLITE_ONLY):
        for value in good:
            outcome = await outcome_of(sink, f"t{n}", value, tried)
            assert outcome.kind is OutcomeKind.WRITTEN, (declared, value, outcome)
        for value in bad:
            assert (await outcome_of(sink, f"t{n}", value, tried)).code is RejectCode.TYPE, (declared, value)
        texts = [row[0] for row in sqlite.rows(f"SELECT v FROM t{n} WHERE typeof(v) = 'text'")]
        assert len(texts) == sum(isinstance(value, str) for value in good), declared


WORDS: list[tuple[str, Any, str]] = [
    ("uuid", "zzz", 't.v: expected a UUID as a string, got "zzz"'),
    ("uuid", 5, "t.v: expected a UUID as a string, got 5"),
    ("integer", True, "t.v: expected a whole number from {low} to {high}, got true"),
    ("text", {"a": 1}, "t.v: expected a string, got an object"),
    ("date", "2026-02-30", 't.v: expected a date as 2026-01-31, got "2026-02-30": no such day exists'),
    ("date", "x" * 100, f't.v: expected a date as 2026-01-31, got "{"x" * 36}..."'),
    ("boolean", "t\x1b[31m", 't.v: expected true or false, got "t\\u001b[31m"'),
]


async def test_a_value_that_does_not_fit_is_distinguished_from_what_was_expected(database: TestDatabase) -> None:
    kinds = list(dict.fromkeys(declared for declared, _, _ in WORDS))
    database.execute(";;".join(f"CREATE TABLE {declared}_t (v {declared})" for declared in kinds))
    sink, tried = database.sink(), itertools.count()
    bits = 63 if database.dialect == "sqlite" else 31
    for declared, value, words in WORDS:
        outcome = await outcome_of(sink, f"{declared}_t", value, tried)
        assert outcome.reason == f"{declared}_" + words.format(low=-(2**bits), high=2**bits - 1)


async def test_an_element_that_does_not_fit_is_named(postgresql: TestDatabase) -> None:
    postgresql.execute("CREATE TABLE t (v date[])")
    sink, tried = postgresql.sink(), itertools.count()
    outcome = await outcome_of(sink, "t", ["2026-01-31", ["soon"]], tried)
    assert outcome.reason == 't.v: expected a list, each element a date as 2026-01-31, got "soon" in it'
    assert (await outcome_of(sink, "t", 5, tried)).reason == "t.v: expected a list, got 5"


async def test_each_table_is_listed_once(postgresql: TestDatabase) -> None:
    postgresql.execute("CREATE TABLE orders (id integer);;CREATE SCHEMA other;;CREATE TABLE other.orders (id integer)")
    (outcome,) = await write(postgresql.sink(), [WriteRequest("1", [Record("absent", {"id": 1})])])
    assert outcome.reason == 'no table "absent" to write to; there is orders, other.orders'
    for name in ("orders", "public.orders", "other.orders"):
        (outcome,) = await write(postgresql.sink(), [WriteRequest(name, [Record(name, {"id": 1})])])
        assert outcome.kind is OutcomeKind.WRITTEN


async def test_a_document_that_is_a_number_is_kept_to_the_last_digit(sqlite: TestDatabase) -> None:
    """SQLite reads such a document as a number, and misses the nearest double in three of a thousand."""
    sqlite.execute("CREATE TABLE t (n integer PRIMARY KEY, v json)")
    random = Random(8)
    numbers = [random.random() * 10.0 ** random.randint(-300, 300) for _ in range(2_000)]
    numbers += [1e300, 5e-324, 0.1, 100.0, -0.1, 2.286686241217586e-298]
    requests = [WriteRequest(str(n), [Record("t", {"n": n, "v": v})]) for n, v in enumerate(numbers)]
    assert {o.kind for o in await write(sqlite.sink(), requests)} == {OutcomeKind.WRITTEN}
    assert [float(v) for _, v in sqlite.rows("SELECT n, v FROM t ORDER BY n")] == numbers
