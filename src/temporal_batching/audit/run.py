"""`audit`: reads Temporal, then the database, and reports every promise that was broken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.audit.check import AuditScope, check_database
from temporal_batching.audit.histories import HistoryReader, QueryRefused
from temporal_batching.audit.report import AuditReport
from temporal_batching.audit.store import FactStore
from temporal_batching.contract import DEFAULT_BATCHER
from temporal_batching.errors import AuditError, InvalidAudit, SinkConfigurationError
from temporal_batching.routing import default_task_queue
from temporal_batching.sinks.ledger import DEFAULT_LEDGER
from temporal_batching.sinks.sql.schema import TableRule


async def audit(
    client: Client,
    database: str,
    *,
    batcher: str = DEFAULT_BATCHER,
    task_queue: str | None = None,
    ledger_table: str = DEFAULT_LEDGER,
    tables: Mapping[str, TableRule] | None = None,
    query: str | None = None,
    since: datetime | timedelta | None = None,
    complete: bool = False,
) -> AuditReport:
    """Compares what callers asked for and got with what the ledger and the tables hold.

    It reads callers' histories, programs' activities and the shards' histories from Temporal, then the ledger and
    every record's row, and changes nothing: a role that may ``SELECT`` is enough. Whatever had a result before the
    audit began must be in the database. A workflow that ended a moment ago may not be listed yet, and is not audited
    then; what Temporal has deleted cannot be. Facts are kept in a temporary file, so memory stays small.

    Example:
        ```python
        from temporal_batching.audit import audit
        from temporalio.client import Client

        async def check() -> None:
            client = await Client.connect("localhost:7233")
            report = await audit(client, "sqlite:///payments.db", complete=True)
            assert report.holds, report.violations
        ```

    Args:
        client: Its namespace is read, and its data converter decodes what the histories hold.
        database: The database's URL, as `SqlSink` takes it.
        batcher: The batcher's name.
        task_queue: The batcher's queue, by default the one that follows from its name. Requests that name no batcher
            are its own if they were sent there.
        ledger_table: The ledger, as `SqlSink` takes it.
        tables: The conflict rules, as `SqlSink` takes them. Where a conflict keeps or overwrites a row, only the row's
            presence is checked.
        query: A visibility query that chooses the callers' workflows; by default all of the namespace.
        since: Judge only what was sent after this moment, or during this time before now.
        complete: All who write through this ledger are in the client's namespace, were chosen by the query, and write
            nothing meanwhile. Then an id or a row that no call asked for is a violation too.

    Returns:
        The report. Its ``unchecked`` counts what could not be checked; none of that is guessed.

    Raises:
        InvalidAudit: An argument is invalid.
        AuditError: Temporal or the database cannot be read.
    """
    began = time.time()
    scope = AuditScope(
        url=database,
        batcher=batcher,
        ledger_table=ledger_table,
        tables=tables or {},
        complete=complete,
        since=_moment(since, began, complete=complete),
        began=began,
    )
    store = FactStore()
    try:
        queue = default_task_queue(batcher) if task_queue is None else task_queue
        reader = HistoryReader(client, store, batcher=batcher, task_queue=queue, since=scope.since)
        try:
            read = await reader.read(query)
        except QueryRefused as refused:
            raise InvalidAudit("query", str(refused)) from None
        except RPCError as problem:
            raise AuditError(f"Temporal's histories cannot be read: {problem.message}") from None
        store.finish_collecting()
        try:
            findings = await asyncio.to_thread(check_database, store, scope)
        except SinkConfigurationError as problem:
            raise InvalidAudit("tables", str(problem)) from None
        return findings.report(read, store.count_results())
    finally:
        store.close()


def _moment(since: datetime | timedelta | None, now: float, *, complete: bool) -> float:
    """The moment in seconds since the epoch; 0 for none."""
    if since is None:
        return 0.0
    if complete:
        raise InvalidAudit("complete", "a complete audit looks at everything that was ever written: not with since")
    if isinstance(since, timedelta):
        return now - since.total_seconds()
    if since.tzinfo is None:
        raise InvalidAudit("since", f"since {since}: a moment needs a time zone")
    return since.timestamp()
