"""What a database's error means for a batch: is a request at fault, or can the database not take writes now?

Judged by SQLSTATE and by SQLite's extended result codes, never by the words of a message.
"""

from __future__ import annotations

import sqlite3
from enum import Enum

from temporal_batching.contract import RejectCode


class Verdict(Enum):
    REQUEST = "request"
    """The records of some request: isolate it, reject it, write the others."""
    SCHEMA = "schema"
    """A table or column is not what it was when it was looked at. Look again once; then it is the request's fault."""
    AGAIN = "again"
    """The transaction lost against another one (deadlock, serialization): the same may succeed at once."""
    UNAVAILABLE = "unavailable"
    """Everything else: the batch is tried again later."""


class DatabaseFailure(Exception):
    """A driver's error, judged.

    Attributes:
        verdict: What to do about it.
        code: How a request is rejected if it is at fault.
        reason: The database's own words, for people.
        connection_lost: Whether the connection is gone, so that the fate of a commit under way is unknown.
        committing: Whether it was the commit that failed.
    """

    def __init__(
        self,
        verdict: Verdict,
        reason: str,
        *,
        code: RejectCode = RejectCode.DATABASE,
        connection_lost: bool = False,
    ) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.code = code
        self.reason = reason
        self.connection_lost = connection_lost
        self.committing = False

    def of_ledger(self) -> DatabaseFailure:
        """The same from a statement on the ledger alone, for which no request can be blamed."""
        if self.verdict not in (Verdict.REQUEST, Verdict.SCHEMA):
            return self
        return DatabaseFailure(Verdict.UNAVAILABLE, f"the ledger: {self.reason}", connection_lost=self.connection_lost)

    def of_request(self, *, schema_is_fresh: bool) -> bool:
        """Whether some request is at fault."""
        return self.verdict is Verdict.REQUEST or (self.verdict is Verdict.SCHEMA and schema_is_fresh)


# The longest prefix decides. Classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES: dict[str, tuple[Verdict, RejectCode]] = {
    "": (Verdict.UNAVAILABLE, RejectCode.DATABASE),
    "0A": (Verdict.REQUEST, RejectCode.DATABASE),
    "21": (Verdict.REQUEST, RejectCode.DATABASE),
    "22": (Verdict.REQUEST, RejectCode.TYPE),
    "23": (Verdict.REQUEST, RejectCode.CONSTRAINT),
    "27": (Verdict.REQUEST, RejectCode.DATABASE),  # a trigger changed the row it was fired for
    "38": (Verdict.REQUEST, RejectCode.DATABASE),  # raised inside a function
    "39": (Verdict.REQUEST, RejectCode.DATABASE),
    "40": (Verdict.AGAIN, RejectCode.DATABASE),
    "40002": (Verdict.REQUEST, RejectCode.CONSTRAINT),
    "42": (Verdict.REQUEST, RejectCode.DATABASE),
    "42703": (Verdict.SCHEMA, RejectCode.UNKNOWN_COLUMN),
    "42P01": (Verdict.SCHEMA, RejectCode.UNKNOWN_TABLE),
    "3F000": (Verdict.SCHEMA, RejectCode.UNKNOWN_TABLE),
    "42704": (Verdict.SCHEMA, RejectCode.TYPE),  # a type that was dropped
    "42P10": (Verdict.SCHEMA, RejectCode.DATABASE),  # the unique index of a conflict key was dropped
    "42804": (Verdict.SCHEMA, RejectCode.TYPE),  # the column has another type now
    "42846": (Verdict.SCHEMA, RejectCode.TYPE),
    "44": (Verdict.REQUEST, RejectCode.CONSTRAINT),  # WITH CHECK OPTION of a view
    "54": (Verdict.REQUEST, RejectCode.DATABASE),  # a row too wide for an index or a page
    "P0": (Verdict.REQUEST, RejectCode.DATABASE),  # RAISE in PL/pgSQL
}


def judge_sqlstate(sqlstate: str | None) -> tuple[Verdict, RejectCode]:
    """Judges PostgreSQL's code; without one (the connection failed) the database is unavailable."""
    code = sqlstate or ""
    for length in (5, 2):
        if code[:length] in _SQLSTATES:
            return _SQLSTATES[code[:length]]
    return _SQLSTATES[""]


# SQLITE_ERROR is what remains for a statement that does not fit the schema: a column dropped since it was looked at.
_SQLITE_PRIMARY: dict[int, tuple[Verdict, RejectCode]] = {
    sqlite3.SQLITE_ERROR: (Verdict.SCHEMA, RejectCode.DATABASE),
    sqlite3.SQLITE_SCHEMA: (Verdict.SCHEMA, RejectCode.DATABASE),
    sqlite3.SQLITE_CONSTRAINT: (Verdict.REQUEST, RejectCode.CONSTRAINT),
    sqlite3.SQLITE_MISMATCH: (Verdict.REQUEST, RejectCode.TYPE),
    sqlite3.SQLITE_TOOBIG: (Verdict.REQUEST, RejectCode.TYPE),
    sqlite3.SQLITE_RANGE: (Verdict.REQUEST, RejectCode.DATABASE),
}
_SQLITE_CONSTRAINT_DATATYPE = 3091
"""A STRICT table refused a value's type. The `sqlite3` module has no name for it before Python 3.12."""


def judge_sqlite(extended_code: int | None) -> tuple[Verdict, RejectCode]:
    """Judges SQLite's extended result code."""
    if extended_code is None:
        return Verdict.UNAVAILABLE, RejectCode.DATABASE
    if extended_code == _SQLITE_CONSTRAINT_DATATYPE:
        return Verdict.REQUEST, RejectCode.TYPE
    return _SQLITE_PRIMARY.get(extended_code & 0xFF, (Verdict.UNAVAILABLE, RejectCode.DATABASE))
