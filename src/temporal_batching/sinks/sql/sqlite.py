"""SQLite: it has one writer at a time, so a transaction takes the write lock first and then has no races."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from temporal_batching.contract import INSERT, RejectCode
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry, judge
from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql import sqlite_schema
from temporal_batching.sinks.sql.changes import check_updated, key_and_others, missing_row, note_columns, read_columns
from temporal_batching.sinks.sql.database import (
    DatabaseAdapter,
    Limits,
    PreparedRequest,
    RowGroup,
    SinkCounters,
    Stamp,
    Transaction,
)
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass, classify_sqlite
from temporal_batching.sinks.sql.ledger import encode_returned, read_entry
from temporal_batching.sinks.sql.reasons import short_reason
from temporal_batching.sinks.sql.returning import collect, note_row, resolve
from temporal_batching.sinks.sql.schema import (
    BoundTable,
    Row,
    TableName,
    TableNames,
)
from temporal_batching.sinks.sql.sqlite_changes import (
    Adder,
    add_sql,
    delete_sql,
    merge,
    not_exact,
    read_sql,
    update_sql,
)

CHUNK = 10_000
"""Ids in one SELECT: SQLite takes 32,766 parameters."""

STEPS = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time: about a tenth of a millisecond."""

_USED = "temporal_batching.prepared"
_ADDER = "temporal_batching.adder"


class SqliteDatabase(DatabaseAdapter):
    """How the sink uses SQLite."""

    null = None
    one_update_per_row = False
    locks_rows = False

    def __init__(
        self, engine: sa.Engine, ledger: sa.Table, counters: SinkCounters, *, lock_timeout: float, wal: bool
    ) -> None:
        super().__init__(engine, ledger, counters)
        self.lock_timeout = lock_timeout
        self._wal = wal

    def prepare(self, connection: sa.Connection) -> bool:
        # The driver's transactions would begin too late, at the first write, and would end at a savepoint.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        info = connection.connection.info
        if info.get(_USED):
            return True
        with _classified():
            connection.exec_driver_sql(busy_timeout(self.lock_timeout))
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            if self._wal:
                self._switch_to_wal(connection)
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        info[_ADDER] = Adder(driver)
        info[_USED] = True
        return False

    def _switch_to_wal(self, connection: sa.Connection) -> None:
        """Switches to write-ahead logging, so that readers do not wait for the writer.

        Two processes that switch concurrently get BUSY at once, without a wait by SQLite.
        """
        end = time.monotonic() + self.lock_timeout
        while True:
            try:
                if connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar() in ("wal", "memory", "off"):
                    return
            except sa.exc.OperationalError as err:
                code = getattr(err.orig, "sqlite_errorcode", 0) & 0xFF
                if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > end:
                    raise
            if time.monotonic() > end:
                # The mode is unchanged: another connection has had the file open for writing all the time.
                return
            time.sleep(0.01)

    def transaction(self, connection: sa.Connection) -> SqliteTransaction:
        return SqliteTransaction(connection, self)

    def classify(self, error: BaseException) -> DatabaseFailure:
        return classify_sqlite_error(error)

    def list_names(self, connection: sa.Connection) -> TableNames:
        return sqlite_schema.list_names(connection, own=self.own, reserved=self.reserved)

    def reflect(self, connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
        return sqlite_schema.reflect(connection, name, where, rule)

    def schema_version(self, connection: sa.Connection) -> object:
        return connection.exec_driver_sql("PRAGMA schema_version").scalar()

    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        return []

    def missing_to_write(self, connection: sa.Connection, table: BoundTable) -> list[str]:
        return []


def busy_timeout(seconds: float) -> str:
    """The statement that bounds a connection's waits for locks."""
    return f"PRAGMA busy_timeout = {int(seconds * 1000)}"


class SqliteTransaction(Transaction):
    """A transaction of SQLite, from BEGIN IMMEDIATE on."""

    def __init__(self, connection: sa.Connection, database: SqliteDatabase) -> None:
        self.connection = connection
        self._database = database
        self._lock = database.lock_timeout
        self._begun = False
        self._rows = 0

    def limit(self, limits: Limits) -> None:
        """Limits the statements until the next call, or until the end of the transaction.

        SQLite has no timeout for statements. All requests wait for the write lock together, so a later attempt may wait
        for it as long as the first one, but not past a deadline.
        """
        until = time.monotonic() + limits.statement
        self._watch(lambda: time.monotonic() > until)
        self._lock = min(self._database.lock_timeout, limits.until_deadline)

    def _watch(self, is_over: Callable[[], bool] | None) -> None:
        driver = self.connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(is_over, STEPS if is_over else 0)

    def begin(self) -> None:
        """Takes the write lock, unless this transaction has it."""
        if self._begun:
            return
        shorter = self._lock < self._database.lock_timeout
        if shorter:
            self.connection.exec_driver_sql(busy_timeout(self._lock))
        try:
            self.connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            if shorter:
                self.connection.exec_driver_sql(busy_timeout(self._database.lock_timeout))
        self._begun = True

    @property
    def _in_transaction(self) -> bool:
        return bool(getattr(self.connection.connection.driver_connection, "in_transaction", False))

    def _execute(
        self, statement: sa.Executable, rows: list[dict[str, Any]] | dict[str, Any] | None = None
    ) -> sa.CursorResult[Any]:
        self._database.counters.statements += 1
        result: sa.CursorResult[Any] = self.connection.execute(statement, rows)
        return result

    def attempt(
        self, stamp: Stamp, entries: Sequence[PreparedRequest], stages: Sequence[Sequence[RowGroup]], *, savepoint: bool
    ) -> bool:
        groups = [group for stage in stages for group in stage]
        with _classified():
            self.begin()
            if savepoint:
                self.connection.exec_driver_sql("SAVEPOINT attempt")
            try:
                complete = len(self._claimable(stamp, entries)) == len(entries)
                if complete:
                    self._enter(stamp, entries)
                    for group in groups:
                        self._write(group)
                    self._keep_returned([entry for entry in entries if entry.asks])
            except (sa.exc.DBAPIError, DatabaseFailure) as err:
                self._watch(None)  # the rollback must not be interrupted
                failure = err if isinstance(err, DatabaseFailure) else classify_sqlite_error(err)
                # A full disk, RAISE(ROLLBACK) and ON CONFLICT ROLLBACK end the transaction, and the savepoint with it.
                failure.transaction_ended = not self._in_transaction
                if savepoint and not failure.transaction_ended:
                    self.connection.exec_driver_sql("ROLLBACK TO attempt")
                    self.connection.exec_driver_sql("RELEASE attempt")
                raise failure from None
            if savepoint:
                self.connection.exec_driver_sql("RELEASE attempt")
            if complete:
                self._rows += sum(len(group.rows) for group in groups)
            return complete

    def claim(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        with _classified():
            self.begin()
            self._enter(stamp, self._claimable(stamp, entries))

    @contextmanager
    def _about_ledger(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as err:
            raise classify_sqlite_error(err).of_ledger() from None

    def _claimable(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> list[PreparedRequest]:
        known = self._lookup([entry.request_id for entry in entries])
        return [e for e in entries if judge(known.get(e.request_id), e.digest, stamp.batch_id) is None]

    def _enter(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        if not entries:
            return
        ledger = self._database.ledger
        insert = sqlite.insert(ledger)
        others = [c.name for c in ledger.columns if c.name != "request_id"]
        # Only a tombstone can conflict: `_claimable` has removed all other ids under the same lock.
        taken_over = insert.on_conflict_do_update(
            index_elements=["request_id"], set_={name: insert.excluded[name] for name in others}
        )
        common = {"batch_id": stamp.batch_id, "status": stamp.status.value, "committed_at": stamp.at}
        with self._about_ledger():
            self._execute(taken_over, [{"request_id": e.request_id, "digest": e.digest, **common} for e in entries])

    def _keep_returned(self, entries: Sequence[PreparedRequest]) -> None:
        kept: list[dict[str, Any]] = []
        for entry in entries:
            entry.returned = collect(entry.rows, most=self._database.max_returned)
            if entry.returned is not None:
                kept.append({"id": entry.request_id, "rows": encode_returned(entry.returned)})
        if kept:
            ledger = self._database.ledger
            update = ledger.update().where(ledger.c.request_id == sa.bindparam("id"))
            with self._about_ledger():
                self._execute(update.values(returned=sa.bindparam("rows")), kept)

    def _write(self, group: RowGroup) -> None:
        if group.operation == INSERT and not group.adds:
            self._insert(group)
            return
        for row in group.asking:
            resolve(row)
        if group.adds:
            self._add(group)
        elif group.is_read:
            for row in group.asking:
                self._change_asking(group, row)
        else:
            changed = self._change(group, [self._parameters(group, row) for row in group.rows])
            check_updated(group, changed.rowcount)

    def _change(self, group: RowGroup, parameters: Any, *, returning: Sequence[str] = ()) -> sa.CursorResult[Any]:
        self._database.counters.statements += 1
        if group.operation == "update":
            sql = update_sql(group.table, group.columns, self._quote)
        else:
            sql = delete_sql(group.table, returning, self._quote)
        return self.connection.exec_driver_sql(sql, parameters)

    @property
    def _quote(self) -> Callable[[str], str]:
        return self.connection.dialect.identifier_preparer.quote_identifier

    def _parameters(self, group: RowGroup, row: Sequence[Any]) -> tuple[Any, ...]:
        key, others = key_and_others(group.table, group.columns)
        return tuple(row[position] for position in [*others, *key])

    def _change_asking(self, group: RowGroup, row: Row) -> None:
        """Updates or deletes one row, and reads it: as it is then, or as it was."""
        parameters = self._parameters(group, row.values)
        columns = read_columns([row])
        if group.operation == "delete":
            deleted = self._change(group, parameters, returning=columns)
            note_columns(row, columns, deleted.first())
            return
        if self._change(group, parameters).rowcount != 1:
            raise missing_row(group.table)
        note_columns(row, columns, self._read(group.table, columns, parameters[-len(group.table.rule.key) :]))

    def _read(self, table: BoundTable, columns: Sequence[str], key: tuple[Any, ...]) -> Sequence[Any] | None:
        self._database.counters.statements += 1
        return self.connection.exec_driver_sql(read_sql(table, columns, self._quote), key).first()

    def _add(self, group: RowGroup) -> None:
        """Adds rows, each key once, and reads the totals of those that are asked for."""
        table, columns = group.table, group.columns
        merged = merge(table, columns, group.rows)
        adder = self.connection.connection.info[_ADDER]
        adder.fault = ""
        self._database.counters.statements += 1
        try:
            self.connection.exec_driver_sql(
                add_sql(table, columns, self._quote), [tuple(row) for row in merged.values()]
            )
        except sa.exc.DBAPIError:
            if adder.fault:
                raise not_exact(table, adder.fault) from None
            raise
        positions, _ = key_and_others(table, columns)
        read: dict[tuple[Any, ...], Sequence[Any] | None] = {}
        names = read_columns(group.asking)
        for row in group.asking:
            if row.ask is None or not row.ask.columns:
                continue
            key = tuple(row.values[position] for position in positions)
            if key not in read:
                read[key] = self._read(table, names, key)
            note_columns(row, names, read[key])

    def _insert_asking(self, row: Row) -> None:
        """Inserts one row, and reads it back with what triggers made of it: RETURNING has not seen those yet."""
        resolve(row)
        assert row.ask is not None
        table = row.table
        if not table.identified_by:
            raise DatabaseFailure(
                ErrorClass.REQUEST, f"{table.name} is a view: SQLite returns nothing of it", code=RejectCode.DATABASE
            )
        key = (row.columns, row.ask.columns)
        statements = table.statements.get(key)
        if statements is None:
            statements = table.statements[key] = _asking_statements(table, row.columns, row.ask.columns)
        write, read, existing = statements
        values = {f"v{i}": value for i, value in enumerate(row.values)}
        identity = self._execute(write, values).first()
        if identity is not None:
            found = self._execute(read, {f"k{i}": part for i, part in enumerate(identity)}).first()
        else:
            found = None if existing is None else self._execute(existing, values).first()
        note_row(row, found)

    def _insert(self, insert: RowGroup) -> None:
        if insert.is_read:
            for row in insert.asking:
                self._insert_asking(row)
            return
        for row in insert.asking:
            resolve(row)
        table = insert.table
        statement = table.statements.get(insert.columns)
        if statement is None:
            statement = table.statements[insert.columns] = _insert_statement(table, insert.columns)
        if not insert.columns:
            for _ in insert.rows:
                self._execute(statement)
            return
        # Parameters are named by position, because a column's name may be unusable as a parameter's name.
        names = [f"v{i}" for i in range(len(insert.columns))]
        self._execute(statement, [dict(zip(names, row, strict=True)) for row in insert.rows])

    def lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        with _classified():
            self.begin()
            return self._lookup(request_ids)

    def _lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        ledger = self._database.ledger
        found: dict[str, LedgerEntry] = {}
        wanted = [IDENTITY_ID, *request_ids]
        for start in range(0, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            with self._about_ledger():
                rows = self._execute(sa.select(ledger).where(ledger.c.request_id.in_(some))).all()
            found.update((entry.request_id, entry) for entry in map(read_entry, rows))
        return self._database.without_identity(found)

    def commit(self) -> None:
        self._watch(None)
        if not self._begun:
            return
        with _classified():
            try:
                self.connection.exec_driver_sql("COMMIT")
            except sa.exc.DBAPIError:
                # A deferred constraint that fails leaves the transaction open.
                self.rollback()
                raise
        self._database.counters.transactions += 1
        self._database.counters.rows += self._rows

    def rollback(self) -> None:
        # An error may have rolled it back already. The pool ends a transaction that is still open.
        with suppress(sa.exc.DBAPIError):
            self._watch(None)
            if self._begun:
                self.connection.exec_driver_sql("ROLLBACK")
        self._begun = False
        self._rows = 0


def _asking_statements(
    table: BoundTable, columns: Sequence[str], returning: Sequence[str]
) -> tuple[sa.Executable, sa.Executable, sa.Executable | None]:
    """The statements for a row that is read back.

    Returns:
        The insert, which returns what identifies the row; the query by that; and the query of the row that the
        insert has left alone, if the conflict rule has a key.
    """
    identity: list[sa.ColumnClause[Any]] = [sa.column(name) for name in table.identified_by]
    picked = [table.table.c[name] for name in returning]
    by_identity = [column == sa.bindparam(f"k{i}") for i, column in enumerate(identity)]
    read = sa.select(*picked).select_from(table.table).where(*by_identity)
    key = table.rule.key
    existing = None
    if table.rule.conflict != "error" and key and set(key) <= set(columns):
        by_key = [table.table.c[name] == sa.bindparam(f"v{columns.index(name)}") for name in key]
        existing = sa.select(*picked).where(*by_key)
    return _insert_statement(table, columns).returning(*identity), read, existing


def _insert_statement(table: BoundTable, columns: Sequence[str]) -> sqlite.Insert:
    insert = sqlite.insert(table.table)
    if columns:
        insert = insert.values({table.table.c[name]: sa.bindparam(f"v{i}") for i, name in enumerate(columns)})
    rule = table.rule
    if rule.conflict == "error":
        return insert
    updated = table.updated(columns)
    if rule.conflict == "ignore" or not updated:
        return insert.on_conflict_do_nothing(index_elements=list(rule.key) or None)
    return insert.on_conflict_do_update(
        index_elements=list(rule.key), set_={name: insert.excluded[name] for name in updated}
    )


@contextmanager
def _classified() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as err:
        raise classify_sqlite_error(err) from None


def classify_sqlite_error(error: BaseException) -> DatabaseFailure:
    """Classifies an error of SQLAlchemy or of the driver."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None and isinstance(cause, sqlite3.DataError | OverflowError | UnicodeEncodeError):
        # The driver rejected it before SQLite received it.
        return DatabaseFailure(ErrorClass.REQUEST, str(cause))
    error_class, reject = classify_sqlite(code)
    # A commit with an I/O error may be on the disk nevertheless.
    lost = code is not None and code & 0xFF == sqlite3.SQLITE_IOERR
    failure = DatabaseFailure(error_class, short_reason(str(cause)), code=reject, connection_lost=lost)
    if code is not None and code & 0xFF == sqlite3.SQLITE_INTERRUPT:
        failure.timed_out, failure.reason = True, "it took too long: interrupted by the limit for statements"
    return failure
