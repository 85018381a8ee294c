"""The buffer and its request ids: one id from many callers, again, and taken back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.batcher.accepted import Accepted
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.limits import BufferFull
from temporal_batching.batcher.outbox import MAX_DELIVERIES, MAX_NOTIFIED
from temporal_batching.batcher.withdrawals import MAX_AGE, MAX_REMEMBERED, MAX_REMEMBERED_BYTES
from temporal_batching.contract import (
    Confirmation,
    Delivery,
    FlushResult,
    OutcomeKind,
    RejectCode,
    ReplyTo,
    Trigger,
    Withdrawal,
)
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.addresses import MAX_REPLIES
from temporal_batching.wire.submission import Submission
from tests.support.buffers import NOW, buffer, caller, carried, confirmations, ids, policy, restored, submission, take

# One id, many submissions


def test_the_same_request_again_waits_for_the_same_outcome() -> None:
    buf = buffer()
    assert buf.accept(submission("a", "v"), NOW) is Accepted.NEW
    assert buf.accept(submission("a", "v"), NOW) is Accepted.ATTACHED
    assert buf.accept(submission("a", "w"), NOW) is Accepted.ATTACHED
    (only,) = take(buf, NOW, force=True).submissions
    assert only.replies == [caller("v"), caller("w")]


def test_another_request_with_an_id_that_waits_is_refused() -> None:
    buf = buffer()
    buf.accept(submission("a", n=1), NOW)
    for other in (2, True, 1.0):
        with pytest.raises(InvalidRequest, match="request id 'a' is already pending with other records") as refusal:
            buf.accept(submission("a", "w", n=other), NOW)
        assert refusal.value.code is RejectCode.ID_REUSED


def test_a_caller_that_repeats_itself_while_its_request_is_in_flight_is_attached() -> None:
    buf = buffer()
    buf.accept(submission("a"), NOW)
    take(buf, NOW, force=True)
    assert buf.accept(submission("a"), NOW) is Accepted.ATTACHED
    assert buf.pending == 0


def test_another_caller_with_an_id_in_flight_becomes_a_request_of_its_own() -> None:
    buf = buffer()
    buf.accept(submission("a", "v"), NOW)
    take(buf, NOW, force=True)
    assert buf.accept(submission("a", "w"), NOW) is Accepted.NEW
    assert buf.dedup_ids == 2


def test_a_repetition_is_not_refused_for_what_another_caller_brought_under_its_id() -> None:
    # It used to be answered `id_reused` while its records were in a flush, and were written.
    buf = buffer()
    buf.accept(submission("a", "v", n=1), NOW)
    take(buf, NOW, force=True)
    assert buf.accept(submission("a", "w", n=2), NOW) is Accepted.NEW
    assert buf.accept(submission("a", "v", n=1), NOW) is Accepted.ATTACHED


def test_a_repetition_does_not_join_a_later_request_while_its_own_is_in_flight() -> None:
    # The later one could expire first, and its first caller receive `expired`, though it was being written.
    buf = buffer()
    buf.accept(submission("a", "v"), NOW)
    take(buf, NOW, force=True)
    buf.accept(submission("a", "w", expires_at=NOW + 1), NOW)
    buf.accept(submission("a", "v"), NOW)
    buf.expire(NOW + 1)
    assert confirmations(buf) == [("a", "expired", None, ["w"])]


def test_a_repetition_is_not_refused_for_a_limit_that_was_lowered_since() -> None:
    # It used to be answered `too_large` while its records waited to be written.
    buf = buffer()
    buf.accept(submission("a", records=5), NOW)
    buf.policy = policy(max_batch_records=2)
    assert buf.accept(submission("a", records=5), NOW) is Accepted.ATTACHED
    take(buf, NOW)
    assert buf.accept(submission("a", records=5), NOW) is Accepted.ATTACHED


def test_an_id_in_a_batch_keeps_another_caller_with_it_waiting() -> None:
    buf = buffer(max_in_flight=2, max_batch_size=1)
    buf.accept(submission("a", "v"), NOW)
    first = take(buf, NOW)
    assert buf.withdraw(Withdrawal("a"), NOW) is False
    buf.accept(submission("a", "w"), NOW)
    assert buf.next_batch(NOW) is None
    for name in "vw":
        assert buf.accept(submission("a", name), NOW) is Accepted.ATTACHED
    buf.complete(first.id, FlushResult({"written": 1}), NOW)
    second = take(buf, NOW)
    buf.complete(second.id, FlushResult({"duplicate": 1}), NOW)
    assert buf.accept(submission("a", "x"), NOW) is Accepted.NEW


def test_an_activity_whose_answer_is_on_its_way_gets_no_second_one() -> None:
    buf = buffer()
    buf.accept(submission("a", "v"), NOW)
    batch = take(buf, NOW, force=True)
    answer = Delivery(caller("v"), Confirmation("a", OutcomeKind.WRITTEN, "main-0/1", 1))
    buf.complete(batch.id, FlushResult({"written": 1}, [answer]), NOW)
    assert buf.accept(submission("a", "v"), NOW) is Accepted.ANSWERED
    assert buf.accept(submission("a", "w"), NOW) is Accepted.NEW
    later = restored(carried(buf))
    assert later.accept(submission("a", "v"), NOW) is Accepted.ANSWERED
    assert buf.next_deliveries()
    buf.delivered([])
    assert buf.accept(submission("a", "v"), NOW) is Accepted.ANSWERED


def test_an_attempt_that_arrives_after_its_activity_was_told_is_not_taken_in() -> None:
    # It was taken for a new request: one that was answered `rejected` could be written then.
    buf = buffer(max_batch_size=1)
    buf.accept(submission("a", "v"), NOW)
    buf.complete(take(buf, NOW).id, FlushResult({"rejected": 1}), NOW)
    assert buf.accept(submission("a", "v", resubmitted=True), NOW) is Accepted.ANSWERED
    assert (buf.pending, buf.outbox) == (0, 0)
    assert buf.accept(submission("a", "w"), NOW) is Accepted.NEW, "another caller may send it anew"


def test_an_activity_that_could_not_be_told_may_ask_again() -> None:
    buf = buffer(max_batch_size=1)
    buf.accept(submission("a", "v"), NOW)
    answer = Delivery(caller("v"), Confirmation("a", OutcomeKind.WRITTEN, "main-0/1", 1))
    buf.complete(take(buf, NOW).id, FlushResult({"written": 1}, [answer]), NOW)
    for _ in range(MAX_DELIVERIES - 1):
        buf.next_deliveries()
        buf.delivered([0])
    assert buf.undelivered == 1
    assert buf.accept(submission("a", "v", resubmitted=True), NOW) is Accepted.NEW


def test_an_activity_that_was_between_two_attempts_may_ask_again() -> None:
    buf = buffer(max_batch_size=1)
    buf.accept(submission("a", "v", "w"), NOW)
    buf.complete(take(buf, NOW).id, FlushResult({"rejected": 1}, unreached=[caller("v")]), NOW)
    assert buf.accept(submission("a", "w", resubmitted=True), NOW) is Accepted.ANSWERED
    assert buf.accept(submission("a", "v", resubmitted=True), NOW) is Accepted.NEW


def test_so_may_one_whose_answer_was_in_the_outbox() -> None:
    buf = buffer(max_batch_size=1)
    for name in ("a", "b"):
        buf.accept(submission(name, name, expires_at=NOW - 1), NOW)
    assert len(buf.next_deliveries()) == 2
    buf.delivered([], [caller("a")])
    assert buf.accept(submission("a", "a", resubmitted=True), NOW) is Accepted.NEW
    assert buf.accept(submission("b", "b", resubmitted=True), NOW) is Accepted.ANSWERED


def test_activities_that_were_told_are_not_remembered_without_end() -> None:
    buf = buffer(max_batch_size=1)
    for n in range(MAX_NOTIFIED + 5):
        buf.accept(submission(f"a-{n}"), NOW)
        buf.complete(take(buf, NOW).id, FlushResult({"written": 1}), NOW)
    assert buf.footprint.notified == MAX_NOTIFIED
    assert buf.accept(submission("a-4", resubmitted=True), NOW) is Accepted.NEW


def test_callers_that_wait_for_one_id_are_bounded() -> None:
    buf = buffer()
    for n in range(MAX_REPLIES):
        buf.accept(submission("a", f"w-{n}"), NOW)
    with pytest.raises(BufferFull, match="32 callers wait for this request id already"):
        buf.accept(submission("a", "one more"), NOW)


# Submissions that may have been written before


def test_of_what_comes_again_only_the_sink_may_say_that_it_expired() -> None:
    # It may have been written and its confirmation lost; the buffer used to answer `expired` at the deadline.
    buf = buffer(linger=60)
    assert buf.accept(submission("late", expires_at=NOW, resubmitted=True), NOW) is Accepted.NEW
    buf.accept(submission("b", expires_at=NOW + 1, resubmitted=True), NOW)
    buf.expire(NOW + 5)
    assert (buf.outbox, buf.pending) == (0, 2)
    assert buf.wake_at() == 0.0, "who waited before waits for no company"
    batch = take(buf, NOW + 5)
    assert (batch.trigger, batch.in_doubt, ids(batch)) == (Trigger.DEADLINE, True, ["late", "b"])
    buf.fail(batch.id, NOW + 5, "down", in_doubt=False)
    later = restored(carried(buf))
    later.expire(NOW + 60)
    assert (later.outbox, later.pending) == (0, 2)


def test_what_comes_again_is_still_so_in_the_next_run() -> None:
    buf = buffer(linger=60)
    buf.accept(submission("a", expires_at=NOW + 1, resubmitted=True), NOW)
    later = restored(carried(buf))
    later.expire(NOW + 5)
    assert take(later, NOW + 5).in_doubt


def test_what_comes_again_is_not_refused_for_a_limit_that_was_lowered_since() -> None:
    buf = buffer(max_batch_records=2)
    assert buf.accept(submission("a", records=5, resubmitted=True), NOW) is Accepted.NEW


def test_another_caller_that_comes_again_makes_the_request_it_joins_one_for_the_sink_to_judge() -> None:
    buf = buffer(linger=60)
    buf.accept(submission("a", "v", expires_at=NOW + 1), NOW)
    buf.accept(
        submission("a", "v", expires_at=NOW + 1, resubmitted=True), NOW
    )  # its own, which waits: nothing to doubt
    assert buf.wake_at() != 0.0
    buf.accept(submission("a", "w", resubmitted=True), NOW)
    buf.expire(NOW + 5)
    assert (buf.outbox, take(buf, NOW + 5).in_doubt) == (0, True)
    assert buf.wake_at() is None


# Withdrawals


def test_what_is_pending_can_be_withdrawn() -> None:
    buf = buffer()
    buf.accept(submission("a"), NOW)
    assert buf.withdraw(Withdrawal("a", "w-a", "run"), NOW) is True
    assert (buf.pending, buf.pending_bytes, buf.wake_at()) == (0, 0, None)
    assert confirmations(buf) == [("a", "rejected", "withdrawn", ["w-a"])]


def test_what_is_in_flight_stays_and_so_does_its_outcome() -> None:
    buf = buffer()
    buf.accept(submission("a"), NOW)
    batch = take(buf, NOW, force=True)
    assert buf.withdraw(Withdrawal("a", "w-a", "run"), NOW) is False
    buf.complete(batch.id, FlushResult({"written": 1}), NOW)
    assert confirmations(buf) == []
    assert buf.accept(submission("a", "v"), NOW) is Accepted.NEW, "it is not the one that was withdrawn"
    assert take(buf, NOW, force=True).submissions[0].withdrawn is False


def test_only_the_caller_that_withdraws_stops_waiting() -> None:
    buf = buffer()
    buf.accept(submission("a", "v"), NOW)
    buf.accept(submission("a", "w"), NOW)
    assert buf.withdraw(Withdrawal("a", "v", "run"), NOW) is False
    assert take(buf, NOW, force=True).submissions[0].replies == [caller("w")]


def test_a_caller_that_is_another_run_of_the_same_workflow_keeps_waiting() -> None:
    buf = buffer()
    buf.accept(submission("a", "v"), NOW)
    assert buf.withdraw(Withdrawal("a", "v", "an earlier run"), NOW) is False
    assert buf.pending == 1
    assert buf.withdraw(Withdrawal("a", "v"), NOW) is True, "without a run it is whichever waits"


def over_continue_as_new(buf: Buffer) -> Buffer:
    return restored(carried(buf))


def test_a_withdrawal_that_overtakes_its_request_counts_and_the_ledger_is_asked() -> None:
    # An earlier submission of the same request may have been written.
    buf = buffer(linger=60)
    assert buf.withdraw(Withdrawal("a", "w-a", "run"), NOW) is True
    buf = over_continue_as_new(buf)
    assert buf.accept(submission("a", expires_at=NOW + 50), NOW + 1) is Accepted.NEW
    batch = take(buf, NOW + 1)
    (only,) = batch.submissions
    assert (batch.in_doubt, only.expires_at, only.withdrawn) == (True, NOW + 1, True), "asked about, not written"
    assert only.to_wire()["withdrawn"] is True


def test_a_withdrawal_meets_its_own_run_of_its_own_caller_alone() -> None:
    buf = buffer()
    buf.withdraw(Withdrawal("a", "w-a", "an earlier run"), NOW)
    buf.withdraw(Withdrawal("a", "w-a"), NOW)
    buf.withdraw(Withdrawal("a", "v", "run"), NOW)
    buf.withdraw(Withdrawal("a"), NOW)
    accepted = submission("a")
    assert buf.accept(accepted, NOW) is Accepted.NEW
    assert not accepted.withdrawn


def of_standalone(request_id: str, run_id: str) -> Submission:
    asked = submission(request_id)
    asked.replies[:] = [ReplyTo(run_id=run_id, activity_id=f"activity of {run_id}")]
    return asked


def test_a_standalone_activity_is_a_caller_by_its_run() -> None:
    """As the one behind a Nexus operation: its withdrawal meets no other caller of the same request."""
    buf = buffer()
    buf.accept(of_standalone("a", "run"), NOW)
    buf.accept(of_standalone("a", "another run"), NOW)
    assert buf.withdraw(Withdrawal("a", None, "a third run"), NOW) is False
    assert buf.withdraw(Withdrawal("a", None, "run"), NOW) is False
    (only,) = take(buf, NOW, force=True).submissions
    assert [reply.run_id for reply in only.replies] == ["another run"]


def test_a_withdrawal_by_a_standalone_activity_may_overtake_its_request() -> None:
    buf = buffer()
    buf.withdraw(Withdrawal("a", None, "run"), NOW)
    buf = over_continue_as_new(buf)
    own, others = of_standalone("a", "run"), of_standalone("a", "another run")
    buf.accept(own, NOW)
    assert own.withdrawn
    buf.accept(others, NOW)
    assert not own.withdrawn, "the other caller has not taken it back"


def test_a_withdrawal_is_forgotten_when_its_request_can_no_longer_come() -> None:
    buf = buffer()
    buf.withdraw(Withdrawal("a", "w-a", "run"), NOW)
    accepted = submission("a")
    assert buf.accept(accepted, NOW + MAX_AGE) is Accepted.NEW
    assert not accepted.withdrawn


@given(st.lists(st.tuples(st.text(max_size=255), st.text(max_size=1000), st.text(max_size=40)), max_size=60))
def test_remembered_withdrawals_are_bounded_as_they_travel(withdrawals: list[tuple[str, str, str]]) -> None:
    buf = buffer()
    for request_id, workflow_id, run_id in withdrawals * 20:
        buf.withdraw(Withdrawal(request_id, workflow_id, run_id), NOW)
    withdrawals_carried = json.dumps(carried(buf)["withdrawals"], separators=(",", ":"))
    assert len(withdrawals_carried) <= MAX_REMEMBERED_BYTES + 2 + MAX_REMEMBERED
    assert buf.carry_bytes <= MAX_REMEMBERED_BYTES


def test_of_too_many_withdrawals_the_oldest_are_forgotten() -> None:
    buf = buffer()
    for n in range(MAX_REMEMBERED + 10):
        buf.withdraw(Withdrawal(f"a-{n}", "w", "run"), NOW)
    early, late = submission("a-9", "w"), submission("a-10", "w")
    for one in (early, late):
        buf.accept(one, NOW)
    assert (early.withdrawn, late.withdrawn) == (False, True)


def test_requests_without_key_do_not_wait_for_one_whose_id_is_in_flight() -> None:
    buf = buffer(linger=0, max_in_flight=2)
    buf.accept(submission("a", "v"), NOW)
    take(buf, NOW)
    buf.accept(submission("a", "w", n=2), NOW)  # another caller's, with the same id
    buf.accept(submission("b"), NOW)
    assert ids(take(buf, NOW + 1)) == ["b"]
