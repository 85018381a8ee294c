"""Tracing by OpenTelemetry. Needs the extra ``opentelemetry``.

A process that uses OpenTelemetry need not import this: it is found. Only a worker of callers that has neither
`BatcherPlugin` nor `GatewayPlugin` imports it, for what its workflows write by signal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

from temporalio import workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from temporal_batching import tracing
from temporal_batching.contract import Confirmation, FlushInput, ParcelReceipt
from temporal_batching.wire.submission import Submission
from temporal_batching.wire.traces import read_traceparent

try:
    import opentelemetry.context as otel_context
    from opentelemetry import trace
except ImportError as err:
    raise ImportError(f"temporal_batching.opentelemetry needs temporal-batching[opentelemetry]: {err}") from None

MAX_LINKS = 128
"""Links of one span to callers: as many as OpenTelemetry's own limits leave a span by default."""

FINISH_MILLISECONDS = 5_000
"""How long the end of a process waits for a collector."""

_VERSION = version("temporal-batching")
_SDK = "temporalio.contrib.opentelemetry"
_UNTRACED: WeakKeyDictionary[Client, Client] = WeakKeyDictionary()


class OpenTelemetryTracing(tracing.Tracing):
    """Answers from OpenTelemetry's current span, and makes spans by its tracer provider."""

    def traceparent(self) -> str | None:
        """What leads to the current span; None if there is none, or if it is not sampled."""
        return _traceparent(trace.get_current_span().get_span_context())

    def received(self, answer: Confirmation | ParcelReceipt) -> None:
        """Adds an event to the current span, and a link to the flush."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        batch: dict[str, Any] = {"batching.batch_id": answer.batch_id, "batching.shard": answer.shard}
        if isinstance(answer, Confirmation):
            own = {"batching.request_id": answer.request_id, "batching.outcome": str(answer.outcome)}
            known = {**own, **batch} if answer.batch_id else own  # some are answered before they get into a batch
        else:
            known = {**batch, "batching.requests": answer.batch_size}
        span.add_event("batching.confirmed", known, workflow.time_ns() if workflow.in_workflow() else None)
        flush = _context(answer.traceparent)
        if flush is not None:
            span.add_link(flush, batch)

    @contextmanager
    def flush(self, flush: FlushInput, submissions: Sequence[Submission]) -> Iterator[tracing.FlushSpan]:
        """A span with links to the callers: to each span of theirs once, and to `MAX_LINKS` at the most."""
        links, tracer = _links(submissions), _tracer()
        omitted = max(0, len(links) - MAX_LINKS)
        with tracer.start_as_current_span(
            "batching.flush",
            kind=trace.SpanKind.CONSUMER,
            attributes={**_batch(flush), **({"batching.omitted_links": omitted} if omitted else {})},
            links=links[:MAX_LINKS],
            record_exception=False,  # its text and its stack may quote values
            set_status_on_exception=False,
        ) as span:
            try:
                yield _FlushSpan(tracer, span, flush, submissions)
            except BaseException as err:
                problem = err.message if isinstance(err, ApplicationError) else type(err).__name__
                span.set_status(trace.Status(trace.StatusCode.ERROR, problem))
                raise

    def untraced(self, client: Client) -> Client:
        """The client without the interceptors of the SDK's OpenTelemetry support; all others stay."""
        known = _UNTRACED.get(client)
        if known is None:
            config: Any = client.config(active_config=True)
            others = [one for one in config["interceptors"] if not _traces(one)]
            if len(others) == len(config["interceptors"]):
                return client
            # Its plugins have configured it already.
            known = _UNTRACED[client] = Client(**{**config, "interceptors": others, "plugins": []})
        return known

    def finish(self) -> None:
        """Publishes the spans that OpenTelemetry still holds, if its provider can."""
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(FINISH_MILLISECONDS)


class _FlushSpan(tracing.FlushSpan):
    def __init__(
        self, tracer: trace.Tracer, span: trace.Span, flush: FlushInput, submissions: Sequence[Submission]
    ) -> None:
        self.traceparent = _traceparent(span.get_span_context())
        self._tracer = tracer
        self._span = span
        self._flush = flush
        self._submissions = submissions

    def settled(self, result: Any, *, requests: int) -> None:
        self._span.set_attributes(
            {
                "batching.requests": requests,
                "batching.records": result.records,
                "batching.requeued": sum(self._submissions[one.position].requests for one in result.requeued),
                **_outcomes(result.counts),
            }
        )
        for position, outcomes in result.traced.items():
            self._trace_request(self._submissions[position], outcomes, requests)

    def _trace_request(self, submission: Submission, outcomes: Any, batch_size: int) -> None:
        """Makes a span in the trace of each caller, from the arrival of its request until now, which leads here."""
        attributes = {
            **_batch(self._flush),
            "batching.request_id": submission.id,
            "batching.batch_size": batch_size,
            **_outcomes(outcomes),
        }
        if submission.requests == 1 and len(outcomes) == 1:
            attributes["batching.outcome"] = next(iter(outcomes))
        here = _context(self.traceparent)
        links = [] if here is None else [trace.Link(here, {"batching.batch_id": self._flush.batch_id})]
        now = time.time_ns()
        began = min(now, int(submission.arrived_at * 1_000_000_000)) or now  # by another clock
        for caller in map(_context, submission.traceparents):
            if caller is None:
                continue
            self._tracer.start_span(
                "batching.request",
                trace.set_span_in_context(trace.NonRecordingSpan(caller), otel_context.Context()),
                trace.SpanKind.CONSUMER,
                attributes,
                links,
                began,
            ).end(now)


def _tracer() -> trace.Tracer:
    return trace.get_tracer("temporal_batching", _VERSION)


def _batch(flush: FlushInput) -> dict[str, Any]:
    return {
        "batching.batcher": flush.batcher,
        "batching.shard": flush.shard,
        "batching.batch_id": flush.batch_id,
        "batching.trigger": str(flush.trigger),
        "batching.attempt": flush.attempt + 1,
    }


def _outcomes(counts: Any) -> dict[str, int]:
    return {f"batching.outcomes.{outcome}": count for outcome, count in counts.items()}


def _links(submissions: Sequence[Submission]) -> list[trace.Link]:
    """A link to each span of a caller, however many requests it made."""
    requests: dict[str, list[str]] = {}
    for submission in submissions:
        for traceparent in submission.traceparents:
            requests.setdefault(traceparent, []).append(submission.id)
    found = ((_context(traceparent), ids) for traceparent, ids in requests.items())
    return [
        trace.Link(context, {"batching.request_id": ids[0], "batching.requests": len(ids)})
        for context, ids in found
        if context is not None
    ]


def _traceparent(context: trace.SpanContext) -> str | None:
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _context(traceparent: str | None) -> trace.SpanContext | None:
    checked = read_traceparent(traceparent)  # an answer may have come from anybody
    if checked is None:
        return None
    _, trace_id, span_id, flags = checked.split("-")
    return trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))


def _traces(interceptor: object) -> bool:
    return any(kind.__module__.startswith(_SDK) for kind in type(interceptor).__mro__)


# It chooses its implementation when it is first asked, with a file read that no sandbox allows.
otel_context.get_current()
tracing.use(OpenTelemetryTracing())
