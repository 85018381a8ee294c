"""Classifies errors of psycopg, and selects the part of their messages that callers may read."""

from __future__ import annotations

from typing import Any

import psycopg

from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass, classify_sqlstate
from temporal_batching.sinks.sql.reasons import short_reason

_READ_ONLY = "25006"
_QUERY_CANCELED = "57014"
_UNSTORABLE = ("22021", "22P05")
"""A character that the database's encoding lacks, or that has no counterpart in it."""


def classify_postgresql_error(
    error: BaseException, connection: psycopg.Connection[Any] | None = None
) -> DatabaseFailure:
    """Classifies an error of SQLAlchemy or psycopg.

    Args:
        error: The error.
        connection: The connection that it came on, if that is known.
    """
    cause = getattr(error, "orig", None) or error
    lost = bool(getattr(error, "connection_invalidated", False)) or (connection is not None and connection.closed)
    if isinstance(cause, UnicodeEncodeError | psycopg.DataError) and getattr(cause, "sqlstate", None) is None:
        # The driver rejected it before the server received it: text that the connection's encoding cannot express.
        failure = DatabaseFailure(ErrorClass.REQUEST, str(cause), connection_lost=lost)
        failure.text_unstorable = isinstance(cause, UnicodeEncodeError)
        return failure
    sqlstate = getattr(cause, "sqlstate", None)
    error_class, code = classify_sqlstate(sqlstate, connected=connection is not None and not lost)
    if lost:
        # Whatever the last error was, this connection cannot be used any more.
        error_class = ErrorClass.UNAVAILABLE
    failure = DatabaseFailure(error_class, describe_postgresql_error(cause), code=code, connection_lost=lost)
    failure.timed_out = sqlstate == _QUERY_CANCELED
    # After a failover the pool's connections may lead to a server that has become a standby.
    failure.session_suspect = sqlstate == _READ_ONLY
    failure.text_unstorable = sqlstate in _UNSTORABLE
    return failure


_WITH_DETAIL = ("22", "23503", "23505")
"""SQLSTATEs whose detail concerns the value that was sent: data exceptions, and the key of a foreign key or of a unique
index. The detail of others contains the whole row with values from defaults and triggers (NOT NULL, CHECK), or another
caller's row (EXCLUDE)."""


def describe_postgresql_error(cause: BaseException) -> str:
    """The part of the server's message that concerns the values that were sent."""
    diag = cause.diag if isinstance(cause, psycopg.Error) else None
    if diag is None or not diag.message_primary:
        return short_reason(str(cause))
    # A context means that a function raised the error: then the detail is about that function's values.
    if diag.message_detail and not diag.context and (diag.sqlstate or "").startswith(_WITH_DETAIL):
        return short_reason(f"{diag.message_primary}: {diag.message_detail}")
    return short_reason(diag.message_primary)
