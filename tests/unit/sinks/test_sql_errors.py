"""Whose fault a database's error is, by its code alone."""

from __future__ import annotations

import sqlite3

import pytest

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.sql.errors import Verdict, judge_sqlite, judge_sqlstate


@pytest.mark.parametrize(
    ("sqlstate", "verdict", "code"),
    [
        ("22003", Verdict.REQUEST, RejectCode.TYPE),
        ("22P02", Verdict.REQUEST, RejectCode.TYPE),
        ("23502", Verdict.REQUEST, RejectCode.CONSTRAINT),
        ("23505", Verdict.REQUEST, RejectCode.CONSTRAINT),
        ("44000", Verdict.REQUEST, RejectCode.CONSTRAINT),
        ("42501", Verdict.REQUEST, RejectCode.DATABASE),
        ("54000", Verdict.REQUEST, RejectCode.DATABASE),
        ("P0001", Verdict.REQUEST, RejectCode.DATABASE),
        ("42P01", Verdict.SCHEMA, RejectCode.UNKNOWN_TABLE),
        ("42703", Verdict.SCHEMA, RejectCode.UNKNOWN_COLUMN),
    ],
)
def test_requests_are_blamed_for_what_they_brought(sqlstate: str, verdict: Verdict, code: RejectCode) -> None:
    assert judge_sqlstate(sqlstate) == (verdict, code)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_lost_races_are_run_again(sqlstate: str) -> None:
    assert judge_sqlstate(sqlstate)[0] is Verdict.AGAIN


@pytest.mark.parametrize(
    "sqlstate",
    [None, "", "08006", "25006", "25P03", "28P01", "3D000", "53100", "53300", "55P03", "57014", "57P01", "58030",
     "F0000", "XX000", "?????"],
)  # fmt: skip
def test_no_request_is_blamed_for_the_rest(sqlstate: str | None) -> None:
    assert judge_sqlstate(sqlstate)[0] is Verdict.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "verdict", "reject"),
    [
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, Verdict.REQUEST, RejectCode.CONSTRAINT),
        (sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY, Verdict.REQUEST, RejectCode.CONSTRAINT),
        (3091, Verdict.REQUEST, RejectCode.TYPE),
        (sqlite3.SQLITE_MISMATCH, Verdict.REQUEST, RejectCode.TYPE),
        (sqlite3.SQLITE_ERROR, Verdict.SCHEMA, RejectCode.DATABASE),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Verdict.UNAVAILABLE, RejectCode.DATABASE),
        (sqlite3.SQLITE_FULL, Verdict.UNAVAILABLE, RejectCode.DATABASE),
        (sqlite3.SQLITE_IOERR_WRITE, Verdict.UNAVAILABLE, RejectCode.DATABASE),
        (sqlite3.SQLITE_READONLY, Verdict.UNAVAILABLE, RejectCode.DATABASE),
        (sqlite3.SQLITE_CORRUPT, Verdict.UNAVAILABLE, RejectCode.DATABASE),
        (None, Verdict.UNAVAILABLE, RejectCode.DATABASE),
    ],
)
def test_sqlites_codes_are_judged_alike(code: int | None, verdict: Verdict, reject: RejectCode) -> None:
    assert judge_sqlite(code) == (verdict, reject)
