"""PostgreSQL through psycopg 3: one trip for BEGIN, ledger and rows of a whole batch, and one for COMMIT.

Every column travels as one array in the types' own text syntax and is unnested by the server. Measured against COPY
and multi-row VALUES (``benchmarks/sink_postgresql.py``), that is as fast as COPY, knows conflict rules, and can share
a pipeline, which COPY cannot: COPY alone costs two trips.
"""

from __future__ import annotations

import codecs
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerEntry
from temporal_batching.sinks.sql.database import (
    DatabaseAdapter,
    Insert,
    Limits,
    PreparedRequest,
    SinkCounters,
    Stamp,
    Transaction,
)
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass, classify_sqlstate
from temporal_batching.sinks.sql.ledger import read_entry
from temporal_batching.sinks.sql.reasons import short_reason
from temporal_batching.sinks.sql.schema import BoundColumn, BoundTable, TableName, TableNames, TableRule, check_rule
from temporal_batching.sinks.sql.tables import is_a_batchers, leading_to
from temporal_batching.sinks.sql.types import PG_NULL, array_literal, postgresql_binder, quoted_element

_USED = "temporal_batching.prepared"
_SESSION_USED = "temporal_batching.session_used"

# At READ COMMITTED an insert that waited for another transaction is followed by a look that sees what that one did.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# For this transaction only: the connection may be the user's, or a pooler's.
_SETTINGS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_LIMITS = "SELECT " + ", ".join(f"set_config('{name}', %s, true)" for name in _SETTINGS)


# The triggers that are deferred to the commit run here instead: no timeout applies to a commit.
_RUN_DEFERRED = "SET CONSTRAINTS ALL IMMEDIATE"


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))


class PostgresqlDatabase(DatabaseAdapter):
    null = PG_NULL
    waves = True

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
        # Inserts only: twice as fast as with ON CONFLICT, which looks at the index twice. A known id fails it, and puts
        # a line into the server's log; then the careful claim has its turn. Known ids come with retries alone.
        self.claim_new_sql = (
            f"INSERT INTO {quote} AS ledger (request_id, digest, batch_id, status, committed_at)"
            " SELECT id, digest, %s, %s, %s FROM unnest(%s::text[], %s::text[]) AS claims (id, digest)"
            # Into no other ledger than the one that was opened: an emptied or replaced one takes nothing, and the count
            # of rows says so.
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
        """Parameters of `_LIMITS`.

        However little time is left for the next statement, a transaction may be idle for as long as ever: the worker
        computes meanwhile.
        """
        return _milliseconds(statement), _milliseconds(lock), self._idle

    @contextmanager
    def bounded(self, connection: sa.Connection, *, statement: float, lock: float) -> Iterator[None]:
        # Without parameters the driver sends several statements at once: one round trip.
        settings = zip(_SETTINGS, self.limits_of(statement, lock), strict=True)
        connection.exec_driver_sql("; ".join([_BEGIN, *(f"SET LOCAL {name} = {value}" for name, value in settings)]))
        try:
            yield
        except BaseException:
            connection.rollback()
            raise
        connection.commit()

    def prepare(self, connection: sa.Connection) -> bool:
        # BEGIN and COMMIT are sent from here, the former within a pipeline.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.prepare_threshold = None  # an engine of the user's own may have it set: see `_trip`
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
        relations = connection.execute(_RELATIONS).all()
        reserved = self._reserved(connection, relations)
        writable: dict[str, TableName] = {}
        refused: set[str] = set()
        for one in relations:
            if not one.usable:
                continue
            names = [f"{one.schema}.{one.name}", *([one.name] if one.visible else [])]
            if one.oid in reserved:
                refused.update(names)
            else:
                writable.update(dict.fromkeys(names, TableName(one.schema, one.name)))
        return TableNames(writable, frozenset(refused))

    def _reserved(self, connection: sa.Connection, relations: Iterable[sa.Row[Any]]) -> set[int]:
        """Ledgers and dead letters, and all that a write may reach them through, whatever it calls its columns."""
        own = {connection.scalar(_OID, {"name": _quoted(connection, table)}) for table in self.own} - {None}
        for one in relations:
            # A foreign table has no key here, wherever it leads.
            key = None if one.kind == "f" else one.key or ()
            if is_a_batchers(one.columns or (), key, self.reserved):
                own.add(one.oid)
        leads_to: dict[int, set[int]] = {}
        for relation, other in connection.execute(_LEADS_TO):
            leads_to.setdefault(relation, set()).add(other)
        return leading_to(own, leads_to)

    def reflect(self, connection: sa.Connection, name: str, where: TableName, rule: TableRule) -> BoundTable:
        schema, table_name = where
        inspector = sa.inspect(connection)
        types = _reflect_types(inspector, table_name, schema)
        columns: dict[str, BoundColumn] = {}
        for (
            column,
            type_sql,
            array,
            composite,
            delimiter,
            not_null,
            has_default,
            identity,
            generated,
        ) in connection.execute(_COLUMNS, {"schema": schema, "table": table_name}):
            column_type = types[column]
            if array and isinstance(column_type, sa.types.NullType):
                column_type = sa.ARRAY(column_type)  # of elements that SQLAlchemy does not know
            columns[column] = BoundColumn(
                name=column,
                bind=postgresql_binder(column_type, nullable=not not_null, delimiter=delimiter),
                plain=not (has_default or identity),
                generated=bool(generated) or identity == "a",
                type_sql=type_sql,
                nested=array or composite or delimiter != ",",
            )
        primary = inspector.get_pk_constraint(table_name, schema=schema)["constrained_columns"]
        unique = [frozenset(primary)] if primary else []
        for index in inspector.get_indexes(table_name, schema=schema):
            names, options = index["column_names"], index["dialect_options"]
            # One that is still built, or failed to be, is not valid: a conflict rule cannot rest on it.
            partial, invalid = options.get("postgresql_where") is not None, options.get("postgresql_invalid")
            if index["unique"] and None not in names and not partial and not invalid:
                included = set(options.get("postgresql_include") or ())
                unique.append(frozenset(n for n in names if n is not None and n not in included))
        check_rule(name, columns, rule, unique)
        return BoundTable(name, sa.Table(table_name, sa.MetaData(), schema=schema), columns, rule)

    def schema_version(self, connection: sa.Connection) -> object:
        return connection.scalar(_VERSION)

    def id_fault(self, request_id: str) -> str | None:
        if self._codec is None or request_id.isascii():
            return None
        try:
            request_id.encode(self._codec)
        except UnicodeEncodeError:
            return "the request id has a character that the database's encoding lacks"
        return None

    def missing_privileges(self, connection: sa.Connection) -> list[str]:
        self._codec = codec_of(str(connection.scalar(_ENCODING)))
        quoted = _quoted(connection, self.ledger)
        return [
            privilege
            for privilege in ("SELECT", "INSERT", "UPDATE")
            if not connection.scalar(_PRIVILEGE, {"name": quoted, "privilege": privilege})
        ]


_reflecting = threading.Lock()


def _reflect_types(inspector: sa.Inspector, table: str, schema: str | None) -> dict[str, sa.types.TypeEngine[Any]]:
    """The columns' types, ``NullType`` for those that SQLAlchemy does not know: these take their own syntax."""
    # Filters of warnings are the process's: two that change them at once would not both find them again.
    with _reflecting, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Did not recognize type", sa.exc.SAWarning)
        return {column["name"]: column["type"] for column in inspector.get_columns(table, schema=schema)}


def _quoted(connection: sa.Connection, table: sa.Table) -> str:
    # A bound value, not a statement: the preparer's doubled percent signs have to go.
    return connection.dialect.identifier_preparer.format_table(table).replace("%%", "%")


def codec_of(encoding: str) -> str | None:
    name = encoding.casefold().replace("win", "cp").replace("koi8", "koi8_")
    if name in ("utf8", "sql_ascii"):
        return None
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


_ENCODING = sa.text("SELECT current_setting('server_encoding')")
# Every change of a table, a column, a type's labels or of what this role may see writes one of these rows anew.
_VERSION = sa.text(
    "SELECT concat_ws(' ', current_setting('search_path'),"
    " (SELECT sum(hashtext(concat_ws(',', c.oid, c.xmin, c.relname)))"
    "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    " (SELECT sum(hashtext(concat_ws(',', a.attrelid, a.attnum, a.xmin)))"
    "  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE a.attnum > 0 AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    # What a conflict rule needs.
    " (SELECT sum(hashtext(concat_ws(',', i.indexrelid, i.xmin)))"
    "  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE i.indisunique AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    # Domains, with their defaults.
    " (SELECT sum(hashtext(concat_ws(',', t.oid, t.xmin)))"
    "  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
    "  WHERE t.typtype = 'd' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),"
    " (SELECT sum(hashtext(concat_ws(',', oid, xmin))) FROM pg_enum),"
    " (SELECT sum(hashtext(concat_ws(',', oid, xmin))) FROM pg_namespace))"
)
_OID = sa.text("SELECT to_regclass(:name)::oid")
_PRIVILEGE = sa.text("SELECT has_table_privilege(:name, :privilege)")
# Those in schemas that this role may not use as well: a view elsewhere writes to them with its owner's rights.
_RELATIONS = sa.text(
    "SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,"
    " pg_table_is_visible(c.oid) AS visible, has_schema_privilege(n.oid, 'USAGE') AS usable,"
    " (SELECT array_agg(a.attname::text) FROM pg_attribute a"
    "  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,"
    " (SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid"
    "  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])"
    "  WHERE i.indrelid = c.oid AND i.indisprimary) AS key"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'f')"
    " AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
)
# A view or a rule refers to a table; who reads a table reads its children; a partitioned table writes to its
# partitions. Below 16384 are the server's own.
_LEADS_TO = sa.text(
    "SELECT r.ev_class, d.refobjid FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass"
    " AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass"
    " WHERE r.ev_class >= 16384 AND d.refobjid >= 16384 AND d.refobjid <> r.ev_class"
    " UNION SELECT inhrelid, inhparent FROM pg_inherits"
    " UNION SELECT i.inhparent, i.inhrelid FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent"
    " WHERE p.relkind = 'p'"
)
# The type without its length: a cast to varchar(3) would cut silently, where the assignment to the column refuses.
_COLUMNS = sa.text(
    "SELECT a.attname, format_type(a.atttypid, -1), t.typcategory = 'A', t.typcategory = 'C', t.typdelim, a.attnotnull,"
    # Leaving a column of a view out means the default of the table below it; a domain brings a default of its own.
    " a.atthasdef OR t.typdefault IS NOT NULL OR c.relkind = 'v',"
    " a.attidentity, a.attgenerated FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
    " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = :schema AND c.relname = :table AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)


_UNDO: list[tuple[str, Sequence[Any] | None]] = [
    ("ROLLBACK TO SAVEPOINT attempt", None),
    ("RELEASE SAVEPOINT attempt", None),
]


class PostgresqlTransaction(Transaction):
    """Statements that cost no trip of their own (BEGIN, what ends a savepoint) wait for the next that does."""

    def __init__(
        self, connection: psycopg.Connection[Any], database: PostgresqlDatabase, *, session_used: bool = False
    ) -> None:
        self._connection = connection
        self._database = database
        self._waiting: list[tuple[str, Sequence[Any] | None]] = [(_BEGIN, None), (_LIMITS, database.limits)]
        self._limits = database.limits
        self._session_used = session_used
        self._rows = 0

    @property
    def session_used(self) -> bool:
        return self._session_used

    def limit(self, limits: Limits) -> None:
        self._limit(self._database.limits_of(limits.statement, min(limits.lock, limits.until_deadline)))

    def _limit(self, limits: tuple[str, str, str]) -> None:
        for position, (sql, _) in enumerate(self._waiting):
            if sql is _LIMITS:  # not sent yet: these take their place
                self._waiting[position] = (_LIMITS, limits)
                self._limits = limits
                return
        # Whatever rounds to the same tenth of what it was needs no statement of its own.
        if all(abs(int(a) - int(b)) * 10 <= int(b) for a, b in zip(limits, self._limits, strict=True)):
            return
        self._limits = limits
        self._waiting.append((_LIMITS, limits))

    @contextmanager
    def _trip(self) -> Iterator[Callable[..., psycopg.Cursor[Any]]]:
        """One pipeline: what is sent inside is answered at its end, and an error in it undoes what comes after.

        Nothing is prepared under a name: a pooler in transaction mode gives every transaction another connection of
        the server, and names are not known there. Names would save 5 % of the time of a batch of 100 rows, 9 % of
        one of 1,000 (measured without a pooler, on one machine, nothing synced to disk).
        """
        connection = self._connection
        waiting, self._waiting = self._waiting, []
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
                        # Answers may come while there is still something to send. What ends the pipeline then only
                        # says that it was aborted, and the driver would log it as an error of its own.
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
            self._waiting.append(("SAVEPOINT attempt", None))
        rows: list[psycopg.Cursor[Any]] = []
        claims: list[psycopg.Cursor[Any]] = []
        try:
            with self._trip() as send:
                # To isolate a fault, the ledger first: what it is refused as well, no request is to blame for.
                if savepoint:
                    claims.append(self._send_claim(send, stamp, entries))
                # Otherwise the rows: the server is busy with them while the digests for the ledger are computed here.
                for insert in inserts:
                    sql, columns = _statement(self._database.engine, insert)
                    rows.append(send(sql, columns))
                if not savepoint:
                    claims.append(self._send_claim(send, stamp, entries, new=True))
        except DatabaseFailure as failure:
            if savepoint:
                self._waiting = _UNDO.copy()
            of_ledger = not _all_done(claims, 1) if savepoint else _all_done(rows, len(inserts))
            if of_ledger and failure.error_class in (ErrorClass.REQUEST, ErrorClass.SCHEMA):
                if not savepoint and failure.code is RejectCode.CONSTRAINT:
                    return False
                # No request is at fault when the ledger itself refuses.
                raise failure.of_ledger() from None
            raise
        (claim,) = claims
        if claim.rowcount == len(entries):
            if savepoint:
                self._waiting = _UNDO[1:]
            self._rows += sum(len(insert.rows) for insert in inserts)
            return True
        if savepoint:
            self._waiting = _UNDO.copy()
        return False

    def _send_claim(
        self,
        send: Callable[..., psycopg.Cursor[Any]],
        stamp: Stamp,
        entries: Sequence[PreparedRequest],
        *,
        new: bool = False,
    ) -> psycopg.Cursor[Any]:
        # Sorted, so that two batches with the same ids queue up instead of deadlocking.
        entries = sorted(entries, key=lambda e: e.request_id)
        ids, digests = _id_array(e.request_id for e in entries), array_literal(e.digest for e in entries)
        sql = self._database.claim_new_sql if new else self._database.claim_sql
        return send(sql, (stamp.batch_id, stamp.status.value, stamp.at, ids, digests, self._database.identity))

    def claim(self, stamp: Stamp, entries: Sequence[PreparedRequest]) -> None:
        if entries:
            with _about_ledger(), self._trip() as send:
                self._send_claim(send, stamp, entries)

    def lookup(self, request_ids: Sequence[str]) -> dict[str, LedgerEntry]:
        with _about_ledger(), self._trip() as send:
            cursor = send(self._database.lookup_sql, (_id_array([IDENTITY_ID, *request_ids]),))
        return self._database.without_identity({entry.request_id: entry for entry in map(read_entry, cursor)})

    def commit(self) -> None:
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            return
        with self._trip():
            self._connection.execute(_RUN_DEFERRED, prepare=False)
            committed = self._connection.execute("COMMIT", prepare=False)
        if committed.statusmessage != "COMMIT":
            raise DatabaseFailure(ErrorClass.MOMENT, f"the server answered {committed.statusmessage} to COMMIT")
        self._database.counters.transactions += 1
        self._database.counters.rows += self._rows

    def rollback(self) -> None:
        connection = self._connection
        self._waiting = [(_BEGIN, None), (_LIMITS, self._database.limits)]
        self._limits = self._database.limits
        self._rows = 0
        if connection.closed or connection.info.transaction_status is TransactionStatus.IDLE:
            return
        self._database.counters.round_trips += 1
        try:
            connection.rollback()
        except psycopg.Error:
            # The server rolls back when the connection ends; a connection in any other state must not be kept.
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
    """The insert of any number of rows. Every name in it comes from the catalogue, quoted by SQLAlchemy."""
    preparer = engine.dialect.identifier_preparer
    quote = preparer.quote_identifier
    target = preparer.format_table(table.table)
    if not names:
        return f"INSERT INTO {target} SELECT FROM generate_series(1, %s)"
    columns = [table.columns[name] for name in names]
    # Arrays of arrays would be flattened, and arrays of composites spread over several columns: such a column is
    # unnested as text, and cast element by element. So is one whose elements are not separated by commas.
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


_READ_ONLY = "25006"
_QUERY_CANCELED = "57014"
_UNSTORABLE = ("22021", "22P05")
"""A character that the database's encoding lacks, or that has no counterpart in it."""


def classify_postgresql_error(
    error: BaseException, connection: psycopg.Connection[Any] | None = None
) -> DatabaseFailure:
    cause = getattr(error, "orig", None) or error
    lost = bool(getattr(error, "connection_invalidated", False)) or (connection is not None and connection.closed)
    if isinstance(cause, UnicodeEncodeError | psycopg.DataError) and getattr(cause, "sqlstate", None) is None:
        # Refused by the driver before the server saw it: text that the connection's encoding cannot express.
        failure = DatabaseFailure(ErrorClass.REQUEST, str(cause), connection_lost=lost)
        failure.text_unstorable = isinstance(cause, UnicodeEncodeError)
        return failure
    sqlstate = getattr(cause, "sqlstate", None)
    error_class, code = classify_sqlstate(sqlstate, connected=connection is not None and not lost)
    if lost:
        # Whatever was said last, nothing more can be asked on this connection.
        error_class = ErrorClass.UNAVAILABLE
    failure = DatabaseFailure(error_class, describe_postgresql_error(cause), code=code, connection_lost=lost)
    failure.timed_out = sqlstate == _QUERY_CANCELED
    # After a failover the pool's connections may lead to a server that is a standby now.
    failure.session_suspect = sqlstate == _READ_ONLY
    failure.text_unstorable = sqlstate in _UNSTORABLE
    return failure


_WITH_DETAIL = ("22", "23503", "23505")
"""SQLSTATEs whose detail is about the value that was sent: data exceptions, and the key of a foreign key or of a unique
index. That of others brings the whole row, with what defaults and triggers put into it (NOT NULL, CHECK), or a row of
somebody else (EXCLUDE)."""


def describe_postgresql_error(cause: BaseException) -> str:
    """The server's words, as far as they are about what was sent."""
    diag = cause.diag if isinstance(cause, psycopg.Error) else None
    if diag is None or not diag.message_primary:
        return short_reason(str(cause))
    # A context says that the error came from inside a function: its detail is about what that one was doing.
    if diag.message_detail and not diag.context and (diag.sqlstate or "").startswith(_WITH_DETAIL):
        return short_reason(f"{diag.message_primary}: {diag.message_detail}")
    return short_reason(diag.message_primary)
