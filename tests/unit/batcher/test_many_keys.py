"""A parcel whose keys are many has every key: it waits for all before it that have any, and all after it for it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.keys import KeySet
from temporal_batching.contract import FlushResult, Requeued
from temporal_batching.wire.submission import Submission
from tests.support.buffers import NOW, buffer, carried, ids, restored, submission, take
from tests.support.buffers import with_many_keys as many


def settle(buf: Buffer, batch: PendingBatch) -> None:
    buf.complete(batch.id, FlushResult({"written": batch.requests}), NOW)


def test_it_waits_for_a_batch_in_flight_that_has_any_key_and_all_with_a_key_wait_for_it() -> None:
    buf = buffer(linger=0, max_in_flight=4, max_batch_size=1)
    buf.accept(submission("first", key="a"), NOW)
    first = take(buf, NOW)
    for one in (many("many"), submission("second", key="b"), submission("free"), many("more")):
        buf.accept(one, NOW)
    assert ids(take(buf, NOW)) == ["free"]
    for expected in (["many"], ["second"], ["more"]):
        assert buf.next_batch(NOW) is None
        settle(buf, first)
        first = take(buf, NOW)
        assert ids(first) == expected


def test_in_a_batch_it_keeps_its_place() -> None:
    buf = buffer(linger=0)
    for one in (submission("first", key="a"), many("many"), submission("second", key="b"), many("more")):
        buf.accept(one, NOW)
    assert ids(take(buf, NOW)) == ["first", "many", "second", "more"]


def test_it_does_not_wait_for_what_has_no_key() -> None:
    buf = buffer(linger=0, max_in_flight=4, max_batch_size=1)
    for one in (submission("first"), many("many"), submission("free"), submission("later", key="a")):
        buf.accept(one, NOW)
    assert [ids(take(buf, NOW)) for _ in range(3)] == [["first"], ["many"], ["free"]]
    assert buf.next_batch(NOW) is None


def test_while_it_waits_for_a_retry_all_with_a_key_wait_also_in_the_next_run() -> None:
    buf = buffer(linger=0, max_in_flight=4)
    buf.accept(many("many"), NOW)
    batch = take(buf, NOW)
    buf.complete(batch.id, FlushResult({}, requeued=[Requeued(0, "its content is not here", unread=True)]), NOW)
    buf = restored(carried(buf))
    buf.accept(submission("later", key="a"), NOW)
    buf.accept(submission("free"), NOW)
    assert ids(take(buf, NOW)) == ["free"]


def test_its_bytes_count_as_long_as_it_is_here_and_its_weight_is_what_is_carried() -> None:
    buf = buffer(linger=0)
    large = many("many", *(f"request-{n}" for n in range(100)))
    buf.accept(large, NOW)
    assert (buf.pending_bytes, buf.pending_weight) == (large.size, large.weight)
    batch = take(buf, NOW)
    assert (buf.pending_bytes, buf.pending_weight) == (large.size, large.weight)
    buf.complete(batch.id, FlushResult({"written": 100}), NOW)
    assert (buf.pending_bytes, buf.pending_weight) == (0, 0)


def test_a_retry_of_a_batch_whose_neighbours_were_settled_says_so() -> None:
    buf = buffer(linger=0)
    buf.accept(submission("neighbour"), NOW)
    buf.accept(many("many"), NOW)
    batch = take(buf, NOW)
    unread = Requeued(1, "its content is not here", unread=True)
    buf.complete(batch.id, FlushResult({"written": 1}, requeued=[unread]), NOW)
    (kept,) = restored(carried(buf)).batches
    assert kept.apart
    alone = buffer(linger=0)
    alone.accept(many("many"), NOW)
    batch = take(alone, NOW)
    alone.complete(batch.id, FlushResult({}, requeued=[replace(unread, position=0)]), NOW)
    assert not alone.batches[0].apart


SUBMISSIONS = [submission("a", key="a"), submission("b", key="b"), submission("none"), many("m"), many("n")]


@given(st.lists(st.sampled_from(SUBMISSIONS)), st.lists(st.sampled_from(SUBMISSIONS)), st.sampled_from(SUBMISSIONS))
def test_a_set_of_keys_blocks_what_shares_one(some: list[Submission], gone: list[Submission], one: Submission) -> None:
    keys = KeySet([*some, *gone])
    for submission_ in gone:
        keys.remove(submission_)
    has_key = bool(one.keys) or one.has_many_keys
    with_keys = [other for other in some if other.keys or other.has_many_keys]
    expected = has_key and any(
        one.has_many_keys or other.has_many_keys or set(one.keys) & set(other.keys) for other in with_keys
    )
    assert keys.block(one) is bool(expected)
    assert bool(keys) is bool(with_keys)
