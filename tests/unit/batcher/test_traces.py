"""Spans of callers in a shard: they stay with their requests, into the next run, and decide nothing."""

from __future__ import annotations

from typing import Any

import pytest

from temporal_batching.batcher.limits import BufferFull
from temporal_batching.contract import ReplyTo
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.submission import Submission, read_submission
from temporal_batching.wire.traces import TRACE_BYTES
from tests.support.buffers import NOW, buffer, caller, carried, restored


def span_of(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


def traced(request_id: str, span: int | None, who: ReplyTo | None = None, **values: Any) -> Submission:
    wire = {
        "request_id": request_id,
        "records": [{"table": "t", "values": {"n": 1, **values}}],
        "reply_to": (who or caller("w")).to_wire(),
    }
    return read_submission(wire if span is None else wire | {"traceparent": span_of(span)})


def test_a_span_is_carried_over_with_its_request_and_weighed() -> None:
    with_span, without = buffer(), buffer()
    for n in range(3):
        with_span.accept(traced(f"r{n}", n + 1), NOW)
        without.accept(traced(f"r{n}", None), NOW)
    assert with_span.carry_bytes == without.carry_bytes + 3 * TRACE_BYTES
    state = carried(with_span)
    again = restored(state)
    assert [one.traceparents for one in again.waiting] == [[span_of(1)], [span_of(2)], [span_of(3)]]
    assert again.carry_bytes == with_span.carry_bytes
    batch = again.next_batch(NOW + 100)
    assert batch is not None
    assert [one.to_wire()["traceparent"] for one in batch.submissions] == [span_of(1), span_of(2), span_of(3)]
    assert [one.to_wire()["arrived_at"] for one in batch.submissions] == [NOW] * 3


def test_callers_of_one_request_have_a_span_each() -> None:
    buf = buffer()
    buf.accept(traced("r", 1, caller("a")), NOW)
    buf.accept(traced("r", 2, caller("b")), NOW)
    buf.accept(traced("r", 3, caller("b")), NOW)  # the next attempt of the same activity
    (waiting,) = buf.waiting
    assert waiting.traceparents == [span_of(1), span_of(2)]
    assert buf.pending_bytes == waiting.size
    assert restored(carried(buf)).waiting[0].traceparents == waiting.traceparents


def test_what_is_accepted_does_not_depend_on_a_span() -> None:
    size = traced("r", None).size
    room = 2_000 - size - len(',"p":""')
    limits = {"max_batch_bytes": 2_000, "max_pending_bytes": 2_000}
    for span in (None, 1):
        exact, too_large = (traced("r", span, p="x" * (room + more)) for more in (0, 1))
        assert buffer(**limits).accept(exact, NOW) == "new"
        with pytest.raises(InvalidRequest, match="2,001 bytes"):
            buffer(**limits).accept(too_large, NOW)
        full = buffer(**limits)
        full.accept(exact, NOW)
        with pytest.raises(BufferFull):
            full.accept(traced("other", span), NOW)
