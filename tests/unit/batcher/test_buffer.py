"""The buffer, promise by promise. `test_buffer_properties.py` looks at all of them under any order of events."""

from __future__ import annotations

import pytest

from temporal_batching.batcher.accepted import Accepted
from temporal_batching.batcher.limits import BufferFull
from temporal_batching.batcher.outbox import MAX_DELIVERIES, OUTBOX_PART
from temporal_batching.contract import Confirmation, Delivery, FlushResult, OutcomeKind, RejectCode, Trigger, Withdrawal
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.addresses import MAX_REPLIES
from temporal_batching.wire.submission import read_submission
from tests.support.buffers import (
    NOW,
    buffer,
    caller,
    carried,
    confirmations,
    ids,
    parcel,
    policy,
    restored,
    submission,
    take,
)

# What starts a batch


def test_nothing_is_flushed_before_it_is_due() -> None:
    buf = buffer(linger=20)
    buf.accept(submission("a"), NOW)
    assert buf.next_batch(NOW + 19.9) is None
    assert buf.wake_at() == NOW + 20
    batch = take(buf, NOW + 20)
    assert (batch.trigger, ids(batch), batch.id) == (Trigger.LINGER, ["a"], "main-0/1")


def test_the_linger_counts_from_the_oldest_request() -> None:
    buf = buffer(linger=20)
    buf.accept(submission("a"), NOW)
    buf.accept(submission("b"), NOW + 15)
    assert ids(take(buf, NOW + 20)) == ["a", "b"]


def test_what_a_request_waited_in_its_gateway_counts_for_the_linger() -> None:
    buf = buffer(linger=20)
    buf.accept(submission("a", waited=1.0), NOW)
    buf.accept(submission("b", waited=2.0), NOW)
    assert buf.wake_at() == NOW + 18
    assert buf.oldest_age(NOW) == 2.0
    assert buf.next_batch(NOW + 17.9) is None
    later = restored(carried(buf))
    assert later.wake_at() == NOW + 18
    assert ids(take(later, NOW + 18)) == ["a", "b"], "in the order of acceptance all the same"
    assert later.wake_at() is None


@pytest.mark.parametrize("way", ["withdrawn", "expired", "flushed"])
def test_when_the_oldest_leaves_the_next_one_counts(way: str) -> None:
    buf = buffer(linger=20, deadline_margin=0, max_batch_records=2)
    buf.accept(submission("a", records=2 if way == "flushed" else 1, waited=2.0, expires_at=NOW + 10), NOW)
    buf.accept(submission("b"), NOW + 5)
    if way == "withdrawn":
        assert buf.withdraw(Withdrawal("a"), NOW)
    elif way == "expired":
        buf.expire(NOW + 10)
    else:
        batch = take(buf, NOW + 5)
        assert ids(batch) == ["a"]
        buf.complete(batch.id, FlushResult({"written": 1}), NOW)
    assert buf.oldest_age(NOW + 10) == 5.0
    assert buf.wake_at() == NOW + 25


def test_a_batch_counts_requests_and_a_second_cap_its_records() -> None:
    buf = buffer(max_batch_size=2, max_batch_records=5)
    for name, records in {"a": 2, "b": 2, "c": 4, "d": 2}.items():
        buf.accept(submission(name, records=records), NOW)
    for expected in (["a", "b"], ["c"]):
        batch = take(buf, NOW)
        assert (batch.trigger, ids(batch)) == (Trigger.COUNT, expected)
        buf.complete(batch.id, FlushResult({"written": len(expected)}), NOW)
    assert buf.next_batch(NOW) is None
    assert buf.counts.largest_batch == 2


def test_a_full_batch_is_flushed_at_once_and_the_rest_waits() -> None:
    buf = buffer(max_batch_size=2)
    for name in "abc":
        buf.accept(submission(name), NOW)
    batch = take(buf, NOW)
    assert (batch.trigger, ids(batch)) == (Trigger.COUNT, ["a", "b"])
    buf.complete(batch.id, FlushResult({"written": 2}), NOW)
    assert buf.next_batch(NOW) is None


def test_a_batch_is_full_by_its_bytes_too() -> None:
    buf = buffer(max_batch_bytes=1024, max_pending_bytes=10_000)
    for name in "abcd":
        buf.accept(submission(name, n="x" * 200), NOW)
    batch = take(buf, NOW)
    assert batch.trigger == Trigger.BYTES
    assert len(batch.submissions) == 2
    assert batch.size <= 1024


def test_a_deadline_coming_near_starts_a_batch() -> None:
    buf = buffer(linger=60, deadline_margin=2)
    buf.accept(submission("a"), NOW)
    buf.accept(submission("b", expires_at=NOW + 10), NOW)
    assert buf.wake_at() == NOW + 8
    batch = take(buf, NOW + 8)
    assert (batch.trigger, ids(batch)) == (Trigger.DEADLINE, ["a", "b"])


def test_an_explicit_flush_takes_what_is_there_and_not_what_comes_later() -> None:
    buf = buffer(linger=60)
    buf.accept(submission("a"), NOW)
    buf.flush_now(NOW + 1)
    assert buf.wake_at() == 0.0
    batch = take(buf, NOW + 1)
    assert (batch.trigger, ids(batch)) == (Trigger.MANUAL, ["a"])
    buf.complete(batch.id, FlushResult({"written": 1}), NOW)
    buf.accept(submission("b"), NOW + 2)
    assert buf.next_batch(NOW + 2) is None


def test_without_linger_an_idle_shard_flushes_at_once_and_gathers_during_a_flush() -> None:
    buf = buffer(linger=0)
    buf.accept(submission("a"), NOW)
    first = take(buf, NOW)
    for name in "bcd":
        buf.accept(submission(name), NOW + 1)
    assert buf.next_batch(NOW + 1) is None
    buf.complete(first.id, FlushResult({"written": 1}), NOW)
    assert ids(take(buf, NOW + 2)) == ["b", "c", "d"]


def test_a_forced_flush_takes_whatever_waits() -> None:
    buf = buffer(linger=60)
    assert buf.next_batch(NOW, force=True) is None
    buf.accept(submission("a"), NOW)
    assert take(buf, NOW, force=True).trigger == Trigger.MANUAL


def test_a_paused_shard_flushes_nothing_but_still_keeps_deadlines() -> None:
    buf = buffer(linger=0)
    buf.paused = True
    buf.accept(submission("a", expires_at=NOW + 5), NOW)
    assert buf.next_batch(NOW, force=True) is None
    assert buf.wake_at() == NOW + 5
    buf.expire(NOW + 5)
    assert confirmations(buf) == [("a", "expired", None, ["w-a"])]
    assert buf.wake_at() is None


def test_as_many_flushes_run_beside_each_other_as_the_policy_allows() -> None:
    buf = buffer(max_batch_size=1, max_in_flight=2)
    for name in "abc":
        buf.accept(submission(name), NOW)
    take(buf, NOW)
    second = take(buf, NOW)
    assert buf.next_batch(NOW) is None
    assert (buf.batches_in_flight, buf.in_flight, buf.pending) == (2, 2, 1)
    buf.complete(second.id, FlushResult({"written": 1}), NOW)
    assert ids(take(buf, NOW)) == ["c"]


# Limits


def test_a_request_that_no_batch_can_take_is_refused_with_its_size_and_the_limit() -> None:
    buf = buffer(max_batch_size=1, max_batch_records=2, max_batch_bytes=2048, max_pending_bytes=4096)
    with pytest.raises(InvalidRequest, match="the request has 3 records: at most 2 fit a batch") as refusal:
        buf.accept(submission("a", records=3), NOW)
    assert refusal.value.code is RejectCode.TOO_LARGE
    with pytest.raises(InvalidRequest, match="the parcel has 2 requests: at most 1 fit a batch"):
        buf.accept(parcel("p", "b", "c"), NOW)
    with pytest.raises(InvalidRequest, match=r"the request has 3,\d{3} bytes: at most 2,048 fit a batch"):
        buf.accept(submission("a", n="x" * 3_000), NOW)


def test_a_full_buffer_refuses_and_says_what_it_holds() -> None:
    buf = buffer(max_pending=1)
    buf.accept(submission("a"), NOW)
    with pytest.raises(BufferFull, match="1 requests are waiting, of 1 allowed"):
        buf.accept(submission("b"), NOW)
    buf = buffer(max_batch_bytes=1024, max_pending_bytes=1024)
    buf.accept(submission("a", n="x" * 600), NOW)
    with pytest.raises(BufferFull, match="bytes are waiting, of 1,024 allowed"):
        buf.accept(submission("b", n="x" * 600), NOW)


def test_a_draining_shard_takes_nothing_new_and_flushes_what_it_has() -> None:
    buf = buffer()
    buf.accept(submission("a"), NOW)
    buf.draining = True
    with pytest.raises(BufferFull, match="draining"):
        buf.accept(submission("b"), NOW)
    assert buf.accept(submission("a"), NOW) is Accepted.ATTACHED
    buf.flush_now(NOW)
    assert ids(take(buf, NOW)) == ["a"]


def test_the_first_entry_goes_even_if_a_new_policy_makes_it_too_large() -> None:
    buf = buffer()
    buf.accept(submission("a", records=5), NOW)
    buf.accept(submission("b"), NOW)
    buf.policy = policy(max_batch_records=2)
    assert ids(take(buf, NOW)) == ["a"]


def test_a_refusal_is_an_answer_for_a_door_that_cannot_turn_its_caller_back() -> None:
    buf = buffer()
    buf.refuse(submission("a"), RejectCode.OVERLOADED, "full")
    buf.refuse(parcel("p", "b", "c"), RejectCode.OVERLOADED, "full")
    assert buf.counts.refused == 3
    assert confirmations(buf) == [("a", "rejected", "overloaded", ["w-a"]), ("p", "rejected", "overloaded", ["p"])]


# Deadlines


def test_a_request_without_a_deadline_gets_the_policys() -> None:
    buf = buffer(confirmation_timeout=30, linger=60, deadline_margin=0)
    buf.accept(submission("a"), NOW)
    buf.expire(NOW + 29.9)
    assert buf.pending == 1
    buf.expire(NOW + 30)
    assert (buf.pending, buf.counts.outcomes) == (0, {"expired": 1})


def test_a_request_that_comes_after_its_deadline_is_told_so() -> None:
    buf = buffer()
    assert buf.accept(submission("a", expires_at=NOW), NOW) is Accepted.ANSWERED
    assert confirmations(buf) == [("a", "expired", None, ["w-a"])]


def test_a_caller_that_joins_is_not_told_that_it_expired_before_its_own_deadline() -> None:
    buf = buffer(linger=600, deadline_margin=0)
    buf.accept(submission("a", "v", expires_at=NOW + 5), NOW)
    buf.accept(submission("a", "w", expires_at=NOW + 50), NOW)
    buf.accept(submission("a", "x", expires_at=NOW + 1), NOW)
    buf.expire(NOW + 49)
    assert (buf.outbox, buf.wake_at()) == (0, NOW + 50)
    buf.expire(NOW + 50)
    assert confirmations(buf) == [("a", "expired", None, ["v", "w", "x"])]


def test_deadlines_that_callers_who_join_push_back_do_not_pile_up() -> None:
    buf = buffer(max_batch_size=1000, max_pending=1000, linger=600)
    for n in range(100):
        for caller_number in range(MAX_REPLIES):
            buf.accept(submission(f"a-{n}", f"w-{caller_number}", expires_at=NOW + 100 + caller_number), NOW)
    assert buf.footprint.deadlines <= 2 * 100 + 65


def test_in_doubt_nobody_is_told_that_it_expired() -> None:
    buf = buffer()
    buf.accept(submission("a", expires_at=NOW + 5), NOW)
    batch = take(buf, NOW, force=True)
    buf.fail(batch.id, NOW + 1, "lost", in_doubt=True)
    buf.expire(NOW + 60)
    assert (buf.outbox, buf.pending) == (0, 1)
    again = take(buf, NOW + 60)
    assert (again.id, again.in_doubt) == (batch.id, True)
    buf.fail(again.id, NOW + 61, "down", in_doubt=False)
    buf.expire(NOW + 120)
    assert buf.outbox == 0, "an earlier attempt stays in doubt whatever a later one knows"


def test_in_a_batch_that_certainly_was_not_written_deadlines_are_kept() -> None:
    buf = buffer(retry_initial=60, retry_max=60)
    buf.accept(submission("a", expires_at=NOW + 5), NOW)
    buf.accept(submission("b", expires_at=NOW + 500), NOW)
    batch = take(buf, NOW, force=True)
    buf.fail(batch.id, NOW + 1, "down", in_doubt=False)
    assert buf.wake_at() == NOW + 5
    buf.expire(NOW + 5)
    assert confirmations(buf) == [("a", "expired", None, ["w-a"])]
    again = take(buf, NOW + 61)
    assert (ids(again), again.records, again.size) == (["b"], 1, again.submissions[0].size)


# A sink that is down


def test_a_batch_that_failed_goes_first_and_keeps_its_id() -> None:
    buf = buffer(max_batch_size=2, retry_initial=1)
    for name in "abcd":
        buf.accept(submission(name), NOW)
    batch = take(buf, NOW)
    first_id = batch.id
    buf.fail(first_id, NOW, "down", in_doubt=True)
    assert (buf.pending, buf.breaker.open, buf.breaker.error, buf.counts.flush_failures) == (4, True, "down", 1)
    assert buf.next_batch(NOW + 0.9) is None
    assert buf.wake_at() == NOW + 1
    again = take(buf, NOW + 1)
    assert (again.id, ids(again)) == (first_id, ["a", "b"])


def test_the_breaker_backs_off_to_its_limit_and_closes_with_the_first_success() -> None:
    buf = buffer(retry_initial=1, retry_max=5, linger=0)
    buf.accept(submission("a", expires_at=NOW + 1e6), NOW)
    now, pauses = NOW, []
    for _ in range(5):
        batch = take(buf, now)
        buf.fail(batch.id, now, "down", in_doubt=True)
        wake = buf.wake_at()
        assert wake is not None
        pauses.append(wake - now)
        now = wake
    assert pauses == [1, 2, 4, 5, 5]
    buf.complete(take(buf, now).id, FlushResult({"written": 1}), NOW)
    assert (buf.breaker.open, buf.breaker.error) == (False, None)
    buf.accept(submission("b"), now)
    assert buf.next_batch(now) is not None


def test_the_breaker_pauses_longer_for_a_run_that_must_spare_its_history() -> None:
    buf = buffer(linger=0, retry_initial=1, retry_max=4)
    buf.accept(submission("a", expires_at=NOW + 10_000), NOW)
    now = NOW
    for backoff_factor, pause in [(1.0, 1.0), (3.0, 6.0), (3.0, 12.0), (1.0, 4.0)]:
        buf.fail(take(buf, now).id, now, "down", in_doubt=False, backoff_factor=backoff_factor)
        assert buf.next_batch(now + pause - 0.01) is None
        now += pause


def test_a_batch_knows_whether_it_was_tried_before() -> None:
    buf = buffer(linger=0)
    buf.accept(submission("a"), NOW)
    first = take(buf, NOW)
    assert not first.tried
    assert buf.batch_in_flight(first.id) is first
    buf.fail(first.id, NOW, "down", in_doubt=False)
    assert buf.batch_in_flight(first.id) is None
    later = restored(carried(buf))
    assert take(later, NOW + 10).tried


def test_while_the_sink_is_down_one_batch_probes_it() -> None:
    buf = buffer(max_in_flight=4, max_batch_size=1, retry_initial=1)
    for name in "abc":
        buf.accept(submission(name), NOW)
    buf.fail(take(buf, NOW).id, NOW, "down", in_doubt=True)
    assert ids(take(buf, NOW + 1)) == ["a"]
    assert buf.next_batch(NOW + 1) is None
    assert buf.next_batch(NOW + 1, force=True) is None
    assert buf.wake_at() != 0.0


def test_batches_that_failed_beside_each_other_go_again_in_their_order() -> None:
    buf = buffer(max_in_flight=2, max_batch_size=1, retry_initial=1)
    for name in "ab":
        buf.accept(submission(name), NOW)
    first, second = take(buf, NOW), take(buf, NOW)
    buf.fail(second.id, NOW, "down", in_doubt=True)
    buf.fail(first.id, NOW, "down", in_doubt=True)
    assert take(buf, NOW + 60).id == first.id


# Answers that no flush delivers


def test_an_answer_that_does_not_arrive_is_tried_again_up_to_a_limit() -> None:
    buf = buffer()
    buf.accept(submission("a", expires_at=NOW), NOW)
    for _ in range(MAX_DELIVERIES):
        assert len(buf.next_deliveries()) == 1
        assert buf.next_deliveries() == [], "one delivery at a time"
        buf.delivered([0])
    assert (buf.outbox, buf.undelivered, buf.idle) == (0, 1, True)


def test_the_attempt_of_the_flush_counts() -> None:
    buf = buffer()
    buf.accept(submission("a"), NOW)
    answer = Delivery(caller("w-a"), Confirmation("a", OutcomeKind.WRITTEN, "main-0/1", 1))
    buf.complete(take(buf, NOW, force=True).id, FlushResult({"written": 1}, [answer]), NOW)
    for _ in range(MAX_DELIVERIES - 1):
        assert buf.next_deliveries() == [answer]
        buf.delivered([0])
    assert (buf.outbox, buf.undelivered) == (0, 1)


def test_deliveries_go_in_parts_and_what_comes_meanwhile_is_kept() -> None:
    buf = buffer()
    for n in range(OUTBOX_PART + 5):
        buf.accept(submission(f"a-{n}", expires_at=NOW), NOW)
    assert len(buf.next_deliveries()) == OUTBOX_PART
    assert buf.deliveries_in_flight == OUTBOX_PART
    buf.accept(submission("late", expires_at=NOW), NOW)
    buf.delivered([3])
    names = [one.confirmation.request_id for one in buf.next_deliveries() if one.confirmation is not None]
    assert names == [f"a-{n}" for n in range(OUTBOX_PART, OUTBOX_PART + 5)] + ["late", "a-3"]


def test_a_request_that_nobody_waits_for_leaves_no_answer() -> None:
    buf = buffer()
    silent = read_submission({"request_id": "a", "records": [{"table": "t", "values": {"n": 1}}], "expires_at": NOW})
    buf.accept(silent, NOW)
    assert (buf.outbox, buf.counts.outcomes) == (0, {"expired": 1})


# Parcels, counters, carrying over


def test_a_parcel_is_one_entry_and_counts_its_requests() -> None:
    buf = buffer(max_pending=3)
    buf.accept(parcel("p", "a", "b"), NOW)
    assert (buf.pending, buf.dedup_ids) == (2, 1)
    with pytest.raises(BufferFull):
        buf.accept(parcel("q", "c", "d"), NOW)
    batch = take(buf, NOW, force=True)
    assert (batch.requests, batch.records, buf.in_flight) == (2, 2, 2)


def test_everything_is_carried_over_and_goes_on_as_before() -> None:
    buf = buffer(max_batch_size=2, linger=30)
    for name in "abcd":
        buf.accept(submission(name, n={"x": [name, 1.5, None]}), NOW)
    buf.accept(parcel("p", "e", "f"), NOW + 1)
    buf.accept(submission("late", expires_at=NOW), NOW)
    buf.withdraw(Withdrawal("gone", "w", "run"), NOW)
    buf.fail(take(buf, NOW).id, NOW + 2, "down", in_doubt=True)
    buf.paused = True
    state = carried(buf)
    after = restored(state)
    assert carried(after) == state
    for name in ("pending", "pending_bytes", "dedup_ids", "outbox", "counts", "breaker", "carry_bytes", "policy"):
        assert getattr(after, name) == getattr(buf, name), name
    assert after.wake_at() == buf.wake_at()
    for one in (buf, after):
        one.paused = False
    assert [ids(take(one, NOW + 60)) for one in (buf, after)] == [["a", "b"], ["a", "b"]]


def test_nothing_is_carried_over_while_something_is_under_way() -> None:
    buf = buffer()
    buf.accept(submission("a"), NOW)
    take(buf, NOW, force=True)
    with pytest.raises(RuntimeError, match="under way"):
        buf.carry()


def test_the_age_of_the_oldest_counts_what_is_in_flight() -> None:
    buf = buffer()
    assert buf.oldest_age(NOW) == 0.0
    buf.accept(submission("a"), NOW)
    take(buf, NOW, force=True)
    buf.accept(submission("b"), NOW + 5)
    assert buf.oldest_age(NOW + 7) == 7.0


def test_what_never_expires_leaves_no_trace_in_memory() -> None:
    buf = buffer(max_batch_size=10)
    for n in range(5_000):
        buf.accept(submission(f"a-{n}"), NOW + n)
        while (batch := buf.next_batch(NOW + n)) is not None:
            buf.complete(batch.id, FlushResult({"written": batch.requests}), NOW)
    assert buf.footprint.deadlines < 100
    assert (buf.footprint.ids, buf.footprint.unanswered, buf.pending_bytes) == (frozenset(), 0, 0)
