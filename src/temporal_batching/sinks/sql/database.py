"""The interface between the sink and a kind of database: the rules are in the sink, each dialect implements this."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from temporal_batching.contract import Record
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry, LedgerStatus, digest
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.ledger import describe_change, describe_loss
from temporal_batching.sinks.sql.schema import BoundTable, Row, TableName, TableNames, TableRule


@dataclass
class SinkCounters:
    """What a `SqlSink` has done since it was created. They are counts, not rates, and may be read at any time.

    Attributes:
        transactions: Transactions committed.
        statements: Statements that read or wrote the ledger or rows, without those that begin, save or end a
            transaction.
        round_trips: Waits for the server's answer, including those of begin and commit. For SQLite always 0.
        rows: Rows sent in statements that succeeded and were committed.
        splits: How often a group of requests was halved to isolate the offending request.
        retries: Transactions that were started again: after a deadlock, a stale connection, or a changed schema.
        requeued: Requests that could not be written at that moment and were left to a later attempt.
    """

    transactions: int = 0
    statements: int = 0
    round_trips: int = 0
    rows: int = 0
    splits: int = 0
    retries: int = 0
    requeued: int = 0


@dataclass(slots=True)
class PreparedRequest:
    """A request that may be written: its ledger row and its bound rows."""

    position: int
    request_id: str
    records: Sequence[Record]
    expires_at: float | None = None
    rows: list[Row] = field(default_factory=list)
    key: str = ""
    _digest: str = ""

    @property
    def digest(self) -> str:
        """The digest of the records. It is computed on first use: on PostgreSQL the server inserts the rows meanwhile.

        Raises:
            NotJson: The records are not JSON.
        """
        if not self._digest:
            self._digest = digest(self.records)
        return self._digest


@dataclass(slots=True)
class Insert:
    """Rows of one table with the same columns: one statement."""

    table: BoundTable
    columns: tuple[str, ...]
    rows: list[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the ledger rows of one attempt have in common."""

    batch_id: str
    at: datetime
    status: LedgerStatus = LedgerStatus.WRITTEN


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of statements, in seconds.

    Attributes:
        statement: The longest that each statement may take.
        lock: The longest wait for a lock, of those that an attempt at these requests may have.
        until_deadline: The time until the earliest deadline of the requests; no wait for a lock lasts longer.
    """

    statement: float
    lock: float
    until_deadline: float = math.inf


class Transaction(ABC):
    """One transaction on one connection. Every method may raise `DatabaseFailure`."""

    @abstractmethod
    def attempt(
        self, stamp: Stamp, entries: Sequence[PreparedRequest], inserts: Sequence[Insert], *, savepoint: bool
    ) -> bool:
        """Claims the ids in the ledger and inserts the rows.

        With a savepoint, nothing of the attempt remains if it returns False or raises. Without one, roll back then.

        Returns:
            Whether every id could be claimed: it was absent, or the tombstone of another batch.
        """

    def limit(self, limits: Limits) -> None:  # noqa: B027  optional
        """Sets the limits of the following statements."""

    @property
    def session_used(self) -> bool:
        """Whether the session existed before this transaction, so that it may be stale."""
        return False

    @abstractmethod
    def claim(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        """Claims the ids that can be claimed. It waits for other transactions that have inserted one of them."""

    @abstractmethod
    def lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        """The ledger's entries of these ids; ids that it does not know are left out."""

    @abstractmethod
    def commit(self) -> None:
        """Commits. After a failure with ``connection_lost`` it is unknown whether the transaction is committed."""

    @abstractmethod
    def rollback(self) -> None:
        """Rolls the transaction back. It never raises."""


class DatabaseAdapter(ABC):
    """One kind of database."""

    null: Any
    """The bound value that represents SQL's NULL."""
    one_update_per_row: bool
    """Whether a statement that updates on conflict must not have two rows with one key."""

    def __init__(self, engine: sa.Engine, ledger: sa.Table, counters: SinkCounters) -> None:
        self.engine = engine
        self.ledger = ledger
        self.own = [ledger]
        self.reserved = [ledger]
        """Tables whose columns and key identify a ledger, or a table of dead letters, of any batcher."""
        self.counters = counters
        self.identity: str | None = None
        """The ledger's identity, once it is open. Every transaction checks that the ledger still has it."""

    def without_identity(self, found: dict[str, LedgerEntry]) -> dict[str, LedgerEntry]:
        """Removes the identity's row from the result of a query of the ledger, and checks it.

        Args:
            found: The entries by request id; the query included `IDENTITY_ID`.

        Raises:
            DatabaseFailure: It is not the ledger that was opened: it was emptied or replaced.
        """
        row = found.pop(IDENTITY_ID, None)
        if self.identity is None or (row is not None and row.digest == self.identity):
            return found
        what = describe_change(None if row is None else row.digest)
        reason = describe_loss(self.ledger, self.identity, what)
        raise DatabaseFailure(ErrorClass.UNAVAILABLE, reason)

    @abstractmethod
    def prepare(self, connection: sa.Connection) -> bool:
        """Prepares a connection from the pool. Returns whether the sink has used it before, so that it may be stale."""

    @contextmanager
    def bounded(self, connection: sa.Connection, *, statement: float, lock: float) -> Iterator[None]:
        """A transaction for statements that write no batch.

        Args:
            connection: A prepared one.
            statement: The seconds that each statement may take.
            lock: The seconds that it may wait for a lock.
        """
        yield

    @abstractmethod
    def transaction(self, connection: sa.Connection) -> Transaction:
        """A transaction on this connection. It begins with its first statement."""

    @abstractmethod
    def classify(self, error: BaseException) -> DatabaseFailure:
        """Classifies an error of SQLAlchemy or of the driver."""

    @abstractmethod
    def list_names(self, connection: sa.Connection) -> TableNames:
        """Every table that a request could name, without the system's tables, and those that are a batcher's own."""

    @abstractmethod
    def reflect(self, connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
        """Reads a table's columns and how to bind them."""

    @abstractmethod
    def schema_version(self, connection: sa.Connection) -> object:
        """A value that changes with any table, column, type, or right to see them. It is cheap to read."""

    def id_fault(self, request_id: str) -> str | None:
        """Why this database cannot hold an id that other databases can hold, or None."""
        return None

    @abstractmethod
    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        """The privileges on the ledger that this role needs and does not have."""
