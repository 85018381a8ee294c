"""Packed parcels: the same requests in less room, and nothing believed of a stranger's."""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

import pytest

from temporal_batching import MemorySink
from temporal_batching.contract import FlushInput, JsonObject, RejectCode
from temporal_batching.errors import InvalidRequest
from temporal_batching.flush.settlement import write_batch
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.bodies import PackedParcel, same_content
from temporal_batching.wire.submission import Submission, load_submission, read_submission
from tests.support.buffers import NOW, buffer, caller, carried, parcel, restored, take


def wire(submission: Submission) -> JsonObject:
    """A submission after its way over Temporal."""
    sent: JsonObject = json.loads(json.dumps(submission.to_wire()))
    return sent


def squeezed(requests: Any, *, counts: list[Any] | None = None, size: Any = 100) -> JsonObject:
    packed = base64.b64encode(zlib.compress(json.dumps(requests).encode())).decode()
    made = {"request_id": "p", "packed": packed, "holds": counts or [len(requests), len(requests)], "bytes": size}
    return {**made, "keys": [], "reply_to": caller("w").to_wire()}


def requests(*ids: str, **values: Any) -> list[JsonObject]:
    return [{"request_id": i, "records": [{"table": "t", "values": {"n": 1, **values}}]} for i in ids]


def test_a_packed_parcel_holds_what_was_packed_and_counts_the_same() -> None:
    plain = parcel("p", "a", "b", "c")
    packed = read_submission(wire(plain.packed()))
    assert isinstance(packed.body, PackedParcel)
    assert (packed.id, packed.requests, packed.records) == ("p", 3, 3)
    assert packed.size == plain.size, "a parcel that fits a batch must fit it packed"
    assert packed.body.write_requests(7.0) == plain.body.write_requests(7.0)
    assert same_content(packed.body, plain.body)
    assert not same_content(packed.body, parcel("p", "a", "b").packed().body)


def test_alike_rows_take_a_fraction_of_the_room() -> None:
    plain = parcel("p", *(f"request-{n}" for n in range(500)))
    assert len(json.dumps(wire(plain.packed()))) < len(json.dumps(wire(plain))) / 5


def test_a_single_request_is_not_packed() -> None:
    single = read_submission({**requests("a")[0], "reply_to": caller("w").to_wire()})
    assert single.packed() is single


@pytest.mark.parametrize(
    "wrong",
    [
        {"packed": 1},
        {"packed": None},
        {"keys": None},
        {"keys": [1]},
        {"keys": [""]},
        {"keys": ["a", "b"]},
        {"holds": None},
        {"holds": [1]},
        {"holds": [1, 0]},
        {"holds": [True, 1]},
        {"holds": ["1", 1]},
        {"bytes": -1},
        {"bytes": 1.5},
        {"bytes": None},
    ],
)
def test_a_packed_parcel_of_the_wrong_shape_is_refused_at_the_door(wrong: JsonObject) -> None:
    with pytest.raises(InvalidRequest, match="packed parcel"):
        read_submission({**squeezed(requests("a")), **wrong})


def test_a_packed_parcel_larger_than_any_request_is_refused_at_the_door() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read_submission(squeezed(requests("a"), size=MAX_REQUEST_BYTES + 1))
    assert refusal.value.code is RejectCode.TOO_LARGE


@pytest.mark.parametrize(
    "bad",
    [
        {**squeezed(requests("a")), "packed": "no base64!"},
        {**squeezed(requests("a")), "keys": ["k"]},
        {**squeezed(requests("a")), "packed": base64.b64encode(b"no zlib").decode()},
        {**squeezed(requests("a")), "packed": squeezed(requests("a"))["packed"][:20]},
        squeezed({"not": "a list"}),
        squeezed([1]),
        squeezed([{"request_id": "a", "records": []}], counts=[1, 1]),
        squeezed(requests("a"), counts=[2, 1]),
        squeezed(requests("a"), counts=[1, 2]),
        squeezed(requests("a", text=" " * (MAX_REQUEST_BYTES + 1))),
    ],
    ids=["base64", "keys", "zlib", "cut", "list", "requests", "records", "count", "record count", "bomb"],
)
async def test_a_parcel_that_does_not_hold_what_it_says_is_rejected_and_its_neighbours_written(bad: JsonObject) -> None:
    sink, now = MemorySink(), time.time()
    buf = buffer(linger=0)
    for submission in (parcel("before", "x"), read_submission(bad), parcel("after", "y").packed()):
        buf.accept(submission, now)
    batch = take(buf, now)
    submissions = [load_submission(wire(submission)) for submission in batch.submissions]
    settled = await write_batch(sink, FlushInput("main", 0, batch.id, batch.trigger, None), submissions)
    declared = bad["holds"][0]
    assert settled.counts == {"written": 2, "rejected": declared}
    before, bad_one, after = settled.deliveries
    assert bad_one.confirmation is not None
    assert (bad_one.confirmation.outcome, bad_one.confirmation.code) == ("rejected", "invalid")
    assert [delivery.receipt and delivery.receipt.others for delivery in (before, after)] == [{}, {}]
    assert len(sink.rows["t"]) == 2


def test_a_packed_parcel_is_carried_over_whole() -> None:
    buf = buffer(linger=0)
    buf.accept(parcel("p", "a", "b").packed(), NOW)
    (submission,) = take(restored(carried(buf)), NOW).submissions
    assert (submission.requests, submission.records) == (2, 2)
    assert [one.request_id for one in submission.write_requests()] == ["a", "b"]
