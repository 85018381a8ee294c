"""A parcel whose content the flush does not have: its neighbours are written, and only what is certain is said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from temporal_batching import MemorySink
from temporal_batching.contents import ContentStore, Missing
from temporal_batching.contract import Outcome, ReplyTo
from temporal_batching.flush.contents import bring_contents, fetch_content, join
from temporal_batching.flush.settlement import BatchResult, write_batch
from temporal_batching.sinks.base import Batch
from temporal_batching.wire.parcels import PackedParcel, Parcel, ParcelReference, ParcelSource
from temporal_batching.wire.submission import ENVELOPE_BYTES, Submission, load_submission
from tests.support.buffers import parcel
from tests.support.flushes import FakeSink, all_written, flush_of, wire

NOW_MISSING = Missing("Temporal is not there")
GONE = Missing("it was deleted", gone=True)


def packed(parcel_id: str, *ids: str, keys: Sequence[str] = ()) -> Submission:
    plain = parcel(parcel_id, *ids, keys=keys)
    assert isinstance(plain.body, Parcel)
    return replace(plain, body=plain.body.pack(plain.size - ENVELOPE_BYTES))


def referred(parcel_id: str, *ids: str, keys: Sequence[str] = (), **fields: Any) -> Submission:
    made = packed(parcel_id, *ids, keys=keys)
    assert isinstance(made.body, PackedParcel)
    return replace(made.by_reference(ParcelSource(parcel_id, "run")), **fields)


def single(request_id: str, *, key: str = "") -> Submission:
    return load_submission({**wire(request_id), "key": key})


async def flushed(
    sink: Any, *submissions: Submission, missing: Missing, at: int = 1, halved: bool = False
) -> BatchResult:
    flush = replace(flush_of(), halved=halved)
    return await write_batch(sink, flush, submissions, missing={at: missing})


async def test_what_cannot_be_read_now_waits_alone_and_is_not_in_doubt() -> None:
    sink = FakeSink(all_written)
    result = await flushed(sink, single("a"), referred("p", "x", "y"), single("b"), missing=NOW_MISSING)
    assert sink.written == [["a", "b"]]
    assert result.counts == {"written": 2}
    (kept,) = result.requeued
    assert (kept.position, kept.in_doubt, kept.unread) == (1, False, True)
    assert "Temporal is not there" in kept.reason


@pytest.mark.parametrize(
    ("keys", "many", "waiting"),
    [(("k",), False, [1, 2, 4]), (("k",), True, [1, 2, 3, 4]), ((), False, [1])],
    ids=["named", "many", "none"],
)
async def test_what_comes_after_it_under_its_keys_waits_and_nothing_else(
    keys: Sequence[str], many: bool, waiting: list[int]
) -> None:
    unread = referred("p", "x", keys=keys)
    if many:
        assert isinstance(unread.body, ParcelReference)
        unread = replace(unread, body=replace(unread.body, announced=replace(unread.body.announced, keys=None)))
    batch = [
        single("before", key="k"),
        unread,
        packed("q", "y", "z", keys=("k", "l")),
        single("other", key="m"),
        single("behind the one behind", key="l"),
        single("without"),
    ]
    result = await flushed(FakeSink(all_written), *batch, missing=NOW_MISSING)
    assert [one.position for one in result.requeued] == waiting


async def test_past_its_deadline_it_is_its_shard_that_lets_it_expire() -> None:
    """Not this attempt: should it be lost, the next one might write the parcel by another clock."""
    late = referred("p", "x", expires_at=time.time() - 1)
    result = await flushed(FakeSink(all_written), single("a"), late, missing=NOW_MISSING)
    assert [one.position for one in result.requeued] == [1]
    assert len(result.deliveries) == 1


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "rejected"),
        ({"resubmitted": True}, "waits"),
        ({"in_doubt": True}, "waits"),
        ({"in_doubt": True, "expires_at": 1.0}, "unknown"),
        ({"in_doubt": True, "withdrawn": True}, "unknown"),
        ({"expires_at": 1.0}, "rejected"),
    ],
)
async def test_what_is_gone_is_not_written_and_called_so_only_if_it_is_certain(
    fields: dict[str, Any], outcome: str
) -> None:
    sink = FakeSink(all_written)
    gone = referred("p", "x", "y", **{"expires_at": time.time() + 60, **fields})
    result = await flushed(sink, single("a"), gone, missing=GONE)
    assert sink.written == [["a"]]
    assert [one.position for one in result.requeued] == ([1] if outcome == "waits" else [])
    assert result.unknown == ([1] if outcome == "unknown" else [])
    told = [one.confirmation for one in result.deliveries if one.confirmation and one.confirmation.request_id == "p"]
    assert [(one.outcome, one.code) for one in told] == (
        [("rejected", "content_gone")] if outcome == "rejected" else []
    )
    assert result.counts == {"written": 1, **({"rejected": 2} if outcome == "rejected" else {})}


async def test_an_id_that_its_neighbour_wrote_under_the_same_batch_is_not_confirmed_as_written_twice() -> None:
    sink = MemorySink()
    first = await flushed(sink, single("x"), referred("p", "x", "y"), missing=NOW_MISSING)
    assert [one.unread for one in first.requeued] == [True]
    second = await write_batch(sink, replace(flush_of(), halved=True), [packed("p", "x", "y")])
    assert second.counts == {"duplicate": 2}


# Where the content comes from


class Activities:
    """What lies in the inputs of activities."""

    def __init__(self, **contents: str | Missing) -> None:
        self.contents = contents
        self.asked: list[str] = []

    async def __call__(self, source: ParcelSource) -> str | Missing:
        self.asked.append(source.activity_id)
        return self.contents[source.activity_id]


async def test_any_activity_that_waits_for_a_parcel_has_its_content() -> None:
    submission = referred(
        "p", "x", replies=[ReplyTo("w", "r", "1"), ReplyTo(None, "run", "p"), ReplyTo(None, "r", "q")]
    )
    content = packed("p", "x").body
    assert isinstance(content, PackedParcel)
    activities = Activities(p=GONE, q=content.packed)
    brought = await fetch_content(submission, activities)
    assert isinstance(brought, Submission)
    assert brought.body == content
    assert activities.asked == ["p", "q"]


async def test_what_may_come_back_is_not_looked_for_elsewhere() -> None:
    submission = referred("p", "x", replies=[ReplyTo(None, "r", "q")])
    activities = Activities(p=NOW_MISSING, q="never asked")
    assert await fetch_content(submission, activities) == NOW_MISSING
    assert activities.asked == ["p"]


async def test_a_content_in_the_process_costs_no_call() -> None:
    store, client = ContentStore(), object()
    content = packed("p", "x").body
    assert isinstance(content, PackedParcel)
    store.put(content.announced.digest, content.packed)
    found = await bring_contents([single("a"), referred("p", "x")], store, client)  # type: ignore[arg-type]
    assert not found.missing
    assert found.submissions[1].body == content


async def test_a_content_that_is_not_what_was_announced_is_rejected_alone() -> None:
    found = join([single("a"), referred("p", "x")], [single("a"), referred("p", "x").with_content("something else")])
    result = await write_batch(MemorySink(), flush_of(), found.submissions)
    assert result.counts == {"written": 1, "rejected": 1}


@pytest.mark.parametrize(("resubmitted", "counts"), [(False, {"rejected": 2}), (True, {"written": 2})])
async def test_keys_that_were_not_named_are_compared_with_the_shard(resubmitted: bool, counts: dict[str, int]) -> None:
    """`flush_of` is of shard 3, where of 7 shards neither key belongs."""
    made = replace(packed("p", "x", "y", keys=("a-1", "a-2")), resubmitted=resubmitted)
    assert isinstance(made.body, PackedParcel)
    made = replace(made, body=replace(made.body, announced=replace(made.body.announced, keys=None, shards=7)))
    assert (await write_batch(MemorySink(), flush_of(), [made])).counts == counts


async def test_a_sink_that_is_down_leaves_what_was_not_read_as_it_was() -> None:
    def down(batch: Batch) -> Sequence[Outcome]:
        return [Outcome.retry("down", in_doubt=True) for _ in batch]

    result = await flushed(FakeSink(down), single("a"), referred("p", "x"), missing=NOW_MISSING)
    assert [(one.position, one.in_doubt) for one in result.requeued] == [(0, True), (1, False)]
