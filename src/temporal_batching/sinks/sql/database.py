"""What the sink needs of a database, so that its rules stand once and each dialect only says how."""

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
    """What a `SqlSink` did since it was created. Counts, not rates; read them at any time.

    Attributes:
        transactions: Transactions committed.
        statements: Statements that read or wrote ledger or rows; not those that begin, save or end a transaction.
        round_trips: Waits for the server's answer, those of begin and commit included. For SQLite always 0.
        rows: Rows sent in statements that succeeded and were committed.
        splits: How often a group of requests was halved to isolate the one at fault.
        retries: Transactions started over: a deadlock, a stale connection, a schema that had changed.
        requeued: Requests that could not be written at that moment, and were left for a later attempt.
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
        """Computed when it is asked for: on PostgreSQL the server inserts the rows meanwhile.

        Raises:
            NotJson: The records have none.
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

        Returns whether every id could be claimed: it was absent, or the tombstone of another batch. If not, or if
        this raises, nothing of it remains when it ran with a savepoint; without one, roll back.
        """

    def limit(self, limits: Limits) -> None:  # noqa: B027  optional
        """Bounds the statements from now on."""

    @property
    def session_used(self) -> bool:
        """Whether the session was there before this transaction, and may be stale."""
        return False

    @abstractmethod
    def claim(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        """Claims those ids that can be claimed, and waits for other transactions that are about to write one."""

    @abstractmethod
    def lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        """What the ledger knows of these ids."""

    @abstractmethod
    def commit(self) -> None:
        """Commits. A failure with ``connection_lost`` leaves open whether it did."""

    @abstractmethod
    def rollback(self) -> None:
        """Ends the transaction without a trace; never raises."""


class DatabaseAdapter(ABC):
    """One kind of database."""

    null: Any
    """What stands for SQL's NULL among bound values."""
    one_update_per_row: bool
    """Whether one statement must not meet the same conflict key twice."""

    def __init__(self, engine: sa.Engine, ledger: sa.Table, counters: SinkCounters) -> None:
        self.engine = engine
        self.ledger = ledger
        self.own = [ledger]
        self.reserved = [ledger]
        """Tables by whose columns and key a ledger, or a table of dead letters, of any batcher is recognised."""
        self.counters = counters
        self.identity: str | None = None
        """The ledger's, once it is open. Every transaction sees to it that the ledger still is this one."""

    def without_identity(self, found: dict[str, LedgerEntry]) -> dict[str, LedgerEntry]:
        """What a look into the ledger has found, for `IDENTITY_ID` too, without the row that holds its identity.

        Raises:
            DatabaseFailure: It is not the ledger that was opened: emptied, or replaced by another one.
        """
        row = found.pop(IDENTITY_ID, None)
        if self.identity is None or (row is not None and row.digest == self.identity):
            return found
        what = describe_change(None if row is None else row.digest)
        reason = describe_loss(self.ledger, self.identity, what)
        raise DatabaseFailure(ErrorClass.UNAVAILABLE, reason)

    @abstractmethod
    def prepare(self, connection: sa.Connection) -> bool:
        """Makes a connection from the pool ready. Returns whether the sink has used it before (it may be stale)."""

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
        """A transaction that begins with its first statement."""

    @abstractmethod
    def classify(self, error: BaseException) -> DatabaseFailure:
        """Judges an error of SQLAlchemy or of the driver."""

    @abstractmethod
    def list_names(self, connection: sa.Connection) -> TableNames:
        """Every table a request could mean, and which of them are a batcher's own. Never the system's own."""

    @abstractmethod
    def reflect(self, connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
        """One table's columns and how to bind them."""

    @abstractmethod
    def schema_version(self, connection: sa.Connection) -> object:
        """Something that differs once a table, a column, a type or a right to see them has changed. Cheap."""

    def id_fault(self, request_id: str) -> str | None:
        """Why this database cannot hold an id that another one could, or None."""
        return None

    @abstractmethod
    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        """What this role may not do with the ledger though it must."""
