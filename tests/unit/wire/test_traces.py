"""The span of a caller in its request: read or ignored, never a reason to refuse; and no part of what it asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import JsonObject
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.bodies import same_content
from temporal_batching.wire.submission import Submission, load_submission, read_submission
from temporal_batching.wire.traces import TRACE_BYTES, read_traceparent
from tests.support.buffers import caller

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
ANOTHER = f"00-{TRACE}-{'1' * 16}-01"


def wire(**more: Any) -> JsonObject:
    records = [{"table": "t", "values": {"n": 1}}]
    return {"request_id": "r", "records": records, "reply_to": caller("w").to_wire(), **more}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (TRACEPARENT, TRACEPARENT),
        (f"00-{TRACE}-{SPAN}-03", f"00-{TRACE}-{SPAN}-03"),
        (f"cc-{TRACE}-{SPAN}-01", TRACEPARENT),  # of a later version what this one knows
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", TRACEPARENT),
        (f"cc-{TRACE}-{SPAN}-01.what", None),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-00", None),  # not sampled: nobody keeps it
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f" {TRACEPARENT}", None),
        (f"00_{TRACE}_{SPAN}_01", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
        (None, None),
        (["00"], None),
        ({}, None),
        (7, None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(given: Any, read: str | None) -> None:
    assert read_traceparent(given) == read


@given(st.one_of(st.text(), st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*", fullmatch=True)))
def test_what_is_read_is_read_again_as_the_same(text: str) -> None:
    read = read_traceparent(text)
    assert read is None or (len(read) == 55 and read_traceparent(read) == read)


@pytest.mark.parametrize("given", ["nonsense", 7, {"not": "text"}, ["x"] * 1000, "\ud800", TRACEPARENT * 10_000])
def test_a_malformed_traceparent_fails_no_write(given: Any) -> None:
    submission = read_submission(wire(traceparent=given))
    assert submission.traceparent is None
    assert submission.size == read_submission(wire()).size
    assert "traceparent" not in submission.to_wire()


def test_without_tracing_nothing_travels() -> None:
    plain = read_submission(wire())
    plain.arrived_at = 5.0
    assert set(plain.to_wire()) == {"request_id", "key", "records", "expires_at", "reply_to"}


def test_the_span_travels_to_the_flush_and_to_the_next_run() -> None:
    submission = read_submission(wire(traceparent=TRACEPARENT))
    submission.arrived_at = 1_700_000_000.5
    plain = read_submission(wire())
    added = len(json.dumps(submission.to_wire())) - len(json.dumps(plain.to_wire()))
    assert 0 < added <= submission.size - plain.size == TRACE_BYTES
    loaded = load_submission(json.loads(json.dumps(submission.to_wire())), size=submission.size)
    assert (loaded.traceparent, loaded.arrived_at) == (TRACEPARENT, 1_700_000_000.5)


def test_a_span_makes_no_request_too_large() -> None:
    """Else the same write would be refused or taken, by whether its caller is traced."""
    room = MAX_REQUEST_BYTES - read_submission(wire()).size
    largest = wire(records=[{"table": "t", "values": {"n": 1, "p": "x" * (room - len(',"p":""'))}}])
    traced = read_submission(largest | {"traceparent": TRACEPARENT})
    assert traced.untraced_size == MAX_REQUEST_BYTES
    with pytest.raises(InvalidRequest, match="at most 1,500,000"):
        read_submission(wire(records=[{"table": "t", "values": {"n": 1, "p": "x" * room}}]))


def test_the_same_request_from_another_span_is_the_same_request() -> None:
    one, other = (read_submission(wire(traceparent=span)) for span in (TRACEPARENT, ANOTHER))
    assert same_content(one.body, other.body)


def test_a_caller_that_joins_brings_its_own_span() -> None:
    def joined(first: str | None, second: str | None, *, again: bool = False) -> Submission:
        known, other = (read_submission(wire(traceparent=span)) for span in (first, second))
        new = [] if again else [caller("another")]
        size = known.size + known.growth_by(other, new)
        known.join(other, new)
        known.size = size
        return known

    both = joined(TRACEPARENT, ANOTHER)
    assert both.traceparents == [TRACEPARENT, ANOTHER]
    assert both.untraced_size == joined(None, None).size
    assert load_submission(both.to_wire()).traceparents == [TRACEPARENT, ANOTHER]
    assert joined(None, ANOTHER).traceparents == [ANOTHER]
    assert joined(TRACEPARENT, None).traceparents == [TRACEPARENT]
    assert joined(TRACEPARENT, TRACEPARENT).traceparents == [TRACEPARENT]
    repeated = joined(TRACEPARENT, ANOTHER, again=True)  # another attempt of the same activity
    assert repeated.traceparents == [TRACEPARENT]
    assert repeated.size == read_submission(wire(traceparent=TRACEPARENT)).size


@pytest.mark.parametrize("form", ["list", "packed", "reference"])
def test_a_parcel_has_one_span_in_every_form(form: str) -> None:
    from temporal_batching.wire.parcels import ParcelSource

    requests = [{"request_id": f"r{n}", "key": "", "records": [{"table": "t", "values": {"n": n}}]} for n in range(40)]
    plain = {"request_id": "p", "requests": requests, "reply_to": caller("w").to_wire()}
    traced, untraced = read_submission(plain | {"traceparent": TRACEPARENT}), read_submission(plain)
    if form != "list":
        traced, untraced = traced.packed(), untraced.packed()
    if form == "reference":
        source = ParcelSource("a", "r")
        traced, untraced = traced.by_reference(source), untraced.by_reference(source)
    again = read_submission(json.loads(json.dumps(traced.to_wire())))
    assert again.traceparent == TRACEPARENT
    assert again.size == traced.size == untraced.size + TRACE_BYTES
    assert traced.weight == untraced.weight + TRACE_BYTES
