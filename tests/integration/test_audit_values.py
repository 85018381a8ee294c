"""The audit compares values as the database holds them: whatever the type, neither more nor less than equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from temporal_batching import Record, WriteRequest
from temporal_batching.audit.check import Findings, Question, _for_reading, check
from temporal_batching.audit.facts import Facts, Told
from temporal_batching.audit.judge import Verdict
from temporal_batching.cli.console import CommandError
from temporal_batching.cli.database import sync_engine
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
CASES = [("postgresql", declared, value) for declared, values in POSTGRESQL.items() for value in values]
CASES += [("sqlite", declared, value) for declared, values in SQLITE.items() for value in values]
KINDS = ("postgresql", "sqlite")


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
    database.execute(
        f'CREATE TABLE keyed{number} (id integer PRIMARY KEY, "the value%" {declared});;'
        f'CREATE TABLE free{number} (id integer, "the value%" {declared})'
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
def facts() -> Iterator[Facts]:
    facts = Facts()
    yield facts
    facts.close()


def tell(facts: Facts, asked: Sequence[WriteRequest], verdict: Verdict = Verdict.WRITTEN, code: str = "") -> None:
    for request in asked:
        mark = digest(request.records)
        facts.add_content(request.request_id, mark, request.records)
        facts.add_call(Told("w", request.request_id, mark, verdict, code, batch="main-0/1"), judged=True)
    facts.gathered()


def judge(facts: Facts, database: TestDatabase, **options: Any) -> Findings:
    return check(facts, Question(database.url, "main", **options))


async def write(database: TestDatabase, asked: Sequence[WriteRequest]) -> None:
    outcomes = await database.sink().write(Batch(asked, id="main-0/1"))
    assert [(r.request_id, o.reason) for r, o in zip(asked, outcomes, strict=True) if o.kind != "written"] == []


async def test_every_value_is_found_as_it_was_stored(all_types: TestDatabase, kind: str, facts: Facts) -> None:
    asked = requests(kind)
    await write(all_types, asked)
    tell(facts, asked)
    found = judge(facts, all_types, complete=True)
    assert [str(violation) for violation in found.violations] == []
    assert found.unchecked == {}
    assert (found.requests, found.written, found.records) == (len(asked), len(asked), len(asked))


async def test_every_value_that_is_lost_is_missed(all_types: TestDatabase, kind: str, facts: Facts) -> None:
    asked = requests(kind)
    await write(all_types, asked)
    all_types.execute(";;".join(f'UPDATE {request.records[0].table} SET "the value%" = NULL' for request in asked))
    tell(facts, asked)
    found = judge(facts, all_types)
    nulls = {request.request_id for request in asked if request.records[0].values["the value%"] is None}
    for form, rule in (("keyed", "not what was asked for"), ("free", "told written, is not")):
        missed = {violation.request_id for violation in found.violations if violation.rule == rule}
        assert missed == {r.request_id for r in asked if r.request_id.startswith(form)} - nulls


async def test_nothing_of_a_value_is_said(database: TestDatabase, facts: Facts) -> None:
    asked = [WriteRequest("r", [Record("keyed0", {"id": 1, "the value%": 4711})])]
    await write(database, asked)
    database.execute('UPDATE keyed0 SET "the value%" = 815')
    tell(facts, asked)
    (violation,) = judge(facts, database).violations
    assert str(violation) == "not what was asked for: r: keyed0: the value%"


@pytest.mark.parametrize(
    ("verdict", "code", "rules"),
    [
        (Verdict.WRITTEN, "", {"rows without ledger"}),
        (Verdict.NOT_CONFIRMED, "", {"rows without ledger"}),
        (Verdict.UNKNOWN, "", {"rows without ledger"}),
        (Verdict.EXPIRED, "", {"rows without ledger", "told not written, is"}),
        (Verdict.NOT_SUBMITTED, "", {"rows without ledger", "told not written, is"}),
        (Verdict.REJECTED, "type", {"rows without ledger", "told not written, is"}),
        # It was refused because of that very row, whoever wrote it.
        (Verdict.REJECTED, "constraint", set()),
    ],
)
async def test_rows_that_the_ledger_does_not_know_are_found(
    verdict: Verdict, code: str, rules: set[str], database: TestDatabase, facts: Facts
) -> None:
    asked = [WriteRequest("r", [Record("keyed0", {"id": 1, "the value%": 1})])]
    await write(database, asked)
    database.execute("DELETE FROM batching_ledger")
    tell(facts, asked, verdict, code)
    assert {violation.rule for violation in judge(facts, database).violations} == rules


@pytest.mark.parametrize("verdict", [Verdict.EXPIRED, Verdict.REJECTED, Verdict.NOT_SUBMITTED])
async def test_what_was_said_not_to_be_written_and_is(verdict: Verdict, database: TestDatabase, facts: Facts) -> None:
    asked = [WriteRequest("r", [Record("keyed0", {"id": 1, "the value%": 1})])]
    await write(database, asked)
    tell(facts, asked, verdict)
    assert {violation.rule for violation in judge(facts, database).violations} == {"told not written, is"}


async def test_equal_rows_are_told_apart_by_their_number(database: TestDatabase, facts: Facts) -> None:
    """Three requests for the same values, and a fourth that came to nothing."""
    asked = [WriteRequest(f"r{n}", [Record("free0", {"id": 1, "the value%": 7})]) for n in range(4)]
    await write(database, asked[:3])
    tell(facts, asked[:3])
    tell(facts, asked[3:], Verdict.EXPIRED)
    assert judge(facts, database, complete=True).violations == []


@pytest.mark.parametrize(("statement", "violations"), [
    ("DELETE FROM free0", 3 * 2),
    ("INSERT INTO free0 SELECT * FROM free0", 1),
])  # fmt: skip
async def test_equal_rows_that_are_too_few_or_too_many_are_found(
    statement: str, violations: int, database: TestDatabase, facts: Facts
) -> None:
    asked = [WriteRequest(f"r{n}", [Record("free0", {"id": 1, "the value%": 7})]) for n in range(3)]
    await write(database, asked)
    database.execute(statement)
    tell(facts, asked)
    assert len(judge(facts, database).violations) == violations


async def test_what_cannot_be_looked_up_is_said_and_not_guessed(database: TestDatabase, facts: Facts) -> None:
    database.execute("CREATE TABLE gone (id integer);;CREATE TABLE changed (id integer, old integer)")
    database.execute("CREATE TABLE below (id integer);;CREATE VIEW above AS SELECT id FROM below")
    asked = [
        WriteRequest("gone", [Record("gone", {"id": 1})]),
        WriteRequest("changed", [Record("changed", {"id": 1, "old": 1})]),
    ]
    if database.dialect == "postgresql":  # SQLite has no views that can be written to without a trigger
        asked.append(WriteRequest("view", [Record("above", {"id": 1})]))
    await write(database, asked)
    database.execute("DROP TABLE gone;;ALTER TABLE changed DROP COLUMN old")
    tell(facts, asked)
    found = judge(facts, database, complete=True)
    assert found.violations == []
    assert dict(found.unchecked) == {
        "gone: no table of this name is in the database": 1,
        "changed: a record does not fit the table as it is now (unknown_column)": 1,
        **({"above: it is a view or a foreign table: its rows have no identity": 1} if len(asked) > 2 else {}),
    }


def test_a_database_that_is_not_there_does_not_come_to_be(facts: Facts, tmp_path: Any) -> None:
    with pytest.raises(CommandError, match="no such file"):
        check(facts, Question(f"sqlite:///{tmp_path}/none.db", "main"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_opened_for_reading(sqlite: TestDatabase) -> None:
    sqlite.execute("CREATE TABLE t (a integer)")
    engine = sync_engine(_for_reading(sqlite.url))
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    engine.dispose()


def test_a_database_without_a_ledger_is_one_line(sqlite: TestDatabase, facts: Facts) -> None:
    sqlite.execute("CREATE TABLE t (a integer)")
    tell(facts, [WriteRequest("r", [Record("t", {"a": 1})])])
    with pytest.raises(CommandError, match="cannot be audited: no such table: batching_ledger"):
        judge(facts, sqlite)
