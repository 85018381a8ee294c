"""What a database's error means for a batch: is a request at fault, is it the moment, or is the database unavailable?

Classified by SQLSTATE and by SQLite's extended result codes, never by the words of a message. The rule: what fails on a
living connection is isolated before the sink counts as unavailable. An isolated request is rejected for what judges its
data, or what a trigger raises of its own, and waits for what judges the moment.
"""

from __future__ import annotations

import sqlite3
from enum import Enum

from temporal_batching.contract import RejectCode


class ErrorClass(Enum):
    REQUEST = "request"
    """It judges the records of some request, or a trigger raised it of its own: isolate the request, reject it."""
    SCHEMA = "schema"
    """A table or column is not what it was when it was looked at. Look again once; then it is the request's fault."""
    AGAIN = "again"
    """The transaction lost against another one (deadlock, serialization): the same may succeed at once."""
    MOMENT = "moment"
    """It judges the moment: a lock, the time, a disk. Isolate the request, let it wait, never reject it."""
    UNAVAILABLE = "unavailable"
    """The connection is gone, or the set-up does not fit: the batch is retried later."""


class DatabaseFailure(Exception):
    """A driver's error, judged.

    Attributes:
        error_class: What to do about it.
        code: How a request is rejected if it is at fault.
        reason: The database's own words, for people.
        connection_lost: Whether the connection is gone, so that the fate of a commit under way is unknown.
        timed_out: Whether it ran out of the time for a statement.
        text_unstorable: Whether the database's encoding, or the connection's, lacks a character of what was sent.
        session_suspect: Whether it may be this session's alone, and another one be better off.
        committing: Whether it was the commit that failed.
        transaction_ended: Whether the database has rolled the whole transaction back.
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
        """The same from a statement on the ledger alone, for which no request can be blamed."""
        if self.error_class not in (ErrorClass.REQUEST, ErrorClass.SCHEMA):
            return self
        failure = DatabaseFailure(
            ErrorClass.UNAVAILABLE, f"the ledger: {self.reason}", connection_lost=self.connection_lost
        )
        failure.text_unstorable = self.text_unstorable
        failure.transaction_ended = self.transaction_ended
        return failure

    def can_be_isolated(self, *, schema_is_fresh: bool) -> bool:
        """Whether some request is to blame, or may be: the others then go on without it."""
        if self.connection_lost:
            return False
        if self.error_class is ErrorClass.SCHEMA:
            return schema_is_fresh
        return self.error_class is not ErrorClass.UNAVAILABLE

    @property
    def rejects(self) -> bool:
        """Whether the request that it is isolated to is rejected; otherwise it waits."""
        return self.error_class in (ErrorClass.REQUEST, ErrorClass.SCHEMA)


# The longest prefix decides. Classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES: dict[str, tuple[ErrorClass, RejectCode]] = {
    # What is not here is the request's fault: the server's own codes for it, and whatever a trigger makes up.
    "": (ErrorClass.REQUEST, RejectCode.DATABASE),
    # The moment's. A real loss of the connection or a shutdown closes it, and that counts first.
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
    # Nobody is let in: the set-up. On a connection that goes on living, a trigger has raised it.
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
    """Classifies PostgreSQL's code; without one (the connection failed) the database is unavailable.

    Args:
        sqlstate: The code.
        connected: Whether it came on a connection that goes on living.
    """
    if not sqlstate:
        return ErrorClass.UNAVAILABLE, RejectCode.DATABASE
    if connected and sqlstate.startswith(_OF_CONNECTING):
        return _SQLSTATES[""]
    for length in (5, 2):
        if sqlstate[:length] in _SQLSTATES:
            return _SQLSTATES[sqlstate[:length]]
    return _SQLSTATES[""]


# SQLITE_ERROR is what remains for a statement that does not fit the schema: a column dropped since it was looked at.
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
    """Judges SQLite's extended result code."""
    if extended_code is None:
        return ErrorClass.UNAVAILABLE, RejectCode.DATABASE
    if extended_code == _SQLITE_CONSTRAINT_DATATYPE:
        return ErrorClass.REQUEST, RejectCode.TYPE
    return _SQLITE_PRIMARY.get(extended_code & 0xFF, (ErrorClass.UNAVAILABLE, RejectCode.DATABASE))
