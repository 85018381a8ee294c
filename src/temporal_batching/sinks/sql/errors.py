"""Classifies a database's error: a request is at fault, the state of the database is, or the database is unavailable.

Errors are classified by SQLSTATE and by SQLite's extended result codes, never by the text of a message. An error on a
connection that is still alive is isolated to a request before the sink counts as unavailable. The isolated request is
rejected if the error is about its data, or if a trigger raised it. It is retried if the error is about the state of the
database at that moment.
"""

from __future__ import annotations

import sqlite3
from enum import Enum

from temporal_batching.contract import RejectCode


class ErrorClass(Enum):
    """What an error is about."""

    REQUEST = "request"
    """The records of some request, or a trigger raised it: isolate the request and reject it."""
    SCHEMA = "schema"
    """A table or column has changed since the schema was read. Read the schema once more; after that, a request is at
    fault."""
    AGAIN = "again"
    """The transaction lost against another one (deadlock, serialization): a repetition may succeed at once."""
    MOMENT = "moment"
    """A temporary state: a lock, a timeout, a full disk. Isolate the request and retry it; never reject it."""
    UNAVAILABLE = "unavailable"
    """The connection is lost, or the configuration does not fit: the batch is retried later."""


class DatabaseFailure(Exception):
    """A classified error of a driver.

    Attributes:
        error_class: What the error is about.
        code: The code with which a request is rejected if it is at fault.
        reason: The database's message.
        connection_lost: Whether the connection is lost, so that the result of a commit under way is unknown.
        timed_out: Whether a statement exceeded its time.
        text_unstorable: Whether the encoding of the database or the connection lacks a character that was sent.
        session_suspect: Whether only this session may be affected, so that another session may succeed.
        committing: Whether the commit failed.
        transaction_ended: Whether the database has rolled back the whole transaction.
    """

    def __init__(
        self,
        error_class: ErrorClass,
        reason: str,
        *,
        code: RejectCode = RejectCode.DATABASE,
        connection_lost: bool = False,
    ) -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.code = code
        self.reason = reason
        self.connection_lost = connection_lost
        self.timed_out = False
        self.text_unstorable = False
        self.session_suspect = False
        self.committing = False
        self.transaction_ended = False

    def of_ledger(self) -> DatabaseFailure:
        """The failure, if a statement that concerns only the ledger raised it: then no request is at fault."""
        if self.error_class not in (ErrorClass.REQUEST, ErrorClass.SCHEMA):
            return self
        failure = DatabaseFailure(
            ErrorClass.UNAVAILABLE, f"the ledger: {self.reason}", connection_lost=self.connection_lost
        )
        failure.text_unstorable = self.text_unstorable
        failure.transaction_ended = self.transaction_ended
        return failure

    def can_be_isolated(self, *, schema_is_fresh: bool) -> bool:
        """Whether some request is or may be at fault, so that the others can be written without it."""
        if self.connection_lost:
            return False
        if self.error_class is ErrorClass.SCHEMA:
            return schema_is_fresh
        return self.error_class is not ErrorClass.UNAVAILABLE

    @property
    def rejects(self) -> bool:
        """Whether the isolated request is rejected; otherwise it is retried."""
        return self.error_class in (ErrorClass.REQUEST, ErrorClass.SCHEMA)


# The longest prefix decides. Classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES: dict[str, tuple[ErrorClass, RejectCode]] = {
    # Any other code is the request's fault: the server's codes for that, and the codes that triggers raise.
    "": (ErrorClass.REQUEST, RejectCode.DATABASE),
    # A temporary state. If the connection was really lost or the server shut down, it is closed; that is checked first.
    "08": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "25": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "40": (ErrorClass.AGAIN, RejectCode.DATABASE),
    "53": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "55": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "57": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "58": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "72": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "F0": (ErrorClass.MOMENT, RejectCode.DATABASE),
    "HV": (ErrorClass.MOMENT, RejectCode.DATABASE),  # a foreign table's server
    "XX": (ErrorClass.MOMENT, RejectCode.DATABASE),
    # The server rejects the connection: the configuration. If the connection is still alive, a trigger raised it.
    "28": (ErrorClass.UNAVAILABLE, RejectCode.DATABASE),
    "3D": (ErrorClass.UNAVAILABLE, RejectCode.DATABASE),
    "22": (ErrorClass.REQUEST, RejectCode.TYPE),
    "23": (ErrorClass.REQUEST, RejectCode.CONSTRAINT),
    "40002": (ErrorClass.REQUEST, RejectCode.CONSTRAINT),
    "44": (ErrorClass.REQUEST, RejectCode.CONSTRAINT),  # WITH CHECK OPTION of a view
    "55000": (ErrorClass.REQUEST, RejectCode.DATABASE),  # a view that cannot be inserted into
    "42703": (ErrorClass.SCHEMA, RejectCode.UNKNOWN_COLUMN),
    "42P01": (ErrorClass.SCHEMA, RejectCode.UNKNOWN_TABLE),
    "3F000": (ErrorClass.SCHEMA, RejectCode.UNKNOWN_TABLE),
    "42704": (ErrorClass.SCHEMA, RejectCode.TYPE),  # a type that was dropped
    "42P10": (ErrorClass.SCHEMA, RejectCode.DATABASE),  # the unique index of a conflict key was dropped
    "42804": (ErrorClass.SCHEMA, RejectCode.TYPE),  # the column has another type now
    "42846": (ErrorClass.SCHEMA, RejectCode.TYPE),
}


_OF_CONNECTING = ("28", "3D")


def classify_sqlstate(sqlstate: str | None, *, connected: bool = False) -> tuple[ErrorClass, RejectCode]:
    """Classifies a code of PostgreSQL.

    Args:
        sqlstate: The code; None if the connection failed, which makes the database unavailable.
        connected: Whether it came on a connection that is still alive.
    """
    if not sqlstate:
        return ErrorClass.UNAVAILABLE, RejectCode.DATABASE
    if connected and sqlstate.startswith(_OF_CONNECTING):
        return _SQLSTATES[""]
    for length in (5, 2):
        if sqlstate[:length] in _SQLSTATES:
            return _SQLSTATES[sqlstate[:length]]
    return _SQLSTATES[""]


# SQLite reports SQLITE_ERROR for a statement that does not fit the schema, e.g. a column was dropped meanwhile.
_SQLITE_PRIMARY: dict[int, tuple[ErrorClass, RejectCode]] = {
    sqlite3.SQLITE_ERROR: (ErrorClass.SCHEMA, RejectCode.DATABASE),
    sqlite3.SQLITE_SCHEMA: (ErrorClass.SCHEMA, RejectCode.DATABASE),
    sqlite3.SQLITE_CONSTRAINT: (ErrorClass.REQUEST, RejectCode.CONSTRAINT),
    sqlite3.SQLITE_MISMATCH: (ErrorClass.REQUEST, RejectCode.TYPE),
    sqlite3.SQLITE_TOOBIG: (ErrorClass.REQUEST, RejectCode.TYPE),
    sqlite3.SQLITE_RANGE: (ErrorClass.REQUEST, RejectCode.DATABASE),
    sqlite3.SQLITE_FULL: (ErrorClass.MOMENT, RejectCode.DATABASE),  # a smaller request may fit
    sqlite3.SQLITE_NOMEM: (ErrorClass.MOMENT, RejectCode.DATABASE),
    sqlite3.SQLITE_INTERRUPT: (ErrorClass.MOMENT, RejectCode.DATABASE),
}
_SQLITE_CONSTRAINT_DATATYPE = 3091
"""A STRICT table refused a value's type. The `sqlite3` module has no name for it before Python 3.12."""


def classify_sqlite(extended_code: int | None) -> tuple[ErrorClass, RejectCode]:
    """Classifies an extended result code of SQLite; None if there is none, which makes the database unavailable."""
    if extended_code is None:
        return ErrorClass.UNAVAILABLE, RejectCode.DATABASE
    if extended_code == _SQLITE_CONSTRAINT_DATATYPE:
        return ErrorClass.REQUEST, RejectCode.TYPE
    return _SQLITE_PRIMARY.get(extended_code & 0xFF, (ErrorClass.UNAVAILABLE, RejectCode.DATABASE))
