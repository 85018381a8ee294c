"""The audit compares values as the database holds them: whatever the type, neither more nor less than equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from temporal_batching import Record, WriteRequest
from temporal_batching.audit.check import AuditScope, check_database
from temporal_batching.audit.database import read_only_url
from temporal_batching.audit.facts import CallFact, RequestContent
from temporal_batching.audit.report import Findings
from temporal_batching.audit.rules import CallResult
from temporal_batching.audit.store import FactStore
from temporal_batching.errors import AuditError
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.ledger import digest
from tests.support.databases import TestDatabase

POSTGRESQL: dict[str, list[Any]] = {
    "smallint": [-5],
    "bigint": [2**62, str(2**62 - 1)],
    "numeric": ["9.50", 1e-7, 10**30],
    "numeric(10, 2)": ["1.005", 7, "9.5"],
    "real": [0.1, "Infinity"],
    "double precision": [0.1, "NaN", "-0.5"],
    "boolean": [True, False],
    "text": ["", "NULL", 'a "quote", \\, {brace}, 100%\n\u00e9', "O'Brien"],
    "varchar(20)": ["x", "NULL"],
    "char(8)": ["short"],
    "timestamp with time zone": ["2026-01-31T12:00:00.123456789+02:00"],
    "timestamp(0)": ["2026-01-31T12:00:00.6", "2026-01-31T12:00:00+02:00"],
    "date": ["2026-01-31"],
    "time": ["09:30:00.25"],
    "time with time zone": ["09:30:00+01:00"],
    "uuid": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "bytea": ["AAEC/w=="],
    "jsonb": [{"b": [1, 2.50, None], "a": "\u00e9"}, "text", None],
    "json": [{"b": 1, "a": [" "]}, [1, 2]],
    "integer[]": [[1, 2, 3], [[1], [2]], []],
    "text[]": [["a", "NULL", None, 'q"']],
    "mood": ["happy", "very sad"],
    "positive": [3],
    "interval": ["1 day 02:00:00"],
    "inet": ["10.0.0.1/8"],
    "int4range": ["[1,5)"],
}
SQLITE: dict[str, list[Any]] = {
    "INTEGER": [-5, str(2**62)],
    "NUMERIC(10, 2)": ["9.50", "7", 1.5],
    "REAL": [0.1, "1e300", 3],
    "BOOLEAN": [True, False],
    "TEXT": ["", "7", "007", "O'Brien \u00e9", "1e3"],
    "VARCHAR(20)": ["x", "1.0"],
    "TEXT COLLATE NOCASE": ["Mixed"],
    "TIMESTAMP": ["2026-01-31T12:00:00+02:00"],
    "DATE": ["2026-01-31"],
    "UUID": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "BLOB": ["AAEC/w=="],
    "JSON": [{"a": 1}, 12, "7"],
    "": ["7", 7, 7.5, True],
}
MARIADB: dict[str, list[Any]] = {
    "tinyint": [-5],
    "bigint unsigned": [2**64 - 1],
    "decimal(10, 2)": ["1.005", 7, "9.5"],
    "float": [0.1, "-2.5"],
    "double": [0.1, "1e300"],
    "boolean": [True, False],
    "text": ["", "NULL", "a 'quote', \\, 100%\n\u00e9 "],
    "varchar(20)": ["Mixed"],
    "varchar(20) CHARACTER SET latin1": ["\u00e9"],
    "char(8)": ["short"],
    "datetime": ["2026-01-31T12:00:00.6", "2026-01-31T12:00:00+02:00"],
    "TIMESTAMP(6) NULL": ["2026-01-31T12:00:00.123456+02:00"],
    "date": ["2026-01-31"],
    "time(3)": ["09:30:00.25"],
    "year": [2026],
    "bit(5)": ["10001"],
    "enum('a', 'B')": ["B"],
    "set('a', 'B')": [["B", "a"], []],
    "uuid": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "inet6": ["::1"],
    "blob": ["AAEC/w=="],
    "json": [{"b": [1, 2.50, None], "a": "\u00e9"}, "text", None],
}
CASES = [("postgresql", declared, value) for declared, values in POSTGRESQL.items() for value in values]
CASES += [("sqlite", declared, value) for declared, values in SQLITE.items() for value in values]
CASES += [("mariadb", declared, value) for declared, values in MARIADB.items() for value in values]
KINDS = ("postgresql", "sqlite", "mariadb")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(kind: str, request: pytest.FixtureRequest) -> TestDatabase:
    """With a table whose records bring their key, and one without."""
    database: TestDatabase = request.getfixturevalue(kind)
    create(database, 0, "integer")
    return database


@pytest.fixture
def all_types(kind: str, request: pytest.FixtureRequest) -> TestDatabase:
    """With two such tables for every value."""
    database: TestDatabase = request.getfixturevalue(kind)
    if kind == "postgresql":
        database.execute("CREATE TYPE mood AS ENUM ('happy', 'very sad')")
        database.execute("CREATE DOMAIN positive AS integer CHECK (VALUE > 0)")
    for number, (declared, _) in enumerate(_cases(kind)):
        create(database, number, declared)
    return database


def create(database: TestDatabase, number: int, declared: str) -> None:
    # MariaDB shows a row's identity only by a primary key.
    row = ", place bigint AUTO_INCREMENT PRIMARY KEY" if database.dialect == "mariadb" else ""
    database.execute(
        f'CREATE TABLE keyed{number} (id integer PRIMARY KEY, "the value%" {declared});;'
        f'CREATE TABLE free{number} (id integer, "the value%" {declared}{row})'
    )


def _cases(kind: str) -> list[tuple[str, Any]]:
    return [(declared, value) for of, declared, value in CASES if of == kind]


def requests(kind: str) -> list[WriteRequest]:
    """A request for each table, with a second one of only a null in the tables without a key."""
    return [
        WriteRequest(f"{form}{number}", [Record(f"{form}{number}", {"id": 1, "the value%": value})])
        for number, (_, value) in enumerate(_cases(kind))
        for form in ("keyed", "free")
    ]


@pytest.fixture
def facts() -> Iterator[FactStore]:
    facts = FactStore()
    yield facts
    facts.close()


def tell(
    facts: FactStore, asked: Sequence[WriteRequest], verdict: CallResult = CallResult.WRITTEN, code: str = ""
) -> None:
    for request in asked:
        mark = digest(request.records)
        facts.add_content(RequestContent(request.request_id, mark, request.records))
        facts.add_call(CallFact("w", request.request_id, mark, verdict, code, batch_id="main-0.x/1"), judged=True)
    facts.finish_collecting()


def judge(facts: FactStore, database: TestDatabase, **options: Any) -> Findings:
    return check_database(facts, AuditScope(url=database.url, batcher="main", **options))


async def write(database: TestDatabase, asked: Sequence[WriteRequest]) -> None:
    outcomes = await database.sink().write(Batch(asked, id="main-0.x/1"))
    assert [(r.request_id, o.reason) for r, o in zip(asked, outcomes, strict=True) if o.kind != "written"] == []


async def test_every_value_is_found_as_it_was_stored_and_missed_when_it_is_lost(
    all_types: TestDatabase, kind: str, facts: FactStore
) -> None:
    asked = requests(kind)
    await write(all_types, asked)
    tell(facts, asked)
    found = judge(facts, all_types, complete=True)
    assert [str(violation) for violation in found.violations] == []
    assert found.unchecked == {}
    assert (found.requests, found.written, found.records) == (len(asked), len(asked), len(asked))

    all_types.execute(";;".join(f'UPDATE {request.records[0].table} SET "the value%" = NULL' for request in asked))
    with closing(FactStore()) as again:
        tell(again, asked)
        found = judge(again, all_types)
    nulls = {request.request_id for request in asked if request.records[0].values["the value%"] is None}
    for form, rule in (("keyed", "other values"), ("free", "written but missing")):
        missed = {violation.request_id for violation in found.violations if violation.rule == rule}
        assert missed == {r.request_id for r in asked if r.request_id.startswith(form)} - nulls


async def test_nothing_of_a_value_is_said(database: TestDatabase, facts: FactStore) -> None:
    asked = [WriteRequest("r", [Record("keyed0", {"id": 1, "the value%": 4711})])]
    await write(database, asked)
    database.execute('UPDATE keyed0 SET "the value%" = 815')
    tell(facts, asked)
    (violation,) = judge(facts, database).violations
    assert str(violation) == "other values: r: keyed0: the value%"


PRESENT = "not written but present"
UNKNOWN_TO_THE_LEDGER = [
    (CallResult.WRITTEN, "", {"rows without ledger"}),
    (CallResult.NOT_CONFIRMED, "", {"rows without ledger"}),
    (CallResult.UNKNOWN, "", {"rows without ledger"}),
    (CallResult.EXPIRED, "", {"rows without ledger", PRESENT}),
    (CallResult.NOT_SUBMITTED, "", {"rows without ledger", PRESENT}),
    (CallResult.REJECTED, "type", {"rows without ledger", PRESENT}),
    # It was refused because of that row, independent of its writer.
    (CallResult.REJECTED, "constraint", set()),
]


def one_each(count: int) -> list[WriteRequest]:
    """Requests for a row with a key of its own."""
    return [WriteRequest(f"r{n}", [Record("keyed0", {"id": n, "the value%": 1})]) for n in range(count)]


def by_request(found: Findings) -> dict[str, set[str]]:
    rules: dict[str, set[str]] = {}
    for violation in found.violations:
        rules.setdefault(violation.request_id, set()).add(str(violation.rule))
    return rules


async def test_rows_that_the_ledger_does_not_know_are_found(database: TestDatabase, facts: FactStore) -> None:
    asked = one_each(len(UNKNOWN_TO_THE_LEDGER))
    await write(database, asked)
    database.execute("DELETE FROM batching_ledger")
    for request, (verdict, code, _) in zip(asked, UNKNOWN_TO_THE_LEDGER, strict=True):
        tell(facts, [request], verdict, code)
    expected = {f"r{n}": rules for n, (_, _, rules) in enumerate(UNKNOWN_TO_THE_LEDGER) if rules}
    assert by_request(judge(facts, database)) == expected


async def test_what_was_said_not_to_be_written_and_is(database: TestDatabase, facts: FactStore) -> None:
    verdicts = [CallResult.EXPIRED, CallResult.REJECTED, CallResult.NOT_SUBMITTED]
    asked = one_each(len(verdicts))
    await write(database, asked)
    for request, verdict in zip(asked, verdicts, strict=True):
        tell(facts, [request], verdict)
    assert by_request(judge(facts, database)) == {"r0": {PRESENT}, "r1": {PRESENT}, "r2": {PRESENT}}


async def test_equal_rows_are_distinguished_by_their_number(database: TestDatabase, facts: FactStore) -> None:
    """Three requests for the same values, and a fourth that came to nothing."""
    asked = [WriteRequest(f"r{n}", [Record("free0", {"id": 1, "the value%": 7})]) for n in range(4)]
    await write(database, asked[:3])
    tell(facts, asked[:3])
    tell(facts, asked[3:], CallResult.EXPIRED)
    assert judge(facts, database, complete=True).violations == []


@pytest.mark.parametrize(("statement", "violations"), [
    ("DELETE FROM free0", 3 * 2),
    ('INSERT INTO free0 (id, "the value%") SELECT id, "the value%" FROM free0', 1),
])  # fmt: skip
async def test_equal_rows_that_are_too_few_or_too_many_are_found(
    statement: str, violations: int, database: TestDatabase, facts: FactStore
) -> None:
    asked = [WriteRequest(f"r{n}", [Record("free0", {"id": 1, "the value%": 7})]) for n in range(3)]
    await write(database, asked)
    database.execute(statement)
    tell(facts, asked)
    assert len(judge(facts, database).violations) == violations


async def test_what_cannot_be_looked_up_is_said_and_not_guessed(database: TestDatabase, facts: FactStore) -> None:
    database.execute("CREATE TABLE gone (id integer);;CREATE TABLE changed (id integer, old integer)")
    database.execute("CREATE TABLE below (id integer);;CREATE VIEW above AS SELECT id FROM below")
    asked = [
        WriteRequest("gone", [Record("gone", {"id": 1})]),
        WriteRequest("changed", [Record("changed", {"id": 1, "old": 1})]),
    ]
    if database.dialect != "sqlite":  # it has no views that can be written to without a trigger
        asked.append(WriteRequest("view", [Record("above", {"id": 1})]))
    await write(database, asked)
    database.execute("DROP TABLE gone;;ALTER TABLE changed DROP COLUMN old")
    tell(facts, asked)
    found = judge(facts, database, complete=True)
    assert found.violations == []
    assert dict(found.unchecked) == {
        "gone: no table of this name is in the database": 1,
        "changed: a record does not fit the table as it is now (unknown_column)": 1,
        **({f"above: {UNIDENTIFIED[database.dialect]}": 1} if len(asked) > 2 else {}),
    }


UNIDENTIFIED = {
    "postgresql": "it is a view or a foreign table: its rows cannot be identified",
    "mariadb": "it has no primary key: its rows have no identity",
}

BAD_VALUES: dict[str, list[tuple[str, Any, Any]]] = {
    "postgresql": [
        ("mood", "happy", "angry"),
        ("positive", 3, -3),
        ("numeric(4, 2)", "9.5", "12345.6"),
        ("inet", "10.0.0.1", "10.0.0.x"),
    ],
    "sqlite": [("integer", 3, 2**70), ("", "x", 2**70), ("text", "x", "\ud800")],
    "mariadb": [("enum('a')", "a", "b"), ("decimal(4, 2)", "9.5", "12345.6"), ("inet6", "::1", "10.0.0.x")],
}
"""By database: a type, a value that it takes, and one that it refuses."""


async def test_a_value_that_a_column_cannot_hold_hides_no_other_row(
    kind: str, database: TestDatabase, facts: FactStore
) -> None:
    if kind == "postgresql":
        database.execute("CREATE TYPE mood AS ENUM ('happy', 'very sad')")
        database.execute("CREATE DOMAIN positive AS integer CHECK (VALUE > 0)")
    good, bad = [], []
    for number, (declared, taken, refused) in enumerate(BAD_VALUES[kind], start=1):
        create(database, number, declared)
        for form in ("keyed", "free"):
            table = f"{form}{number}"
            good += [WriteRequest(f"{table}-{n}", [Record(table, {"id": n, "the value%": taken})]) for n in range(3)]
            bad.append(WriteRequest(f"{table}-bad", [Record(table, {"id": 9, "the value%": refused})]))
    await write(database, good)
    database.execute(";;".join(f"DELETE FROM {request.records[0].table} WHERE id = 1" for request in bad))
    tell(facts, good)
    tell(facts, bad, CallResult.REJECTED, "type")
    found = judge(facts, database)
    lost = {request.request_id for request in good if request.request_id.endswith("-1")}
    assert {v.request_id for v in found.violations if v.rule == "written but missing"} == lost
    assert found.unchecked == {}


async def test_of_a_type_that_was_narrowed_only_the_values_outside_it_are_not_checked(
    postgresql: TestDatabase, facts: FactStore
) -> None:
    create(postgresql, 0, "text")
    asked = [WriteRequest(f"r{n}", [Record("keyed0", {"id": n, "the value%": str(n * 100)})]) for n in range(6)]
    await write(postgresql, asked)
    postgresql.execute("""
        DELETE FROM keyed0 WHERE id = 1;;UPDATE keyed0 SET "the value%" = '0' WHERE id = 5;;
        CREATE DOMAIN small AS text CHECK (length(VALUE) < 2 OR VALUE < '5');;
        ALTER TABLE keyed0 ALTER COLUMN "the value%" TYPE small
    """)
    tell(facts, asked)
    found = judge(facts, postgresql)
    assert {violation.request_id for violation in found.violations} == {"r1"}
    (reason,) = found.unchecked
    assert (reason.startswith("keyed0: "), found.unchecked[reason]) == (True, 1)


@pytest.fixture
def latin1(postgresql_server: sa.URL) -> Iterator[TestDatabase]:
    """A PostgreSQL database that cannot encode every character."""
    name = f"latin_{uuid4().hex[:8]}"
    maintenance = sa.create_engine(postgresql_server.set(database="postgres"), isolation_level="AUTOCOMMIT")
    url = postgresql_server.set(database=name)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        with ExitStack() as stack:
            yield TestDatabase("postgresql", url.render_as_string(hide_password=False), engine, stack)
        engine.dispose()
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    maintenance.dispose()


async def test_a_request_id_that_the_database_cannot_encode_hides_no_other(
    latin1: TestDatabase, facts: FactStore
) -> None:
    create(latin1, 0, "text")
    asked = [WriteRequest(f"r{n}", [Record("keyed0", {"id": n, "the value%": "é"})]) for n in range(3)]
    await write(latin1, asked)
    latin1.execute("DELETE FROM keyed0 WHERE id = 1")
    tell(facts, asked)
    tell(facts, [WriteRequest("r-€", [Record("keyed0", {"id": 7, "the value%": "x"})])], CallResult.REJECTED, "type")
    tell(facts, [WriteRequest("r-x", [Record("keyed0", {"id": 8, "the value%": "€"})])], CallResult.REJECTED, "type")
    found = judge(facts, latin1, complete=True)
    assert {violation.request_id for violation in found.violations} == {"r1"}
    assert (found.requests, found.written, found.unchecked) == (5, 3, {})


def test_a_database_that_is_not_there_does_not_come_to_be(facts: FactStore, tmp_path: Any) -> None:
    with pytest.raises(AuditError, match="no such file"):
        check_database(facts, AuditScope(url=f"sqlite:///{tmp_path}/none.db", batcher="main"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_opened_for_reading(sqlite: TestDatabase) -> None:
    sqlite.execute("CREATE TABLE t (a integer)")
    engine = sa.create_engine(read_only_url(sqlite.url))
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    engine.dispose()


def test_a_database_without_a_ledger_is_one_line(sqlite: TestDatabase, facts: FactStore) -> None:
    sqlite.execute("CREATE TABLE t (a integer)")
    tell(facts, [WriteRequest("r", [Record("t", {"a": 1})])])
    with pytest.raises(AuditError, match="cannot be audited: no such table: batching_ledger"):
        judge(facts, sqlite)
