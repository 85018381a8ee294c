"""`SqlSink`: batches into SQLite, PostgreSQL or MariaDB, ledger and rows in one transaction.

The type of its column decides what a JSON value becomes. Any other value is `rejected` with code ``type``:

| column | takes |
|---|---|
| integers | whole numbers or strings of them, within the column's range; no booleans, no fractions |
| numeric, decimal | numbers or strings, exact; no NaN or infinity. SQLite holds 15 digits, or 64-bit integers |
| real, double | numbers or strings, to the nearest; ``Infinity``, ``-Infinity``, on PostgreSQL ``NaN``, as strings |
| float, double of MariaDB | numbers or strings, to the nearest; finite only |
| boolean, MariaDB's ``tinyint(1)`` | ``true`` and ``false`` |
| text, varchar, char | strings without U+0000 (PostgreSQL) and lone surrogates; the database enforces lengths |
| timestamp with time zone | RFC 3339 with an offset; digits past microseconds are cut off |
| timestamp | RFC 3339; if it has an offset it is stored as UTC |
| date, time, time with time zone | ``2026-01-31``, ``09:30:00``, ``09:30:00+01:00`` |
| uuid, bytea or blob | a UUID as a string, base64; for MariaDB's ``binary(n)`` exactly n bytes |
| json, jsonb | any JSON value |
| enum, array | one of the labels; a list, whose lists are a further dimension |
| MariaDB's set, bit, year | a list of labels; a string of binary digits (``bit(1)``: booleans too); 1901 to 2155 |
| interval on SQLite | a string with its units, ``PT5M`` or ``1 day``; SQLite has no syntax to check it with |
| any other type of PostgreSQL, composites too | a string in the type's syntax, ``(Main St,1)``; in an array each |
| any other type of MariaDB, without geometries | a string in the type's syntax, ``::1`` |

``null`` is SQL's NULL; in a JSON column that is NOT NULL it is JSON's null. A column that is left out gets the
database's default. In SQLite the declared name of the type decides, and neither lengths nor precisions are enforced.
A string that SQLite would store as a number (``0012`` in a column declared ``STRING``) is rejected. On MariaDB a
``timestamp`` is an instant and takes an offset, a ``datetime`` is without time zone, and both keep as many digits of a
second as their column has; a column is JSON if it was declared ``json``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from temporal_batching.contract import OPERATIONS, Outcome, ReturnedRow
from temporal_batching.errors import SinkConfigurationError, SinkError, SinkUnavailable
from temporal_batching.policy import MAX_MESSAGE_RETURNED
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.dead_letters import DEFAULT_DEAD_LETTERS, DeadLetter
from temporal_batching.sinks.ledger import DEFAULT_LEDGER, LedgerEntry
from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql.batch_write import BatchWrite
from temporal_batching.sinks.sql.connect import connect_engine, make_database
from temporal_batching.sinks.sql.connections import DRIVER_ERRORS, Connections, Timeouts
from temporal_batching.sinks.sql.database import MAX_RETURNED_BYTES, SinkCounters
from temporal_batching.sinks.sql.dead_letters import DeadLetters
from temporal_batching.sinks.sql.errors import DatabaseFailure
from temporal_batching.sinks.sql.failed_tries import FailedTries
from temporal_batching.sinks.sql.ledger import (
    check_still_there,
    ensure_identity,
    ensure_ledger,
    identity_ddl,
)
from temporal_batching.sinks.sql.ledger import ledger_table as define_ledger
from temporal_batching.sinks.sql.schema import TableCatalog
from temporal_batching.sinks.sql.tables import has_schemas, table_ddl
from temporal_batching.sinks.sql.transaction import storable_ids

__all__ = ["SinkCounters", "SqlSink", "TableRule"]

CHECK_TIMEOUT = timedelta(seconds=2)
"""The limit of each statement of `SqlSink.check`: less than a probe waits."""

LETTERS_TIMEOUT = timedelta(seconds=3)
"""The limit of each statement that keeps dead letters, and of its wait for a lock. The batch's callers wait for it."""


class SqlSink(Sink):
    """Writes batches through SQLAlchemy Core: request ids into a ledger and rows into their tables, in one transaction.

    The engine is synchronous and is used from the sink's own threads, so the worker's event loop never waits for the
    database. The type of its column decides how a value is bound (this module's docstring has the table). A value
    that does not fit is `rejected`; the reason names the table, the column and the allowed values.

    A batch is committed in parts only if a failure ends a whole transaction, for example a constraint that the
    database checks at the commit (``INITIALLY DEFERRED``). The batch is then halved, each half in a transaction of its
    own, until the offending request is found.

    Example:
        ```python
        from datetime import timedelta

        from temporal_batching import SqlSink

        sink = SqlSink(
            "postgresql://app@localhost/app", tables=["entries"], statement_timeout=timedelta(seconds=10)
        )
        ```

    Attributes:
        counters: Counts of what the sink has done.
    """

    takes_references = True
    operations = OPERATIONS

    def __init__(
        self,
        url_or_engine: str | sa.URL | sa.Engine,
        *,
        tables: Mapping[str, TableRule] | Iterable[str] | None = None,
        ledger_table: str = DEFAULT_LEDGER,
        create_ledger: bool = True,
        dead_letters: str | None = DEFAULT_DEAD_LETTERS,
        statement_timeout: timedelta = timedelta(seconds=25),
        lock_timeout: timedelta = timedelta(seconds=10),
        connect_timeout: timedelta = timedelta(seconds=10),
        max_connections: int = 4,
        max_returned_bytes: int = MAX_RETURNED_BYTES,
        wal: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Creates the sink. It connects when it is opened.

        Args:
            url_or_engine: ``sqlite:///file.db``, ``postgresql://...`` (psycopg 3 is the driver), ``mariadb://...``
                (PyMySQL), or a synchronous engine, which the caller disposes of.
            tables: The tables that requests may write to, with their conflict rules. A name without a rule means
                ``error``. Except on SQLite a name may be ``schema.table``; a schema of MariaDB is a database. None
                allows every table, and a conflict is an error.
            ledger_table: The table that keeps the request ids; except on SQLite it may be ``schema.table``.
            create_ledger: Whether a missing ledger is created. `ledger_ddl` returns the statements.
            dead_letters: The table for rejected requests without a reply address; except on SQLite it may be
                ``schema.table``. With ``create_ledger`` it is created with the first dead letter; `dead_letters_ddl`
                returns the statement. None keeps no dead letters.
            statement_timeout: The time of all statements of a flush together. Keep it below the batcher's
                ``flush_timeout``. The first try of several requests may take 0.6 of it; requests that were too slow
                are isolated in the rest. A statement that exceeds its share is ended by the server, or interrupted in
                SQLite; deferred triggers count as one statement. The server also ends a transaction that was idle for
                so long, so that a worker that crashed or is stuck does not keep its locks.
            lock_timeout: The longest wait for another transaction's lock, or for SQLite's single writer; shorter if a
                request that waits has an earlier deadline. It also bounds opening the sink and reading the schema.
                Except on SQLite, after one wait of a flush has timed out, further waits are limited to 0.1 s, in later
                attempts too. A request that is tried by itself may wait twice as long in each attempt, up to a quarter
                of ``lock_timeout``.
            connect_timeout: The longest wait for a connection to a server.
            max_connections: The connections and threads that batches of several shards may use concurrently. SQLite
                has one writer and always uses one.
            max_returned_bytes: The bytes, as JSON, that one request may return to its caller (`Record.returning`). The
                ledger keeps them, and they travel in the confirmation. A request that returns more is rejected
                (`too_large`).
            wal: Whether a SQLite file is switched to write-ahead logging, so that readers do not wait.
            clock: Returns seconds since the epoch. Deadlines are compared with it, and commits are dated by it.

        Raises:
            SinkConfigurationError: The URL or an option is invalid, or the driver is not installed.
        """
        if isinstance(tables, str):
            raise SinkConfigurationError(
                f"tables {tables!r}: expected a sequence of names, or a mapping of names to TableRule"
            )
        if max_connections < 1:
            raise SinkConfigurationError(f"max_connections {max_connections}: at least 1")
        if not 1 <= max_returned_bytes <= MAX_MESSAGE_RETURNED:
            raise SinkConfigurationError(f"max_returned_bytes {max_returned_bytes}: from 1 to {MAX_MESSAGE_RETURNED:,}")
        for name, value in (("statement_timeout", statement_timeout), ("lock_timeout", lock_timeout)):
            if value <= timedelta(0):
                raise SinkConfigurationError(f"{name} {value}: longer than zero")
        rules: dict[str, TableRule] | None = None
        if tables is not None:
            rules = dict(tables) if isinstance(tables, Mapping) else {name: TableRule() for name in tables}
        connected = connect_engine(
            url_or_engine,
            max_connections=max_connections,
            connect_timeout=connect_timeout,
            statement_timeout=statement_timeout,
        )
        self._dialect = connected.engine.dialect
        self._ledger = define_ledger(ledger_table, schemas=has_schemas(self._dialect))
        self._create_ledger = create_ledger
        self.counters = SinkCounters()
        adapter = make_database(
            connected.engine,
            self._ledger,
            self.counters,
            statement_timeout=statement_timeout,
            lock_timeout=lock_timeout,
            wal=wal,
        )
        adapter.max_returned = max_returned_bytes
        self._letters = None if dead_letters is None else DeadLetters(dead_letters, self._dialect)
        if self._letters is not None:
            adapter.own.append(self._letters.table)
        adapter.reserved = [self._ledger, DeadLetters(DEFAULT_DEAD_LETTERS, self._dialect).table]
        timeouts = Timeouts(statement=statement_timeout, lock=lock_timeout)
        self.write_timeout = statement_timeout
        # These two have no underscore for the sake of the project's own tests; applications use neither.
        self.connections = Connections(connected, adapter, timeouts)
        self.catalog = TableCatalog(
            rules=rules,
            list_names=lambda: self.connections.run_bounded(adapter.list_names),
            reflect=lambda name, where, rule: self.connections.run_bounded(
                lambda connection: adapter.reflect(connection, name, where, rule)
            ),
            version=lambda: self.connections.run_bounded(adapter.schema_version),
        )
        self._clock = clock
        self._failed = FailedTries()
        self._opening = threading.Lock()
        self._checked = False
        self._opened = False

    def ledger_ddl(self) -> str:
        """The statements that create the ledger and enter its identity.

        Run them in a migration if the sink's role must not create tables. Each is on a line of its own, and may be run
        repeatedly.
        """
        dialect = self._dialect
        return f"{table_ddl(self._ledger, dialect)}\n{identity_ddl(self._ledger, dialect)}"

    def dead_letters_ddl(self) -> str:
        """The statement that creates the table of dead letters; empty if the sink keeps none."""
        return "" if self._letters is None else table_ddl(self._letters.table, self._dialect)

    async def open(self) -> None:
        """Connects, creates or checks the ledger, and compares the tables and their rules with the database.

        Raises:
            SinkConfigurationError: The ledger, a table or a rule does not fit; the message says what the database has.
            SinkUnavailable: The database cannot be reached, or another session has locked the ledger.
        """
        await self.connections.in_thread(lambda: self._check(again=True))

    async def close(self) -> None:
        """Waits for calls that still run, and closes the connections of an engine that the sink has created."""
        await asyncio.to_thread(self.connections.close)

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        """Commits the batch: ledger and rows in one transaction, unless a failure has to be isolated by several.

        Args:
            batch: The requests, in the order they arrived.

        Returns:
            One outcome for each request.

        Raises:
            SinkUnavailable: The database cannot take the batch now, and nothing is known to be committed. With
                ``in_doubt=False`` nothing is committed.
        """
        return await self.connections.in_thread(lambda: self._flush(batch, fence=False))

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        """Answers `written` or `duplicate` for written requests, and fences the others with a tombstone in the ledger.

        The tombstone occupies the id in the ledger's primary key. If an attempt at this batch that is still under way
        has inserted the id first, the fence waits for that transaction; otherwise the attempt finds the tombstone and
        does not write.

        Args:
            batch: The requests, under the id of the batch in which they were attempted.

        Returns:
            One outcome for each request; ``batch.fence_as`` for those that are fenced.

        Raises:
            SinkUnavailable: The database cannot decide now.
        """
        return await self.connections.in_thread(lambda: self._flush(batch, fence=True))

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        """Inserts dead letters into their table, in a transaction of its own.

        Args:
            letters: The rejected requests, with their outcomes. A letter that is kept already is not inserted again.

        Returns:
            Whether this sink keeps dead letters.

        Raises:
            SinkUnavailable: The database cannot take them now.
            SinkError: A retry cannot help: the table is missing or has other columns, or the role may not write to it.
        """
        table = self._letters
        if table is None:
            return False
        at = datetime.fromtimestamp(self._clock(), UTC)

        def keep() -> None:
            try:
                if self._create_ledger:
                    self.connections.run_bounded(table.create_if_missing, longest=LETTERS_TIMEOUT)
                self.connections.run_bounded(
                    lambda connection: table.keep(connection, letters, at), longest=LETTERS_TIMEOUT
                )
            except DRIVER_ERRORS as err:
                failure = self.connections.classify(err)
                if not failure.rejects:
                    raise SinkUnavailable(self.connections.describe(failure), in_doubt=False) from None
                # This error is logged, and the database's message may quote the row that failed.
                raise SinkError(f"{table.table.fullname} takes no dead letters ({failure.code})") from None

        await self.connections.in_thread(keep)
        return True

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        """What requests returned when they were written, from the ledger.

        Args:
            request_ids: The ids. Those that asked for nothing, or are not written, are left out.

        Raises:
            SinkUnavailable: The database cannot be read now.
        """
        found = await self.lookup(request_ids)
        return {i: entry.returned for i, entry in found.items() if entry.returned is not None}

    async def lookup(self, request_ids: Iterable[str]) -> dict[str, LedgerEntry]:
        """Reads the ledger.

        Args:
            request_ids: The ids to look up.

        Returns:
            The ledger's entries by request id. Ids that the ledger does not know are left out.

        Raises:
            SinkUnavailable: The database cannot be read now.
        """
        ids = list(dict.fromkeys(request_ids))

        def look() -> dict[str, LedgerEntry]:
            self._check()
            with self._unavailable():
                return self.connections.run(lambda connection: self._lookup(connection, ids))

        return await self.connections.in_thread(look)

    def _lookup(self, connection: sa.Connection, ids: list[str]) -> dict[str, LedgerEntry]:
        transaction = self.connections.adapter.transaction(connection)
        try:
            try:
                return transaction.lookup(ids)
            except DatabaseFailure as failure:
                if not failure.text_unstorable:
                    raise
                transaction.rollback()
                return transaction.lookup(sorted(storable_ids(transaction, ids)))
        finally:
            transaction.rollback()

    async def check(self) -> datetime | None:
        """Looks whether the database answers, and the ledger is there, is the same, and may be written.

        Returns:
            What the server's clock says; None for SQLite.

        Raises:
            SinkConfigurationError: The ledger was lost or changed, or the role lacks a privilege on it.
            SinkUnavailable: The database cannot be reached.
        """

        def look() -> datetime | None:
            self._check()
            with self._unavailable():
                return self.connections.run_bounded(self._look, longest=CHECK_TIMEOUT)

        return await self.connections.in_thread(look)

    async def check_tables(self) -> Sequence[str]:
        """Looks whether this role may write to the tables that are named in ``tables``, as their rules say.

        Returns:
            A text for each table on which it lacks a privilege.

        Raises:
            SinkUnavailable: The database cannot be reached.
        """

        def look(connection: sa.Connection) -> list[str]:
            adapter = self.connections.adapter
            lacks = ((table.name, adapter.missing_to_write(connection, table)) for table in self.catalog.named())
            return [f"this role lacks {', '.join(missing)} on {name}" for name, missing in lacks if missing]

        def connect() -> list[str]:
            with self._unavailable():
                return self.connections.run_bounded(look, longest=CHECK_TIMEOUT)

        return await self.connections.in_thread(connect)

    def _look(self, connection: sa.Connection) -> datetime | None:
        self._check_ledger(connection)
        return self.connections.adapter.read_clock(connection)

    def _check_ledger(self, connection: sa.Connection) -> None:
        adapter = self.connections.adapter
        # A ledger that was open before and is missing now was lost. It is not created again: an empty ledger would let
        # every id be applied again.
        if adapter.identity is not None:
            check_still_there(connection, self._ledger, adapter.identity)
        else:
            ensure_ledger(connection, self._ledger, create=self._create_ledger)
        fault = adapter.ledger_fault(connection)
        if fault is not None:
            raise SinkConfigurationError(f"the ledger {self._ledger.fullname} {fault}")
        missing = adapter.missing_privileges(connection)
        if missing:
            raise SinkConfigurationError(f"this role lacks {', '.join(missing)} on the ledger {self._ledger.fullname}")

    def _check(self, *, again: bool = False) -> None:
        with self._opening:
            if self._checked and not again:
                return

            def check(connection: sa.Connection) -> None:
                self._check_ledger(connection)
                if self.connections.adapter.identity is None:
                    identity = ensure_identity(connection, self._ledger, create=self._create_ledger)
                    self.identity = self.connections.adapter.identity = identity

            with self._unavailable(f"the ledger {self._ledger.fullname} cannot be read or written now: "):
                self.connections.run_bounded(check)
            with self._unavailable():
                if again or not self._opened:
                    self.catalog.check()
                else:
                    self.catalog.refresh_if_changed()
            self._checked = self._opened = True

    def _flush(self, batch: Batch, *, fence: bool) -> list[Outcome]:
        try:
            self._check()
        except SinkConfigurationError as err:
            if not self._opened:
                raise
            # It fitted when the sink was opened. The requests wait in the batcher until the operator repairs it.
            raise SinkUnavailable(str(err), in_doubt=False) from None
        call = BatchWrite(self.connections, self.catalog, batch, fence=fence, failed=self._failed, clock=self._clock)
        try:
            return call.run()
        finally:
            if call.interrupted:
                self._checked = False

    @contextmanager
    def _unavailable(self, what: str = "") -> Iterator[None]:
        """`Connections.unavailable`; the ledger is checked again after an error."""
        try:
            with self.connections.unavailable(what):
                yield
        except SinkUnavailable:
            self._checked = False
            raise
