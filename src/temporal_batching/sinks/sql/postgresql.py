"""PostgreSQL through psycopg 3: one round trip for BEGIN, ledger and rows of a batch, and one for COMMIT.

Each column is sent as one array in the text syntax of its type, and unnested by the server. Built in here, COPY made
0.91 to 1.02 times the rate of arrays in batches of 1,000 and 0.72 in batches of 100: it saves the server little, costs
two round trips by itself, cannot share a pipeline, and has no conflict rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.waiting import Wait

from temporal_batching.contract import INSERT, Operation, RejectCode
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry
from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql import postgresql_schema
from temporal_batching.sinks.sql.changes import check_updated, note_columns, read_columns
from temporal_batching.sinks.sql.database import (
    DatabaseAdapter,
    Limits,
    PreparedRequest,
    RowGroup,
    SinkCounters,
    Stamp,
    Transaction,
)
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.ledger import encode_returned, read_entry
from temporal_batching.sinks.sql.postgresql_errors import classify_postgresql_error
from temporal_batching.sinks.sql.postgresql_statements import (
    add_sql,
    delete_sql,
    existing_sql,
    insert_statement,
    made_sql,
    merge_sql,
    returning_sql,
    update_sql,
)
from temporal_batching.sinks.sql.returning import collect, resolve
from temporal_batching.sinks.sql.schema import BoundTable, Row, TableName, TableNames
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
            " batch_id = excluded.batch_id, status = excluded.status, committed_at = excluded.committed_at,"
            " returned = NULL"
            " WHERE ledger.status IN ('expired', 'rejected') AND ledger.batch_id <> excluded.batch_id"
        )
        self.lookup_sql = (
            f"SELECT request_id, digest, batch_id, status, committed_at, returned FROM {quote}"
            " WHERE request_id = ANY(%s::text[])"
        )
        self.keep_returned_sql = (
            f"UPDATE {quote} SET returned = kept.rows FROM unnest(%s::text[], %s::text[]) AS kept (id, rows)"
            " WHERE request_id = kept.id"
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

    def reads_some(self, table: BoundTable, operation: Operation) -> bool:
        return table.shows_many if operation == INSERT else operation == "update"

    def id_fault(self, request_id: str) -> str | None:
        if self._codec is None or request_id.isascii():
            return None
        try:
            request_id.encode(self._codec)
        except UnicodeEncodeError:
            return "the request id has a character that the database's encoding lacks"
        return None

    def read_clock(self, connection: sa.Connection) -> datetime | None:
        clock: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        return clock

    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        self._codec = postgresql_schema.read_codec(connection)
        return postgresql_schema.missing_privileges(connection, self.ledger)

    def missing_to_write(self, connection: sa.Connection, table: BoundTable) -> list[str]:
        """The privileges on a table that writing by its rule needs and this role does not have."""
        return postgresql_schema.missing_to_write(connection, table)


_UNDO: list[tuple[str, Sequence[Any] | None]] = [
    ("ROLLBACK TO SAVEPOINT attempt", None),
    ("RELEASE SAVEPOINT attempt", None),
]


@dataclass(frozen=True, slots=True)
class _Reading:
    """Cursors that show what became of rows.

    Attributes:
        rows: The rows.
        cursors: Of the statement; for one row also of the query of the row that a conflict rule left alone.
        columns: The columns that were read.
        many: Whether the statement had many rows and returns the position of each.
    """

    rows: Sequence[Row]
    cursors: Sequence[psycopg.Cursor[Any]]
    columns: Sequence[str]
    many: bool = True

    def note(self) -> None:
        """Notes what came back with each row."""
        if self.many:
            found = {line[0]: line[1:] for line in self.cursors[0]}
            for number, row in enumerate(self.rows, start=1):
                note_columns(row, self.columns, found.get(number))  # a trigger may have left it out
            return
        lines = (cursor.fetchone() for cursor in self.cursors)
        note_columns(self.rows[0], self.columns, next((line for line in lines if line is not None), None))


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
        self, stamp: Stamp, entries: Sequence[PreparedRequest], stages: Sequence[Sequence[RowGroup]], *, savepoint: bool
    ) -> bool:
        if savepoint:
            self._unsent.append(("SAVEPOINT attempt", None))
        asking = [entry for entry in entries if entry.asks]
        if asking:
            return self._attempt_asking(stamp, entries, asking, stages, savepoint=savepoint)
        (groups,) = stages
        rows: list[psycopg.Cursor[Any]] = []
        claims: list[psycopg.Cursor[Any]] = []
        try:
            with self._round_trip() as send:
                # With a savepoint a fault is isolated. The ledger comes first: if it fails too, no request is at fault.
                if savepoint:
                    claims.append(self._send_claim(send, stamp, entries))
                # Otherwise the rows come first: the digests for the ledger are computed while the server inserts them.
                for group in groups:
                    rows.append(send(*self._statement(group)))
                self._connection.wait(_sending(self._connection))
                if not savepoint:
                    claims.append(self._send_claim(send, stamp, entries, new=True))
        except DatabaseFailure as failure:
            if savepoint:
                self._unsent = _UNDO.copy()
            of_ledger = not _all_done(claims, 1) if savepoint else _all_done(rows, len(groups))
            if of_ledger and failure.error_class in (ErrorClass.REQUEST, ErrorClass.SCHEMA):
                if not savepoint and failure.code is RejectCode.CONSTRAINT:
                    return False
                # The statement on the ledger failed, so no request is at fault.
                raise failure.of_ledger() from None
            raise
        (claim,) = claims
        if claim.rowcount == len(entries):
            self._check_updated(zip(groups, rows, strict=True), undo=_UNDO if savepoint else [])
            if savepoint:
                self._unsent = _UNDO[1:]
            self._rows += sum(len(group.rows) for group in groups)
            return True
        if savepoint:
            self._unsent = _UNDO.copy()
        return False

    def _check_updated(
        self,
        sent: Iterable[tuple[RowGroup, psycopg.Cursor[Any]]],
        *,
        undo: Sequence[tuple[str, Sequence[Any] | None]],
    ) -> None:
        try:
            for group, cursor in sent:
                check_updated(group, cursor.rowcount)
        except DatabaseFailure:
            self._unsent = list(undo)
            raise

    def _statement(self, group: RowGroup, returning: tuple[str, ...] = ()) -> tuple[str, list[Any]]:
        """The statement of many rows, and its parameters."""
        if group.operation == INSERT and not group.adds:
            return insert_statement(self._database.engine, group)
        make = add_sql if group.adds else update_sql if group.operation == "update" else delete_sql
        sql = made_sql(make, self._database.engine, group.table, group.columns, returning)
        assert sql is not None
        return sql, [array_literal(values) for values in group.by_column]

    def _attempt_asking(
        self,
        stamp: Stamp,
        entries: Sequence[PreparedRequest],
        asking: Sequence[PreparedRequest],
        stages: Sequence[Sequence[RowGroup]],
        *,
        savepoint: bool,
    ) -> bool:
        """The same where rows are read back: one round trip for the ids and each stage of rows.

        What was returned is sent to the ledger with whatever comes next.
        """
        claim: psycopg.Cursor[Any] | None = None
        undo, keep = (_UNDO.copy(), _UNDO[1:]) if savepoint else ([], [])
        try:
            for number, stage in enumerate(stages):
                with self._round_trip() as send:
                    if number == 0:
                        claim = self._send_claim(send, stamp, entries, new=not savepoint)
                    sent = [(group, *self._send_group(send, group)) for group in stage]
                if number == 0 and claim is not None and claim.rowcount != len(entries):
                    self._unsent = undo
                    return False
                self._check_updated(((group, cursor) for group, cursor, _ in sent if cursor is not None), undo=undo)
                for _, _, readings in sent:
                    for reading in readings:
                        reading.note()
            for entry in asking:
                entry.returned = collect(entry.rows, most=self._database.max_returned)
        except DatabaseFailure as failure:
            self._unsent = undo
            if claim is None or claim.pgresult is None:
                if not savepoint and failure.code is RejectCode.CONSTRAINT:
                    return False
                if failure.error_class in (ErrorClass.REQUEST, ErrorClass.SCHEMA):
                    raise failure.of_ledger() from None
            raise
        kept = [(entry.request_id, encode_returned(entry.returned)) for entry in asking if entry.returned is not None]
        if kept:
            ids, rows_ = _id_array(i for i, _ in kept), array_literal(quoted_element(rows) for _, rows in kept)
            self._unsent.append((self._database.keep_returned_sql, (ids, rows_)))
        self._unsent += keep
        self._rows += sum(len(group.rows) for stage in stages for group in stage)
        return True

    def _send_group(
        self, send: Callable[..., psycopg.Cursor[Any]], group: RowGroup
    ) -> tuple[psycopg.Cursor[Any] | None, list[_Reading]]:
        """Sends rows.

        Returns:
            The cursor of the statement, if there is only one; and the cursors that will show what became of which rows.
        """
        engine, table = self._database.engine, group.table
        for row in group.asking:
            resolve(row)
        columns = read_columns(group.asking)
        if not columns:
            return send(*self._statement(group)), []
        if group.adds or group.operation != INSERT:
            cursor = send(*self._statement(group, columns))
            return cursor, [_Reading(group.asking, [cursor], columns)]
        if table.shows_many and group.columns:
            arrays = [array_literal(values) for values in group.by_column]
            merge = made_sql(merge_sql, engine, table, group.columns, columns)
            return None, [_Reading(group.asking, [send(merge, arrays)], columns)]
        return None, [self._send_one(send, row, (group.columns, columns)) for row in group.asking]

    def _send_one(
        self, send: Callable[..., psycopg.Cursor[Any]], row: Row, key: tuple[tuple[str, ...], tuple[str, ...]]
    ) -> _Reading:
        _, columns = key
        engine, table = self._database.engine, row.table
        arrays = [array_literal([value]) for value in row.values] if row.columns else [1]
        cursors = [send(made_sql(returning_sql, engine, table, *key), arrays)]
        existing = made_sql(existing_sql, engine, table, *key)
        if existing is not None:
            by_key = [array_literal([row.values[row.columns.index(name)]]) for name in table.rule.key]
            cursors.append(send(existing, by_key))
        return _Reading([row], cursors, columns, many=False)

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


def _sending(connection: psycopg.Connection[Any]) -> PQGen[None]:
    """Waits until everything is with the server: what a socket has no room for would stay until the next statement."""
    while connection.pgconn.flush():  # it reads as well: a server that has to write first does not block it
        yield Wait.RW


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
