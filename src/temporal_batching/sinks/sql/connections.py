"""The connections of a sink: its threads, retries on stale connections, timeouts, and errors of the driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import sqlalchemy as sa

from temporal_batching.errors import SinkUnavailable
from temporal_batching.redaction import without_secrets
from temporal_batching.sinks.sql.connect import ConnectedEngine
from temporal_batching.sinks.sql.database import DatabaseAdapter
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass

T = TypeVar("T")

MAX_STALE = 16
"""How many dead connections one call takes from the pool before it concludes that the server is gone."""

DRIVER_ERRORS = (DatabaseFailure, sa.exc.SQLAlchemyError)
"""What work on a connection raises when the database is at fault: classified already, or to be classified."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """The longest times that the database may take.

    Attributes:
        statement: All statements of a flush together, and each other statement.
        lock: Each wait for a lock.
    """

    statement: timedelta
    lock: timedelta


class Connections:
    """Runs work on connections of one engine, in threads of its own.

    Attributes:
        engine: Makes the connections. It is disposed of at the end if it was created for the sink.
        adapter: How this kind of database is used.
        timeouts: The sink's.
    """

    def __init__(self, connected: ConnectedEngine, adapter: DatabaseAdapter, timeouts: Timeouts) -> None:
        self.engine = connected.engine
        self.adapter = adapter
        self.timeouts = timeouts
        self._owned = connected.owned
        self._threads = connected.threads
        self._executor: ThreadPoolExecutor | None = None

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs work in one of the threads, so that the event loop does not wait for the database."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="sql-sink")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Waits for what still runs, and closes the connections of an engine that was created for the sink."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
        if self._owned:
            self.engine.dispose()

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs work on a connection, and repeats it on another one if the connection was dead before the commit.

        After a restart of the server every connection in the pool is dead, and only its use shows that; a ping before
        each batch would cost a round trip.

        Raises:
            DatabaseFailure: The work failed, and its error is classified.
            sqlalchemy.exc.SQLAlchemyError: The work failed otherwise.
        """
        stale = 0
        while True:
            with self.engine.connect() as connection:
                used = self.adapter.prepare(connection)
                try:
                    return work(connection)
                except (DatabaseFailure, sa.exc.DBAPIError) as err:
                    failure = self.classify(err)
                    stale_session = failure.connection_lost or (failure.session_suspect and used)
                    if stale_session:
                        connection.invalidate()
                    if not stale_session or failure.committing or not used or stale >= MAX_STALE:
                        raise
                finally:
                    self.adapter.release(connection)
            stale += 1
            self.adapter.counters.retries += 1

    def run_bounded(self, work: Callable[[sa.Connection], T], *, longest: timedelta = timedelta.max) -> T:
        """Runs work that writes no batch in a transaction with the sink's timeouts.

        Args:
            work: May be repeated, as in `run`.
            longest: A shorter limit for each statement and for each wait for a lock.

        Raises:
            DatabaseFailure: The work failed, and its error is classified.
            sqlalchemy.exc.SQLAlchemyError: The work failed otherwise.
        """
        statement = min(self.timeouts.statement, longest).total_seconds()
        lock = min(self.timeouts.lock, longest).total_seconds()

        def bounded(connection: sa.Connection) -> T:
            with self.adapter.bounded(connection, statement=statement, lock=lock):
                return work(connection)

        return self.run(bounded)

    def classify(self, error: DatabaseFailure | sa.exc.SQLAlchemyError) -> DatabaseFailure:
        """The classified error."""
        return error if isinstance(error, DatabaseFailure) else self.adapter.classify(error)

    def describe(self, failure: DatabaseFailure) -> str:
        """The reason of a failure, with the kind of database and without the secrets of its URL."""
        url = self.engine.url.render_as_string(hide_password=False)
        return f"{self.engine.dialect.name}: {without_secrets(failure.reason, url)}"

    @contextmanager
    def unavailable(self, what: str = "") -> Iterator[None]:
        """Turns an error of the database into `SinkUnavailable`, without its cause: that may hold values or the URL.

        Args:
            what: Precedes the reason if the connection is alive, so that the error is about this statement.
        """
        try:
            yield
        except DRIVER_ERRORS as err:
            failure = self.classify(err)
            prefix = "" if failure.error_class is ErrorClass.UNAVAILABLE else what
            raise SinkUnavailable(f"{prefix}{self.describe(failure)}", in_doubt=False) from None
