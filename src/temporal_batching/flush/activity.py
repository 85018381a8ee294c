"""The activity ``flush_batch``: one batch to the sink, then every caller its confirmation."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from temporal_batching.contract import (
    ACTIVITY_FLUSH,
    DEFAULT_BATCHER,
    QUERY_BATCH,
    FlushInput,
    FlushResult,
)
from temporal_batching.flush.delivery import deliver
from temporal_batching.flush.settlement import Settled, settle, unavailable
from temporal_batching.sinks.base import Sink
from temporal_batching.wire.addressee import check_batcher

QUERY_TIMEOUT = timedelta(seconds=10)
"""The longest a flush waits for its shard to say what is in a batch."""


class Flusher:
    """Holds the sink for the activity; `BatcherPlugin` makes one per worker."""

    def __init__(self, sink: Sink, *, batcher: str = DEFAULT_BATCHER) -> None:
        self._sink = sink
        self._batcher = batcher

    @activity.defn(name=ACTIVITY_FLUSH)
    async def flush_batch(self, flush: FlushInput) -> FlushResult:
        """Writes the batch, tells its callers, and reports to the batcher.

        Raises:
            ApplicationError: Of type ``SinkUnavailable``, with ``in_doubt`` as its detail; the batcher tries again.
        """
        try:
            check_batcher(flush.batcher, self._batcher)
        except ApplicationError as err:
            raise unavailable(err.message, in_doubt=False) from None
        self._check_ledger(flush)
        started = time.monotonic()
        async with _heartbeats():
            if flush.submissions is None:
                flush = dataclasses.replace(flush, submissions=await _ask_for_submissions(flush.batch_id))
            settled = await settle(self._sink, flush)
            delivery = await deliver(activity.client(), settled.answers)
        _measure(flush, settled, time.monotonic() - started)
        return FlushResult(
            outcomes=dict(settled.counts),
            undelivered=[answer.to_wire() for answer in delivery.failed],
            unreached=[answer.reply_to for answer in delivery.unreached],
            requeued=settled.requeued,
            unknown=settled.unknown,
            sink_errors=settled.sink_errors,
            stalled=settled.stalled,
            ledger=self._sink.identity,
        )

    def _check_ledger(self, flush: FlushInput) -> None:
        """Writes nothing into another ledger than the one that knows the shard's earlier requests."""
        if flush.ledger is None or flush.ledger == self._sink.identity:
            return
        here = f"the ledger {self._sink.identity}" if self._sink.identity else "a sink without a ledger"
        problem = (
            f"shard {flush.shard} has been written to the ledger {flush.ledger}, and this worker has {here}: ids "
            "that the former knows would be applied again. If that is meant: "
            f"temporal-batching adopt-ledger --name {flush.batcher}"
        )
        activity.logger.error("Nothing is written: %s", problem)
        raise unavailable(problem, in_doubt=False)


async def _ask_for_submissions(batch_id: str) -> list[Any]:
    """What is in a batch that is tried again: its shard knows, and a query leaves no trace in history."""
    info = activity.info()
    shard = activity.client().get_workflow_handle(info.workflow_id or "", run_id=info.workflow_run_id)
    try:
        submissions: list[Any] = await shard.query(QUERY_BATCH, batch_id, rpc_timeout=QUERY_TIMEOUT)
    except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError) as err:
        raise unavailable(f"the batch could not be fetched from its shard: {err}", in_doubt=False) from None
    if not submissions:
        raise unavailable("the shard no longer knows this batch as under way", in_doubt=False)
    return submissions


@asynccontextmanager
async def _heartbeats() -> AsyncIterator[None]:
    """Heartbeats while a flush takes long: a worker that dies is noticed soon. A quick flush sends none."""
    timeout = activity.info().heartbeat_timeout

    async def beat(interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            activity.heartbeat()

    if timeout is None:
        yield
        return
    task = asyncio.create_task(beat(timeout.total_seconds() / 3))
    try:
        yield
    finally:
        task.cancel()


def _measure(flush: FlushInput, settled: Settled, seconds: float) -> None:
    """Publishes what monitoring wants, through the SDK's meter (Prometheus or OpenTelemetry by its runtime)."""
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
