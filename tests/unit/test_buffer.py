"""The buffer, promise by promise. `test_buffer_properties.py` looks at all of them under any order of events."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from temporal_batching.buffer import MAX_REMEMBERED_WITHDRAWALS, Accepted, Buffer, BufferFull, PendingBatch
from temporal_batching.contract import JsonObject, RejectCode, Trigger
from temporal_batching.errors import InvalidRequest
from temporal_batching.intake import MAX_REPLIES, Entry, read_entry
from temporal_batching.outbox import MAX_DELIVERIES, MAX_REMEMBERED_ANSWERS, OUTBOX_PART
from temporal_batching.policy import BatchPolicy

NOW = 1_000_000.0


def policy(**limits: Any) -> BatchPolicy:
    seconds = {"linger", "confirmation_timeout", "retry_initial", "retry_max", "deadline_margin", "flush_timeout"}
    given: dict[str, Any] = {k: timedelta(seconds=v) if k in seconds else v for k, v in limits.items()}
    return BatchPolicy(**given)


def buffer(**limits: Any) -> Buffer:
    return Buffer("main-0", policy(**limits))


def caller(name: str) -> JsonObject:
    return {"workflow_id": name, "run_id": "run", "activity_id": "1"}


def entry(
    request_id: str,
    *callers: str,
    n: Any = 1,
    records: int = 1,
    expires_at: float | None = None,
    again: bool = False,
) -> Entry:
    wire = {
        "request_id": request_id,
        "records": [{"table": "t", "values": {"n": n}}] * records,
        "expires_at": expires_at,
        "reply_to": [caller(name) for name in callers or [f"w-{request_id}"]],
        "again": again,
    }
    return read_entry(wire)


def parcel(parcel_id: str, *request_ids: str) -> Entry:
    requests = [{"request_id": i, "records": [{"table": "t", "values": {"n": 1}}]} for i in request_ids]
    return read_entry({"request_id": parcel_id, "requests": requests, "reply_to": caller(parcel_id)})


def take(buf: Buffer, now: float, **options: Any) -> PendingBatch:
    batch = buf.next_batch(now, **options)
    assert batch is not None
    return batch


def ids(batch: PendingBatch) -> list[str]:
    return [e.id for e in batch.entries]


def told(buf: Buffer) -> list[tuple[str, str, str | None, list[str]]]:
    """The answers in the outbox: request, outcome, code, and the workflows that are told."""
    answers = buf.next_deliveries()
    buf.delivered([])
    return [
        (
            str(a["confirmation"]["request_id"]),
            str(a["confirmation"]["outcome"]),
            a["confirmation"]["code"],
            [r["workflow_id"] for r in a["reply_to"]],
        )
        for a in answers
    ]


# What starts a batch


def test_nothing_is_flushed_before_it_is_due() -> None:
    buf = buffer(linger=20)
    buf.accept(entry("a"), NOW)
    assert buf.next_batch(NOW + 19.9) is None
    assert buf.wake_at() == NOW + 20
    batch = take(buf, NOW + 20)
    assert (batch.trigger, ids(batch), batch.id) == (Trigger.LINGER, ["a"], "main-0/1")


def test_the_linger_counts_from_the_oldest_request() -> None:
    buf = buffer(linger=20)
    buf.accept(entry("a"), NOW)
    buf.accept(entry("b"), NOW + 15)
    assert ids(take(buf, NOW + 20)) == ["a", "b"]


def test_a_full_batch_is_flushed_at_once_and_the_rest_waits() -> None:
    buf = buffer(max_batch_size=2)
    for name in "abc":
        buf.accept(entry(name), NOW)
    batch = take(buf, NOW)
    assert (batch.trigger, ids(batch)) == (Trigger.COUNT, ["a", "b"])
    buf.settle(batch.id, {"written": 2}, [])
    assert buf.next_batch(NOW) is None


def test_a_batch_is_full_by_its_bytes_too() -> None:
    buf = buffer(max_batch_bytes=1024, max_pending_bytes=10_000)
    for name in "abcd":
        buf.accept(entry(name, n="x" * 200), NOW)
    batch = take(buf, NOW)
    assert batch.trigger == Trigger.BYTES
    assert len(batch.entries) == 2
    assert batch.size <= 1024


def test_a_deadline_coming_near_starts_a_batch() -> None:
    buf = buffer(linger=60, deadline_margin=2)
    buf.accept(entry("a"), NOW)
    buf.accept(entry("b", expires_at=NOW + 10), NOW)
    assert buf.wake_at() == NOW + 8
    batch = take(buf, NOW + 8)
    assert (batch.trigger, ids(batch)) == (Trigger.DEADLINE, ["a", "b"])


def test_an_explicit_flush_takes_what_is_there_and_not_what_comes_later() -> None:
    buf = buffer(linger=60)
    buf.accept(entry("a"), NOW)
    buf.flush_now(NOW + 1)
    assert buf.wake_at() == 0.0
    batch = take(buf, NOW + 1)
    assert (batch.trigger, ids(batch)) == (Trigger.MANUAL, ["a"])
    buf.settle(batch.id, {"written": 1}, [])
    buf.accept(entry("b"), NOW + 2)
    assert buf.next_batch(NOW + 2) is None


def test_without_linger_an_idle_shard_flushes_at_once_and_gathers_during_a_flush() -> None:
    buf = buffer(linger=0)
    buf.accept(entry("a"), NOW)
    first = take(buf, NOW)
    for name in "bcd":
        buf.accept(entry(name), NOW + 1)
    assert buf.next_batch(NOW + 1) is None
    buf.settle(first.id, {"written": 1}, [])
    assert ids(take(buf, NOW + 2)) == ["b", "c", "d"]


def test_a_forced_flush_takes_whatever_waits() -> None:
    buf = buffer(linger=60)
    assert buf.next_batch(NOW, force=True) is None
    buf.accept(entry("a"), NOW)
    assert take(buf, NOW, force=True).trigger == Trigger.MANUAL


def test_a_paused_shard_flushes_nothing_but_still_keeps_deadlines() -> None:
    buf = buffer(linger=0)
    buf.paused = True
    buf.accept(entry("a", expires_at=NOW + 5), NOW)
    assert buf.next_batch(NOW, force=True) is None
    assert buf.wake_at() == NOW + 5
    buf.expire(NOW + 5)
    assert told(buf) == [("a", "expired", None, ["w-a"])]
    assert buf.wake_at() is None


def test_as_many_flushes_run_beside_each_other_as_the_policy_allows() -> None:
    buf = buffer(max_batch_size=1, max_in_flight=2)
    for name in "abc":
        buf.accept(entry(name), NOW)
    take(buf, NOW)
    second = take(buf, NOW)
    assert buf.next_batch(NOW) is None
    assert (buf.batches_in_flight, buf.in_flight, buf.pending) == (2, 2, 1)
    buf.settle(second.id, {"written": 1}, [])
    assert ids(take(buf, NOW)) == ["c"]


# One id, many submissions


def test_the_same_request_again_waits_for_the_same_outcome() -> None:
    buf = buffer()
    assert buf.accept(entry("a", "v"), NOW) is Accepted.NEW
    assert buf.accept(entry("a", "v"), NOW) is Accepted.ATTACHED
    assert buf.accept(entry("a", "w"), NOW) is Accepted.ATTACHED
    (only,) = take(buf, NOW, force=True).entries
    assert only.replies == [caller("v"), caller("w")]


def test_another_request_with_an_id_that_waits_is_refused() -> None:
    buf = buffer()
    buf.accept(entry("a", n=1), NOW)
    for other in (2, True, 1.0):
        with pytest.raises(InvalidRequest, match="request id 'a' is already pending with other records") as refusal:
            buf.accept(entry("a", "w", n=other), NOW)
        assert refusal.value.code is RejectCode.ID_REUSED


def test_a_caller_that_repeats_itself_while_its_request_is_in_flight_is_attached() -> None:
    buf = buffer()
    buf.accept(entry("a"), NOW)
    take(buf, NOW, force=True)
    assert buf.accept(entry("a"), NOW) is Accepted.ATTACHED
    assert buf.pending == 0


def test_another_caller_with_an_id_in_flight_becomes_a_request_of_its_own() -> None:
    buf = buffer()
    buf.accept(entry("a", "v"), NOW)
    take(buf, NOW, force=True)
    assert buf.accept(entry("a", "w"), NOW) is Accepted.NEW
    assert buf.dedup_ids == 2


def test_a_repetition_is_not_refused_for_what_another_caller_brought_under_its_id() -> None:
    # It used to be told `id_reused` while its records were in a flush, and were written.
    buf = buffer()
    buf.accept(entry("a", "v", n=1), NOW)
    take(buf, NOW, force=True)
    assert buf.accept(entry("a", "w", n=2), NOW) is Accepted.NEW
    assert buf.accept(entry("a", "v", n=1), NOW) is Accepted.ATTACHED


def test_a_repetition_does_not_join_a_later_request_while_its_own_is_in_flight() -> None:
    # The later one could expire first, and its first caller be told so, though it was being written.
    buf = buffer()
    buf.accept(entry("a", "v"), NOW)
    take(buf, NOW, force=True)
    buf.accept(entry("a", "w", expires_at=NOW + 1), NOW)
    buf.accept(entry("a", "v"), NOW)
    buf.expire(NOW + 1)
    assert told(buf) == [("a", "expired", None, ["w"])]


def test_a_repetition_is_not_refused_for_a_limit_that_was_lowered_since() -> None:
    # It used to be told `too_large` while its records waited to be written.
    buf = buffer()
    buf.accept(entry("a", records=5), NOW)
    buf.policy = policy(max_batch_size=2)
    assert buf.accept(entry("a", records=5), NOW) is Accepted.ATTACHED
    take(buf, NOW)
    assert buf.accept(entry("a", records=5), NOW) is Accepted.ATTACHED


def test_an_id_held_by_two_batches_is_known_to_both() -> None:
    buf = buffer(max_in_flight=2, max_batch_size=1)
    buf.accept(entry("a", "v"), NOW)
    first = take(buf, NOW)
    buf.accept(entry("a", "w"), NOW)
    second = take(buf, NOW)
    for name in "vw":
        assert buf.accept(entry("a", name), NOW) is Accepted.ATTACHED
    buf.settle(second.id, {"duplicate": 1}, [])
    assert buf.accept(entry("a", "v"), NOW) is Accepted.ATTACHED
    assert buf.withdraw("a") is False
    buf.settle(first.id, {"written": 1}, [])
    assert buf.accept(entry("a", "x"), NOW) is Accepted.NEW


def test_an_activity_whose_answer_is_on_its_way_gets_no_second_one() -> None:
    buf = buffer()
    buf.accept(entry("a", "v"), NOW)
    batch = take(buf, NOW, force=True)
    answer = {"reply_to": [caller("v")], "confirmation": {"request_id": "a", "outcome": "written"}}
    buf.settle(batch.id, {"written": 1}, [answer])
    assert buf.accept(entry("a", "v"), NOW) is Accepted.ANSWERED
    assert buf.accept(entry("a", "w"), NOW) is Accepted.NEW
    restored = Buffer.restore("main-0", json.loads(json.dumps(buf.carry())))
    assert restored.accept(entry("a", "v"), NOW) is Accepted.ANSWERED
    assert buf.next_deliveries()
    buf.delivered([])
    assert buf.accept(entry("a", "v"), NOW) is Accepted.ANSWERED


def test_an_attempt_that_arrives_after_its_activity_was_told_is_not_taken_in() -> None:
    # It was taken for a new request: one that was told `rejected` could be written then.
    buf = buffer(max_batch_size=1)
    buf.accept(entry("a", "v"), NOW)
    buf.settle(take(buf, NOW).id, {"rejected": 1}, [])
    assert buf.accept(entry("a", "v", again=True), NOW) is Accepted.ANSWERED
    assert (buf.pending, buf.outbox) == (0, 0)
    assert buf.accept(entry("a", "w"), NOW) is Accepted.NEW, "another caller may send it anew"


def test_an_activity_that_could_not_be_told_may_ask_again() -> None:
    buf = buffer(max_batch_size=1)
    buf.accept(entry("a", "v"), NOW)
    answer = {"reply_to": [caller("v")], "confirmation": {"request_id": "a", "outcome": "written"}}
    buf.settle(take(buf, NOW).id, {"written": 1}, [answer])
    for _ in range(MAX_DELIVERIES - 1):
        buf.next_deliveries()
        buf.delivered([0])
    assert buf.undelivered == 1
    assert buf.accept(entry("a", "v", again=True), NOW) is Accepted.NEW


def test_activities_that_were_told_are_not_remembered_without_end() -> None:
    buf = buffer(max_batch_size=1)
    for n in range(MAX_REMEMBERED_ANSWERS + 5):
        buf.accept(entry(f"a-{n}"), NOW)
        buf.settle(take(buf, NOW).id, {"written": 1}, [])
    assert len(buf._outbox._told) == MAX_REMEMBERED_ANSWERS
    assert buf.accept(entry("a-4", again=True), NOW) is Accepted.NEW


def test_callers_that_wait_for_one_id_are_bounded() -> None:
    buf = buffer()
    for n in range(MAX_REPLIES):
        buf.accept(entry("a", f"w-{n}"), NOW)
    with pytest.raises(BufferFull, match="32 callers wait for this request id already"):
        buf.accept(entry("a", "one more"), NOW)


# Limits


def test_a_request_that_no_batch_can_take_is_refused_with_its_size_and_the_limit() -> None:
    buf = buffer(max_batch_size=2, max_batch_bytes=2048, max_pending_bytes=4096)
    with pytest.raises(InvalidRequest, match="the request has 3 records: at most 2 fit a batch") as refusal:
        buf.accept(entry("a", records=3), NOW)
    assert refusal.value.code is RejectCode.TOO_LARGE
    with pytest.raises(InvalidRequest, match=r"the request has 3,\d{3} bytes: at most 2,048 fit a batch"):
        buf.accept(entry("a", n="x" * 3_000), NOW)


def test_a_full_buffer_refuses_and_says_what_it_holds() -> None:
    buf = buffer(max_pending=1)
    buf.accept(entry("a"), NOW)
    with pytest.raises(BufferFull, match="1 requests are waiting, of 1 allowed"):
        buf.accept(entry("b"), NOW)
    buf = buffer(max_batch_bytes=1024, max_pending_bytes=1024)
    buf.accept(entry("a", n="x" * 600), NOW)
    with pytest.raises(BufferFull, match="bytes are waiting, of 1,024 allowed"):
        buf.accept(entry("b", n="x" * 600), NOW)


def test_a_draining_shard_takes_nothing_new_and_flushes_what_it_has() -> None:
    buf = buffer()
    buf.accept(entry("a"), NOW)
    buf.draining = True
    with pytest.raises(BufferFull, match="draining"):
        buf.accept(entry("b"), NOW)
    assert buf.accept(entry("a"), NOW) is Accepted.ATTACHED
    buf.flush_now(NOW)
    assert ids(take(buf, NOW)) == ["a"]


def test_the_first_entry_goes_even_if_a_new_policy_makes_it_too_large() -> None:
    buf = buffer()
    buf.accept(entry("a", records=5), NOW)
    buf.accept(entry("b"), NOW)
    buf.policy = policy(max_batch_size=2)
    assert ids(take(buf, NOW)) == ["a"]


def test_a_refusal_is_an_answer_for_a_door_that_cannot_turn_its_caller_back() -> None:
    buf = buffer()
    buf.refuse(entry("a"), RejectCode.OVERLOADED, "full")
    buf.refuse(parcel("p", "b", "c"), RejectCode.OVERLOADED, "full")
    assert buf.refused == 3
    assert told(buf) == [("a", "rejected", "overloaded", ["w-a"]), ("p", "rejected", "overloaded", ["p"])]


# Deadlines


def test_a_request_without_a_deadline_gets_the_policys() -> None:
    buf = buffer(confirmation_timeout=30, linger=60, deadline_margin=0)
    buf.accept(entry("a"), NOW)
    buf.expire(NOW + 29.9)
    assert buf.pending == 1
    buf.expire(NOW + 30)
    assert (buf.pending, buf.outcomes) == (0, {"expired": 1})


def test_a_request_that_comes_after_its_deadline_is_told_so() -> None:
    buf = buffer()
    assert buf.accept(entry("a", expires_at=NOW), NOW) is Accepted.ANSWERED
    assert told(buf) == [("a", "expired", None, ["w-a"])]


def test_a_caller_that_joins_is_not_told_that_it_expired_before_its_own_deadline() -> None:
    buf = buffer(linger=600, deadline_margin=0)
    buf.accept(entry("a", "v", expires_at=NOW + 5), NOW)
    buf.accept(entry("a", "w", expires_at=NOW + 50), NOW)
    buf.accept(entry("a", "x", expires_at=NOW + 1), NOW)
    buf.expire(NOW + 49)
    assert (buf.outbox, buf.wake_at()) == (0, NOW + 50)
    buf.expire(NOW + 50)
    assert told(buf) == [("a", "expired", None, ["v", "w", "x"])]


def test_deadlines_that_callers_who_join_push_back_do_not_pile_up() -> None:
    buf = buffer(max_batch_size=1000, max_pending=1000, linger=600)
    for n in range(100):
        for caller_number in range(MAX_REPLIES):
            buf.accept(entry(f"a-{n}", f"w-{caller_number}", expires_at=NOW + 100 + caller_number), NOW)
    assert len(buf._deadlines) <= 2 * 100 + 65


def test_in_doubt_nobody_is_told_that_it_expired() -> None:
    buf = buffer()
    buf.accept(entry("a", expires_at=NOW + 5), NOW)
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
    buf.accept(entry("a", expires_at=NOW + 5), NOW)
    buf.accept(entry("b", expires_at=NOW + 500), NOW)
    batch = take(buf, NOW, force=True)
    buf.fail(batch.id, NOW + 1, "down", in_doubt=False)
    assert buf.wake_at() == NOW + 5
    buf.expire(NOW + 5)
    assert told(buf) == [("a", "expired", None, ["w-a"])]
    again = take(buf, NOW + 61)
    assert (ids(again), again.records, again.size) == (["b"], 1, again.entries[0].size)


# Submissions that may have been written before


def test_of_what_comes_again_only_the_sink_may_say_that_it_expired() -> None:
    # It may have been written and its confirmation lost; the buffer used to answer `expired` at the deadline.
    buf = buffer(linger=60)
    assert buf.accept(entry("late", expires_at=NOW, again=True), NOW) is Accepted.NEW
    buf.accept(entry("b", expires_at=NOW + 1, again=True), NOW)
    buf.expire(NOW + 5)
    assert (buf.outbox, buf.pending) == (0, 2)
    assert buf.wake_at() == 0.0, "who waited before waits for no company"
    batch = take(buf, NOW + 5)
    assert (batch.trigger, batch.in_doubt, ids(batch)) == (Trigger.DEADLINE, True, ["late", "b"])
    buf.fail(batch.id, NOW + 5, "down", in_doubt=False)
    restored = Buffer.restore("main-0", json.loads(json.dumps(buf.carry())))
    restored.expire(NOW + 60)
    assert (restored.outbox, restored.pending) == (0, 2)


def test_what_comes_again_is_still_so_in_the_next_run() -> None:
    buf = buffer(linger=60)
    buf.accept(entry("a", expires_at=NOW + 1, again=True), NOW)
    restored = Buffer.restore("main-0", json.loads(json.dumps(buf.carry())))
    restored.expire(NOW + 5)
    assert take(restored, NOW + 5).in_doubt


def test_what_comes_again_is_not_refused_for_a_limit_that_was_lowered_since() -> None:
    buf = buffer(max_batch_size=2)
    assert buf.accept(entry("a", records=5, again=True), NOW) is Accepted.NEW


def test_another_caller_that_comes_again_makes_the_request_it_joins_one_for_the_sink_to_judge() -> None:
    buf = buffer(linger=60)
    buf.accept(entry("a", "v", expires_at=NOW + 1), NOW)
    buf.accept(entry("a", "v", expires_at=NOW + 1, again=True), NOW)  # its own, which waits: nothing to doubt
    assert buf.wake_at() != 0.0
    buf.accept(entry("a", "w", again=True), NOW)
    buf.expire(NOW + 5)
    assert (buf.outbox, take(buf, NOW + 5).in_doubt) == (0, True)
    assert buf.wake_at() is None


# Withdrawals


def test_what_is_pending_can_be_withdrawn() -> None:
    buf = buffer()
    buf.accept(entry("a"), NOW)
    assert buf.withdraw("a", "w-a") is True
    assert (buf.pending, buf.pending_bytes, buf.wake_at()) == (0, 0, None)
    assert told(buf) == [("a", "rejected", "withdrawn", ["w-a"])]


def test_what_is_in_flight_or_was_tried_stays() -> None:
    buf = buffer()
    buf.accept(entry("a"), NOW)
    batch = take(buf, NOW, force=True)
    assert buf.withdraw("a", "w-a") is False
    buf.fail(batch.id, NOW, "down", in_doubt=False)
    assert buf.withdraw("a", "w-a") is False
    assert buf.pending == 1


def test_only_the_caller_that_withdraws_stops_waiting() -> None:
    buf = buffer()
    buf.accept(entry("a", "v"), NOW)
    buf.accept(entry("a", "w"), NOW)
    assert buf.withdraw("a", "v") is False
    assert take(buf, NOW, force=True).entries[0].replies == [caller("w")]


def test_a_withdrawal_that_overtakes_its_request_counts() -> None:
    buf = buffer()
    assert buf.withdraw("a", "w-a") is True
    restored = Buffer.restore("main-0", json.loads(json.dumps(buf.carry())))
    assert restored.accept(entry("a"), NOW) is Accepted.ANSWERED
    assert told(restored) == [("a", "rejected", "withdrawn", ["w-a"])]


def test_of_what_was_withdrawn_and_comes_again_the_ledger_has_to_say_what_became() -> None:
    # Another call of the same workflow may have withdrawn the id, and this one have been written.
    buf = buffer(linger=60)
    buf.withdraw("a", "w-a")
    assert buf.accept(entry("a", expires_at=NOW + 50, again=True), NOW) is Accepted.NEW
    batch = take(buf, NOW)
    assert (batch.in_doubt, batch.entries[0].expires_at) == (True, NOW), "asked about, not written"


def test_one_callers_withdrawal_does_not_refuse_another_with_the_same_id() -> None:
    # The first may have been written before it was withdrawn: the other has to hear that from the ledger.
    buf = buffer()
    buf.withdraw("a", "v")
    assert buf.accept(entry("a", "w"), NOW) is Accepted.NEW
    buf.withdraw("b")
    assert buf.accept(entry("b", "w"), NOW) is Accepted.ANSWERED


def test_remembered_withdrawals_are_bounded_in_number_and_length() -> None:
    buf = buffer()
    for n in range(MAX_REMEMBERED_WITHDRAWALS + 10):
        buf.withdraw(f"a-{n}", "w")
    buf.withdraw("x" * 1_000_000, "w")
    assert buf.carry_bytes < 50 * MAX_REMEMBERED_WITHDRAWALS
    assert buf.accept(entry("a-9", "w"), NOW) is Accepted.NEW
    assert buf.accept(entry("a-10", "w"), NOW) is Accepted.ANSWERED


# A sink that is down


def test_a_batch_that_failed_goes_first_and_keeps_its_id() -> None:
    buf = buffer(max_batch_size=2, retry_initial=1)
    for name in "abcd":
        buf.accept(entry(name), NOW)
    batch = take(buf, NOW)
    buf.fail(batch.id, NOW, "down", in_doubt=True)
    assert (buf.pending, buf.breaker_open, buf.sink_error, buf.flush_failures) == (4, True, "down", 1)
    assert buf.next_batch(NOW + 0.9) is None
    assert buf.wake_at() == NOW + 1
    again = take(buf, NOW + 1)
    assert (again.id, ids(again)) == (batch.id, ["a", "b"])


def test_the_breaker_backs_off_to_its_limit_and_closes_with_the_first_success() -> None:
    buf = buffer(retry_initial=1, retry_max=5, linger=0)
    buf.accept(entry("a", expires_at=NOW + 1e6), NOW)
    now, pauses = NOW, []
    for _ in range(5):
        batch = take(buf, now)
        buf.fail(batch.id, now, "down", in_doubt=True)
        wake = buf.wake_at()
        assert wake is not None
        pauses.append(wake - now)
        now = wake
    assert pauses == [1, 2, 4, 5, 5]
    buf.settle(take(buf, now).id, {"written": 1}, [])
    assert (buf.breaker_open, buf.sink_error) == (False, None)
    buf.accept(entry("b"), now)
    assert buf.next_batch(now) is not None


def test_while_the_sink_is_down_one_batch_probes_it() -> None:
    buf = buffer(max_in_flight=4, max_batch_size=1, retry_initial=1)
    for name in "abc":
        buf.accept(entry(name), NOW)
    buf.fail(take(buf, NOW).id, NOW, "down", in_doubt=True)
    assert ids(take(buf, NOW + 1)) == ["a"]
    assert buf.next_batch(NOW + 1) is None
    assert buf.next_batch(NOW + 1, force=True) is None
    assert buf.wake_at() != 0.0


def test_batches_that_failed_beside_each_other_go_again_in_their_order() -> None:
    buf = buffer(max_in_flight=2, max_batch_size=1, retry_initial=1)
    for name in "ab":
        buf.accept(entry(name), NOW)
    first, second = take(buf, NOW), take(buf, NOW)
    buf.fail(second.id, NOW, "down", in_doubt=True)
    buf.fail(first.id, NOW, "down", in_doubt=True)
    assert take(buf, NOW + 60).id == first.id


# Answers that no flush delivers


def test_an_answer_that_does_not_arrive_is_tried_again_up_to_a_limit() -> None:
    buf = buffer()
    buf.accept(entry("a", expires_at=NOW), NOW)
    for _ in range(MAX_DELIVERIES):
        assert len(buf.next_deliveries()) == 1
        assert buf.next_deliveries() == [], "one delivery at a time"
        buf.delivered([0])
    assert (buf.outbox, buf.undelivered, buf.idle) == (0, 1, True)


def test_the_attempt_of_the_flush_counts() -> None:
    buf = buffer()
    buf.accept(entry("a"), NOW)
    answer = {"reply_to": [caller("w-a")], "confirmation": {"request_id": "a", "outcome": "written"}}
    buf.settle(take(buf, NOW, force=True).id, {"written": 1}, [answer])
    for _ in range(MAX_DELIVERIES - 1):
        assert buf.next_deliveries() == [answer]
        buf.delivered([0])
    assert (buf.outbox, buf.undelivered) == (0, 1)


def test_deliveries_go_in_parts_and_what_comes_meanwhile_is_kept() -> None:
    buf = buffer()
    for n in range(OUTBOX_PART + 5):
        buf.accept(entry(f"a-{n}", expires_at=NOW), NOW)
    assert len(buf.next_deliveries()) == OUTBOX_PART
    assert buf.deliveries_in_flight == OUTBOX_PART
    buf.accept(entry("late", expires_at=NOW), NOW)
    buf.delivered([3])
    names = [a["confirmation"]["request_id"] for a in buf.next_deliveries()]
    assert names == [f"a-{n}" for n in range(OUTBOX_PART, OUTBOX_PART + 5)] + ["late", "a-3"]


def test_a_request_that_nobody_waits_for_leaves_no_answer() -> None:
    buf = buffer()
    silent = read_entry({"request_id": "a", "records": [{"table": "t", "values": {"n": 1}}], "expires_at": NOW})
    buf.accept(silent, NOW)
    assert (buf.outbox, buf.outcomes) == (0, {"expired": 1})


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
        buf.accept(entry(name, n={"x": [name, 1.5, None]}), NOW)
    buf.accept(parcel("p", "e", "f"), NOW + 1)
    buf.accept(entry("late", expires_at=NOW), NOW)
    buf.withdraw("gone", "w")
    buf.fail(take(buf, NOW).id, NOW + 2, "down", in_doubt=True)
    buf.paused = True
    state = json.loads(json.dumps(buf.carry()))
    after = Buffer.restore("main-0", state)
    assert json.loads(json.dumps(after.carry())) == state
    for name in ("pending", "pending_bytes", "dedup_ids", "outbox", "settled", "breaker_open", "carry_bytes", "policy"):
        assert getattr(after, name) == getattr(buf, name), name
    assert after.wake_at() == buf.wake_at()
    for one in (buf, after):
        one.paused = False
    assert [ids(take(one, NOW + 60)) for one in (buf, after)] == [["a", "b"], ["a", "b"]]


def test_nothing_is_carried_over_while_something_is_under_way() -> None:
    buf = buffer()
    buf.accept(entry("a"), NOW)
    take(buf, NOW, force=True)
    with pytest.raises(RuntimeError, match="under way"):
        buf.carry()


def test_the_age_of_the_oldest_counts_what_is_in_flight() -> None:
    buf = buffer()
    assert buf.oldest_age(NOW) == 0.0
    buf.accept(entry("a"), NOW)
    take(buf, NOW, force=True)
    buf.accept(entry("b"), NOW + 5)
    assert buf.oldest_age(NOW + 7) == 7.0


def test_what_never_expires_leaves_no_trace_in_memory() -> None:
    buf = buffer(max_batch_size=10)
    for n in range(5_000):
        buf.accept(entry(f"a-{n}"), NOW + n)
        while (batch := buf.next_batch(NOW + n)) is not None:
            buf.settle(batch.id, {"written": batch.requests}, [])
    assert len(buf._deadlines) < 100
    assert (buf._held_entries, buf._outbox._waiting, buf.pending_bytes) == ({}, set(), 0)
