"""The activity ``flush_batch``: one batch to the sink, then every caller its confirmation."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from temporal_batching.confirm import Answer, deliver
from temporal_batching.contract import (
    ACTIVITY_FLUSH,
    FlushInput,
    FlushResult,
    JsonObject,
    Outcome,
    OutcomeKind,
    RejectCode,
    Trigger,
    WriteRequest,
)
from temporal_batching.errors import ErrorType, SinkUnavailable
from temporal_batching.intake import read_requests
from temporal_batching.sinks.base import Batch, Sink


class Flusher:
    """Holds the sink for the activity; `BatcherPlugin` makes one per worker."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @activity.defn(name=ACTIVITY_FLUSH)
    async def flush_batch(self, flush: FlushInput) -> FlushResult:
        """Writes the batch, tells its callers, and reports to the batcher.

        Raises:
            ApplicationError: Of type ``SinkUnavailable``, with ``in_doubt`` as its detail; the batcher tries again.
        """
        started = time.monotonic()
        requests = [read_requests(entry, entry.get("expires_at")) for entry in flush.entries]
        async with _heartbeats():
            outcomes = await self._settle(flush, [request for parcel in requests for request in parcel])
            settled_at = datetime.now(UTC)
            answers = _answers(flush, requests, outcomes, settled_at)
            undelivered = await deliver(activity.client(), answers)
        counts = Counter(outcome.kind.value for outcome in outcomes)
        _measure(flush, requests, counts, time.monotonic() - started)
        return FlushResult(dict(counts), [answer.to_wire() for answer in undelivered])

    async def _settle(self, flush: FlushInput, requests: Sequence[WriteRequest]) -> list[Outcome]:
        """An outcome for each request: those past their deadline are not written, whatever the sink would do."""
        now = time.time()
        late = [r.expires_at is not None and r.expires_at <= now for r in requests]
        alive = [request for request, is_late in zip(requests, late, strict=True) if not is_late]
        dead = [request for request, is_late in zip(requests, late, strict=True) if is_late]
        try:
            written = iter(await self._write(flush, alive))
            # An attempt that may have committed has the last word: the sink finds out, and shuts the door behind it.
            expired = iter(
                await self._sink.settle(_batch(flush, dead)) if flush.in_doubt and dead else map(_expired, dead)
            )
        except SinkUnavailable as err:
            raise ApplicationError(
                str(err), err.in_doubt, type=ErrorType.SINK_UNAVAILABLE, non_retryable=True
            ) from None
        return [next(expired) if is_late else next(written) for is_late in late]

    async def _write(self, flush: FlushInput, requests: Sequence[WriteRequest]) -> Sequence[Outcome]:
        """Writes through the sink; if the sink itself breaks on a request, halves the batch until it is found.

        Our own sinks isolate a bad request and answer for it. This is for a sink that raises instead.
        """
        if not requests:
            return []
        try:
            outcomes = await self._sink.write(_batch(flush, requests))
        except SinkUnavailable:
            raise
        except Exception as err:
            if len(requests) == 1:
                activity.logger.warning("The sink failed on a request with %s", type(err).__name__)
                return [Outcome.rejected(RejectCode.DATABASE, f"the sink failed: {type(err).__name__}: {err}")]
            half = len(requests) // 2
            return [*await self._write(flush, requests[:half]), *await self._write(flush, requests[half:])]
        if len(outcomes) != len(requests):
            raise ApplicationError(
                f"{type(self._sink).__name__}.write answered {len(outcomes)} outcomes for {len(requests)} requests",
                True,
                type=ErrorType.SINK_UNAVAILABLE,
                non_retryable=True,
            )
        return outcomes


def _batch(flush: FlushInput, requests: Sequence[WriteRequest]) -> Batch:
    return Batch(requests, id=flush.batch_id, shard=flush.shard, trigger=Trigger(flush.trigger))


def _expired(_: WriteRequest) -> Outcome:
    return Outcome.expired()


def _answers(
    flush: FlushInput, requests: list[list[WriteRequest]], outcomes: Sequence[Outcome], settled_at: datetime
) -> list[Answer]:
    """Who is to be told what. The first caller of an entry has its outcome, whoever joined later a `duplicate`."""
    frame = {
        "batch_id": flush.batch_id,
        "batch_size": len(outcomes),
        "shard": flush.shard,
        "settled_at": settled_at.isoformat(),
    }
    answers: list[Answer] = []
    rest = iter(outcomes)
    for entry, parcel in zip(flush.entries, requests, strict=True):
        own = [next(rest) for _ in parcel]
        for rank, reply in enumerate(entry["reply_to"]):
            told = own if rank == 0 else [_second_hand(outcome) for outcome in own]
            body = _receipt(frame, told) if "requests" in entry else _confirmation(frame, entry["request_id"], told[0])
            answers.append(Answer(reply, body))
    return answers


def _confirmation(frame: JsonObject, request_id: str, outcome: Outcome) -> JsonObject:
    told = {"request_id": request_id, "outcome": outcome.kind, **frame}
    return told if outcome.code is None else {**told, "code": outcome.code, "reason": outcome.reason}


def _receipt(frame: JsonObject, outcomes: Sequence[Outcome]) -> JsonObject:
    others = {str(i): outcome for i, outcome in enumerate(outcomes) if outcome.kind is not OutcomeKind.WRITTEN}
    return {**frame, "others": others}


def _second_hand(outcome: Outcome) -> Outcome:
    return Outcome.duplicate() if outcome.kind is OutcomeKind.WRITTEN else outcome


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


def _measure(
    flush: FlushInput, requests: Sequence[Sequence[WriteRequest]], outcomes: Counter[str], seconds: float
) -> None:
    """Publishes what monitoring wants, through the SDK's meter (Prometheus or OpenTelemetry by its runtime)."""
    attributes: dict[str, Any] = {"batcher": flush.batcher, "shard": str(flush.shard)}
    meter = activity.metric_meter().with_additional_attributes(attributes)
    meter.create_counter("batching_batches", "Batches settled, by what started them").add(1, {"trigger": flush.trigger})
    settled = meter.create_counter("batching_requests", "Requests settled, by outcome")
    for outcome, count in outcomes.items():
        settled.add(count, {"outcome": outcome})
    records = sum(len(request.records) for parcel in requests for request in parcel)
    meter.create_histogram("batching_batch_records", "Records in a batch").record(records)
    meter.create_histogram_float("batching_flush_seconds", "Writing a batch and telling its callers", "s").record(
        seconds
    )
