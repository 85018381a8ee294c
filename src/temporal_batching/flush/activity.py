"""The activity ``flush_batch``: one batch to the sink, then every caller its confirmation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import AsyncActivityCancelledError, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from temporal_batching.contract import (
    ACTIVITY_FLUSH,
    DEFAULT_BATCHER,
    NO_LEDGER,
    QUERY_BATCH,
    FlushInput,
    FlushResult,
)
from temporal_batching.flush.delivery import deliver
from temporal_batching.flush.settlement import BatchResult, unavailable, write_batch
from temporal_batching.flush.sink_calls import without_values
from temporal_batching.sinks.base import Sink
from temporal_batching.wire.addressee import check_batcher
from temporal_batching.wire.submission import Submission, load_submission

QUERY_TIMEOUT = timedelta(seconds=10)
"""The longest a flush waits for its shard to say what is in a batch."""


class Flusher:
    """Holds the sink for the activity; `BatcherPlugin` makes one per worker."""

    def __init__(self, sink: Sink, *, batcher: str = DEFAULT_BATCHER, shards: int = 1) -> None:
        self._sink = sink
        self._batcher = batcher
        self._shards = shards

    @activity.defn(name=ACTIVITY_FLUSH)
    async def flush_batch(self, flush: FlushInput) -> FlushResult:
        """Writes the batch, notifies its callers, and reports to the shard.

        Raises:
            ApplicationError: Of type ``SinkUnavailable``, with ``in_doubt`` and the ledger's identity as its details;
                the shard retries the batch.
        """
        try:
            check_batcher(flush.batcher, self._batcher)
        except ApplicationError as err:
            raise unavailable(err.message, in_doubt=False) from None
        self._check_ledger(flush)
        started = time.monotonic()
        async with _heartbeats(self._sink.identity):
            submissions = await _submissions_of(flush)
            if flush.ledger is None and self._sink.identity is not None:
                await _declare(self._sink.identity)
            try:
                settled = await write_batch(self._sink, flush, submissions)
                missed = await deliver(activity.client(), settled.deliveries)
            except ApplicationError:
                raise
            except (Exception, asyncio.CancelledError) as err:  # a worker that stops, or a bug in this library
                problem = f"the flush ended early: {without_values(err)}"
                raise unavailable(problem, in_doubt=True, ledger=self._sink.identity) from None
        _measure(flush, settled, time.monotonic() - started)
        return FlushResult(
            outcomes=dict(settled.counts),
            undelivered=[settled.deliveries[position] for position in missed.failed],
            unreached=[settled.deliveries[position].reply_to for position in missed.unreached],
            requeued=settled.requeued,
            unknown=settled.unknown,
            sink_errors=settled.sink_errors,
            stalled=settled.stalled,
            ledger=self._sink.identity,
        )

    def _check_ledger(self, flush: FlushInput) -> None:
        """Refuses to write into another ledger than the one that knows the shard's earlier requests."""
        own = self._sink.identity
        if flush.ledger is None:
            if own is None or flush.may_choose_ledger:
                return
            # With another flush in flight, two ledgers could become the shard's at the same time.
            problem = f"the ledger {own} is the first one of shard {flush.shard}: its first batch goes alone"
            raise unavailable(problem, in_doubt=False, ledger=own)
        if flush.ledger == (own or NO_LEDGER):
            return
        before = f"has been written to the ledger {flush.ledger}" if flush.ledger else "was set to use no ledger"
        here = f"the ledger {own}" if own else "a sink without a ledger"
        shards = f" --shards {self._shards}" if self._shards > 1 else ""
        problem = (
            f"shard {flush.shard} {before}, and this worker has {here}: ids that the former knows would be applied "
            f"again. If that is meant: temporal-batching adopt-ledger --name {flush.batcher}{shards} "
            f"--identity {own or 'none'}"
        )
        activity.logger.error("Nothing is written: %s", problem)
        raise unavailable(problem, in_doubt=False)


async def _declare(ledger: str) -> None:
    """Records with the server into which ledger a shard's first batch goes, before anything is written to it.

    The shard learns it even from an attempt that is lost: a heartbeat's details come with its timeout. The SDK's own
    heartbeats are sent some time later; this one is waited for.
    """
    handle = activity.client().get_async_activity_handle(task_token=activity.info().task_token)
    try:
        await handle.heartbeat(ledger)
    except (RPCError, AsyncActivityCancelledError) as err:
        raise unavailable(f"the ledger could not be declared: {type(err).__name__}", in_doubt=False) from None


async def _submissions_of(flush: FlushInput) -> list[Submission]:
    """The content of the batch. For a retry it comes from the shard, by a query, which adds nothing to history."""
    wires = flush.submissions
    if wires is None:
        info = activity.info()
        shard = activity.client().get_workflow_handle(info.workflow_id or "", run_id=info.workflow_run_id)
        try:
            wires = await shard.query(QUERY_BATCH, flush.batch_id, rpc_timeout=QUERY_TIMEOUT)
        except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError) as err:
            raise unavailable(f"the batch could not be fetched from its shard: {err}", in_doubt=False) from None
        if not wires:
            raise unavailable("the shard no longer knows this batch as under way", in_doubt=False)
    return [load_submission(wire) for wire in wires]


@asynccontextmanager
async def _heartbeats(ledger: str | None) -> AsyncIterator[None]:
    """Heartbeats during a long flush: a worker that dies is noticed soon. A quick flush sends none."""
    timeout = activity.info().heartbeat_timeout

    async def beat(interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            activity.heartbeat(ledger)

    if timeout is None:
        yield
        return
    task = asyncio.create_task(beat(timeout.total_seconds() / 3))
    try:
        yield
    finally:
        task.cancel()


def _measure(flush: FlushInput, settled: BatchResult, seconds: float) -> None:
    """Publishes metrics through the SDK's meter (Prometheus or OpenTelemetry by its runtime)."""
    attributes: dict[str, Any] = {"batcher": flush.batcher, "shard": str(flush.shard)}
    meter = activity.metric_meter().with_additional_attributes(attributes)
    meter.create_counter("batching_batches", "Batches settled, by what started them").add(1, {"trigger": flush.trigger})
    requests = meter.create_counter("batching_requests", "Requests settled, by outcome")
    for outcome, count in settled.counts.items():
        requests.add(count, {"outcome": outcome})
    for name, description, count in (
        ("batching_requeued", "Submissions to be retried by themselves", len(settled.requeued)),
        ("batching_unknown", "Submissions of which nobody can know whether they are written", len(settled.unknown)),
        ("batching_sink_errors", "Requests that the sink failed on without declaring it", settled.sink_errors),
    ):
        if count:
            meter.create_counter(name, description).add(count)
    meter.create_histogram("batching_batch_records", "Records in a batch").record(settled.records)
    meter.create_histogram_float("batching_flush_seconds", "Writing a batch and telling its callers", "s").record(
        seconds
    )
