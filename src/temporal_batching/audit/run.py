"""`audit`: reads Temporal, then the database, and reports the broken promises."""

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
from temporal_batching.sinks.rules import TableRule


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

    It reads the histories of callers, the activities of programs and the histories of the shards from Temporal, then
    the ledger and the row of each record. It changes nothing: a role that may ``SELECT`` is enough. A write that was
    confirmed before the audit began must be in the database. A workflow that ended a moment ago may not be listed yet,
    and what Temporal has deleted cannot be audited. Facts are kept in a temporary file, so little memory is used.

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
        client: A client of the namespace that is read. Its data converter decodes the payloads in the histories.
        database: The database's URL, as `SqlSink` takes it.
        batcher: The batcher's name.
        task_queue: The batcher's task queue; by default the one of its name. Requests that name no batcher belong to
            it if they were sent to this queue.
        ledger_table: The ledger's table, as `SqlSink` takes it.
        tables: The tables' rules, as `SqlSink` takes them. A row that several records write to is compared with the
            last of them; where the histories show no order between two, either may have been the last.
        query: A visibility query that selects the callers' workflows; by default all workflows of the namespace.
        since: Check only requests that were sent after this moment, or within this time before now.
        complete: Whether all callers that write through this ledger are in the client's namespace, are selected by the
            query, and write nothing during the audit. Then an id or a row that no call asked for is a violation too.

    Returns:
        The report. Its ``unchecked`` counts what could not be checked.

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
        raise InvalidAudit("complete", "a complete audit checks everything that was ever written, so it takes no since")
    if isinstance(since, timedelta):
        return now - since.total_seconds()
    if since.tzinfo is None:
        raise InvalidAudit("since", f"since {since}: expected a time zone")
    return since.timestamp()
