"""Spans of a process's tests, kept in memory; and a client that traces as the Temporal SDK does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.client import Client
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, TracingInterceptor, create_tracer_provider


@cache
def exporter() -> InMemorySpanExporter:
    """Of this process, which can have one tracer provider."""
    kept = InMemorySpanExporter()
    provider = create_tracer_provider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


def tracer() -> trace.Tracer:
    exporter()
    return trace.get_tracer("tests")


def tracing_client(client: Client, way: str) -> Client:
    """The same client, with one of the two ways in which the SDK traces."""
    exporter()
    config: Any = client.config()
    if way == "plugin":
        return Client(**{**config, "plugins": [OpenTelemetryPlugin()]})
    return Client(**{**config, "interceptors": [TracingInterceptor()]})


def named(name: str, **attributes: Any) -> list[ReadableSpan]:
    """The spans of this name that have these attributes, their dots as underscores."""
    wanted = {f"batching.{key}": value for key, value in attributes.items()}
    return [
        span
        for span in exporter().get_finished_spans()
        if span.name == name and wanted.items() <= dict(span.attributes or {}).items()
    ]


def trace_of(span: Any) -> str:
    return f"{span.get_span_context().trace_id:032x}"


def linked(span: ReadableSpan) -> Sequence[tuple[int, int]]:
    """The spans that a span leads to."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def key_of(span: Any) -> tuple[int, int]:
    context = span.get_span_context()
    return context.trace_id, context.span_id
