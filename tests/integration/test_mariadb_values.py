"""Values arrive in MariaDB as they were sent, or are rejected: it would change many of them silently."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.integration.test_sql_sink_values import (
    MANY,
    MARIADB,
    common,
    documents,
    nasty,
    optional,
    outcome_of,
    text,
    write,
    zones,
)
from tests.support.databases import TestDatabase

finite = st.floats(allow_nan=False, allow_infinity=False)
instants = st.tuples(st.datetimes(datetime(1970, 1, 3), datetime(2038, 1, 15)), zones)
exact = st.decimals(-(10**44), 10**44, places=20, allow_nan=False, allow_infinity=False)
LABELS = ["a", "b'c", "d"]

ROW = {
    **common,
    "txt": optional(st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | text | nasty),
    "uid": optional(st.uuids(version=4).map(str)),  # MariaDB takes none of an unknown version
    "doc": documents,
    "dbl": optional(finite),
    "num": optional(exact.map(lambda number: format(number, "f")) | st.integers(-(10**40), 10**40)),
    "zoned": optional(instants.map(lambda pair: pair[0].replace(tzinfo=pair[1]).isoformat())),
    "small": optional(st.integers(-(2**15), 2**15 - 1)),
    "tiny": optional(st.integers(0, 255)),
    "mood": optional(st.sampled_from(["sad", "ok, fine"])),
    "moods": optional(st.lists(st.sampled_from(LABELS))),
    "bits": optional(st.integers(0, 31).map(lambda n: format(n, "b"))),
    "fixed": optional(st.binary(min_size=2, max_size=2).map(lambda b: base64.b64encode(b).decode())),
    "net": optional(st.ip_addresses(v=6).map(str)),
}


def expected(column: str, sent: Any) -> Any:
    """What PyMySQL gives back for what was sent."""
    if sent is None:
        return None
    read: dict[str, Any] = {
        "big": int,
        "dbl": float,
        "flag": int,
        "day": date.fromisoformat,
        "tim": lambda t: timedelta(
            hours=(m := time.fromisoformat(t)).hour, minutes=m.minute, seconds=m.second, microseconds=m.microsecond
        ),
        "plain": datetime.fromisoformat,
        "zoned": lambda t: datetime.fromisoformat(t).astimezone(UTC).replace(tzinfo=None),
        "raw": base64.b64decode,
        "fixed": base64.b64decode,
        "num": Decimal,
        "moods": lambda chosen: ",".join(label for label in LABELS if label in chosen),
        "net": IPv6Address,
        "bits": lambda bits: int(bits, 2).to_bytes(1),
    }
    return read.get(column, lambda value: value)(sent)


def test_values_round_trip_in_mariadb(mariadb: TestDatabase) -> None:
    mariadb.execute(MARIADB.replace("txt varchar(60)", "txt varchar(60) COLLATE utf8mb4_nopad_bin"))
    sink, numbers = mariadb.sink(), itertools.count()

    @MANY
    @given(st.lists(st.fixed_dictionaries(ROW), min_size=1, max_size=5))
    def check(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["n"] = next(numbers)
        requests = [WriteRequest(str(row["n"]), [Record("vals", row)]) for row in rows]
        assert [o for o in asyncio.run(write(sink, requests)) if o.kind is not OutcomeKind.WRITTEN] == []
        with mariadb.engine.connect() as connection:
            connection.exec_driver_sql("SET time_zone = '+00:00'")
            names = ", ".join(rows[0])
            found = connection.exec_driver_sql(f"SELECT {names} FROM vals WHERE n >= {rows[0]['n']} ORDER BY n").all()
        for sent, got in zip(rows, found, strict=True):
            for column, value in sent.items():
                there = getattr(got, column)
                if there is not None and column in ("doc", "net"):
                    there = json.loads(there) if column == "doc" else IPv6Address(there)
                assert there == expected(column, value), column

    check()


TYPES: list[tuple[str, list[Any], list[Any]]] = [
    ("tinyint", [127, "-128"], [128, -129, True, "1.0"]),
    ("tinyint(1)", [True, False], [0, 1, "true"]),
    ("tinyint unsigned", [0, 255], [-1, 256]),
    ("smallint", [32767], [32768]),
    ("mediumint", [2**23 - 1], [2**23]),
    ("integer unsigned", [2**32 - 1], [-1, 2**32]),
    ("bigint unsigned", [2**64 - 1, str(2**64 - 1)], [-1, 2**64]),
    ("decimal(5, 2)", ["999.99", 999, "1.234", "0.001", "-999.99", "1e2"], [1000, "1000.00", "1e3", "999.995"]),
    ("decimal(2, 2)", ["0.99", ".5", "-0.994"], ["0.995", "1"]),
    ("decimal(5, 2) unsigned", ["1.5", "0"], ["-1"]),
    ("decimal(65, 0)", ["9" * 65, "1e60"], ["9" * 66]),
    ("float", [1.5, "3.4e38"], ["1e39", "NaN", "Infinity"]),
    ("double", [1.5, "1e308", 5e-324], ["NaN", "Infinity", "-Infinity", "1e309"]),
    ("varchar(3)", ["abc", "\u00e9\u00e9\u00e9", "\U0001f600", "a\x00b"], ["abcd", 5]),
    ("varchar(9) CHARACTER SET latin1", ["\u00e9"], ["\U0001f600", "\u0e51"]),
    ("tinytext", ["x" * 255], ["x" * 256]),
    ("char(3)", ["a", "abc"], ["abcd"]),
    ("binary(3)", ["AAEC"], ["AAE=", "AAECAw==", ""]),
    ("varbinary(3)", ["AAEC", ""], ["AAECAw==", "x"]),
    ("blob", ["", "AAECAw=="], ["AAEC*", "A", 5, "\\x00"]),
    ("bit(3)", ["101", "1", "000"], ["1011", "2", "", 5, True]),
    ("bit(1)", ["1", True, False], ["10", 1]),
    ("year", [1901, "2155"], [1900, 2156, 0, 26]),
    ("enum('sad', 'ok, fine', 'it''s', '2')", ["sad", "ok, fine", "it's", "2"], ["glad", "", "1", "SAD", 1]),
    ("set('a', 'b')", [[], ["a"], ["b", "a", "b"]], [["c"], "a", "a,b", [1], ["A"]]),
    ("json", [None, 1, "x", [], {"a": [None]}, True, 1e300], [["\ud800"]]),
    ("inet6", ["::1", "::ffff:10.0.0.1"], ["x", 5, {}]),
    ("inet4", ["10.0.0.1"], ["10.0.0.256"]),
    ("date", ["0001-01-01", "9999-12-31"], ["0000-00-00", "2026-02-30", "2026-00-01"]),
    ("datetime", ["2026-01-31T09:30:00.123456"], ["0000-00-00 00:00:00", "2026-02-30T00:00:00"]),
    ("TIMESTAMP", ["2026-01-31T09:30:00Z", "2026-01-31T09:30:00+14:00"], ["2026-01-31T09:30:00"]),
    ("TIMESTAMP(3)", ["1970-01-02T00:00:00Z", "2037-12-31T00:00:00Z"], ["1969-01-01T00:00:00Z"]),
    ("time", ["23:59:59"], ["24:00:01", "-01:00", "838:59:59"]),
    ("point", [], ["(1,1)", "POINT(1 1)", 5]),
]  # fmt: skip


async def test_each_type_of_mariadb_says_what_it_takes(mariadb: TestDatabase) -> None:
    mariadb.execute(";;".join(f"CREATE TABLE t{n} (v {case[0]})" for n, case in enumerate(TYPES)).replace("\\", ""))
    sink, tried = mariadb.sink(), itertools.count()
    for n, (declared, good, bad) in enumerate(TYPES):
        for value in good:
            outcome = await outcome_of(sink, f"t{n}", value, tried)
            assert outcome.kind is OutcomeKind.WRITTEN, (declared, value, outcome)
        for value in bad:
            outcome = await outcome_of(sink, f"t{n}", value, tried)
            assert outcome.code is RejectCode.TYPE, (declared, value, outcome)


async def test_what_was_sent_is_what_is_there(mariadb: TestDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (id bigint AUTO_INCREMENT PRIMARY KEY, d decimal(65, 30), f double, dt datetime,"
        " dt6 datetime(6), ts TIMESTAMP(6) NULL, c char(3), b blob, e enum('a\\\\b', 'c'), note varchar(20))"
    )
    digits = "12345678901234567890123456789012345.123456789012345678901234567895"
    values = {
        "id": 0,  # not the next number
        "d": digits,
        "f": 0.1,
        "dt": "2026-01-31T09:30:00.999999+01:00",
        "dt6": "2026-01-31T09:30:00.1234567891",
        "ts": "2026-01-31T09:30:00.123456+01:00",
        "c": "a",
        "b": base64.b64encode(b"'\\\x00\xff").decode(),
        "e": "a\\b",
        "note": "it's \\ \x00 \" % é",
    }
    (outcome,) = await write(mariadb.sink(), [WriteRequest("1", [Record("t", values)])])
    assert outcome.kind is OutcomeKind.WRITTEN, outcome
    with mariadb.engine.connect() as connection:
        connection.exec_driver_sql("SET time_zone = '+05:00'")
        ((i, d, f, dt, dt6, ts, c, b, e, note),) = connection.exec_driver_sql("SELECT * FROM t").all()
    assert (i, d, f, c, b, e, note) == (0, Decimal(digits), 0.1, "a", b"'\\\x00\xff", "a\\b", values["note"])
    # A timestamp is an instant, a datetime is UTC's clock; what a column has no digits for is cut off.
    assert ts == datetime(2026, 1, 31, 13, 30, 0, 123456)
    assert (dt, dt6) == (datetime(2026, 1, 31, 8, 30), datetime(2026, 1, 31, 9, 30, 0, 123456))


async def test_strict_mode_is_the_sessions_whatever_the_servers_is(mariadb: TestDatabase) -> None:
    """Without it MariaDB would store another value, and only warn."""
    mariadb.execute("CREATE TABLE t (v tinyint(2), w varchar(2), x date, y integer NOT NULL)")
    before = mariadb.scalar("SELECT @@GLOBAL.sql_mode")
    mariadb.execute("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'")
    try:
        sink = mariadb.sink()
        bad: list[dict[str, Any]] = [{"w": "abc", "y": 1}, {"w": "a"}, {"y": None}]
        requests = [WriteRequest(str(n), [Record("t", values)]) for n, values in enumerate(bad)]
        good = WriteRequest("good", [Record("t", {"v": 5, "w": "\\'", "x": "2026-01-31", "y": 0})])
        outcomes = await sink.write(Batch([*requests, good], id="main-0/1"))
        assert [o.kind.value for o in outcomes] == ["rejected"] * 3 + ["written"]
        assert [o.code for o in outcomes[:3]] == [RejectCode.TYPE, RejectCode.CONSTRAINT, RejectCode.CONSTRAINT]
        assert mariadb.rows("SELECT v, w, y FROM t") == [(5, "\\'", 0)]
    finally:
        with mariadb.engine.begin() as connection:
            connection.exec_driver_sql(f"SET GLOBAL sql_mode = '{before}'")


async def test_a_null_in_a_timestamp_is_not_the_current_time(mariadb: TestDatabase) -> None:
    mariadb.execute("CREATE TABLE t (v TIMESTAMP NOT NULL)")
    (outcome,) = await write(mariadb.sink(), [WriteRequest("1", [Record("t", {"v": None})])])
    assert outcome.code is RejectCode.TYPE
    assert mariadb.rows("SELECT * FROM t") == []


async def test_an_enum_that_is_left_out_has_its_default_beside_rows_that_have_it(mariadb: TestDatabase) -> None:
    mariadb.execute("CREATE TABLE t (id integer PRIMARY KEY, e enum('a', 'b') NOT NULL)")
    requests = [WriteRequest("1", [Record("t", {"id": 1})]), WriteRequest("2", [Record("t", {"id": 2, "e": "b"})])]
    assert {o.kind for o in await write(mariadb.sink(), requests)} == {OutcomeKind.WRITTEN}
    assert mariadb.rows("SELECT id, e FROM t ORDER BY id") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("size", [100_000, 3_000_000])
async def test_what_a_packet_cannot_hold_is_split_or_rejected_alone(mariadb: TestDatabase, size: int) -> None:
    mariadb.execute("CREATE TABLE t (id integer PRIMARY KEY, v longtext)")
    before = mariadb.scalar("SELECT @@GLOBAL.max_allowed_packet")
    mariadb.execute("SET GLOBAL max_allowed_packet = 1048576")
    try:
        sink = mariadb.sink()
        requests = [WriteRequest(str(n), [Record("t", {"id": n, "v": "é" * 45_000})]) for n in range(30)]
        requests.append(WriteRequest("large", [Record("t", {"id": 99, "v": "x" * size})]))
        outcomes = await sink.write(Batch(requests, id="main-0/1"))
        assert {o.kind for o in outcomes[:-1]} == {OutcomeKind.WRITTEN}
        assert outcomes[-1].code is (None if size < 1_000_000 else RejectCode.TOO_LARGE), outcomes[-1]
        assert mariadb.scalar("SELECT count(*) FROM t") == (31 if size < 1_000_000 else 30)
    finally:
        mariadb.execute(f"SET GLOBAL max_allowed_packet = {before}")
