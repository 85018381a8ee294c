"""MariaDB through PyMySQL: begin, ledger, rows and commit, each in one round trip.

A row that conflicts on the ledger's key is never taken over unseen. New ids are inserted plainly, and the insert fails
if one of them is known. Only a row that this transaction has locked, and that is a tombstone, is updated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pymysql
import sqlalchemy as sa
from pymysql.connections import Connection
from pymysql.constants import CLIENT

from temporal_batching.contract import INSERT, RejectCode
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry, judge
from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql import mariadb_schema
from temporal_batching.sinks.sql.changes import key_and_others, missing_row, note_columns, read_columns
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
from temporal_batching.sinks.sql.mariadb_changes import CHANGES, MISSING_ROW, change_sql, compounds, merge, where_key
from temporal_batching.sinks.sql.mariadb_errors import (
    DUPLICATE_KEY,
    LOCK_TIMEOUT,
    NOT_ONE_ROW,
    classify_mariadb_error,
    error_number,
)
from temporal_batching.sinks.sql.mariadb_modes import OWNED
from temporal_batching.sinks.sql.mariadb_session import Session, SessionLimits, forget, session_of
from temporal_batching.sinks.sql.mariadb_statements import (
    InsertText,
    in_packets,
    quote_name,
    quote_table,
    statements,
    text_of,
)
from temporal_batching.sinks.sql.mariadb_types import MARIADB_NULL, quoted
from temporal_batching.sinks.sql.returning import collect, resolve
from temporal_batching.sinks.sql.schema import BoundTable, Row, TableName, TableNames

IDS = 500
"""Ids in one query. From 1,000 on MariaDB plans a list as a join, which may lock rows that are not in the list."""

MAX_CLAIMS = 5
"""How often ids are claimed again because others have inserted some of them in the meantime."""

_USED = "temporal_batching.prepared"
_SESSION_USED = "temporal_batching.session_used"
_COLUMNS = "request_id, digest, batch_id, status, committed_at"


class MariadbDatabase(DatabaseAdapter):
    """How the sink uses MariaDB."""

    null = MARIADB_NULL
    one_update_per_row = False

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
        self.limits = Limits(statement_timeout, lock_timeout)
        self._owned = bool(engine.get_execution_options().get(OWNED))
        self.table = quote_table(ledger.schema, ledger.name)

    def prepare(self, connection: sa.Connection) -> bool:
        info = connection.connection.info
        used = bool(info.get(_USED))
        info[_USED], info[_SESSION_USED] = True, used
        return used

    def release(self, connection: sa.Connection) -> None:
        if self._owned or connection.invalidated:
            return
        session = forget(connection)
        if session is None:
            return
        try:
            session.restore()
        except pymysql.MySQLError:
            connection.invalidate()

    def session(self, connection: sa.Connection) -> Session:
        """The session of a connection, with its settings."""
        session = session_of(connection)
        if not session.packet:
            session.start(connection.dialect, idle=self.limits.statement, owned=self._owned)
        return session

    def limits_of(self, limits: Limits) -> SessionLimits:
        """The limits as a session has them."""
        return SessionLimits.of(limits.statement, limits.lock, limits.until_deadline)

    @contextmanager
    def bounded(self, connection: sa.Connection, *, statement: float, lock: float) -> Iterator[None]:
        with _classified():
            session = self.session(connection)
            session.limit(SessionLimits.of(statement, lock))
            session.query("BEGIN")
        connection.begin()  # so that the commit is sent even if nothing else was
        try:
            yield
        except BaseException:
            connection.rollback()
            raise
        connection.commit()

    def transaction(self, connection: sa.Connection) -> MariadbTransaction:
        used = bool(connection.connection.info.get(_SESSION_USED))
        return MariadbTransaction(lambda: self.session(connection), self, session_used=used)

    def classify(self, error: BaseException) -> DatabaseFailure:
        return classify_mariadb_error(error)

    def list_names(self, connection: sa.Connection) -> TableNames:
        return mariadb_schema.list_names(connection, own=self.own, reserved=self.reserved)

    def reflect(self, connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
        return mariadb_schema.reflect(connection, name, where, rule)

    def schema_version(self, connection: sa.Connection) -> object:
        return mariadb_schema.schema_version(connection)

    def read_clock(self, connection: sa.Connection) -> datetime | None:
        clock: datetime = connection.exec_driver_sql("SELECT UTC_TIMESTAMP(6)").scalar_one()
        return clock.replace(tzinfo=UTC)

    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        return mariadb_schema.missing_privileges(connection, self.ledger)

    def missing_to_write(self, connection: sa.Connection, table: BoundTable) -> list[str]:
        """The privileges on a table that writing by its rule needs and this role does not have."""
        return mariadb_schema.missing_to_write(connection, table)

    def ledger_fault(self, connection: sa.Connection) -> str | None:
        return mariadb_schema.ledger_fault(connection, self.ledger)


class MariadbTransaction(Transaction):
    """A transaction of MariaDB. It begins with its first statement."""

    def __init__(
        self, session: Callable[[], Session], database: MariadbDatabase, *, session_used: bool = False
    ) -> None:
        self._open_session = session
        self._opened: Session | None = None
        self._database = database
        self._limits = database.limits_of(database.limits)
        self._session_used = session_used
        self._begun = False
        self._rows = 0

    @property
    def session_used(self) -> bool:
        return self._session_used

    def limit(self, limits: Limits) -> None:
        self._limits = self._database.limits_of(limits)

    @property
    def _session(self) -> Session:
        if self._opened is None:
            self._opened = self._open_session()
        return self._opened

    @contextmanager
    def _classified(self) -> Iterator[None]:
        try:
            yield
        except (pymysql.MySQLError, UnicodeEncodeError) as err:
            driver = self._opened.driver if self._opened is not None else None
            failure = classify_mariadb_error(err, driver)
            if failure.connection_lost and driver is not None:
                _close(driver)
            raise failure from None

    def _begin(self) -> None:
        """Begins, and sets the limits of the following statements."""
        counters = self._database.counters
        counters.round_trips += self._session.limit(self._limits)
        if not self._begun:
            counters.round_trips += 1
            self._session.query("BEGIN")
            self._begun = True

    def _send(self, sql: str) -> int:
        self._count()
        return self._session.patiently(self._session.query, sql)

    def _rows_of(self, sql: str) -> list[tuple[Any, ...]]:
        self._count()
        return self._session.patiently(self._session.rows, sql)

    def _count(self) -> None:
        self._database.counters.statements += 1
        self._database.counters.round_trips += 1

    def attempt(
        self, stamp: Stamp, entries: Sequence[PreparedRequest], stages: Sequence[Sequence[RowGroup]], *, savepoint: bool
    ) -> bool:
        groups = [group for stage in stages for group in stage]
        with self._classified():
            self._begin()
            if savepoint:
                self._savepoint("SAVEPOINT attempt")
        try:
            # If the ledger fails, no request is at fault.
            with _about_ledger(), self._classified():
                complete = self._enter_known(stamp, entries) if savepoint else self._enter(stamp, entries)
            if complete:
                for group in groups:
                    self._write(group)
                self._keep_returned(stamp, [entry for entry in entries if entry.asks])
        except DatabaseFailure as failure:
            if savepoint:
                self._undo(failure)
            raise
        if complete:
            self._rows += sum(len(group.rows) for group in groups)
        elif savepoint:
            self._undo(None)
        return complete

    def _savepoint(self, sql: str) -> None:
        # A savepoint replaces an earlier one of its name, so none is released.
        self._database.counters.round_trips += 1
        self._session.query(sql)

    def _undo(self, failure: DatabaseFailure | None) -> None:
        """Rolls back to the savepoint. A deadlock, and perhaps a timeout, has ended the transaction with it.

        Args:
            failure: Why; it is completed.

        Raises:
            DatabaseFailure: There is no other failure to complete.
        """
        if failure is not None and failure.connection_lost:
            return
        try:
            with self._classified():
                self._savepoint("ROLLBACK TO SAVEPOINT attempt")
        except DatabaseFailure as second:
            if failure is None:
                raise
            failure.transaction_ended = True
            failure.connection_lost = second.connection_lost

    def _write(self, group: RowGroup) -> None:
        try:
            if group.operation == INSERT:
                self._insert(group)
            else:
                self._change(group)
        except (pymysql.MySQLError, UnicodeEncodeError) as err:
            failure = classify_mariadb_error(err, self._session.driver)
            number, rule = error_number(err), group.table.rule
            if number == NOT_ONE_ROW and group.operation == INSERT and rule.conflict != "error" and rule.key:
                key = ", ".join(rule.key)
                reason = f"{group.table.name}: another row has a unique key of this one, other than ({key})"
                failure = DatabaseFailure(ErrorClass.REQUEST, reason, code=RejectCode.CONSTRAINT)
            elif number == MISSING_ROW and group.operation == "update":
                failure = missing_row(group.table)
            if failure.connection_lost:
                _close(self._session.driver)
            raise failure from None

    def _insert(self, group: RowGroup) -> None:
        text = text_of(group)
        if text.check:
            self._send(text.check)
        if group.adds:
            self._add(text, group)
        elif group.is_read:
            self._insert_asking(text, group.asking)
        else:
            for row in group.asking:
                resolve(row)
            self._send_rows(text, group.rows)

    def _add(self, text: InsertText, group: RowGroup) -> None:
        """Adds rows, each key once. What is read back comes with the total of its key, from a statement of its own."""
        for row in group.asking:
            resolve(row)
        merged = merge(group.table, group.columns, group.rows)
        columns = read_columns(group.asking)
        positions, _ = key_and_others(group.table, group.columns)
        asking: dict[tuple[str, ...], list[Row]] = {}
        for row in group.asking:
            if row.ask is not None and row.ask.columns:
                asking.setdefault(tuple(row.values[position] for position in positions), []).append(row)
        waiting: list[list[str]] = []
        for key, values in merged.items():  # in this order, so that batches that overlap lock rows in one order
            if key not in asking:
                waiting.append(values)
                continue
            self._send_rows(text, waiting)
            waiting = []
            (statement,) = statements(text, [values], self._session.packet)
            found = self._rows_of(f"{statement} RETURNING {_picked(group.table, columns)}")
            for row in asking[key]:
                note_columns(row, columns, found[0] if found else None)
        self._send_rows(text, waiting)

    def _send_rows(self, text: InsertText, rows: Sequence[Sequence[str]]) -> None:
        for statement in statements(text, rows, self._session.packet):
            self._send(statement)

    def _change(self, group: RowGroup) -> None:
        """Updates or deletes rows by their keys."""
        session = self._session
        if group.operation == "update" and not session.driver.client_flag & CLIENT.FOUND_ROWS:
            reason = "updates need connections with the flag FOUND_ROWS, as SQLAlchemy makes them by default"
            raise DatabaseFailure(ErrorClass.UNAVAILABLE, reason)
        for row in group.asking:
            resolve(row)
        if group.is_read:
            for row in group.asking:
                self._change_asking(group, row)
            return
        for statement in compounds(group, session.packet):
            self._count()
            session.patiently(self._send_compound, statement)

    def _send_compound(self, sql: str) -> int:
        try:
            return self._session.query(sql)
        except pymysql.MySQLError as err:
            if error_number(err) == LOCK_TIMEOUT and CHANGES in sql:
                with suppress(pymysql.MySQLError):  # the timeout has ended the transaction; then nothing is retried
                    self._session.query(f"ROLLBACK TO {CHANGES}")
            raise

    def _change_asking(self, group: RowGroup, row: Row) -> None:
        """Updates or deletes one row, and reads it: as it is then, or as it was."""
        statement = change_sql(group, row.values)
        columns = read_columns([row])
        picked = _picked(group.table, columns)
        if group.operation == "delete":
            found = self._rows_of(f"{statement} RETURNING {picked}")
        else:
            if self._send(statement) != 1:
                raise missing_row(group.table)
            name = quote_table(group.table.table.schema, group.table.table.name)
            found = self._rows_of(f"SELECT {picked} FROM {name}{where_key(group, row.values)}")
        note_columns(row, columns, found[0] if found else None)

    def _insert_asking(self, text: InsertText, rows: Sequence[Row]) -> None:
        """Inserts rows one by one, and reads each back: only so is it certain which row was returned."""
        for row in rows:
            resolve(row)
            (statement,) = statements(text, [row.values], self._session.packet)
            columns = read_columns([row])
            found = self._rows_of(f"{statement} RETURNING {_picked(row.table, columns)}")
            note_columns(row, columns, found[0] if found else None)

    # The ledger

    def _keep_returned(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        for entry in entries:
            entry.returned = collect(entry.rows, most=self._database.max_returned)
        rows = [
            f"({quoted(e.request_id)},{quoted(e.digest)},{_common(stamp)},{quoted(encode_returned(e.returned))})"
            for e in entries
            if e.returned is not None
        ]
        with _about_ledger(), self._classified():
            self._overwrite(rows, ["returned"])

    def _enter(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> bool:
        """Inserts new ids. Returns whether none of them was known."""
        try:
            return self._enter_new(stamp, entries)
        except pymysql.MySQLError as err:
            if error_number(err) != DUPLICATE_KEY:
                raise
            return False

    def _enter_new(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> bool:
        # Sorted, so that two batches with the same ids wait for each other instead of deadlocking.
        rows = [f"({quoted(e.request_id)},{quoted(e.digest)})" for e in sorted(entries, key=_by_id)]
        head = f"INSERT INTO {self._database.table} ({_COLUMNS}) WITH claims (id, digest) AS (VALUES "
        tail = f") SELECT id, digest, {_common(stamp)} FROM claims"
        if self._database.identity is not None:
            # Only into the ledger that was opened: an emptied or replaced ledger takes no rows, and the count of rows
            # shows it.
            tail += (
                f" WHERE EXISTS (SELECT 1 FROM {self._database.table}"
                f" WHERE request_id = '' AND digest = {quoted(self._database.identity)})"
            )
        room = self._session.packet - 4 * (len(head) + len(tail))
        entered = sum(self._send(f"{head}{','.join(part)}{tail}") for part in in_packets(rows, room))
        return entered == len(entries)

    def _enter_known(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> bool:
        """Inserts ids, and takes over tombstones. Returns whether every id was new or such a tombstone."""
        known = self._lock(entries)
        if any(judge(known.get(e.request_id), e.digest, stamp.batch_id) is not None for e in entries):
            return False
        self._take_over(stamp, [e for e in entries if e.request_id in known])
        new = [e for e in entries if e.request_id not in known]
        return not new or self._enter(stamp, new)

    def _lock(self, entries: Sequence[PreparedRequest]) -> dict[str, LedgerEntry]:
        ids = [e.request_id for e in sorted(entries, key=_by_id)]
        # By the primary key, or rows would be locked that are looked at on the way.
        return self._read(ids, " FORCE INDEX (PRIMARY)", " FOR UPDATE")

    def _take_over(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        """Overwrites rows that are locked by this transaction."""
        rows = [f"({quoted(e.request_id)},{quoted(e.digest)},{_common(stamp)},NULL)" for e in entries]
        self._overwrite(rows, [*_COLUMNS.split(", ")[1:], "returned"])

    def _overwrite(self, rows: Sequence[str], names: Sequence[str]) -> None:
        """Sets these columns of rows that are there and that this transaction has locked or entered."""
        head = f"INSERT INTO {self._database.table} ({_COLUMNS}, returned) VALUES "
        tail = f" ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in names)}"
        for part in in_packets(rows, self._session.packet - 4 * (len(head) + len(tail))):
            self._send(f"{head}{','.join(part)}{tail}")

    def claim(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        if not entries:
            return
        with _about_ledger(), self._classified():
            self._begin()
            for _ in range(MAX_CLAIMS):
                known = self._lock(entries)
                free = [e for e in entries if judge(known.get(e.request_id), e.digest, stamp.batch_id) is None]
                new = [e for e in free if e.request_id not in known]
                # An insert waits for others that have inserted one of the ids, and fails if they commit.
                if not new or self._enter(stamp, new):
                    self._take_over(stamp, [e for e in free if e.request_id in known])
                    return
                self._read([], "", "")  # fails if it is another ledger
        raise DatabaseFailure(ErrorClass.AGAIN, "the ledger changes while it is written to")

    def lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        with _about_ledger(), self._classified():
            self._begin()
            return self._read(request_ids, "", "")

    def _read(self, request_ids: Sequence[str], index: str, lock: str) -> dict[str, LedgerEntry]:
        """The ledger's entries of these ids; unless they are locked, the identity is checked."""
        wanted = list(request_ids) if lock else [IDENTITY_ID, *request_ids]
        found: dict[str, LedgerEntry] = {}
        for start in range(0, len(wanted), IDS):
            ids = ",".join(map(quoted, wanted[start : start + IDS]))
            sql = f"SELECT {_COLUMNS}, returned FROM {self._database.table}{index} WHERE request_id IN ({ids}){lock}"
            for request_id, *others in self._rows_of(sql):
                entry = read_entry((bytes(request_id).decode(), *others))
                found[entry.request_id] = entry
        return found if lock else self._database.without_identity(found)

    # The end

    def commit(self) -> None:
        if not self._begun:
            return
        with self._classified():
            self._database.counters.round_trips += 1
            try:
                self._session.query("COMMIT")
            except pymysql.MySQLError as err:
                if not self._is_rolled_back(err):
                    _close(self._session.driver)  # so that the failure says that the connection is lost
                raise
        self._begun = False
        self._database.counters.transactions += 1
        self._database.counters.rows += self._rows

    def _is_rolled_back(self, error: pymysql.MySQLError) -> bool:
        """Whether it is certain that a commit that failed has committed nothing."""
        failure = classify_mariadb_error(error, self._session.driver)
        if failure.connection_lost:
            return False
        if failure.error_class is ErrorClass.AGAIN:  # a cluster has refused it
            return True
        try:
            return self._session.in_transaction
        except pymysql.MySQLError:
            return False

    def rollback(self) -> None:
        begun, self._begun = self._begun, False
        self._rows = 0
        self._limits = self._database.limits_of(self._database.limits)
        if not begun or not self._session.driver.open:
            return
        self._database.counters.round_trips += 1
        try:
            self._session.query("ROLLBACK")
        except pymysql.MySQLError:
            # The server rolls back when the connection is closed. A connection in an unknown state must not be reused.
            _close(self._session.driver)


def _picked(table: BoundTable, columns: Sequence[str]) -> str:
    return ", ".join(table.columns[name].shown.sql.format(quote_name(name)) for name in columns)


def _by_id(entry: PreparedRequest) -> bytes:
    return entry.request_id.encode()


def _common(stamp: Stamp) -> str:
    """The literals that the ledger rows of one attempt have in common: batch, status, time."""
    at = stamp.at.replace(tzinfo=None).isoformat(" ", "microseconds")
    return f"{quoted(stamp.batch_id)},{quoted(stamp.status.value)},'{at}'"


def _close(driver: Connection) -> None:
    """Closes a connection without a word to the server, which may be gone. SQLAlchemy may close it once more."""
    driver._force_close()  # type: ignore[attr-defined]


@contextmanager
def _about_ledger() -> Iterator[None]:
    """Errors of statements that concern only the ledger."""
    try:
        yield
    except DatabaseFailure as failure:
        raise failure.of_ledger() from None


@contextmanager
def _classified() -> Iterator[None]:
    try:
        yield
    except pymysql.MySQLError as err:
        raise classify_mariadb_error(err) from None
