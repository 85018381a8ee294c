"""The settings of a session of MariaDB, without which a value may be changed silently."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pymysql
import sqlalchemy as sa
from pymysql.connections import Connection
from pymysql.cursors import Cursor

from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.sql.mariadb_errors import LOCK_TIMEOUT, error_number
from temporal_batching.sinks.sql.mariadb_modes import SQL_MODES
from temporal_batching.sinks.sql.mariadb_types import quoted

T = TypeVar("T")

SETTINGS = (
    "sql_mode",
    "time_zone",
    "foreign_key_checks",
    "unique_checks",
    "max_statement_time",
    "innodb_lock_wait_timeout",
    "lock_wait_timeout",
    "idle_transaction_timeout",
)
"""What a sink sets, and restores on a connection of the user's own engine."""

POLL = 0.01
"""Seconds between two tries of a statement that may wait for a lock for less than a second."""

_KEY = "temporal_batching.session"


@dataclass(frozen=True)
class SessionLimits:
    """The limits of a session's statements, in seconds.

    Attributes:
        statement: The longest that each statement may take.
        lock: The longest that it may wait for a lock: MariaDB knows whole seconds only.
        brief: If ``lock`` is 0: how long a statement that meets a lock is tried again.
    """

    statement: float
    lock: int
    brief: float = 0

    @classmethod
    def of(cls, statement: float, lock: float, until: float = math.inf) -> SessionLimits:
        """The limits as MariaDB knows them.

        Args:
            statement: For each statement.
            lock: For each wait for a lock; it is rounded up.
            until: The seconds until such a wait must have ended; they are rounded down.
        """
        limit = min(lock, until)
        if limit < 1:
            return cls(statement, 0, limit)
        return cls(statement, math.floor(until) if until < lock else math.ceil(lock))

    def about(self, other: SessionLimits) -> bool:
        """Whether the difference is not worth a statement."""
        return self.lock == other.lock and abs(self.statement - other.statement) * 10 <= other.statement


class Session:
    """A connection, and what it is set to.

    Attributes:
        driver: The driver's connection.
        packet: The bytes of the largest packet that the server takes.
    """

    def __init__(self, driver: Connection) -> None:
        self.driver = driver
        self.packet = 0
        self._ends_at_timeout = False
        self._limits: SessionLimits | None = None
        self._restore: list[str] = []

    def start(self, dialect: sa.Dialect, *, idle: float, owned: bool) -> None:
        """Sets what does not change.

        Args:
            dialect: SQLAlchemy's, which quotes names as the session's former mode wanted it.
            idle: The seconds after which the server ends an idle transaction.
            owned: Whether nobody else uses the connection, so that nothing has to be restored.

        Raises:
            SinkConfigurationError: The server or the connection cannot be used.
            pymysql.MySQLError: The connection is lost.
        """
        version = str(self.driver.get_server_info())  # type: ignore[no-untyped-call]
        if "mariadb" not in version.lower():
            raise SinkConfigurationError(f"the server {version} is not MariaDB: the sink is not tested with it")
        if self.driver.charset != "utf8mb4":
            raise SinkConfigurationError(
                f"a connection in {self.driver.charset}: create the engine with charset=utf8mb4, or texts are lost"
            )
        names = ", ".join(f"@@SESSION.{name}" for name in SETTINGS)
        rows = self.rows(f"SELECT {names}, @@tx_isolation, @@innodb_rollback_on_timeout, @@max_allowed_packet")
        *before, isolation, ends, self.packet = rows[0]
        self._ends_at_timeout = bool(ends)
        if not owned:
            pairs = zip(SETTINGS, before, strict=True)
            self._restore = [
                "SET SESSION " + ", ".join(f"{name} = {_setting(value)}" for name, value in pairs),
                f"SET SESSION TRANSACTION ISOLATION LEVEL {str(isolation).replace('-', ' ')}",
            ]
        modes = [*SQL_MODES, *(["ANSI_QUOTES"] if getattr(dialect, "_server_ansiquotes", False) else [])]
        fixed = {
            "sql_mode": quoted(",".join(modes)),
            "time_zone": "'+00:00'",
            "foreign_key_checks": "1",
            "unique_checks": "1",
            "idle_transaction_timeout": str(math.ceil(idle)),
        }
        self.query("SET SESSION " + ", ".join(f"{name} = {value}" for name, value in fixed.items()))
        # A query after an insert that waited for another transaction sees what that transaction wrote.
        self.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def limit(self, limits: SessionLimits) -> bool:
        """Sets the limits of the following statements. Returns whether that took a statement."""
        if limits.brief and self._ends_at_timeout:
            # A second try would be a transaction without the first statements.
            limits = SessionLimits(limits.statement, 1)
        if self._limits is not None and limits.about(self._limits):
            self._limits = replace(self._limits, brief=limits.brief)
            return False
        self.query(
            f"SET SESSION max_statement_time = {max(limits.statement, 0.001):.3f},"
            f" innodb_lock_wait_timeout = {limits.lock}, lock_wait_timeout = {limits.lock}"
        )
        self._limits = limits
        return True

    def patiently(self, send: Callable[[str], T], sql: str) -> T:
        """Sends a statement, and again if it has met a lock for which it may wait for less than a second.

        A statement that has met a lock is rolled back by itself, and the transaction goes on.
        """
        brief = 0.0 if self._limits is None or self._limits.lock else self._limits.brief
        until = time.monotonic() + brief
        while True:
            try:
                return send(sql)
            except pymysql.MySQLError as err:
                if error_number(err) != LOCK_TIMEOUT or time.monotonic() >= until:
                    raise
            time.sleep(POLL)

    def restore(self) -> None:
        """Sets a connection of the user's own engine to what it was.

        Raises:
            pymysql.MySQLError: The connection is lost.
        """
        for statement in self._restore:
            self.query(statement)

    def query(self, sql: str) -> int:
        """Sends a statement. Returns the number of rows that it changed."""
        # Without arguments nothing in the statement is replaced.
        cursor = self.driver.cursor(Cursor)
        try:
            cursor.execute(sql)
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Sends a query. Returns its rows."""
        cursor = self.driver.cursor(Cursor)
        try:
            cursor.execute(sql)
            return list(cursor.fetchall())
        finally:
            cursor.close()

    @property
    def in_transaction(self) -> bool:
        """Whether the server has a transaction open."""
        ((active,),) = self.rows("SELECT @@in_transaction")
        return bool(active)


def _setting(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


def session_of(connection: sa.Connection) -> Session:
    """The session of a connection from the pool. It is started if it is new, or has been restored."""
    proxied = connection.connection
    found = proxied.info.get(_KEY)
    driver = proxied.driver_connection
    if isinstance(found, Session) and found.driver is driver:
        return found
    assert isinstance(driver, Connection)
    session = proxied.info[_KEY] = Session(driver)
    return session


def forget(connection: sa.Connection) -> Session | None:
    """Takes the session away from a connection that returns to the pool of the user's engine."""
    found = connection.connection.info.pop(_KEY, None)
    return found if isinstance(found, Session) else None
