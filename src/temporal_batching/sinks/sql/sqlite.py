"""SQLite: it has one writer at a time, so a transaction takes the write lock first and then has no races."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry, judge
from temporal_batching.sinks.sql.database import (
    DatabaseAdapter,
    Insert,
    Limits,
    PreparedRequest,
    SinkCounters,
    Stamp,
    Transaction,
)
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass, classify_sqlite
from temporal_batching.sinks.sql.ledger import read_entry
from temporal_batching.sinks.sql.reasons import short_reason
from temporal_batching.sinks.sql.schema import BoundColumn, BoundTable, TableName, TableNames, TableRule, check_rule
from temporal_batching.sinks.sql.tables import is_a_batchers, unique_keys
from temporal_batching.sinks.sql.types import sqlite_binder

CHUNK = 10_000
"""Ids in one SELECT: SQLite takes 32,766 parameters."""

STEPS = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time: about a tenth of a millisecond."""

_USED = "temporal_batching.prepared"


class _AsBound(sa.types.UserDefinedType[Any]):
    """The type of a column whose values are bound already: SQLAlchemy's types would turn decimals into floats."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        raise NotImplementedError


class SqliteDatabase(DatabaseAdapter):
    """How the sink uses SQLite."""

    null = None
    one_update_per_row = False

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
        names = _user_tables(connection)
        reserved = self._reserved(connection, names)
        writable = {name: TableName(None, name) for name in names if name.casefold() not in reserved}
        return TableNames(writable, frozenset(name for name in names if name.casefold() in reserved))

    def _reserved(self, connection: sa.Connection, names: Sequence[str]) -> set[str]:
        """Ledgers, tables of dead letters, views over them, and relations with a trigger that writes to one.

        The names are in lower case.
        """
        own = {table.name.casefold() for table in self.own}
        for name in names:
            columns = _columns_of(connection, name)
            if is_a_batchers([column for column, _ in columns], [c for c, key in columns if key], self.reserved):
                own.add(name.casefold())
        return own.union(
            name.casefold() for name in connection.scalars(_INDIRECT) if not own.isdisjoint(touched(connection, name))
        )

    def reflect(self, connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
        table = sa.Table(where.name, sa.MetaData())
        columns: dict[str, BoundColumn] = {}
        strict = _is_strict(connection, where.name)
        for column, declared, not_null, default, key, hidden in connection.execute(_COLUMNS, {"name": where.name}):
            if hidden == HIDDEN:
                continue
            columns[column] = BoundColumn(
                name=column,
                bind=sqlite_binder(declared, nullable=not not_null and not key, strict=strict),
                # A null in an INTEGER PRIMARY KEY is a new id. In other columns it is the same as leaving it out.
                plain=default is None,
                generated=hidden in (2, 3),
            )
            table.append_column(sa.Column(column, _AsBound()))
        check_rule(name, columns, rule, map(frozenset, unique_keys(connection, where)))
        return BoundTable(name, table, columns, rule)

    def schema_version(self, connection: sa.Connection) -> object:
        return connection.exec_driver_sql("PRAGMA schema_version").scalar()

    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        return []


def busy_timeout(seconds: float) -> str:
    """The statement that bounds a connection's waits for locks."""
    return f"PRAGMA busy_timeout = {int(seconds * 1000)}"


def _columns_of(connection: sa.Connection, name: str) -> list[tuple[str, bool]]:
    """The columns, each with whether it belongs to the primary key."""
    with suppress(sa.exc.DBAPIError):  # a view over a table that was dropped has none
        return [(row.name, bool(row.pk)) for row in connection.execute(_COLUMNS, {"name": name})]
    return []


def touched(connection: sa.Connection, name: str) -> set[str]:
    """The tables that a view reads, and those that a write to a view or a table writes to, including its triggers.

    SQLite calls its authorizer for every table when it compiles a statement, including those in nested triggers. The
    statements are explained, not executed.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    quote = connection.dialect.identifier_preparer.quote_identifier
    tables: set[str] = set()
    actions = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}

    def note(action: int, table: str | None, *_: object) -> int:
        if table is not None and action in actions:
            tables.add(table.casefold())
        return sqlite3.SQLITE_OK

    statements = [f"INSERT INTO {quote(name)} DEFAULT VALUES"]
    statements += [f"UPDATE {quote(name)} SET {quote(column)} = NULL" for column, _ in _columns_of(connection, name)]
    is_view = connection.scalar(_IS_VIEW, {"name": name})
    if is_view:
        statements.append(f"SELECT * FROM {quote(name)}")
        actions.add(sqlite3.SQLITE_READ)
    driver.set_authorizer(note)
    try:
        for statement in statements:
            with suppress(sqlite3.Error):  # the view does not support the statement, or its table was dropped
                driver.execute(f"EXPLAIN {statement}").close()
    finally:
        driver.set_authorizer(None)
    return tables - {name.casefold()}


_COLUMNS = sa.text('SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(:name) ORDER BY cid')


HIDDEN = 1
"""Marks a hidden column of a virtual table. FTS5 runs commands from one: ``delete-all`` empties the index."""

TABLE_LIST_SINCE = (3, 37, 0)


def _user_tables(connection: sa.Connection) -> list[str]:
    """Tables and views, without SQLite's own tables and without the shadow tables of virtual tables."""
    if sqlite3.sqlite_version_info >= TABLE_LIST_SINCE:
        return list(connection.scalars(_TABLES))
    inspector = sa.inspect(connection)
    virtual = connection.scalars(_VIRTUAL).all()
    names = [*inspector.get_table_names(), *inspector.get_view_names()]
    return [n for n in names if not any(n.casefold().startswith(f"{v.casefold()}_") for v in virtual)]


def _is_strict(connection: sa.Connection, name: str) -> bool:
    if sqlite3.sqlite_version_info < TABLE_LIST_SINCE:
        return False  # STRICT and the list came with the same release
    return bool(connection.scalar(_STRICT, {"name": name}))


_TABLES = sa.text(
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type <> 'shadow' AND substr(name, 1, 7) <> 'sqlite_'"
)
_INDIRECT = sa.text(
    "SELECT name FROM sqlite_master WHERE type = 'view' UNION SELECT tbl_name FROM sqlite_master WHERE type = 'trigger'"
)
_IS_VIEW = sa.text("SELECT 1 FROM sqlite_master WHERE type = 'view' AND name = :name COLLATE NOCASE")
_STRICT = sa.text("SELECT strict FROM pragma_table_list(:name) WHERE schema = 'main'")
_VIRTUAL = sa.text("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%'")


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

    def _execute(self, statement: sa.Executable, rows: list[dict[str, Any]] | None = None) -> sa.CursorResult[Any]:
        self._database.counters.statements += 1
        result: sa.CursorResult[Any] = self.connection.execute(statement, rows)
        return result

    def attempt(
        self, stamp: Stamp, entries: Sequence[PreparedRequest], inserts: Sequence[Insert], *, savepoint: bool
    ) -> bool:
        with _classified():
            self.begin()
            if savepoint:
                self.connection.exec_driver_sql("SAVEPOINT attempt")
            try:
                complete = len(self._claimable(stamp, entries)) == len(entries)
                if complete:
                    self._enter(stamp, entries)
                    for insert in inserts:
                        self._insert(insert)
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
                self._rows += sum(len(insert.rows) for insert in inserts)
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

    def _insert(self, insert: Insert) -> None:
        table = insert.table
        statement = table.statements.get(insert.columns)
        if statement is None:
            statement = table.statements[insert.columns] = _statement(table, insert.columns)
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


def _statement(table: BoundTable, columns: Sequence[str]) -> sa.Executable:
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
