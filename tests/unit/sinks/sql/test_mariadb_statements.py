"""Statements of MariaDB: no value leaves its literal, no statement its packet, no error is judged by its words."""

from __future__ import annotations

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.mariadb_errors import classify_mariadb_error
from temporal_batching.sinks.sql.mariadb_session import SessionLimits
from temporal_batching.sinks.sql.mariadb_statements import in_packets, quote_table
from temporal_batching.sinks.sql.mariadb_types import ColumnType, quoted

hostile = st.text(st.sampled_from(["'", "\\", "\x00", '"', "x", "\n", ";", "é"]))


def read_literal(sql: str, *, backslash: bool) -> tuple[str, str]:
    """A string literal as the server reads it, and what it takes for the rest of the statement."""
    assert sql[0] == "'"
    content, i = "", 1
    while i < len(sql):
        if backslash and sql[i] == "\\":
            content += {"0": "\x00"}.get(sql[i + 1], sql[i + 1])
            i += 2
        elif sql[i] == "'":
            if sql[i + 1 : i + 2] != "'":
                return content, sql[i + 1 :]
            content += "'"
            i += 2
        else:
            content += sql[i]
            i += 1
    raise AssertionError("the literal does not end")


@given(hostile)
def test_a_literal_ends_where_its_value_does_in_every_mode_of_the_server(text: str) -> None:
    assert read_literal(quoted(text), backslash=True) == (text, "")
    assert read_literal(quoted(text), backslash=False)[1] == ""


@given(st.lists(st.text(max_size=9), max_size=20), st.integers(37, 60))
def test_parts_hold_everything_in_order_and_none_is_too_large(items: list[str], room: int) -> None:
    parts = list(in_packets(items, room))
    assert [item for part in parts for item in part] == items
    assert all(sum(len(item.encode()) + 1 for item in part) <= room for part in parts)


def test_a_row_that_no_packet_can_hold_is_rejected() -> None:
    with pytest.raises(DatabaseFailure) as caught:
        list(in_packets(["x", "é" * 50, "y"], 60))
    assert (caught.value.rejects, caught.value.code) == (True, RejectCode.TOO_LARGE)


def test_names_are_quoted() -> None:
    assert quote_table(None, "a`b") == "`a``b`"
    assert quote_table("d", "t") == "`d`.`t`"


def test_labels_are_those_that_were_declared() -> None:
    declared = ColumnType(kind="enum", declared="enum('a','it''s','b\\\\c','d,e','','f\\ng')")
    assert declared.labels == ["a", "it's", "b\\c", "d,e", "", "f\ng"]


@pytest.mark.parametrize(
    ("lock", "until", "whole", "brief"),
    [
        (10, float("inf"), 10, 0),
        (1.2, float("inf"), 2, 0),  # rounded up
        (0.3, float("inf"), 0, 0.3),
        (10, 2.7, 2, 0),  # not past the deadline
        (10, 0.5, 0, 0.5),
        (2, 60, 2, 0),
    ],
)
def test_a_wait_is_of_whole_seconds_or_tried_again(lock: float, until: float, whole: int, brief: float) -> None:
    assert SessionLimits.of(25, lock, until) == SessionLimits(25, whole, brief)


E = ErrorClass


@pytest.mark.parametrize(
    ("number", "sqlstate", "error_class", "code", "lost"),
    [
        (1062, "23000", E.REQUEST, RejectCode.CONSTRAINT, False),
        (4025, "23000", E.REQUEST, RejectCode.CONSTRAINT, False),
        (1364, "HY000", E.REQUEST, RejectCode.CONSTRAINT, False),
        (1406, "22001", E.REQUEST, RejectCode.TYPE, False),
        (1265, "01000", E.REQUEST, RejectCode.TYPE, False),
        (1644, "45000", E.REQUEST, RejectCode.DATABASE, False),
        (1142, "42000", E.REQUEST, RejectCode.DATABASE, False),
        (1146, "42S02", E.SCHEMA, RejectCode.UNKNOWN_TABLE, False),
        (1054, "42S22", E.SCHEMA, RejectCode.UNKNOWN_COLUMN, False),
        (1176, "42000", E.SCHEMA, RejectCode.DATABASE, False),
        (1213, "40001", E.AGAIN, RejectCode.DATABASE, False),
        (1205, "HY000", E.MOMENT, RejectCode.DATABASE, False),
        (1114, "HY000", E.MOMENT, RejectCode.DATABASE, False),
        (1290, "HY000", E.MOMENT, RejectCode.DATABASE, False),
        (9999, "HY000", E.MOMENT, RejectCode.DATABASE, False),  # whatever it is, no request is rejected for it
        (1665, "HY000", E.UNAVAILABLE, RejectCode.DATABASE, False),
        (1927, "70100", E.UNAVAILABLE, RejectCode.DATABASE, True),
        (2013, None, E.UNAVAILABLE, RejectCode.DATABASE, True),
        (1053, "08S01", E.UNAVAILABLE, RejectCode.DATABASE, True),
    ],
)
def test_an_error_is_about_what_its_number_says(
    number: int, sqlstate: str | None, error_class: ErrorClass, code: RejectCode, lost: bool
) -> None:
    failure = classify_mariadb_error(pymysql.OperationalError(number, "words", sqlstate=sqlstate))
    assert (failure.error_class, failure.code, failure.connection_lost) == (error_class, code, lost)


@pytest.mark.parametrize(
    ("number", "message", "reason"),
    [
        (1062, "Duplicate entry 'o'\\'ne' for key 'email'", "Duplicate entry for key 'email'"),
        (1366, "Incorrect integer value: 'a 'b' c' for column `d`.`t`.`n` at row 1",
         "Incorrect integer value for column `d`.`t`.`n` at row 1"),
        (1292, "Truncated incorrect DOUBLE value: 'secret'", "Truncated incorrect DOUBLE value"),
        (1526, "Table has no partition for value 4711", "Table has no partition for value"),
        (1644, "a trigger's own 'words'", "a trigger's own 'words'"),
    ],
)  # fmt: skip
def test_a_reason_has_no_value_that_the_server_quotes(number: int, message: str, reason: str) -> None:
    assert classify_mariadb_error(pymysql.OperationalError(number, message)).reason == reason
