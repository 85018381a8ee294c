"""The activities that need the sink: ``flush_batch``, ``deliver_confirmations`` and ``batch_returned``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from temporalio import activity
from temporalio.client import AsyncActivityCancelledError, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from temporal_batching.contents import ContentStore
from temporal_batching.contract import (
    ACTIVITY_CONFIRM,
    ACTIVITY_FLUSH,
    ACTIVITY_RETURNED,
    DEFAULT_BATCHER,
    NO_LEDGER,
    QUERY_BATCH,
    Delivery,
    DeliveryResult,
    FlushInput,
    FlushResult,
    JsonObject,
)
from temporal_batching.errors import SinkUnavailable
from temporal_batching.flush.attempt_time import AttemptTime
from temporal_batching.flush.contents import Contents, bring_contents
from temporal_batching.flush.delivery import Undelivered, deliver
from temporal_batching.flush.reporting import log_settled
from temporal_batching.flush.returned import check_can_read, read_page, readable_from, with_returned, without_returned
from temporal_batching.flush.settlement import BatchResult, unavailable, write_batch
from temporal_batching.flush.sink_calls import named, without_values
from temporal_batching.logs import about_requests, lines_about, logger
from temporal_batching.metrics.flushes import FlushMetrics
from temporal_batching.sinks.base import Sink
from temporal_batching.tracing import FlushSpan, tracing
from temporal_batching.wire.addressee import check_batcher
from temporal_batching.wire.checks import check_list, check_text
from temporal_batching.wire.parcels import PackedParcel
from temporal_batching.wire.safe_integers import read_safe_integers, with_safe_integers
from temporal_batching.wire.submission import Submission, load_submission

QUERY_TIMEOUT = timedelta(seconds=10)
"""The longest a flush waits for its shard to say what is in a batch."""


class Flusher:
    """Holds the sink for the activities; `BatcherPlugin` makes one per worker.

    Args:
        sink: Where batches go.
        batcher: The batcher's name.
        shards: How many shards it has.
        metrics: What is measured of flushes.
        contents: Of parcels that a gateway in this process took in.
        read_from: The task queue of this worker, if the batcher's own workers may have no sink.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        batcher: str = DEFAULT_BATCHER,
        shards: int = 1,
        metrics: FlushMetrics | None = None,
        contents: ContentStore | None = None,
        read_from: str = "",
    ) -> None:
        self._sink = sink
        self._read_from = read_from
        self._metrics = metrics or FlushMetrics()
        self._contents = ContentStore() if contents is None else contents
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
        try:
            with lines_about(batch_id=flush.batch_id, batcher=flush.batcher, shard=flush.shard):
                return await self._flush(flush)
        except BaseException:
            self._metrics.failed(flush)
            raise

    async def _flush(self, flush: FlushInput) -> FlushResult:
        began = time.monotonic()
        self._check_ledger(flush)
        async with _heartbeats(self._sink.identity) as attempt:
            submissions = await _submissions_of(flush)
            requests = sum(submission.requests for submission in submissions)
            with tracing().flush(flush, submissions) as span:
                settled, missed = await self._write_and_deliver(flush, submissions, span, attempt)
                span.settled(settled, requests=requests)
                log_settled(flush, settled, requests=requests, seconds=time.monotonic() - began)
        self._metrics.settled(flush, requests=requests, records=settled.records, splits=settled.splits)
        return FlushResult(
            outcomes=dict(settled.counts),
            undelivered=[without_returned(settled.deliveries[position]) for position in missed.failed],
            unreached=[settled.deliveries[position].reply_to for position in missed.unreached],
            requeued=settled.requeued,
            unknown=settled.unknown,
            sink_errors=settled.sink_errors,
            stalled=settled.stalled,
            ledger=self._sink.identity,
        )

    async def _write_and_deliver(
        self, flush: FlushInput, submissions: Sequence[Submission], span: FlushSpan, attempt: AttemptTime
    ) -> tuple[BatchResult, Undelivered]:
        found = await bring_contents(submissions, self._contents, activity.client())
        if flush.ledger is None and self._sink.identity is not None:
            await _declare(self._sink.identity)
        try:
            settled = await self._write(flush, found, span, attempt)
            self._let_go(found.submissions, settled)
            return settled, await self._deliver(flush, settled.deliveries)
        except ApplicationError:
            raise
        except (Exception, asyncio.CancelledError) as err:  # a worker that stops, or a bug in this library
            problem = f"the flush ended early: {without_values(err)}"
            raise unavailable(problem, in_doubt=True, ledger=self._sink.identity) from None

    async def _write(self, flush: FlushInput, found: Contents, span: FlushSpan, attempt: AttemptTime) -> BatchResult:
        started = time.monotonic()
        try:
            settled = await write_batch(
                self._sink,
                flush,
                found.submissions,
                missing=found.missing,
                traceparent=span.traceparent,
                is_over=lambda: attempt.is_over,
            )
        finally:
            self._metrics.wrote(flush, time.monotonic() - started)
        if self._read_from:
            settled = replace(settled, deliveries=[readable_from(one, self._read_from) for one in settled.deliveries])
        kept = settled.kept_letters
        self._metrics.dead_letters(flush, kept=kept, lost=settled.dead_letters - kept)
        return settled

    async def _deliver(self, flush: FlushInput, deliveries: Sequence[Delivery]) -> Undelivered:
        started = time.monotonic()
        missed = await deliver(activity.client(), deliveries)
        self._metrics.delivered(flush.shard, time.monotonic() - started)
        return missed

    def _let_go(self, submissions: Sequence[Submission], settled: BatchResult) -> None:
        """Lets the contents go that no later attempt at this batch will ask for."""
        waiting = {one.position for one in settled.requeued}
        for position, submission in enumerate(submissions):
            if isinstance(submission.body, PackedParcel) and position not in waiting:
                self._contents.discard(submission.body.announced.digest)

    @activity.defn(name=ACTIVITY_CONFIRM)
    async def deliver_confirmations(self, deliveries: list[Delivery]) -> DeliveryResult:
        """Makes deliveries from a shard's outbox, with what the requests returned."""
        return await deliver_from_outbox(deliveries, self._sink, batcher=self._batcher)

    @activity.defn(name=ACTIVITY_RETURNED)
    async def batch_returned(self, wire: JsonObject) -> JsonObject:
        """What written requests returned: of the first of them, as many as one message holds.

        Args:
            wire: ``batcher``, ``request_ids``, and ``safe_integers`` as in a request.
        """
        check_batcher(wire.get("batcher"), self._batcher)
        ids = [check_text(one, "a request id") for one in check_list(wire.get("request_ids"), "request_ids")]
        page = dict(await read_page(self._sink, ids))
        return with_safe_integers(page) if read_safe_integers(wire) else page

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
        logger.error("Nothing of batch %s is written: %s", flush.batch_id, problem)
        raise unavailable(problem, in_doubt=False)


class Deliverer:
    """Makes deliveries in a batcher's worker without a sink: those that need none."""

    def __init__(self, *, batcher: str) -> None:
        self._batcher = batcher

    @activity.defn(name=ACTIVITY_CONFIRM)
    async def deliver_confirmations(self, deliveries: list[Delivery]) -> DeliveryResult:
        """Makes deliveries from a shard's outbox. What was returned, other workers have to read."""
        return await deliver_from_outbox(deliveries, None, batcher=self._batcher)


async def deliver_from_outbox(deliveries: Sequence[Delivery], sink: Sink | None, *, batcher: str) -> DeliveryResult:
    """Makes deliveries; those that lack what was returned stay if it cannot be read."""
    positions: Sequence[int] = range(len(deliveries))
    try:
        check_can_read(sink, deliveries, batcher=batcher)
        if sink is not None:
            deliveries = await with_returned(sink, deliveries)
    except SinkUnavailable as err:
        ids = [one.confirmation.request_id for one in deliveries if one.unread and one.confirmation]
        extra = about_requests(ids, batcher=batcher)
        logger.warning("What %s returned cannot be read: %s; to be retried", named(ids), err, extra=extra)
        positions = [i for i, one in enumerate(deliveries) if not one.unread]
    missed = await deliver(activity.client(), [deliveries[position] for position in positions])
    left_out = set(range(len(deliveries))) - set(positions)
    failed = sorted(left_out.union(positions[i] for i in missed.failed))
    return DeliveryResult(failed, [deliveries[positions[i]].reply_to for i in missed.unreached])


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
async def _heartbeats(ledger: str | None) -> AsyncIterator[AttemptTime]:
    """Heartbeats during a long flush: a worker that dies is noticed soon. A quick flush sends none."""
    info = activity.info()
    timeout = info.heartbeat_timeout
    attempt = AttemptTime(longest=info.start_to_close_timeout, silence=timeout)

    async def beat(interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            attempt.beat()
            activity.heartbeat(ledger)

    if timeout is None:
        yield attempt
        return
    task = asyncio.create_task(beat(timeout.total_seconds() / 3))
    try:
        yield attempt
    finally:
        task.cancel()
