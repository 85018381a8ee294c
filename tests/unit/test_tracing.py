"""What the spans of a flush say and lead to, and that nothing is traced where nobody traces."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from temporalio.client import Client, Interceptor
from temporalio.exceptions import ApplicationError

pytest.importorskip("opentelemetry.sdk", reason="needs the extra opentelemetry")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, use_span
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, TracingInterceptor

from temporal_batching.contract import JsonObject, Outcome, RejectCode
from temporal_batching.errors import SinkUnavailable
from temporal_batching.opentelemetry import MAX_LINKS
from temporal_batching.tracing import tracing
from tests.support.buffers import NOW, caller
from tests.support.flushes import Calls, FakeSink, all_written, flush_of, run, wire
from tests.support.tracing import exporter, key_of, linked, tracer

SECRET = "a-value"


def span_of(number: int) -> str:
    return f"00-{number + 1:032x}-{number + 1:016x}-01"


def traced(request_id: str, number: int, **more: Any) -> JsonObject:
    return wire(request_id, n=SECRET) | {"traceparent": span_of(number), "arrived_at": NOW, **more}


@pytest.fixture
def spans() -> Any:
    """The spans that a test makes, by name."""
    exporter().clear()

    def get(name: str) -> list[ReadableSpan]:
        return [span for span in exporter().get_finished_spans() if span.name == name]

    return get


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {key.removeprefix("batching."): value for key, value in (span.attributes or {}).items()}


async def test_a_flush_leads_to_its_callers_and_each_callers_trace_to_it(spans: Any) -> None:
    def some_rejected(batch: Any) -> list[Outcome]:
        rejected = Outcome.rejected(RejectCode.TYPE, "no")
        return [rejected if request.request_id == "b" else Outcome.written() for request in batch]

    calls = Calls()
    requests = [traced("a", 1), traced("b", 2), wire("c"), traced("d", 2, joined=[span_of(3)])]
    await run(FakeSink(some_rejected), flush_of(*requests), calls)

    (flush,) = spans("batching.flush")
    assert flush.parent is None
    assert linked(flush) == [(2, 2), (3, 3), (4, 4)]
    assert [dict(link.attributes or {}) for link in flush.links][1] == {
        "batching.request_id": "b",
        "batching.requests": 2,
    }
    assert attributes(flush) == {
        "batcher": "main",
        "shard": 3,
        "batch_id": "main-3/7",
        "trigger": "count",
        "attempt": 1,
        "requests": 4,
        "records": 4,
        "requeued": 0,
        "outcomes.written": 3,
        "outcomes.rejected": 1,
    }
    by_trace = {(span.context.trace_id, attributes(span)["request_id"]): span for span in spans("batching.request")}
    assert set(by_trace) == {(2, "a"), (3, "b"), (3, "d"), (4, "d")}
    for span in by_trace.values():
        assert linked(span) == [key_of(flush)]
        assert (span.parent and span.parent.is_remote, span.start_time) == (True, int(NOW * 1e9))
        assert (attributes(span)["batch_id"], attributes(span)["batch_size"]) == ("main-3/7", 4)
    assert attributes(by_trace[3, "b"])["outcome"] == "rejected"
    # What the callers receive leads to the flush, if they are traced.
    context = flush.get_span_context()
    own = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    assert calls.completed["w-a"]["traceparent"] == own
    assert calls.failed["w-b"].details[0]["traceparent"] == own
    assert "traceparent" not in calls.completed["w-c"]


async def test_the_links_of_a_flush_are_bounded(spans: Any) -> None:
    requests = [traced(f"r{n}", n) for n in range(MAX_LINKS + 7)]
    await run(FakeSink(all_written), flush_of(*requests))
    (flush,) = spans("batching.flush")
    assert linked(flush) == [(n + 1, n + 1) for n in range(MAX_LINKS)]
    assert flush.dropped_links == 0, "the bound is ours, not that of the SDK"
    assert attributes(flush)["omitted_links"] == 7
    assert len(spans("batching.request")) == MAX_LINKS + 7, "each caller finds its batch"


async def test_a_flush_that_fails_says_why_and_shows_no_value(spans: Any) -> None:
    def down(_: Any) -> list[Outcome]:
        raise SinkUnavailable("the database is down")

    with pytest.raises(ApplicationError):
        await run(FakeSink(down), flush_of(traced("a", 1)))
    (flush,) = spans("batching.flush")
    assert (flush.status.status_code, flush.status.description) == (StatusCode.ERROR, "the database is down")
    assert spans("batching.request") == [], "it has no outcome yet"
    assert SECRET not in flush.to_json()


async def test_what_is_to_be_retried_is_traced_when_it_is_settled(spans: Any) -> None:
    def busy(batch: Any) -> list[Outcome]:
        return [Outcome.retry("busy") if r.request_id == "a" else Outcome.written() for r in batch]

    await run(FakeSink(busy), flush_of(traced("a", 1), traced("b", 2)))
    assert [attributes(span)["request_id"] for span in spans("batching.request")] == ["b"]
    assert attributes(spans("batching.flush")[0])["requeued"] == 1


async def test_a_clock_that_is_ahead_makes_no_span_that_ends_before_it_begins(spans: Any) -> None:
    await run(FakeSink(all_written), flush_of(traced("a", 1, arrived_at=9_999_999_999.0)))
    (span,) = spans("batching.request")
    assert span.start_time <= span.end_time


async def test_a_parcel_is_one_span_of_its_caller(spans: Any) -> None:
    requests = [{"request_id": f"r{n}", "key": "", "records": [{"table": "t", "values": {"n": n}}]} for n in range(3)]
    parcel = {"request_id": "p", "requests": requests, "reply_to": [caller("w-p").to_wire()], "expires_at": None}
    calls = Calls()
    await run(FakeSink(all_written), flush_of(parcel | {"traceparent": span_of(1), "arrived_at": NOW}), calls)
    (span,) = spans("batching.request")
    assert (attributes(span)["request_id"], attributes(span)["outcomes.written"]) == ("p", 3)
    assert "outcome" not in attributes(span)
    assert calls.completed["w-p"]["traceparent"].split("-")[1] == f"{spans('batching.flush')[0].context.trace_id:032x}"


def test_only_a_span_that_is_kept_travels() -> None:
    assert tracing().traceparent() is None
    with tracer().start_as_current_span("kept") as span:
        context = span.get_span_context()
        assert tracing().traceparent() == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    unsampled = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(0))
    with use_span(NonRecordingSpan(unsampled)):
        assert tracing().traceparent() is None


class Another(Interceptor):
    pass


class Derived(TracingInterceptor):
    pass


async def test_what_serves_many_callers_is_in_no_callers_trace() -> None:
    """And all other interceptors of the client stay: one may be what lets it in."""
    another = Another()
    plain = await Client.connect("localhost:1", lazy=True, interceptors=[another])
    assert tracing().untraced(plain) is plain
    for options in (
        {"interceptors": [another, Derived()]},
        {"interceptors": [another], "plugins": [OpenTelemetryPlugin()]},
    ):
        client = await Client.connect("localhost:1", lazy=True, namespace="n", **options)
        untraced = tracing().untraced(client)
        config: Any = untraced.config(active_config=True)
        assert config["interceptors"] == [another]
        assert (untraced.namespace, untraced.service_client) == ("n", client.service_client)
        assert tracing().untraced(client) is untraced


def test_the_core_finds_opentelemetry_only_where_it_is_used() -> None:
    report = """
import sys
from temporal_batching.tracing import Tracing, tracing
from temporal_batching import BatcherPlugin, BatchClient
print(type(tracing()) is Tracing, "opentelemetry" in sys.modules)
import opentelemetry.trace
print(type(tracing()).__name__)
"""
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False", "OpenTelemetryTracing"]
