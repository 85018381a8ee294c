"""Packed parcels, with their content or by reference: the same requests in less room, and nothing taken on trust."""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from temporal_batching import MemorySink
from temporal_batching.contract import FlushInput, JsonObject, RejectCode
from temporal_batching.errors import InvalidRequest
from temporal_batching.flush.settlement import write_batch
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.bodies import same_content
from temporal_batching.wire.parcels import (
    MAX_KEYS,
    MAX_KEYS_BYTES,
    PackedParcel,
    Parcel,
    ParcelReference,
    ParcelSource,
    digest_of,
    pack_parcel,
)
from temporal_batching.wire.submission import ENVELOPE_BYTES, Submission, load_submission, read_submission
from tests.support.buffers import NOW, buffer, caller, carried, parcel, restored, take


def wire(submission: Submission) -> JsonObject:
    """A submission after its way over Temporal."""
    sent: JsonObject = json.loads(json.dumps(submission.to_wire()))
    return sent


def squeezed(requests: Any, *, counts: list[Any] | None = None, size: Any = None, **fields: Any) -> JsonObject:
    text = requests if isinstance(requests, str) else json.dumps(requests)
    packed = base64.b64encode(zlib.compress(text.encode())).decode()
    holds = counts or [len(requests), len(requests)]
    made = {"request_id": "p", "packed": packed, "holds": holds, "bytes": size or len(text), "keys": []}
    return {**made, "digest": digest_of(packed), "reply_to": caller("w").to_wire(), **fields}


def sealed(bad: JsonObject, packed: str) -> JsonObject:
    """The same parcel with another content, of which it has the right digest."""
    return {**bad, "packed": packed, "digest": digest_of(packed)}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def requests(*ids: str, **values: Any) -> list[JsonObject]:
    return [{"request_id": i, "records": [{"table": "t", "values": {"n": 1, **values}}]} for i in ids]


def test_a_packed_parcel_holds_what_was_packed_and_counts_the_same() -> None:
    plain = parcel("p", "a", "b", "c")
    packed = read_submission(wire(plain.packed()))
    assert isinstance(packed.body, PackedParcel)
    assert (packed.id, packed.requests, packed.records) == ("p", 3, 3)
    assert packed.size == plain.size, "a parcel that fits a batch must fit it packed"
    assert packed.write_requests() == plain.write_requests()
    assert same_content(packed.body, plain.body)
    assert not same_content(packed.body, parcel("p", "a", "b").packed().body)


def test_a_packed_parcel_that_does_not_hold_what_it_says_is_the_same_as_none() -> None:
    plain = parcel("p", "a", "b")
    packed = plain.packed().body
    assert isinstance(packed, PackedParcel)
    lie = replace(packed, announced=replace(packed.announced, keys=("other",)))
    assert same_content(packed, plain.body)
    assert not same_content(lie, plain.body)


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
        {"packed": 7},
        {"keys": {}},
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
        {"digest": None},
        {"digest": "abc"},
        {"shards": -1},
        {"shards": True},
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
        {**squeezed(requests("a")), "digest": "0" * 64},
        sealed(squeezed(requests("a")), "no base64!"),
        {**squeezed(requests("a")), "keys": ["k"]},
        squeezed([{**requests("a")[0], "key": "k"}]),
        sealed(squeezed(requests("a")), base64.b64encode(b"no zlib").decode()),
        sealed(squeezed(requests("a")), squeezed(requests("a"))["packed"][:20]),
        squeezed({"not": "a list"}),
        squeezed([1]),
        squeezed([{"request_id": "a", "records": []}], counts=[1, 1]),
        squeezed(requests("a"), counts=[2, 1]),
        squeezed(requests("a"), counts=[1, 2]),
        squeezed(requests("a", text=" " * (MAX_REQUEST_BYTES + 1)), size=1000),
        squeezed(requests("a"), size=len(json.dumps(requests("a"))) - 1),
        squeezed(requests("a", n=nested(101))),
        squeezed('[{"request_id":"a","records":[{"table":"t","values":{"n":NaN}}]}]', counts=[1, 1]),
        squeezed('[{"request_id":"a","records":[{"table":"t","values":{"n":0.10000000000000001}}]}]', counts=[1, 1]),
        squeezed('[{"request_id":"a","records":[{"table":"t","values":{"n":' + "1" * 5000 + "}}]}]", counts=[1, 1]),
    ],
    ids=[
        *("digest", "base64", "keys", "no keys", "zlib", "cut", "list", "requests", "records", "count", "record count"),
        *("bomb", "bytes", "nested", "nan", "inexact", "too long"),
    ],
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


# By reference

SOURCE = ParcelSource("activity-1", "run-1")


def referred(parcel_id: str, *ids: str, keys: Sequence[str] = ()) -> Submission:
    plain = parcel(parcel_id, *ids, keys=keys)
    assert isinstance(plain.body, Parcel)
    return replace(plain, body=plain.body.pack(plain.size - ENVELOPE_BYTES)).by_reference(SOURCE)


def test_a_reference_counts_as_its_content_and_weighs_a_fraction() -> None:
    plain = parcel("p", *(f"request-{n}" for n in range(500)))
    reference = read_submission(wire(referred("p", *(f"request-{n}" for n in range(500)))))
    assert isinstance(reference.body, ParcelReference)
    assert (reference.id, reference.requests, reference.records, reference.size) == ("p", 500, 500, plain.size)
    assert len(json.dumps(wire(reference))) < reference.weight + 100 < 1_000 < plain.weight == plain.size


def test_a_reference_with_its_content_is_the_parcel() -> None:
    plain = parcel("p", "a", "b")
    assert isinstance(plain.body, Parcel)
    packed = plain.body.pack(plain.size)
    reference = read_submission(wire(referred("p", "a", "b")))
    assert reference.with_content(packed.packed).write_requests() == plain.write_requests()
    with pytest.raises(LookupError):
        reference.write_requests()


def test_references_are_the_same_if_their_contents_are() -> None:
    one, other = referred("p", "a", "b"), referred("p", "a", "c")
    assert same_content(one.body, referred("p", "a", "b").body)
    assert same_content(one.body, parcel("p", "a", "b").packed().body)
    assert not same_content(one.body, other.body)
    assert not same_content(one.body, parcel("p", "a", "b").body), "nobody can know"


@pytest.mark.parametrize("wrong", ["activity", ["activity"], ["activity", 1], ["", "run"], ["a" * 1_001, "run"]])
def test_a_source_of_the_wrong_shape_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="source"):
        read_submission({**wire(referred("p", "a")), "source": wrong})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["k"] * 5, True),
        ([f"k{n}" for n in range(MAX_KEYS)], True),
        ([f"k{n}" for n in range(MAX_KEYS + 1)], False),
        (["k" * 200 + str(n) for n in range(MAX_KEYS_BYTES // 200 + 1)], False),
    ],
    ids=["one", "as many as are named", "more", "long ones"],
)
def test_past_a_bound_a_reference_says_only_that_its_keys_are_many(keys: list[str], named: bool) -> None:
    reference = read_submission(wire(referred("p", *(f"r{n}" for n in range(len(keys))), keys=keys)))
    assert reference.has_many_keys is not named
    assert set(reference.keys) == (set(keys) if named else set())
    assert len(json.dumps(wire(reference))) < MAX_KEYS_BYTES + 1_000


def test_a_parcel_without_keys_has_not_many() -> None:
    assert not referred("p", "a", "b").has_many_keys


def test_what_a_program_packs_holds_what_it_says() -> None:
    texts = [json.dumps(one, separators=(",", ":")) for one in requests("a", "b")]
    packed = read_submission(wire(Submission(pack_parcel("p", texts, records=2, keys=()), 0)))
    assert [one.request_id for one in packed.write_requests()] == ["a", "b"]


def test_a_reference_is_carried_over_without_its_content() -> None:
    buf = buffer(linger=0, max_batch_size=500)
    ids = [f"request-{n}" for n in range(500)]
    buf.accept(referred("p", *ids), NOW)
    state = carried(buf)
    assert len(json.dumps(state["pending"])) < 1_000
    again = restored(state)
    assert (again.pending_bytes, again.pending_weight) == (buf.pending_bytes, buf.pending_weight)
    assert again.carry_bytes < 2_000 < again.pending_bytes
    (submission,) = take(again, NOW).submissions
    assert submission.body == referred("p", *ids).body


def test_the_packed_parcel_in_the_wire_contract_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "wire-contract.md").read_text()
    (example,) = [one for one in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if '"packed"' in one]
    read = read_submission({**json.loads(example), "reply_to": caller("w").to_wire()})
    assert [one.request_id for one in read.write_requests()] == ["payment-1", "payment-2"]
