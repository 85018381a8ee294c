"""The interface between the sink and a kind of database: the rules are in the sink, each dialect implements this."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, overload

import sqlalchemy as sa

from temporal_batching.contract import INSERT, Operation, Record, ReturnedRow
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry, LedgerStatus, digest
from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.ledger import describe_change, describe_loss
from temporal_batching.sinks.sql.schema import BoundTable, Row, TableName, TableNames

MAX_RETURNED_BYTES = 16_384
"""The default of what one request may return: it travels in a confirmation, and stays in the ledger."""


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
    """A request that may be written: its ledger row and its bound rows.

    Attributes:
        position: In the batch.
        request_id: Its id.
        records: Its records.
        expires_at: Its deadline.
        bound: The records, bound; or what binds them when a single request is looked at.
        key: Its key.
        asks: Whether any row is read back, or takes a value of an earlier one.
        returned: What its caller receives of the rows; set by the attempt that inserted them.
    """

    position: int
    request_id: str
    records: Sequence[Record]
    expires_at: float | None = None
    bound: Sequence[Row] | Callable[[Sequence[Record]], Sequence[Row]] = ()
    key: str = ""
    asks: bool = False
    returned: list[ReturnedRow | None] | None = None
    _digest: str = ""

    @property
    def rows(self) -> Sequence[Row]:
        """The records, bound."""
        if callable(self.bound):
            self.bound = self.bound(self.records)
        return self.bound

    @property
    def digest(self) -> str:
        """The digest of the records. It is computed on first use: on PostgreSQL the server inserts the rows meanwhile.

        Raises:
            NotJson: The records are not JSON.
        """
        if not self._digest:
            self._digest = digest(self.records)
        return self._digest


class ByColumn(Sequence[Sequence[Any]]):
    """Rows that are kept column by column; at least one column.

    Attributes:
        columns: The values of each column.
    """

    __slots__ = ("columns",)

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return zip(*self.columns, strict=True)

    @overload
    def __getitem__(self, index: int) -> Sequence[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[Any]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[Any]:
        if isinstance(index, slice):
            return ByColumn([column[index] for column in self.columns])
        return [column[index] for column in self.columns]


@dataclass(slots=True)
class RowGroup:
    """Rows of one table with the same operation and columns: one statement.

    Attributes:
        table: The table.
        columns: The columns.
        rows: Their values.
        asking: The same rows, if any is read back or takes values of earlier ones.
        operation: What is done with them.
    """

    table: BoundTable
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    asking: Sequence[Row] = ()
    operation: Operation = INSERT

    @property
    def by_column(self) -> Iterable[Sequence[Any]]:
        """The values of each column."""
        return self.rows.columns if isinstance(self.rows, ByColumn) else zip(*self.rows, strict=True)

    @property
    def is_read(self) -> bool:
        """Whether any of the rows is read back."""
        return any(row.is_read for row in self.asking)

    @property
    def adds(self) -> bool:
        """Whether conflicting rows are added to those that are there."""
        return self.operation == INSERT and self.table.rule.conflict == "add"


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
        self, stamp: Stamp, entries: Sequence[PreparedRequest], stages: Sequence[Sequence[RowGroup]], *, savepoint: bool
    ) -> bool:
        """Claims the ids in the ledger and writes the rows, stage by stage.

        Rows that are asked for it reads back: into `PreparedRequest.returned`, and into the ledger.

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
    locks_rows: bool = True
    """Whether transactions that write different rows run concurrently."""

    def __init__(self, engine: sa.Engine, ledger: sa.Table, counters: SinkCounters) -> None:
        self.max_returned = MAX_RETURNED_BYTES
        """Bytes that one request may return."""
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

    def release(self, connection: sa.Connection) -> None:  # noqa: B027  optional
        """Undoes what was set on a connection that is about to return to the pool. It never raises."""

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

    def reads_some(self, table: BoundTable, operation: Operation) -> bool:
        """Whether one statement can write many rows and read some of them back, each its own columns."""
        return False

    def id_fault(self, request_id: str) -> str | None:
        """Why this database cannot hold an id that other databases can hold, or None."""
        return None

    def ledger_fault(self, connection: sa.Connection) -> str | None:
        """Why a table with the columns of a ledger cannot be this database's ledger, or None."""
        return None

    def read_clock(self, connection: sa.Connection) -> datetime | None:
        """What the server's clock says; None for a database without a server."""
        return None

    @abstractmethod
    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        """The privileges on the ledger that this role needs and does not have."""

    @abstractmethod
    def missing_to_write(self, connection: sa.Connection, table: BoundTable) -> list[str]:
        """The privileges on a table that writing by its rule needs and this role does not have."""
