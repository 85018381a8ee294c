"""A caller's trace leads to its batch and back, by every way in; and what the log says meanwhile."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from temporalio.client import Client

pytest.importorskip("opentelemetry.sdk", reason="needs the extra opentelemetry")

from opentelemetry.sdk.trace import ReadableSpan

from temporal_batching import Confirmation, MemorySink, Outcome, RejectCode, WriteRejected, WriteRequest
from temporal_batching.contract import SIGNAL_ADD, Record
from temporal_batching.sinks.base import Batch
from tests.support.callers import EVERY_WAY_IN, Listener
from tests.support.many_callers import OneOfMany
from tests.support.service import QUICK, Service, entry, running
from tests.support.tracing import key_of, linked, named, trace_of, tracer, tracing_client
from tests.support.waiting import assert_eventually

SECRET = "a-value-that-no-log-may-show"


class Picky(MemorySink):
    """Rejects rows that say so."""

    async def write(self, batch: Batch) -> Any:
        good = [request for request in batch if not request.records[0].values.get("bad")]
        written = iter(await super().write(Batch(good, id=batch.id)))
        rejected = Outcome.rejected(RejectCode.CONSTRAINT, "not this one")
        return [next(written) if request in good else rejected for request in batch]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def flush_of(batch_id: str) -> ReadableSpan:
    """The span of a batch's flush; it ends a moment after its callers have their confirmations."""
    found = named("batching.flush", batch_id=batch_id)
    assert len(found) == 1
    return found[0]


async def leads_there_and_back(caller: Any, batch_id: str, request_id: str, *, outcome: str = "written") -> None:
    """There is a span in the caller's trace that leads to the flush, and the flush leads to the caller's trace."""

    async def found() -> None:
        requests = [
            span
            for span in named("batching.request", request_id=request_id, batch_id=batch_id)
            if trace_of(span) == trace_of(caller)
        ]
        assert len(requests) == 1, request_id
        flush = flush_of(batch_id)
        assert linked(requests[0]) == [key_of(flush)]
        assert attributes(requests[0])[f"batching.outcomes.{outcome}"] >= 1
        assert caller.get_span_context().trace_id in [trace_id for trace_id, _ in linked(flush)]
        assert trace_of(flush) != trace_of(caller)
        assert (requests[0].start_time or 0) < (requests[0].end_time or 0)

    await assert_eventually(found)


async def leads_on(caller: Any, batch_id: str) -> None:
    """The caller's own span has the batch's id, and leads to the flush."""

    async def found() -> None:
        assert key_of(flush_of(batch_id)) in linked(caller)

    await assert_eventually(found)
    assert batch_id in [dict(event.attributes or {}).get("batching.batch_id") for event in caller.events]


@pytest.mark.parametrize("way", ["plugin", "interceptor"])
async def test_a_callers_trace_leads_to_its_batch_and_back(
    client: Client, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[str] = []
    async with running(tracing_client(client, way), Picky(), QUICK) as service:
        seen += await by_workflows(service)
        seen += await by_programs(service)
        seen += await by_a_foreign_client(service)
        if way == "plugin":  # the interceptor makes a span of each activity, where there is none
            untraced = await service.writer.write("entries", {"n": 1, "note": SECRET})
            assert untraced.traceparent is None

            async def leads_to_nobody() -> None:
                assert not flush_of(untraced.batch_id).links

            await assert_eventually(leads_to_nobody)
            assert named("batching.request", batch_id=untraced.batch_id) == []
            seen.append(untraced.batch_id)
        # The shard is in nobody's trace: else the first caller's would go on for as long as the shard lives.
        (started, *_) = await service.events()
        assert "_tracer-data" not in started.workflow_execution_started_event_attributes.header.fields
        traces = [trace_of(span) for span in named("batching.flush")]
        assert len(set(traces)) == len(traces)
    lines = [getattr(record, "batching", {}) for record in caplog.records if record.levelno == logging.INFO]
    ids = [line["batch_id"] for line in lines if line.get("batcher") == service.name]
    assert set(seen) <= set(ids)
    assert len(ids) == len(set(ids)), "one line for each batch"
    assert SECRET not in caplog.text


async def by_workflows(service: Service) -> list[str]:
    batches: list[str] = []
    for way_in in EVERY_WAY_IN:
        with tracer().start_as_current_span(f"calls by {way_in}") as span:
            good, bad = await service.call(way_in, [entry(1, note=SECRET), entry(2, note=SECRET, bad=True)])
        await leads_there_and_back(span, good.batch_id, good.request_id)
        await leads_there_and_back(span, bad.batch_id, bad.request_id, outcome="rejected")
        flush = attributes(flush_of(good.batch_id))
        assert flush["batching.batcher"] == service.name
        assert (flush["batching.shard"], flush["batching.attempt"]) == (0, 1)
        assert flush["batching.trigger"] == "linger"
        assert flush["batching.requests"] == good.batch_size
        assert flush["batching.outcomes.written"] >= 1
        batches += {good.batch_id, bad.batch_id}
    with tracer().start_as_current_span("calls write_many") as span:
        requests = [OneOfMany("entries", {"n": n, "note": SECRET}) for n in range(3)]
        results = await (await service.start_many(requests=requests)).result()
    assert [one.outcome for one in results] == ["written"] * 3

    async def found() -> None:
        parcels = [one for one in named("batching.request") if trace_of(one) == trace_of(span)]
        assert [attributes(one)["batching.outcomes.written"] for one in parcels] == [3]

    await assert_eventually(found)
    return batches


async def by_programs(service: Service) -> list[str]:
    writer = service.writer
    with tracer().start_as_current_span("writes") as span:
        confirmation = await writer.write("entries", {"n": 1, "note": SECRET}, request_id=f"{service.name}-w")
    await leads_there_and_back(span, confirmation.batch_id, confirmation.request_id)
    await leads_on(span, confirmation.batch_id)
    with tracer().start_as_current_span("writes the same again") as span:
        again = await writer.write("entries", {"n": 1, "note": SECRET}, request_id=f"{service.name}-w")
    assert again.outcome == "duplicate", "another span is no other request"
    await leads_there_and_back(span, again.batch_id, again.request_id, outcome="duplicate")
    with tracer().start_as_current_span("writes badly") as span, pytest.raises(WriteRejected) as failed:
        await writer.write("entries", {"n": 1, "bad": SECRET})
    assert failed.value.confirmation is not None
    rejected = failed.value.confirmation
    await leads_there_and_back(span, rejected.batch_id, rejected.request_id, outcome="rejected")
    await leads_on(span, rejected.batch_id)
    with tracer().start_as_current_span("writes many") as span:
        requests = [
            WriteRequest(f"{service.name}-{n}", [Record("entries", {"n": n, "note": SECRET})]) for n in range(9)
        ]
        results = await writer.write_many(requests)
    confirmed = [one for one in results if isinstance(one, Confirmation)]
    assert len(confirmed) == 9
    (parcel,) = {one.batch_id for one in confirmed}
    await leads_on(span, parcel)
    return [confirmation.batch_id, again.batch_id, rejected.batch_id, parcel]


async def by_a_foreign_client(service: Service) -> list[str]:
    """A client that knows nothing but the wire: it says in which span it is, and reads where the flush is."""
    listener = await service.run(Listener.run, 3)
    with tracer().start_as_current_span("signals") as span:
        context = span.get_span_context()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    wire = {
        "records": [{"table": "entries", "values": {"n": 1, "note": SECRET}}],
        "reply_to": {"workflow_id": listener.id},
    }
    requests = [
        {**wire, "request_id": f"{service.name}-foreign", "traceparent": traceparent},
        {**wire, "request_id": f"{service.name}-malformed", "traceparent": "00-nonsense"},
        {**wire, "request_id": f"{service.name}-of-another-type", "traceparent": {"not": ["a", "string"]}},
    ]
    await service.shard().signal(SIGNAL_ADD, requests)
    answers = {one["request_id"]: one for one in await listener.result()}
    assert {one["outcome"] for one in answers.values()} == {"written"}
    traced = answers[f"{service.name}-foreign"]
    await leads_there_and_back(span, traced["batch_id"], traced["request_id"])
    assert traced["traceparent"].split("-")[1] == trace_of(flush_of(traced["batch_id"]))
    assert "traceparent" not in answers[f"{service.name}-malformed"]
    return [traced["batch_id"]]
