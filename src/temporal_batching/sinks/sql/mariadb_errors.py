"""Classifies errors of MariaDB by their numbers, and by their SQLSTATE where the number says nothing.

The rule is that of `errors`: what is about the data of a request, or is raised by a trigger, rejects it; what is about
the state of the database at that moment has it retried. Many numbers share the SQLSTATE ``HY000``, so the numbers come
first. A number with ``HY000`` that is not listed is about the moment: a retry too many does no harm.
"""

from __future__ import annotations

import re

import pymysql
from pymysql.connections import Connection

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass, classify_sqlstate
from temporal_batching.sinks.sql.reasons import short_reason

DUPLICATE_KEY = 1062
LOCK_TIMEOUT = 1205
NO_SUCH_SAVEPOINT = 1305
NOT_ONE_ROW = 1242
"""A subquery returned more than one row. The sink's own statements refuse a conflict with it: see `insert_text`."""
PRIVILEGE_MISSING = (1142, 1143)
_STATEMENT_TIMEOUT = 1969

LOST = frozenset(
    (
        *(2002, 2003, 2005, 2006, 2013, 2014, 2055),  # the driver's own
        1053,  # the server is shutting down
        *(1152, 1153, 1154, 1156, 1157, 1158, 1159, 1160, 1161),  # of the network; 1153: a packet that is too large
        1184,  # aborted
        1927,  # KILL CONNECTION
        4031,  # idle for too long
    )
)
"""After these errors the connection is of no use, whether or not the driver has closed it."""

_READ_ONLY = (1290, 1792, 1836)

_MOMENT = (ErrorClass.MOMENT, RejectCode.DATABASE)
_AGAIN = (ErrorClass.AGAIN, RejectCode.DATABASE)
_UNAVAILABLE = (ErrorClass.UNAVAILABLE, RejectCode.DATABASE)
_REQUEST = (ErrorClass.REQUEST, RejectCode.DATABASE)
_CONSTRAINT = (ErrorClass.REQUEST, RejectCode.CONSTRAINT)
_TYPE = (ErrorClass.REQUEST, RejectCode.TYPE)

# https://mariadb.com/kb/en/mariadb-error-code-reference/
_NUMBERS: dict[int, tuple[ErrorClass, RejectCode]] = {
    **dict.fromkeys((1213, 1614, 1020, 1412, 1615), _AGAIN),  # deadlocks; changed since it was read; definition changed
    **dict.fromkeys((LOCK_TIMEOUT, 1206, 1317, _STATEMENT_TIMEOUT, 1223, 3572, *_READ_ONLY), _MOMENT),
    **dict.fromkeys((1021, 1030, 1037, 1038, 1041, 1114, 1135, 1180, 1194, 1197, 1534, 1878), _MOMENT),
    **dict.fromkeys((1040, 1203, 1226), _MOMENT),  # too many connections, or other limits of the account
    # The configuration does not fit; no request is at fault.
    **dict.fromkeys((1044, 1045, 1049, 1130, 1193, 1232, 1665), _UNAVAILABLE),
    1146: (ErrorClass.SCHEMA, RejectCode.UNKNOWN_TABLE),
    1051: (ErrorClass.SCHEMA, RejectCode.UNKNOWN_TABLE),
    1054: (ErrorClass.SCHEMA, RejectCode.UNKNOWN_COLUMN),
    1176: (ErrorClass.SCHEMA, RejectCode.DATABASE),  # the unique index of a conflict key was dropped
    1906: _REQUEST,  # a value for a generated column
    **dict.fromkeys((1442, 1348, 1356, 1393, 1394, 1471), _REQUEST),  # triggers and views that take no such row
    **dict.fromkeys((1364, 1423, 1526, 1369), _CONSTRAINT),  # no default; no partition; WITH CHECK OPTION
    **dict.fromkeys((1265, 1366, 1411, 1118, 1301, 4038, 4079), _TYPE),
}


def classify_number(number: int, sqlstate: str | None, *, connected: bool) -> tuple[ErrorClass, RejectCode]:
    """Classifies an error.

    Args:
        number: The error's number.
        sqlstate: Its SQLSTATE, if the driver has one.
        connected: Whether it came on a connection that is still alive.
    """
    if number in LOST:
        return _UNAVAILABLE
    known = _NUMBERS.get(number)
    if known is not None:
        return known
    if not sqlstate or sqlstate == "HY000":
        return _MOMENT if connected else _UNAVAILABLE
    if sqlstate.startswith("01"):  # a warning that strict mode makes an error
        return _TYPE
    return classify_sqlstate(sqlstate, connected=connected)


def error_number(error: BaseException) -> int:
    """The number of a driver's error, or of SQLAlchemy's error around it; 0 if it has none."""
    cause = getattr(error, "orig", None) or error
    number = cause.args[0] if cause.args else 0
    return number if isinstance(number, int) else 0


def classify_mariadb_error(error: BaseException, connection: Connection | None = None) -> DatabaseFailure:
    """Classifies an error of SQLAlchemy or PyMySQL.

    Args:
        error: The error.
        connection: The connection that it came on, if that is known.
    """
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, UnicodeEncodeError):
        # The driver rejected it before the server received it.
        failure = DatabaseFailure(ErrorClass.REQUEST, str(cause))
        failure.text_unstorable = True
        return failure
    number = error_number(cause)
    lost = (
        bool(getattr(error, "connection_invalidated", False))
        or isinstance(cause, pymysql.InterfaceError)
        or (number in LOST and isinstance(cause, pymysql.MySQLError))
        or (connection is not None and not connection.open)
    )
    connected = isinstance(cause, pymysql.MySQLError) and not lost
    error_class, code = classify_number(number, getattr(cause, "sqlstate", None), connected=connected)
    if lost:
        error_class = ErrorClass.UNAVAILABLE
    failure = DatabaseFailure(error_class, describe_mariadb_error(cause), code=code, connection_lost=lost)
    failure.timed_out = number == _STATEMENT_TIMEOUT
    # After a failover the pool's connections may lead to a server that has become a replica.
    failure.session_suspect = number in _READ_ONLY
    return failure


_WITH_VALUE = (DUPLICATE_KEY, 1292, 1366, 1367, 1411, 1526, 1690)
"""Errors whose message quotes a value. It may be one that was sent, but also one of a default, or of a trigger that
writes to another table; nothing in the error says which."""

_QUOTED_VALUE = (
    re.compile(r":? '.*'(?= for (?:key|column|function) )", re.DOTALL),
    re.compile(r":? '.*'$|(?<=for value) .*$", re.DOTALL),
)
"""Where it stands in the message: before the key or column, or at the end."""


def describe_mariadb_error(cause: BaseException) -> str:
    """The server's message, without its number and without a value that it quotes."""
    text = cause.args[1] if len(cause.args) > 1 and isinstance(cause.args[1], str) else str(cause)
    if error_number(cause) in _WITH_VALUE:
        before, at_end = _QUOTED_VALUE
        without, found = before.subn("", text)
        text = without if found else at_end.sub("", text)
    return short_reason(text or "the connection was closed")
