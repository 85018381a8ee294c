"""PostgreSQL through psycopg 3: one round trip for BEGIN, ledger and rows of a batch, and one for COMMIT.

Each column is sent as one array in the text syntax of its type, and unnested by the server. Compared with COPY and
multi-row VALUES (``benchmarks/sink_postgresql.py``), this is as fast as COPY, supports conflict rules, and can share a
pipeline. COPY cannot: it costs two round trips by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry
from temporal_batching.sinks.sql import postgresql_schema
from temporal_batching.sinks.sql.database import (
    DatabaseAdapter,
    Insert,
    Limits,
    PreparedRequest,
    SinkCounters,
    Stamp,
    Transaction,
)
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.ledger import read_entry
from temporal_batching.sinks.sql.postgresql_errors import classify_postgresql_error
from temporal_batching.sinks.sql.schema import BoundTable, TableName, TableNames, TableRule
from temporal_batching.sinks.sql.types import PG_NULL, array_literal, quoted_element

_USED = "temporal_batching.prepared"
_SESSION_USED = "temporal_batching.session_used"

# At READ COMMITTED a query after an insert that waited for another transaction sees what that transaction wrote.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# For this transaction only, because the connection may belong to the user or to a pooler.
_SETTINGS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_LIMITS = "SELECT " + ", ".join(f"set_config('{name}', %s, true)" for name in _SETTINGS)


# Deferred triggers run here instead of in the commit, to which no timeout applies.
_RUN_DEFERRED = "SET CONSTRAINTS ALL IMMEDIATE"


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))


class PostgresqlDatabase(DatabaseAdapter):
    """How the sink uses PostgreSQL."""

    null = PG_NULL
    one_update_per_row = True

    def __init__(
        self,
        engine: sa.Engine,
        ledger: sa.Table,
        counters: SinkCounters,
        *,
        statement_timeout: float,
        lock_timeout: float,
    ) -> None:
        super().__init__(engine, ledger, counters)
        self._codec: str | None = None
        """Python's name of the database's encoding; None if it holds every character, or is unknown here."""
        self._idle = _milliseconds(statement_timeout)
        self.limits = self.limits_of(statement_timeout, lock_timeout)
        quote = engine.dialect.identifier_preparer.format_table(ledger)
        # A plain INSERT is twice as fast as one with ON CONFLICT, which reads the index twice. A known id fails it,
        # with a line in the server's log; then `claim_sql` is used. Known ids come only with retries.
        self.claim_new_sql = (
            f"INSERT INTO {quote} AS ledger (request_id, digest, batch_id, status, committed_at)"
            " SELECT id, digest, %s, %s, %s FROM unnest(%s::text[], %s::text[]) AS claims (id, digest)"
            # Only into the ledger that was opened: an emptied or replaced ledger takes no rows, and the count of rows
            # shows it.
            f" WHERE EXISTS (SELECT 1 FROM {quote} WHERE request_id = '' AND digest = %s)"
        )
        self.claim_sql = (
            f"{self.claim_new_sql} ON CONFLICT (request_id) DO UPDATE SET digest = excluded.digest,"
            " batch_id = excluded.batch_id, status = excluded.status, committed_at = excluded.committed_at"
            " WHERE ledger.status IN ('expired', 'rejected') AND ledger.batch_id <> excluded.batch_id"
        )
        self.lookup_sql = (
            f"SELECT request_id, digest, batch_id, status, committed_at FROM {quote} WHERE request_id = ANY(%s::text[])"
        )

    def limits_of(self, statement: float, lock: float) -> tuple[str, str, str]:
        """The parameters of `_LIMITS`.

        The limit of an idle transaction does not shrink with the time that is left: the worker computes meanwhile.
        """
        return _milliseconds(statement), _milliseconds(lock), self._idle

    @contextmanager
    def bounded(self, connection: sa.Connection, *, statement: float, lock: float) -> Iterator[None]:
        # Without parameters the driver sends several statements in one round trip.
        settings = zip(_SETTINGS, self.limits_of(statement, lock), strict=True)
        connection.exec_driver_sql("; ".join([_BEGIN, *(f"SET LOCAL {name} = {value}" for name, value in settings)]))
        try:
            yield
        except BaseException:
            connection.rollback()
            raise
        connection.commit()

    def prepare(self, connection: sa.Connection) -> bool:
        # This module sends BEGIN, within a pipeline, and COMMIT.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.prepare_threshold = None  # the user's own engine may have set it: see `_round_trip`
        info = connection.connection.info
        used = bool(info.get(_USED))
        info[_USED], info[_SESSION_USED] = True, used
        return used

    def transaction(self, connection: sa.Connection) -> PostgresqlTransaction:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        session_used = bool(connection.connection.info.get(_SESSION_USED))
        return PostgresqlTransaction(driver, self, session_used=session_used)

    def classify(self, error: BaseException) -> DatabaseFailure:
        return classify_postgresql_error(error)

    def list_names(self, connection: sa.Connection) -> TableNames:
        return postgresql_schema.list_names(connection, own=self.own, reserved=self.reserved)

    def reflect(self, connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
        return postgresql_schema.reflect(connection, name, where, rule)

    def schema_version(self, connection: sa.Connection) -> object:
        return postgresql_schema.schema_version(connection)

    def id_fault(self, request_id: str) -> str | None:
        if self._codec is None or request_id.isascii():
            return None
        try:
            request_id.encode(self._codec)
        except UnicodeEncodeError:
            return "the request id has a character that the database's encoding lacks"
        return None

    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        self._codec = postgresql_schema.read_codec(connection)
        return postgresql_schema.missing_privileges(connection, self.ledger)


_UNDO: list[tuple[str, Sequence[Any] | None]] = [
    ("ROLLBACK TO SAVEPOINT attempt", None),
    ("RELEASE SAVEPOINT attempt", None),
]


class PostgresqlTransaction(Transaction):
    """A transaction in as few round trips as possible.

    BEGIN, the limits, and the statements that end a savepoint are sent with the next statement.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], database: PostgresqlDatabase, *, session_used: bool = False
    ) -> None:
        self._connection = connection
        self._database = database
        self._unsent: list[tuple[str, Sequence[Any] | None]] = [(_BEGIN, None), (_LIMITS, database.limits)]
        self._limits = database.limits
        self._session_used = session_used
        self._rows = 0

    @property
    def session_used(self) -> bool:
        return self._session_used

    def limit(self, limits: Limits) -> None:
        self._limit(self._database.limits_of(limits.statement, min(limits.lock, limits.until_deadline)))

    def _limit(self, limits: tuple[str, str, str]) -> None:
        for position, (sql, _) in enumerate(self._unsent):
            if sql is _LIMITS:  # not sent yet: replace them
                self._unsent[position] = (_LIMITS, limits)
                self._limits = limits
                return
        # A change of less than a tenth is not worth a statement.
        if all(abs(int(a) - int(b)) * 10 <= int(b) for a, b in zip(limits, self._limits, strict=True)):
            return
        self._limits = limits
        self._unsent.append((_LIMITS, limits))

    @contextmanager
    def _round_trip(self) -> Iterator[Callable[..., psycopg.Cursor[Any]]]:
        """One pipeline: the answers arrive at its end, and after an error the remaining statements are skipped.

        No prepared statement has a name: a pooler in transaction mode gives each transaction another connection of the
        server, which does not know the name. Named statements would save 5 % of the time of a batch of 100 rows and
        9 % of one of 1,000 rows (measured without a pooler, on one machine, without syncing to disk).
        """
        connection = self._connection
        waiting, self._unsent = self._unsent, []
        self._database.counters.round_trips += 1

        def send(sql: str, parameters: Sequence[Any] | None = None) -> psycopg.Cursor[Any]:
            self._database.counters.statements += 1
            return connection.execute(sql, parameters, prepare=False)

        first: psycopg.Error | UnicodeEncodeError | None = None
        with self._classified():
            try:
                with connection.pipeline():
                    try:
                        for sql, parameters in waiting:
                            connection.execute(sql, parameters, prepare=False)
                        yield send
                    except (psycopg.Error, UnicodeEncodeError) as err:
                        # Answers may arrive while statements are still being sent. The error at the end of the pipeline
                        # then only says that it was aborted, and the driver would log it as a separate error.
                        first = err
            except psycopg.Error as err:
                raise first or err from None
            if first is not None:
                raise first

    @contextmanager
    def _classified(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, UnicodeEncodeError) as err:
            raise classify_postgresql_error(err, self._connection) from None

    def attempt(
        self, stamp: Stamp, entries: Sequence[PreparedRequest], inserts: Sequence[Insert], *, savepoint: bool
    ) -> bool:
        if savepoint:
            self._unsent.append(("SAVEPOINT attempt", None))
        rows: list[psycopg.Cursor[Any]] = []
        claims: list[psycopg.Cursor[Any]] = []
        try:
            with self._round_trip() as send:
                # With a savepoint a fault is isolated. The ledger comes first: if it fails too, no request is at fault.
                if savepoint:
                    claims.append(self._send_claim(send, stamp, entries))
                # Otherwise the rows come first: the digests for the ledger are computed while the server inserts them.
                for insert in inserts:
                    sql, columns = _statement(self._database.engine, insert)
                    rows.append(send(sql, columns))
                if not savepoint:
                    claims.append(self._send_claim(send, stamp, entries, new=True))
        except DatabaseFailure as failure:
            if savepoint:
                self._unsent = _UNDO.copy()
            of_ledger = not _all_done(claims, 1) if savepoint else _all_done(rows, len(inserts))
            if of_ledger and failure.error_class in (ErrorClass.REQUEST, ErrorClass.SCHEMA):
                if not savepoint and failure.code is RejectCode.CONSTRAINT:
                    return False
                # The statement on the ledger failed, so no request is at fault.
                raise failure.of_ledger() from None
            raise
        (claim,) = claims
        if claim.rowcount == len(entries):
            if savepoint:
                self._unsent = _UNDO[1:]
            self._rows += sum(len(insert.rows) for insert in inserts)
            return True
        if savepoint:
            self._unsent = _UNDO.copy()
        return False

    def _send_claim(
        self,
        send: Callable[..., psycopg.Cursor[Any]],
        stamp: Stamp,
        entries: Sequence[PreparedRequest],
        *,
        new: bool = False,
    ) -> psycopg.Cursor[Any]:
        # Sorted, so that two batches with the same ids wait for each other instead of deadlocking.
        entries = sorted(entries, key=lambda e: e.request_id)
        ids, digests = _id_array(e.request_id for e in entries), array_literal(e.digest for e in entries)
        sql = self._database.claim_new_sql if new else self._database.claim_sql
        return send(sql, (stamp.batch_id, stamp.status.value, stamp.at, ids, digests, self._database.identity))

    def claim(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        if entries:
            with _about_ledger(), self._round_trip() as send:
                self._send_claim(send, stamp, entries)

    def lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        with _about_ledger(), self._round_trip() as send:
            cursor = send(self._database.lookup_sql, (_id_array([IDENTITY_ID, *request_ids]),))
        return self._database.without_identity({entry.request_id: entry for entry in map(read_entry, cursor)})

    def commit(self) -> None:
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            return
        with self._round_trip():
            self._connection.execute(_RUN_DEFERRED, prepare=False)
            committed = self._connection.execute("COMMIT", prepare=False)
        if committed.statusmessage != "COMMIT":
            raise DatabaseFailure(ErrorClass.MOMENT, f"the server answered {committed.statusmessage} to COMMIT")
        self._database.counters.transactions += 1
        self._database.counters.rows += self._rows

    def rollback(self) -> None:
        connection = self._connection
        self._unsent = [(_BEGIN, None), (_LIMITS, self._database.limits)]
        self._limits = self._database.limits
        self._rows = 0
        if connection.closed or connection.info.transaction_status is TransactionStatus.IDLE:
            return
        self._database.counters.round_trips += 1
        try:
            connection.rollback()
        except psycopg.Error:
            # The server rolls back when the connection is closed. A connection in an unknown state must not be reused.
            connection.close()


def _all_done(cursors: Sequence[psycopg.Cursor[Any]], number: int) -> bool:
    return len(cursors) == number and all(cursor.pgresult is not None for cursor in cursors)


@contextmanager
def _about_ledger() -> Iterator[None]:
    try:
        yield
    except DatabaseFailure as failure:
        raise failure.of_ledger() from None


def _id_array(request_ids: Iterable[str]) -> str:
    return array_literal(map(quoted_element, request_ids))


def _statement(engine: sa.Engine, insert: Insert) -> tuple[str, list[Any]]:
    table = insert.table
    sql = table.statements.get(insert.columns)
    if sql is None:
        sql = table.statements[insert.columns] = _insert_sql(engine, table, insert.columns)
    if not insert.columns:
        return sql, [len(insert.rows)]
    return sql, [array_literal(values) for values in zip(*insert.rows, strict=True)]


def _insert_sql(engine: sa.Engine, table: BoundTable, names: Sequence[str]) -> str:
    """The insert of any number of rows. All names come from the database's catalogs and are quoted by SQLAlchemy."""
    preparer = engine.dialect.identifier_preparer
    quote = preparer.quote_identifier
    target = preparer.format_table(table.table)
    if not names:
        return f"INSERT INTO {target} SELECT FROM generate_series(1, %s)"
    columns = [table.columns[name] for name in names]
    # Arrays of arrays would be flattened, and arrays of composites spread over several columns. So such a column is
    # unnested as text and cast element by element, and so is one whose elements are not separated by commas.
    arrays = ", ".join("%s::text[]" if c.nested else f"%s::{_escaped(c.type_sql)}[]" for c in columns)
    picks = ", ".join(f"v{i}::{_escaped(c.type_sql)}" if c.nested else f"v{i}" for i, c in enumerate(columns))
    aliases = ", ".join(f"v{i}" for i in range(len(columns)))
    into = ", ".join(map(quote, names))
    sql = f"INSERT INTO {target} ({into}) SELECT {picks} FROM unnest({arrays}) AS rows ({aliases})"
    rule = table.rule
    if rule.conflict == "error":
        return sql
    key = f" ({', '.join(map(quote, rule.key))})" if rule.key else ""
    updated = table.updated(names)
    if rule.conflict == "ignore" or not updated:
        return f"{sql} ON CONFLICT{key} DO NOTHING"
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in updated)
    return f"{sql} ON CONFLICT{key} DO UPDATE SET {changes}"


def _escaped(type_sql: str) -> str:
    return type_sql.replace("%", "%%")
