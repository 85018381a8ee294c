"""Whose fault a database's error is, by its code alone."""

from __future__ import annotations

import sqlite3

import pytest

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.sql.errors import ErrorClass, classify_sqlite, classify_sqlstate


@pytest.mark.parametrize(
    ("sqlstate", "error_class", "code"),
    [
        ("22003", ErrorClass.REQUEST, RejectCode.TYPE),
        ("22P02", ErrorClass.REQUEST, RejectCode.TYPE),
        ("23502", ErrorClass.REQUEST, RejectCode.CONSTRAINT),
        ("23505", ErrorClass.REQUEST, RejectCode.CONSTRAINT),
        ("44000", ErrorClass.REQUEST, RejectCode.CONSTRAINT),
        ("42501", ErrorClass.REQUEST, RejectCode.DATABASE),
        ("54000", ErrorClass.REQUEST, RejectCode.DATABASE),
        ("P0001", ErrorClass.REQUEST, RejectCode.DATABASE),
        ("42P01", ErrorClass.SCHEMA, RejectCode.UNKNOWN_TABLE),
        ("42703", ErrorClass.SCHEMA, RejectCode.UNKNOWN_COLUMN),
    ],
)
def test_requests_are_blamed_for_what_they_brought(sqlstate: str, error_class: ErrorClass, code: RejectCode) -> None:
    assert classify_sqlstate(sqlstate) == (error_class, code)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_lost_races_are_run_again(sqlstate: str) -> None:
    assert classify_sqlstate(sqlstate)[0] is ErrorClass.AGAIN


@pytest.mark.parametrize("sqlstate", ["UE001", "45000", "20000", "2F005", "3B001", "55000", "?????"])
def test_what_a_trigger_raises_of_its_own_is_the_requests_fault(sqlstate: str) -> None:
    assert classify_sqlstate(sqlstate) == (ErrorClass.REQUEST, RejectCode.DATABASE)


@pytest.mark.parametrize(
    "sqlstate",
    ["08006", "25006", "25P03", "53100", "53300", "55P03", "57014", "57P01", "58030", "F0000", "HV00N", "XX000"],
)
def test_what_judges_the_moment_rejects_nobody(sqlstate: str) -> None:
    assert classify_sqlstate(sqlstate)[0] is ErrorClass.MOMENT


@pytest.mark.parametrize("sqlstate", [None, "", "28P01", "3D000"])
def test_without_a_connection_the_database_is_unavailable(sqlstate: str | None) -> None:
    assert classify_sqlstate(sqlstate)[0] is ErrorClass.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "error_class", "reject"),
    [
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, ErrorClass.REQUEST, RejectCode.CONSTRAINT),
        (sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY, ErrorClass.REQUEST, RejectCode.CONSTRAINT),
        (3091, ErrorClass.REQUEST, RejectCode.TYPE),
        (sqlite3.SQLITE_MISMATCH, ErrorClass.REQUEST, RejectCode.TYPE),
        (sqlite3.SQLITE_ERROR, ErrorClass.SCHEMA, RejectCode.DATABASE),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, ErrorClass.UNAVAILABLE, RejectCode.DATABASE),
        (sqlite3.SQLITE_FULL, ErrorClass.MOMENT, RejectCode.DATABASE),
        (sqlite3.SQLITE_IOERR_WRITE, ErrorClass.UNAVAILABLE, RejectCode.DATABASE),
        (sqlite3.SQLITE_READONLY, ErrorClass.UNAVAILABLE, RejectCode.DATABASE),
        (sqlite3.SQLITE_CORRUPT, ErrorClass.UNAVAILABLE, RejectCode.DATABASE),
        (None, ErrorClass.UNAVAILABLE, RejectCode.DATABASE),
    ],
)
def test_sqlites_codes_are_judged_alike(code: int | None, error_class: ErrorClass, reject: RejectCode) -> None:
    assert classify_sqlite(code) == (error_class, reject)
