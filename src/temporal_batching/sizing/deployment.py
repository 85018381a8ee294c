"""`savings`: reads a deployment's own histories, and says what batching saved and what it cost.

The shards' histories have everything: each flush with its batch, each result with its outcomes, and every event that is
billed. They are read event by event, newest run first, so that little memory is used, and no more of them than asked
for.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.common.v1 import Payloads
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contract import DEFAULT_BATCHER, WORKFLOW_BATCHER, OutcomeKind
from temporal_batching.errors import BatcherNotRunning, BatchingError, InvalidLoad
from temporal_batching.routing import check_name
from temporal_batching.sizing.actions import HistoryCounts
from temporal_batching.sizing.costs import DIRECT_ACTIONS, SIGNALLING_CALLER_ACTIONS
from temporal_batching.sizing.flushes import Flushed, RunReader

MAX_HISTORY_BYTES = 1024**3
"""Of histories that are read unless told otherwise: some minutes of reading."""

READ_AT_ONCE = 4
"""Histories that are read concurrently."""

PAGE_EVENTS = 200
"""Events in one answer: at most as many are in memory, for each history that is being read."""


@dataclass(frozen=True, kw_only=True)
class Savings:
    """What the shards of one batcher did in a time, what that saved, and what it cost.

    Attributes:
        batcher: The batcher's name.
        since: From when on it was counted.
        until: When the reading began.
        shards: Shards whose histories were read.
        runs: Their runs.
        runs_left_out: Older runs that were not read, because enough bytes had been.
        runs_deleted: Runs that Temporal deleted while they were read.
        retention: How long Temporal keeps a history once its run has ended; None if that is not known.
        outcomes: Requests settled, by outcome.
        by_way: Requests in batches, by how they came in: ``activity``, ``signal``, ``write_many``.
        records: Records in batches.
        transactions: Flushes that ended with a result: one database transaction each.
        failed_flushes: Attempts at a batch that failed, and were retried.
        largest_batch: Requests in the largest batch.
        events: Events of the shards' histories.
        history_bytes: Their bytes.
        actions: Billable actions of the shards, by kind.
        caller_actions: Billable actions of the callers for their writes: their activities, or timers and confirmations
            where they wrote by signal.
        unreadable: Messages in the histories that this client could not read: what was in them is not counted.
    """

    batcher: str
    since: datetime
    until: datetime
    shards: int
    runs: int
    runs_left_out: int = 0
    runs_deleted: int = 0
    retention: timedelta | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    by_way: Mapping[str, int] = field(default_factory=dict)
    records: int = 0
    transactions: int = 0
    failed_flushes: int = 0
    largest_batch: int = 0
    events: int = 0
    history_bytes: int = 0
    actions: Mapping[str, int] = field(default_factory=dict)
    caller_actions: int = 0
    unreadable: int = 0

    @property
    def written(self) -> int:
        """Requests that were written: without a batcher each would have been a transaction."""
        return self.outcomes.get(OutcomeKind.WRITTEN, 0)

    @property
    def transactions_saved(self) -> int:
        """Transactions that were not needed. Negative where failures and rejections took more than batches saved."""
        return self.written - self.transactions

    @property
    def records_per_transaction(self) -> float:
        """Records in a batch, on average."""
        return self.records / self.transactions if self.transactions else 0.0

    @property
    def all_actions(self) -> int:
        """Billable actions of shards and callers together."""
        return sum(self.actions.values()) + self.caller_actions

    @property
    def direct_actions(self) -> int:
        """Billable actions of the same requests, each written by an activity of its caller."""
        return sum(self.outcomes.values()) * DIRECT_ACTIONS

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the time that was asked for is known to be missing."""
        kept = self.retention is None or self.until - self.since <= self.retention
        return kept and not (self.runs_left_out or self.runs_deleted or self.unreadable)


async def savings(
    client: Client,
    *,
    batcher: str = DEFAULT_BATCHER,
    since: datetime | timedelta = timedelta(hours=24),
    max_history_bytes: int = MAX_HISTORY_BYTES,
) -> Savings:
    """Reads what a batcher's shards did, and what that saved.

    Example:
        ```python
        from datetime import timedelta

        from temporal_batching.sizing import savings
        from temporalio.client import Client

        async def report() -> None:
            saved = await savings(await Client.connect("localhost:7233"), since=timedelta(hours=1))
            print(f"{saved.transactions:,} transactions instead of {saved.written:,}")
        ```

    Args:
        client: A client of the batcher's namespace. Its data converter decodes what is in the histories.
        batcher: The batcher's name.
        since: From when on to count: a moment with a time zone, or a time before now.
        max_history_bytes: No further run is read once so many bytes were. The newest are read first.

    Raises:
        InvalidLoad: An argument is invalid.
        BatcherNotRunning: There is no history of such a batcher.
        BatchingError: Temporal cannot be read.
    """
    until = time.time()
    begin = _moment(since, until)
    if isinstance(max_history_bytes, bool) or not isinstance(max_history_bytes, int) or max_history_bytes < 1:
        raise InvalidLoad("max_history_bytes", f"{max_history_bytes!r}: a whole number from 1")
    reader = _Reader(client, check_name(batcher), begin, max_history_bytes)
    try:
        await reader.read()
        retention = await _retention(client)
    except RPCError as problem:
        raise BatchingError(f"Temporal's histories cannot be read: {problem.message}") from None
    if not reader.shards:
        raise BatcherNotRunning(f"no history of the batcher '{batcher}' in the namespace '{client.namespace}'")
    counts, flushed = reader.counts, reader.flushed
    return Savings(
        batcher=batcher,
        since=datetime.fromtimestamp(begin, UTC),
        until=datetime.fromtimestamp(until, UTC),
        shards=len(reader.shards),
        runs=reader.runs,
        runs_left_out=reader.left_out,
        runs_deleted=reader.deleted,
        retention=retention,
        outcomes=dict(flushed.outcomes),
        by_way=dict(flushed.by_way),
        records=flushed.records,
        transactions=flushed.flushes,
        failed_flushes=flushed.failed,
        largest_batch=flushed.largest,
        events=counts.events.total(),
        history_bytes=counts.bytes,
        actions=dict(counts.actions),
        caller_actions=flushed.by_way["activity"]
        + flushed.by_way["signal"] * SIGNALLING_CALLER_ACTIONS
        + flushed.parcels,
        unreadable=flushed.unreadable,
    )


class _Reader:
    """Reads the runs of a batcher's shards."""

    def __init__(self, client: Client, batcher: str, since: float, max_bytes: int) -> None:
        self.counts, self.flushed = HistoryCounts(), Flushed()
        self.shards: set[str] = set()
        self.runs = self.left_out = self.deleted = 0
        self._client = client
        self._shard_id = re.compile(rf"batcher-{re.escape(batcher)}-\d+")
        self._since = since
        self._max_bytes = max_bytes
        self._bytes = 0

    async def read(self) -> None:
        moment = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        query = f"WorkflowType = '{WORKFLOW_BATCHER}' AND (ExecutionStatus = 'Running' OR CloseTime >= '{moment}')"
        runs = aiter(self._client.list_workflows(query))  # the newest first
        listing = asyncio.Lock()

        async def next_run() -> WorkflowExecution | None:
            async with listing:  # several at a time would each fetch the same page
                return await anext(runs, None)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(READ_AT_ONCE):
                    group.create_task(self._read_from(next_run))
        except* RPCError as problems:
            raise _first(problems) from None

    async def _read_from(self, next_run: Callable[[], Awaitable[WorkflowExecution | None]]) -> None:
        while (run := await next_run()) is not None:
            if self._shard_id.fullmatch(run.id) is None:
                continue
            if self._bytes >= self._max_bytes:
                self.left_out += 1
                continue
            try:
                await self._read_run(run)
            except RPCError as problem:
                if problem.status != RPCStatusCode.NOT_FOUND:
                    raise
                self.deleted += 1

    async def _read_run(self, run: WorkflowExecution) -> None:
        reader = RunReader(self.counts, self.flushed, self._decode, since=self._since)
        handle = self._client.get_workflow_handle(run.id, run_id=run.run_id)
        async for event in handle.fetch_history_events(page_size=PAGE_EVENTS):
            self._bytes += event.ByteSize()
            await reader.read(event)
        self.runs += 1
        self.shards.add(run.id)

    async def _decode(self, payloads: Payloads) -> Any:
        try:
            values = await self._client.data_converter.decode(payloads.payloads)
        except Exception:  # a codec may raise anything on a payload that it did not encode
            return None
        return values[0] if values else None


async def _retention(client: Client) -> timedelta | None:
    answer = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    kept = answer.config.workflow_execution_retention_ttl
    return kept.ToTimedelta() or None


def _first(problems: BaseExceptionGroup[RPCError]) -> RPCError:
    first = problems.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _moment(since: datetime | timedelta, now: float) -> float:
    if isinstance(since, timedelta):
        begin = now - since.total_seconds()
    elif since.tzinfo is None:
        raise InvalidLoad("since", f"{since}: expected a time zone")
    else:
        begin = since.timestamp()
    if not 0 <= begin < now:
        raise InvalidLoad("since", f"{since}: a moment before now, and after 1970")
    return begin
